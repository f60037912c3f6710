"""Oversampling as a Ray Data stage: the rows of `oversample.py`, byte for byte, for tables that fit in no memory.

The stream is read three times, each time into little: (1) rows per stratum and per 16-bit prefix of the hash, which gives the
strata's sizes, their counts, and the prefix in which each stratum's last extra copy falls; (2) the few rows with that prefix, which
give the exact last hash; (3) the rows themselves, each repeated. The cut into blocks and batches decides nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polarity.config import DataConfig, OversampleConfig
from polarity.data.oversample import (
    HashArray,
    Int64Array,
    expected_multiplicity,
    hash_fraction,
    label_arrays,
    repeat_rows,
    row_hash,
    stratum_codes,
    stratum_key,
)
from polarity.data.read import original_error
from polarity.errors import DataError

if TYPE_CHECKING:
    from ray.data import Dataset

PREFIX_BITS = 16
PREFIXES = 1 << PREFIX_BITS
BATCH_ROWS = 16_384
"""Rows repeated at once: at 8 copies of 1,000 characters a batch is 130 MB."""

Histogram = dict[int, Int64Array]


@dataclass(frozen=True)
class _Draw:
    """All that a worker needs to know to repeat a batch; arrays of one entry a stratum, by ascending code."""

    codes: Int64Array
    base: Int64Array
    """Copies of every row."""
    chance: npt.NDArray[np.float64]
    """Not stratified: probability of one more."""
    last_hash: HashArray
    last_id: list[str]
    has_extra: npt.NDArray[np.bool_]
    """Stratified: rows up to (last_hash, last_id) get one more, where there are extras at all."""


def _codes(batch: pa.Table, labels: Mapping[str, Sequence[str]]) -> Int64Array:
    return stratum_codes(list(label_arrays(batch, list(labels)).values()), [len(names) for names in labels.values()])


def _prefixes(hashes: HashArray) -> Int64Array:
    return (hashes >> np.uint64(64 - PREFIX_BITS)).astype(np.int64)


def _count(batch: pa.Table, labels: dict[str, list[str]], seed: int, epoch: int, stratified: bool) -> pa.Table:
    """A batch as (cell, rows): a cell is a stratum and, where extras are chosen by hash, a prefix."""
    cells = _codes(batch, labels) * PREFIXES
    if stratified:
        cells += _prefixes(row_hash(batch["row_id"], seed, epoch))
    values, rows = np.unique(cells, return_counts=True)
    return pa.table({"cell": values, "rows": rows.astype(np.int64)})


def _candidates(batch: pa.Table, labels: dict[str, list[str]], seed: int, epoch: int, codes: Int64Array, prefixes: Int64Array) -> pa.Table:
    """(code, hash, row_id) of the rows in the prefix where their stratum's extras end."""
    own = _codes(batch, labels)
    hashes = row_hash(batch["row_id"], seed, epoch)
    place = np.searchsorted(codes, own).clip(max=len(codes) - 1)
    rows = np.flatnonzero((codes[place] == own) & (prefixes[place] == _prefixes(hashes)))
    ids = batch["row_id"].take(pa.array(rows)).cast(pa.large_string())
    return pa.table({"code": own[rows], "hash": hashes[rows], "row_id": ids})


def _repeat(batch: pa.Table, labels: dict[str, list[str]], seed: int, epoch: int, draw: _Draw) -> pa.Table:
    own = _codes(batch, labels)
    place = np.searchsorted(draw.codes, own).clip(max=max(len(draw.codes) - 1, 0))
    if len(own) and not (len(draw.codes) and (draw.codes[place] == own).all()):
        raise DataError("the source changed while it was oversampled: new label combinations have appeared; run it again")
    times = draw.base[place]
    if draw.chance.any() or draw.has_extra.any():
        hashes = row_hash(batch["row_id"], seed, epoch)
        extra = (hash_fraction(hashes) < draw.chance[place]) | (draw.has_extra[place] & (hashes < draw.last_hash[place]))
        # the last extra row of each stratum, and rows of the same hash: the smaller id goes first, as in the pure function
        for row in np.flatnonzero(draw.has_extra[place] & (hashes == draw.last_hash[place])):
            extra[row] = str(batch["row_id"][int(row)].as_py()) <= draw.last_id[place[row]]
        times = times + extra
    return repeat_rows(batch, times)


def arrow_batches(ds: "Dataset") -> Iterator[pa.Table]:
    """The blocks of a dataset that have rows."""
    for batch in ds.iter_batches(batch_format="pyarrow", batch_size=None):
        if isinstance(batch, pa.Table) and batch.num_rows:
            yield batch


def _tables(ds: "Dataset", summarise: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    summaries = ds.map_batches(summarise, batch_format="pyarrow", batch_size=None)
    with original_error():
        yield from arrow_batches(summaries)


def _histogram(ds: "Dataset", labels: dict[str, list[str]], seed: int, epoch: int, stratified: bool) -> Histogram:
    """{stratum code: (65536,) rows per prefix}, 512 KiB a stratum."""
    counts: Histogram = {}
    for batch in _tables(ds, partial(_count, labels=labels, seed=seed, epoch=epoch, stratified=stratified)):
        codes, prefixes = np.divmod(batch["cell"].to_numpy(), PREFIXES)
        rows = batch["rows"].to_numpy()
        for code in np.unique(codes):
            mine = codes == code
            cells = counts.setdefault(int(code), np.zeros(PREFIXES, dtype=np.int64))
            np.add.at(cells, prefixes[mine], rows[mine])
    return counts


def _last_rows(
    ds: "Dataset", labels: dict[str, list[str]], seed: int, epoch: int, histogram: Histogram, extra: dict[int, int]
) -> dict[int, tuple[int, str]]:
    """{code: (hash, row_id)} of the last row that gets one more, for strata with `extra` rows to choose."""
    if not extra:
        return {}
    codes = np.array(sorted(extra), dtype=np.int64)
    reached = {code: np.cumsum(histogram[code]) for code in extra}
    prefixes = np.array([np.searchsorted(reached[code], extra[code]) for code in codes.tolist()], dtype=np.int64)
    found: dict[int, list[tuple[int, str]]] = {code: [] for code in extra}
    choose = partial(_candidates, labels=labels, seed=seed, epoch=epoch, codes=codes, prefixes=prefixes)
    for batch in _tables(ds, choose):
        for code, hashed, row_id in zip(*(batch[name].to_pylist() for name in ("code", "hash", "row_id")), strict=True):
            found[code].append((hashed, row_id))
    last = {}
    for code, prefix in zip(codes.tolist(), prefixes.tolist(), strict=True):
        place = extra[code] - int(reached[code][prefix] - histogram[code][prefix]) - 1
        if place >= len(found[code]):
            raise DataError("the source changed while it was oversampled: it lost rows between two readings; run it again")
        last[code] = sorted(found[code])[place]
    return last


def _plan_draw(ds: "Dataset", labels: dict[str, list[str]], sampling: OversampleConfig, seed: int, epoch: int) -> _Draw:
    histogram = _histogram(ds, labels, seed, epoch, sampling.stratified)
    codes = np.array(sorted(histogram), dtype=np.int64)
    classes = [len(names) for names in labels.values()]
    sizes = np.array([histogram[code].sum() for code in codes.tolist()], dtype=np.int64)
    plan = expected_multiplicity(sizes, [stratum_key(code, classes) for code in codes.tolist()], sampling, labels)
    none = np.zeros(len(codes))
    if not sampling.stratified:
        base = np.floor(plan.expected)
        chance = plan.expected - base
        return _Draw(codes, base.astype(np.int64), chance, none.astype(np.uint64), [""] * len(codes), none.astype(bool))
    base, extra = np.divmod(plan.counts, sizes)
    wanted = {int(code): int(k) for code, k in zip(codes, extra, strict=True) if k}
    last = _last_rows(ds, labels, seed, epoch, histogram, wanted)
    ends = [last.get(code, (0, "")) for code in codes.tolist()]
    return _Draw(codes, base, none, np.array([end[0] for end in ends], dtype=np.uint64), [end[1] for end in ends], extra > 0)


def oversample_dataset(ds: "Dataset", data: DataConfig, *, seed: int, epoch: int) -> "Dataset":
    """The rows of `ds` (canonical columns) in their order, each repeated as `multiplicities` says, + int32 `multiplicity`.

    Reads `ds` twice at once and a third time when the result is consumed, in memory that does not grow with its rows. Row ids must be
    unique, as the reader sees to. Raises ConfigError for boosts of unknown classes, DataError where the source changes meanwhile.
    """
    labels = {name: task.labels for name, task in data.tasks.items()}
    draw = _plan_draw(ds, labels, data.oversample, seed, epoch)
    repeat = partial(_repeat, labels=labels, seed=seed, epoch=epoch, draw=draw)
    repeated = ds.map_batches(repeat, batch_format="pyarrow", batch_size=BATCH_ROWS)
    repeated.context.execution_options.preserve_order = True
    return repeated
