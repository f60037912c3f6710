"""95 % intervals of scores over rows or over titles, with all tasks on the same replicates and a fixed set of classes.

Rows: the percentile bootstrap. Rows that agree in (label, prediction) of every task are interchangeable, so a resample of N rows is a
multinomial draw over the few distinct combinations ("cells") and costs the same for a thousand rows as for ten million.

Titles: the jackknife that leaves out one title with all its rows, and Student's t with the degrees of the effective number of titles less
one (the cluster jackknife CV3 of MacKinnon, Nielsen and Webb 2023; the effective number, which uneven titles lower, of Carter, Schnepel and
Steigerwald 2017). A percentile bootstrap of few titles is too narrow: over three populations of titles it covers the truth in 81 to 86 % at
6 titles, 88 to 90 % at 12 and 90 to 93 % at 41, and this interval in 95 to 97, 94 to 97 and 93 to 95 %.

Shape suffixes: N rows, C cells, G titles, R resamples, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist  # scipy.stats takes a second to import
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.errors import DataError
from polarity.evaluate.metrics import class_scores
from polarity.evaluate.predictions import Labels, check_predictions, task_codes, title_codes
from polarity.evaluate.results import TRAINING, UNKNOWN, Difference, PairedDifference

FEWEST_TITLES = 6
"""Titles below which an interval is given, but no verdict."""
MOST_GROUPS = 1000
"""More titles than this are left out in so many random groups of whole titles (delete-a-group jackknife, Kott 2001)."""
NO_VERDICT = "no verdict is given"
_CHUNK_NUMBERS = 4_000_000  # 32 MB of float64 at a time, whatever the number of resamples


@dataclass(frozen=True)
class ResampledScores:
    """Macro-F1s and per-class F1s of R resamples: overall (R,), macro[task] (R,), f1[task] (R, K)."""

    overall: Floats
    macro: dict[str, Floats]
    f1: dict[str, Floats]

    def minus(self, other: "ResampledScores") -> "ResampledScores":
        """The differences, resample by resample."""
        macro = {task: self.macro[task] - other.macro[task] for task in self.macro}
        return ResampledScores(self.overall - other.overall, macro, {task: self.f1[task] - other.f1[task] for task in self.f1})


@dataclass(frozen=True)
class Unit:
    """What varies: each row's title (N,), or None for single rows; `note` says what a reader of the interval must know.

    `degrees` are those of Student's t, None where the percentiles of resamples are taken. `decides` is false where there are too few
    titles for any verdict.
    """

    name: Literal["row", "title"]
    groups: Codes | None
    count: int
    note: str | None = None
    degrees: float | None = None
    decides: bool = True

    def limits(self, point: Floats | float, replicates: Floats, tail: float = 0.025) -> tuple[Floats, Floats]:
        """Lower and upper limit, each missed with probability `tail`, of estimates (...) with their replicates (R, ...)."""
        if self.degrees is None:
            low, high = np.percentile(replicates, [100 * tail, 100 * (1 - tail)], axis=0)
            return low, high
        from scipy.special import stdtrit  # scipy is slow to import, and most intervals are of rows

        units = len(replicates)  # the estimates without each title, and their spread around the estimate of all
        error = np.sqrt((units - 1) / units * ((replicates - np.asarray(point)) ** 2).sum(axis=0))
        reach: Floats = stdtrit(self.degrees, 1 - tail) * error
        return point - reach, point + reach

    def interval(self, point: float, replicates: Floats, *, least: float = 0.0) -> list[float]:
        """The 95 % interval of one estimate from its replicates (R,), cut at what is possible: `least`, and 1."""
        low, high = self.limits(point, replicates)
        return [max(float(low), least), min(float(high), 1.0)]

    def smallest_interval(self, point_K: Floats, replicates_RK: Floats) -> list[float]:
        """As the function `smallest_interval`, for either unit."""
        if self.degrees is None:
            return smallest_interval(point_K, replicates_RK)
        low_K, _ = self.limits(point_K, replicates_RK)
        _, high_K = self.limits(point_K, replicates_RK, 0.025 / len(point_K))
        return [max(float(low_K.min()), 0.0), min(float(high_K.min()), 1.0)]


def interval(values: Floats) -> list[float]:
    """The 2.5 and 97.5 percentiles of (R,) resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]


def smallest_interval(point_K: Floats, values_RK: Floats) -> list[float]:
    """A 95 % interval for the smallest of K true values, from the observed ones (K,) and their resamples (R, K).

    Lower limit: the smallest of the classes' own lower limits, for the smallest value lies above it wherever its own class's does.
    Upper limit: the smallest of the classes' upper limits, each at 2.5 % / K (Bonferroni), for any of them may be the smallest by chance.
    So "all above a target" and "one below it" are each wrong in about 2.5 % of cases at most (intersection-union test, Berger 1982).
    The percentiles of the resamples' own minimum would lean down: the minimum of noisy values lies below the minimum of the true ones.
    So far out, percentiles are a little short of the normal limits; the wider of the two is taken.
    """
    tail = 0.025 / values_RK.shape[1]
    low_K = np.percentile(values_RK, 2.5, axis=0)
    high_K = np.maximum(
        np.percentile(values_RK, 100 * (1 - tail), axis=0), point_K + NormalDist().inv_cdf(1 - tail) * values_RK.std(axis=0)
    )
    return [max(float(low_K.min()), 0.0), min(float(high_K.min()), 1.0)]


def unit_of(predictions: pa.Table, by_title: bool) -> Unit:
    """Rows, or titles where `by_title` (see `polarity.data.seen.titles_apart`); a row without a title is a unit of its own.

    A single title does not vary, so its rows do, with a note that says so and without a verdict.
    """
    rows = predictions.num_rows
    if not by_title or not rows:
        return Unit("row", None, rows)
    codes, titles = title_codes(predictions)
    untitled = np.array([not title.strip() for title in titles], bool)[codes]
    own = np.where(untitled, len(titles) + np.arange(rows), codes)
    groups: Codes = np.unique(own, return_inverse=True)[1].astype(np.int64)
    count = int(groups.max()) + 1
    if count < 2:
        note = f"all rows have one title, so rows were resampled: too narrow for comments on other titles, and {NO_VERDICT}"
        return Unit("row", None, rows, note, decides=False)
    few = count < FEWEST_TITLES
    few_note = f"only {count} titles: {NO_VERDICT} below {FEWEST_TITLES}" if few else None
    return Unit("title", groups, count, few_note, title_degrees(np.bincount(_grouped(groups))), decides=not few)


def title_degrees(rows_G: NDArray[np.integer] | Floats) -> float:
    """Degrees of freedom of a t interval over titles with so many rows each: the effective number of titles less one, at least 1.

    The effective number is 1 / (sum of the squared shares of rows): the number of titles where all are equally large, fewer otherwise.
    Together with a standard error from leaving out title after title, a 95 % interval holds from 4 titles on. (Influences summed by title
    understate the error where titles are few and uneven: with t at titles - 1 degrees they cover 82 to 94 % at 6.)
    """
    shares_G = np.asarray(rows_G, np.float64) / np.sum(rows_G)
    return max(1.0, 1.0 / float(shares_G @ shares_G) - 1.0)


def _grouped(groups: Codes) -> Codes:
    """The titles' codes, or where there are more than MOST_GROUPS those of random groups of titles."""
    titles = int(groups.max()) + 1
    if titles <= MOST_GROUPS:
        return groups
    group_of: Codes = np.random.default_rng(0).permutation(titles) % MOST_GROUPS
    return group_of[groups]


def scores_of(predictions: pa.Table, labels: Labels, unit: Unit, *, resamples: int, seed: int) -> tuple[ResampledScores, ResampledScores]:
    """(scores of the rows, each (1, ...); their replicates for `unit.limits`). Raises DataError on an empty table."""
    codes = {task: task_codes(predictions, task, classes) for task, classes in labels.items()}
    ids, first = joint_cells([column for pair in codes.values() for column in pair])
    cells = {task: (label[first], predicted[first]) for task, (label, predicted) in codes.items()}

    return _with_replicates(lambda counts_RC: _scores(counts_RC, cells, labels), ids, len(first), unit, resamples, seed)


def _with_replicates(
    score: Callable[[Floats], ResampledScores], ids: Codes, cells: int, unit: Unit, resamples: int, seed: int
) -> tuple[ResampledScores, ResampledScores]:
    """`score` of the cells' counts, and of their replicates: resamples of rows, or all rows but one title's."""
    counts_C = np.bincount(ids, minlength=cells).astype(np.float64)
    if unit.groups is None:
        rng, shares_C = np.random.default_rng(seed), counts_C / len(ids)
        draws: Iterator[Floats] = (rng.multinomial(len(ids), shares_C, size=size).astype(np.float64) for size in _chunks(resamples, cells))
    else:
        draws = _left_out(ids, counts_C, _grouped(unit.groups))
    return score(counts_C[None]), _stack([score(counts_RC) for counts_RC in draws])


def _left_out(ids: Codes, counts_C: Floats, groups: Codes) -> Iterator[Floats]:
    """Counts of the cells without each group (g, C), in chunks."""
    order = np.argsort(groups, kind="stable")
    sorted_groups, sorted_ids, cells = groups[order], ids[order], len(counts_C)
    start = 0
    for size in _chunks(int(groups.max()) + 1, cells):
        low, high = np.searchsorted(sorted_groups, [start, start + size])
        flat = (sorted_groups[low:high] - start) * cells + sorted_ids[low:high]
        yield counts_C - np.bincount(flat, minlength=size * cells).reshape(size, cells)
        start += size


def paired_difference(
    predictions_a: pa.Table,
    predictions_b: pa.Table,
    labels: Labels,
    *,
    resamples: int = 2000,
    seed: int = 0,
    by_title: bool = False,
    decided: Sequence[str] = (),
) -> PairedDifference:
    """a - b on the same rows: {overall, tasks: {T}, per_class: {T: {c}}}, each {difference, ci95, verdict}.

    Rows are matched by row_id and both sides share every resample. `verdict` is gain or loss only where the interval excludes
    zero, else within noise; there is none, and it says why, where the rows `decided` something of either side or where there are too few
    titles. Raises DataError where the sides hold different rows or different labels.
    """
    a, b = _matched(predictions_a, predictions_b, labels)
    codes = {task: (*task_codes(a, task, classes), task_codes(b, task, classes)[1]) for task, classes in labels.items()}
    ids, first = joint_cells([column for three in codes.values() for column in three])
    cells_a = {task: (label[first], of_a[first]) for task, (label, of_a, _) in codes.items()}
    cells_b = {task: (label[first], of_b[first]) for task, (label, _, of_b) in codes.items()}

    def difference(counts_RC: Floats) -> ResampledScores:
        return _scores(counts_RC, cells_a, labels).minus(_scores(counts_RC, cells_b, labels))

    unit = unit_of(a, by_title)
    point, spread = _with_replicates(difference, ids, len(first), unit, resamples, seed)
    withheld = no_verdict(decided, unit)

    def entry(of_point: float, of_spread: Floats) -> Difference:
        low, high = unit.interval(float(of_point), of_spread, least=-1.0)
        verdict = withheld or ("gain" if low > 0 else "loss" if high < 0 else "within noise")
        return {"difference": float(of_point), "ci95": [low, high], "verdict": verdict}

    return {
        "overall": entry(point.overall[0], spread.overall),
        "tasks": {task: entry(point.macro[task][0], spread.macro[task]) for task in labels},
        "per_class": {
            task: {name: entry(point.f1[task][0, k], spread.f1[task][:, k]) for k, name in enumerate(classes)}
            for task, classes in labels.items()
        },
    }


def no_verdict(decided: Sequence[str], unit: Unit) -> str | None:
    """What stands where a verdict would: the rows decided something of what is judged, or there are too few titles; None: a verdict."""
    if UNKNOWN in decided:
        return "on unchecked rows"
    if TRAINING in decided:
        return "on rows that trained it"
    if decided:
        return "on rows that chose it"
    return None if unit.decides else "too few titles"


def joint_cells(columns: list[Codes]) -> tuple[Codes, Codes]:
    """Per row the index of its cell (N,), and per cell one row that stands for it (C,); columns hold codes from -1 up."""
    if not columns or not len(columns[0]):
        raise DataError("there are no rows to judge")
    ids = np.zeros(len(columns[0]), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for column in columns:  # renumbered after each column, so that the key never overflows
        _, first, ids = np.unique(ids * (int(column.max()) + 2) + column + 1, return_index=True, return_inverse=True)
    return ids, first


def _chunks(resamples: int, width: int) -> Iterator[int]:
    step = max(1, _CHUNK_NUMBERS // width)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _scores(counts_RC: Floats, cells: Mapping[str, tuple[Codes, Codes]], labels: Labels) -> ResampledScores:
    f1 = {}
    for task, (label_C, predicted_C) in cells.items():
        classes = len(labels[task])
        known = np.flatnonzero(label_C >= 0)
        to_confusion = np.zeros((len(known), classes * classes))
        to_confusion[np.arange(len(known)), label_C[known] * classes + predicted_C[known]] = 1
        f1[task] = class_scores((counts_RC[:, known] @ to_confusion).reshape(-1, classes, classes)).f1
    # Of the classes that have a labelled row among all rows, whichever a resample drew; see polarity.evaluate.metrics.
    occurring = {task: np.unique(label_C[label_C >= 0]) for task, (label_C, _) in cells.items()}
    macro: dict[str, Floats] = {task: values[:, occurring[task]].sum(axis=1) / max(len(occurring[task]), 1) for task, values in f1.items()}
    return ResampledScores(np.mean(list(macro.values()), axis=0), macro, f1)


def _stack(parts: list[ResampledScores]) -> ResampledScores:
    return ResampledScores(
        np.concatenate([part.overall for part in parts]),
        {task: np.concatenate([part.macro[task] for part in parts]) for task in parts[0].macro},
        {task: np.concatenate([part.f1[task] for part in parts]) for task in parts[0].f1},
    )


def _matched(a: pa.Table, b: pa.Table, labels: Labels) -> tuple[pa.Table, pa.Table]:
    for table in (a, b):
        check_predictions(table, labels)
        if len(pc.unique(table["split"])) > 1:
            raise DataError("a paired difference needs the predictions of one split on each side")
    a, b = a.sort_by("row_id"), b.sort_by("row_id")
    only = _only(a, b), _only(b, a)
    if any(only):
        first = next(iter(only[0] or only[1]))
        raise DataError(
            f"the two sides must hold the same rows: {len(only[0])} row ids are only in the first, {len(only[1])} only in the "
            f"second (e.g. {first!r}); score both on one file, as polarity compare --data FILE does"
        )
    for task, classes in labels.items():
        differ: NDArray[np.bool_] = task_codes(a, task, classes)[0] != task_codes(b, task, classes)[0]
        if differ.any():
            row = a["row_id"][int(differ.argmax())].as_py()
            raise DataError(f"the two sides give row {row!r} different labels of {task} ({int(differ.sum())} rows differ)")
    return a, b


def _only(a: pa.Table, b: pa.Table) -> list[str]:
    return list(a.filter(pc.invert(pc.is_in(a["row_id"], value_set=b["row_id"].combine_chunks())))["row_id"].to_pylist())
