"""Oversampling of files: the rows of `oversample.py`, byte for byte, for tables that fit in no memory, as a stage of Ray Data.

The stream is read three times, each time into little: (1) rows per stratum and per 16-bit prefix of the hash, which gives the
strata's sizes, their counts, and the prefix in which each stratum's last extra copy falls; (2) the few rows with that prefix, which
give the exact last hash; (3) the rows themselves, each repeated. The cut into blocks and batches decides nothing.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.config import DataConfig, OversampleConfig
from polarity.data.canonical import Layout, find_columns, left_out
from polarity.data.formats import open_source
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
from polarity.data.read import annotated_blocks, original_error, refusal_of, settle
from polarity.data.source import Part, Source
from polarity.errors import DataError, Say

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


ROW_GROUP = 65_536
_SURVEY = pa.schema([("hash", pa.uint64()), ("bad", pa.bool_()), ("fault", pa.large_string())])


def _check_target(source: str, out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".parquet":
        raise DataError(f"{out}: the oversampled table is written as Parquet; give a name that ends in .parquet")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give the name of a file to write")
    if not out.parent.is_dir():
        raise DataError(f"{out}: the folder {out.parent} does not exist; make it first")
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise DataError(f"{out}: is the file that is read; give another name")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already; give another name, or allow it to be overwritten")


def named_labels(rows: pa.Table, labels: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table with each task's class indices replaced by the classes' names (string), missing ones by null."""
    for task, names in labels.items():
        indices = rows[task].combine_chunks().cast(pa.int32())
        words = pa.array(list(names)).take(indices)
        rows = rows.set_column(rows.schema.get_field_index(task), task, words)
    return rows


def write_parquet(tables: Iterable[pa.Table], out: Path) -> int:
    """Streams tables of one schema into a single file, and returns its rows; DataError where the disk is full or refuses."""
    rows = 0
    writer = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            rows += table.num_rows
        if writer:
            writer.close()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(f"{out.parent}: no space left on the disk after {rows:,} rows; free some, or write elsewhere") from error
        raise DataError(f"{out}: cannot be written: {error}") from error
    finally:
        if writer and writer.is_open:
            _abandon(writer)
    return rows


def _abandon(writer: pq.ParquetWriter) -> None:
    try:
        writer.close()
    except OSError:  # the error that brought us here is the one to show, and the file is about to be removed
        return


def _surveyed(source: Source, layout: Layout, part: Part, data: DataConfig) -> Iterator[pa.Table]:
    """The hash of each row's id, and whether the row is bad; what cannot be read at all comes as the text of a last row.

    (An error that is raised in a task of Ray Data costs the user a page of Ray's own words.)
    """
    try:
        for block in annotated_blocks(source, layout, part):
            ids, none = block["row_id"].fill_null(""), pa.nulls(block.num_rows, pa.large_string())
            yield pa.table([pa.array(row_hash(ids, 0, 0)), left_out(block, data), none], schema=_SURVEY)
    except DataError as error:
        yield pa.table([[0], [True], [str(error)]], schema=_SURVEY)


def _check_rows(source: Source, layout: Layout, data: DataConfig, say: Say) -> None:
    """Refuse what cannot be read, bad rows (or tell how many are left out), and row ids that stand twice: the stage would mix them up.

    Reads the source once and keeps 8 bytes a row; only where something is wrong, once more.
    """
    from polarity.data.datasource import dataset_of
    from polarity.data.read import original_error

    rows, hashes = 0, [np.zeros(0, dtype=np.uint64)]
    with original_error():
        for batch in arrow_batches(dataset_of(source, lambda part: _surveyed(source, layout, part, data), _SURVEY)):
            if faults := batch["fault"].drop_null().to_pylist():
                raise DataError(faults[0])
            rows += batch.num_rows
            hashes.append(batch.filter(pc.invert(batch["bad"]))["hash"].to_numpy())
    good = np.concatenate(hashes)
    bad = rows - len(good)
    if bad and data.bad_rows == "error":
        raise refusal_of(source, layout)
    if bad:
        say(f"{source.name}: left out {bad:,} of {rows:,} rows as bad (data.bad_rows=drop); `polarity data check` lists them")
    good.sort()
    twice = np.unique(good[1:][good[1:] == good[:-1]])
    if len(twice):
        settle(_rows_of(source, layout, data, twice), source, layout, data, say)


def _rows_of(source: Source, layout: Layout, data: DataConfig, hashes: npt.NDArray[np.uint64]) -> pa.Table:
    found = []
    for block in annotated_blocks(source, layout):
        among = np.isin(row_hash(block["row_id"].fill_null(""), 0, 0), hashes)
        found.append(block.filter(pc.and_(pa.array(among), pc.invert(left_out(block, data)))))
    return pa.concat_tables(found)


def write_oversampled(source: str, data: DataConfig, out: Path, *, seed: int, epoch: int, say: Say, overwrite: bool = False) -> int:
    """Writes the rows of one epoch to the Parquet file `out`, as training would see them, and returns how many there are.

    Streams through Ray Data in flat memory. Columns: row_id, title, comment, each task's label as text, and `multiplicity` (int32,
    how often the row is in the file). The file appears whole or not at all. `say` hears how many bad rows were left out, and that the
    file was neither split nor freed of duplicates: that is for the split, which finds those that leak. Raises DataError for a source that
    cannot be read, row ids that stand twice, an `out` that exists (unless `overwrite`) or cannot be written, or a full disk.
    """
    from polarity.data.read import original_error, read_dataset

    _check_target(source, out, overwrite)
    labels = {name: task.labels for name, task in data.tasks.items()}
    columns = ["row_id", "title", "comment", *labels, "multiplicity"]
    opened = open_source(source)
    for note in opened.notes:
        say(note)
    _check_rows(opened, find_columns(opened, data), data, say)
    repeated = oversample_dataset(read_dataset(source, data), data, seed=seed, epoch=epoch)

    def named() -> Iterator[pa.Table]:
        with original_error():
            for batch in arrow_batches(repeated):
                yield named_labels(batch.select(columns), labels)

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        rows = write_parquet(named(), partial)
        if not rows:
            raise DataError(f"{source}: has no rows to oversample")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    say(f"{source}: every good row counts as a training row; data.split and data.duplicates were not applied, as `polarity train` would")
    say(f"{out}: {rows:,} rows of epoch {epoch + 1}, seed {seed}")
    return rows
