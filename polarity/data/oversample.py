"""Stratified oversampling (point 2): how often each row appears in an epoch, as one pure function of the data.

    strata     the observed label combinations; a missing label is a value of its own
    M          median size of the fully labelled strata
    r          clip(M / n, 1, cap)                      for a stratum of n rows
    u          min((1 + alpha (r - 1)) x boosts, cap)   expected multiplicity, an integer where it is within 1e-9 of one

Whoever needs an epoch's rows asks here: every worker of a training, and `oversample_file.py`, which writes them as a table with Ray Data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from polarity.arrays import Flags, Floats, Hashes, Integers
from polarity.config import OversampleConfig
from polarity.errors import ConfigError, nearest

StratumKey = tuple[int | None, ...]

MISSING = -1
SNAP = 1e-9
_ID_KEY = "polarity/row_id1"  # 16 bytes: the key of SipHash. A change moves every epoch of every run
ID_HASH = "id_hash"
"""A column of `id_hash`, where a table keeps one: then its row ids need not be read."""
_HASHED_AT_ONCE = 262_144
"""Row ids that stand in memory as Python's strings at a time: ten million of them would take a GB in every worker."""
_FEW_CODES = 1 << 20
_MAX_CODE = 2**62


@dataclass(frozen=True)
class SamplingPlan:
    """What oversampling does to each stratum; arrays of one entry a stratum, in the order of `keys`."""

    keys: list[StratumKey]
    sizes: Integers
    """Rows n."""
    median: float
    """M, the size that strata are lifted towards."""
    uncapped: Floats
    """u before its cap."""
    expected: Floats
    """u as used: capped, snapped, and rescaled where the epoch keeps its size."""
    counts: Integers
    """Rows in an epoch where `stratified` is on."""
    ratio_capped: Flags
    """M / n met the cap before alpha was applied."""
    capped: Flags
    """u met the cap: there, slightly other boosts or another alpha change nothing."""


def label_arrays(comments: pa.Table, tasks: Sequence[str]) -> dict[str, Integers]:
    """{task: (N,) class indices}, -1 where the label is missing, from a canonical table."""
    return {task: comments[task].cast(pa.int64()).fill_null(MISSING).to_numpy().astype(np.int64, copy=False) for task in tasks}


def stratum_codes(labels: Sequence[Integers], classes: Sequence[int]) -> Integers:
    """(N,) one number a label combination, ordered as the tuples are, a missing label first; `classes` is K of each task."""
    space = np.prod([float(k + 1) for k in classes])
    if space > _MAX_CODE:
        raise ConfigError(f"data.tasks: {space:.3g} label combinations are more than oversampling can tell apart; leave out a task")
    codes = np.zeros(len(labels[0]) if labels else 0, dtype=np.int64)
    for values, k in zip(labels, classes, strict=True):
        codes = codes * (k + 1) + (values + 1)
    return codes


def stratum_key(code: int, classes: Sequence[int]) -> StratumKey:
    """The label combination of a code; None stands for a missing label."""
    digits: list[int | None] = []
    for k in reversed(classes):
        code, digit = divmod(code, k + 1)
        digits.append(digit - 1 if digit else None)
    return tuple(reversed(digits))


def stratum_ids(labels: Mapping[str, Integers]) -> tuple[Integers, list[StratumKey]]:
    """The (N,) stratum of each row, and the key of each stratum in tuple order (missing first); labels hold -1 for missing."""
    classes = [int(values.max(initial=MISSING)) + 1 for values in labels.values()]
    codes, ids = np.unique(stratum_codes(list(labels.values()), classes), return_inverse=True)
    return ids.astype(np.int64), [stratum_key(int(code), classes) for code in codes]


def table_strata(comments: pa.Table, tasks: Sequence[str]) -> tuple[npt.NDArray[np.integer], list[StratumKey]]:
    """`stratum_ids` of a table, in as few bytes a row as its number of strata allows."""
    classes = [int(pc.max(comments[task]).as_py() or 0) + 1 if comments.num_rows else 0 for task in tasks]
    if float(np.prod([float(k + 1) for k in classes])) > _FEW_CODES:
        return stratum_ids(label_arrays(comments, tasks))
    starts = range(0, comments.num_rows, _HASHED_AT_ONCE)

    def codes(start: int) -> Integers:
        return stratum_codes(list(label_arrays(comments.slice(start, _HASHED_AT_ONCE), tasks).values()), classes)

    counts = np.zeros(int(np.prod([k + 1 for k in classes])), np.int64)
    for start in starts:
        counts += np.bincount(codes(start), minlength=len(counts))
    present = np.flatnonzero(counts)
    number = np.zeros(len(counts), np.min_scalar_type(max(len(present) - 1, 0)))
    number[present] = np.arange(len(present))
    ids = np.empty(comments.num_rows, number.dtype)
    for start in starts:
        ids[start : start + _HASHED_AT_ONCE] = number[codes(start)]
    return ids, [stratum_key(int(code), classes) for code in present]


def mix64(values: Hashes) -> Hashes:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection of 64-bit numbers that leaves no visible order."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def table_hash(comments: pa.Table, seed: int, epoch: int) -> Hashes:
    """(N,) 64-bit hash of (seed, epoch, row_id): SipHash-2-4 of the id's UTF-8 bytes, mixed with the other two by SplitMix64.

    Equal ids hash alike wherever they stand, so neither blocks nor workers matter. A column `id_hash`, where there is one, spares the ids.
    """
    key = mix64(mix64(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)) + np.uint64(epoch))
    hashed = np.empty(comments.num_rows, dtype=np.uint64)
    for start in range(0, len(hashed), _HASHED_AT_ONCE):
        part = comments.slice(start, _HASHED_AT_ONCE)
        own = part[ID_HASH].to_numpy() if ID_HASH in part.column_names else id_hash(part["row_id"])
        hashed[start : start + _HASHED_AT_ONCE] = mix64(mix64(own ^ key))
    return hashed


def id_hash(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """(N,) SipHash-2-4 of each id's UTF-8 bytes."""
    import pandas as pd  # a third of a second, which a prediction need not wait

    words = ids.to_numpy() if isinstance(ids, pa.ChunkedArray) else ids.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(words.astype(object, copy=False), hash_key=_ID_KEY, categorize=False)


def _boosts(keys: Sequence[StratumKey], sampling: OversampleConfig, labels: Mapping[str, Sequence[str]]) -> Floats:
    factors = np.ones(len(keys))
    for task, by_class in sampling.boosts.items():
        if task not in labels:
            raise ConfigError(f"data.oversample.boosts.{task}: no such task, {nearest(task, labels)}")
        position = list(labels).index(task)
        for name, factor in by_class.items():
            if name not in labels[task]:
                raise ConfigError(f"data.oversample.boosts.{task}.{name}: no such class, {nearest(name, labels[task])}")
            factors[[key[position] == labels[task].index(name) for key in keys]] *= factor
    return factors


def _snap(u: Floats) -> Floats:
    return np.where(np.abs(u - np.round(u)) <= SNAP, np.round(u), u)


def _keep_size(u: Floats, sizes: Integers, cap: float) -> Floats:
    """u times one factor, so that sum(u n) = N. Only where boosts below 1 make that factor exceed 1 can a stratum go over the
    cap again: it stays at the cap, and the others share the rest."""
    held = np.zeros(len(u), dtype=bool)
    while True:
        scale = (sizes.sum() - cap * sizes[held].sum()) / (u * sizes)[~held].sum()
        scaled = np.where(held, cap, u * scale)
        over = ~held & (scaled > cap * (1 + 1e-12))
        if not over.any():
            return _snap(scaled)
        held |= over


def _grown_counts(u: Floats, sizes: Integers) -> Integers:
    # u carries a few units of rounding in its last place: without the tolerance an exact half would fall either way
    target = u * sizes
    return np.floor(target + 0.5 + SNAP + 1e-12 * target).astype(np.int64)


def _kept_counts(u: Floats, sizes: Integers) -> Integers:
    """Largest remainder (Hamilton): whole rows, the missing ones to the largest fractions, ties to the earlier stratum."""
    target = _snap(u * sizes)
    counts = np.floor(target).astype(np.int64)
    order = np.argsort(-np.round(target - counts, 9), kind="stable")
    counts[order[: int(sizes.sum() - counts.sum())]] += 1
    return counts


def expected_multiplicity(
    sizes: npt.ArrayLike, keys: Sequence[StratumKey], sampling: OversampleConfig, labels: Mapping[str, Sequence[str]]
) -> SamplingPlan:
    """The expected multiplicity u of each stratum, its whole-row counts, and which caps bind (STRATEGY.md, "Oversampling").

    sizes: (S,) rows of each stratum; keys: their label combinations in the order of `labels` ({task: classes}).
    With `size: keep`, sum(u n) = N; u may then be below 1, so that some rows of large strata sit an epoch out. Where no stratum
    has all its labels, M is the median of all strata. Raises ConfigError for a boost of an unknown task or class.
    """
    n = np.asarray(sizes, dtype=np.int64)
    boosts = _boosts(keys, sampling, labels)
    if not len(n):
        none, no = np.zeros(0), np.zeros(0, dtype=bool)
        return SamplingPlan([], n, 0.0, none, none, n, no, no)
    full = np.array([None not in key for key in keys])
    median = float(np.median(n[full] if full.any() else n))
    cap = sampling.max_multiplier
    ratio = median / n
    uncapped = _snap((1 + sampling.alpha * (np.clip(ratio, 1, cap) - 1)) * boosts)
    u = _snap(np.minimum(uncapped, cap))
    if sampling.size == "keep":
        u = _keep_size(u, n, cap)
        counts = _kept_counts(u, n)
    else:
        counts = _grown_counts(u, n)
    return SamplingPlan(list(keys), n, median, uncapped, u, counts, ratio > cap, uncapped > cap)


def _smallest(rows: Integers, hashes: Hashes, row_ids: pa.ChunkedArray, k: int) -> Integers:
    """The k of `rows` with the smallest (hash, row_id); row ids are compared only where hashes tie."""
    own = hashes[rows]
    threshold = np.partition(own, k - 1)[k - 1]
    below = rows[own < threshold]
    tied = rows[own == threshold]
    need = k - len(below)
    if len(tied) > need:
        tied = np.array(sorted(tied, key=lambda row: str(row_ids[int(row)].as_py())), dtype=np.int64)
    return np.concatenate([below, tied[:need]])


def _stratified(ids: npt.NDArray[np.integer], plan: SamplingPlan, comments: pa.Table, seed: int, epoch: int) -> Integers:
    base, extra = np.divmod(plan.counts, plan.sizes)
    result: Integers = base[ids]
    if not extra.any():
        return result
    hashes = table_hash(comments, seed, epoch)
    for stratum in np.flatnonzero(extra):
        result[_smallest(np.flatnonzero(ids == stratum), hashes, comments["row_id"], int(extra[stratum]))] += 1
    return result


def _drawn(ids: npt.NDArray[np.integer], plan: SamplingPlan, comments: pa.Table, seed: int, epoch: int) -> Integers:
    base = np.floor(plan.expected)
    result: Integers = base.astype(np.int64)[ids]
    chance = plan.expected - base
    if chance.any():
        fraction = (table_hash(comments, seed, epoch) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1), of the top 53 bits
        result += fraction < chance[ids]
    return result


def sampling_plan(
    comments: pa.Table, labels: Mapping[str, Sequence[str]], sampling: OversampleConfig
) -> tuple[npt.NDArray[np.integer], SamplingPlan]:
    """The (N,) stratum of each row of a canonical table, and what oversampling does to the strata."""
    ids, keys = table_strata(comments, list(labels))
    return ids, expected_multiplicity(np.bincount(ids, minlength=len(keys)), keys, sampling, labels)


def multiplicities(
    comments: pa.Table, labels: Mapping[str, Sequence[str]], sampling: OversampleConfig, *, seed: int, epoch: int
) -> Integers:
    """How often each row of `comments` appears in an epoch: (N,) int64, a pure function of (labels, row ids, seed, epoch).

    `stratified`: every stratum gets exactly its count (with `size: keep`, N rows in all); each row floor(count / n) times, and the
    remaining rows are those with the smallest hash. Otherwise a row gets one more when its hash, as a fraction, is below
    u - floor(u): right in expectation only, with `size: keep` too. `labels`: {task: classes in order}.
    """
    ids, plan = sampling_plan(comments, labels, sampling)
    draw = _stratified if sampling.stratified else _drawn
    return draw(ids, plan, comments, seed, epoch)


def epoch_sizes(
    comments: pa.Table, labels: Mapping[str, Sequence[str]], sampling: OversampleConfig, *, seed: int, epochs: int
) -> list[int]:
    """The rows of each epoch: the sums of `multiplicities`."""
    ids, plan = sampling_plan(comments, labels, sampling)
    if sampling.stratified:
        return [int(plan.counts.sum())] * epochs
    return [int(_drawn(ids, plan, comments, seed, epoch).sum()) for epoch in range(epochs)]


def repeat_rows(comments: pa.Table, times: Integers) -> pa.Table:
    """Each row as often as `times` says, its copies side by side, with the int32 column `multiplicity`."""
    rows = comments.append_column("multiplicity", pa.array(times, type=pa.int32()))
    return rows.take(pa.array(np.repeat(np.arange(len(times)), times)))
