"""95 % percentile bootstrap of rows or of titles, with all tasks on the same resample and a fixed set of classes.

Rows that agree in (label, prediction) of every task are interchangeable, so a resample of N rows is a multinomial draw over
the few distinct combinations ("cells") and costs the same for a thousand rows as for ten million. Where the split is by
title, titles are drawn with replacement and bring all their rows (cluster bootstrap; Field and Welsh 2007).
Shape suffixes: N rows, C cells, G titles, R resamples, K classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist  # scipy.stats takes a second to import
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.errors import DataError
from polarity.evaluate.metrics import class_scores
from polarity.evaluate.predictions import Codes, Floats, Labels, check_predictions, task_codes, title_codes

FEW_TITLES = 10
_CHUNK_NUMBERS = 4_000_000  # 32 MB of float64 at a time, whatever the number of resamples


@dataclass(frozen=True)
class Scores:
    """Macro-F1s and per-class F1s of R resamples: overall (R,), macro[task] (R,), f1[task] (R, K)."""

    overall: Floats
    macro: dict[str, Floats]
    f1: dict[str, Floats]

    def minus(self, other: "Scores") -> "Scores":
        """The differences, resample by resample."""
        macro = {task: self.macro[task] - other.macro[task] for task in self.macro}
        return Scores(self.overall - other.overall, macro, {task: self.f1[task] - other.f1[task] for task in self.f1})


@dataclass(frozen=True)
class Unit:
    """What is drawn: each row's title (N,), or None for single rows; `note` says what a reader of the interval must know."""

    name: str
    groups: Codes | None
    count: int
    note: str | None = None


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
    return [float(low_K.min()), float(high_K.min())]


def unit_of(predictions: pa.Table, by_title: bool) -> Unit:
    """Rows, or titles where `by_title`; a single title cannot be resampled, so its rows are, with a note that says so."""
    rows = predictions.num_rows
    if not by_title:
        return Unit("row", None, rows)
    groups, titles = title_codes(predictions)
    if len(titles) < 2:
        return Unit("row", None, rows, "all rows have one title, so rows were resampled: too narrow for comments on other titles")
    note = f"only {len(titles)} titles: the intervals are rough" if len(titles) < FEW_TITLES else None
    return Unit("title", groups, len(titles), note)


def bootstrap(predictions: pa.Table, labels: Labels, unit: Unit, *, resamples: int, seed: int | list[int]) -> Scores:
    """Scores of `resamples` resamples; the same seed gives the same numbers. Raises DataError on an empty table."""
    codes = {task: task_codes(predictions, task, classes) for task, classes in labels.items()}
    ids, first = joint_cells([column for pair in codes.values() for column in pair])
    cells = {task: (label[first], predicted[first]) for task, (label, predicted) in codes.items()}
    draws = _draws(ids, len(first), unit.groups, resamples, np.random.default_rng(seed))
    return _stack([_scores(counts_RC, cells, labels) for counts_RC in draws])


def paired_difference(
    predictions_a: pa.Table,
    predictions_b: pa.Table,
    labels: Labels,
    *,
    resamples: int = 2000,
    seed: int = 0,
    by_title: bool = False,
) -> dict[str, Any]:
    """a - b on the same rows: {overall, tasks: {T}, per_class: {T: {c}}}, each {difference, ci95, verdict}.

    Rows are matched by row_id and both sides share every resample. `verdict` is gain or loss only where the interval excludes
    zero, else within noise. Raises DataError where the sides hold different rows or different labels.
    """
    a, b = _matched(predictions_a, predictions_b, labels)
    codes = {task: (*task_codes(a, task, classes), task_codes(b, task, classes)[1]) for task, classes in labels.items()}
    ids, first = joint_cells([column for three in codes.values() for column in three])
    cells_a = {task: (label[first], of_a[first]) for task, (label, of_a, _) in codes.items()}
    cells_b = {task: (label[first], of_b[first]) for task, (label, _, of_b) in codes.items()}

    def difference(counts_RC: Floats) -> Scores:
        return _scores(counts_RC, cells_a, labels).minus(_scores(counts_RC, cells_b, labels))

    point = difference(np.bincount(ids, minlength=len(first))[None].astype(np.float64))
    draws = _draws(ids, len(first), unit_of(a, by_title).groups, resamples, np.random.default_rng(seed))
    spread = _stack([difference(counts_RC) for counts_RC in draws])
    return {
        "overall": _difference(point.overall[0], spread.overall),
        "tasks": {task: _difference(point.macro[task][0], spread.macro[task]) for task in labels},
        "per_class": {
            task: {name: _difference(point.f1[task][0, k], spread.f1[task][:, k]) for k, name in enumerate(classes)}
            for task, classes in labels.items()
        },
    }


def joint_cells(columns: list[Codes]) -> tuple[Codes, Codes]:
    """Per row the index of its cell (N,), and per cell one row that stands for it (C,); columns hold codes from -1 up."""
    if not columns or not len(columns[0]):
        raise DataError("there are no rows to judge")
    ids = np.zeros(len(columns[0]), dtype=np.int64)
    first = np.zeros(1, dtype=np.int64)
    for column in columns:  # renumbered after each column, so that the key never overflows
        _, first, ids = np.unique(ids * (int(column.max()) + 2) + column + 1, return_index=True, return_inverse=True)
    return ids, first


def _draws(ids: Codes, cells: int, groups: Codes | None, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Counts of the cells (r, C) in chunks that add up to `resamples`."""
    if groups is None:
        shares_C = np.bincount(ids, minlength=cells) / len(ids)
        for size in _chunks(resamples, cells):
            yield rng.multinomial(len(ids), shares_C, size=size).astype(np.float64)
        return
    titles = int(groups.max()) + 1
    counts_GC = np.bincount(groups * cells + ids, minlength=titles * cells).reshape(titles, cells).astype(np.float64)
    for size in _chunks(resamples, cells + titles):
        times_RG = rng.multinomial(titles, np.full(titles, 1 / titles), size=size)
        yield times_RG.astype(np.float64) @ counts_GC


def _chunks(resamples: int, width: int) -> Iterator[int]:
    step = max(1, _CHUNK_NUMBERS // width)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _scores(counts_RC: Floats, cells: Mapping[str, tuple[Codes, Codes]], labels: Labels) -> Scores:
    f1 = {}
    for task, (label_C, predicted_C) in cells.items():
        classes = len(labels[task])
        known = np.flatnonzero(label_C >= 0)
        to_confusion = np.zeros((len(known), classes * classes))
        to_confusion[np.arange(len(known)), label_C[known] * classes + predicted_C[known]] = 1
        f1[task] = class_scores((counts_RC[:, known] @ to_confusion).reshape(-1, classes, classes)).f1
    macro: dict[str, Floats] = {task: values.mean(axis=1) for task, values in f1.items()}
    return Scores(np.mean(list(macro.values()), axis=0), macro, f1)


def _stack(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.overall for part in parts]),
        {task: np.concatenate([part.macro[task] for part in parts]) for task in parts[0].macro},
        {task: np.concatenate([part.f1[task] for part in parts]) for task in parts[0].f1},
    )


def _difference(point: float, spread: Floats) -> dict[str, Any]:
    low, high = interval(spread)
    verdict = "gain" if low > 0 else "loss" if high < 0 else "within noise"
    return {"difference": float(point), "ci95": [low, high], "verdict": verdict}


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
            f"second (e.g. {first!r}); score both on the same file"
        )
    for task, classes in labels.items():
        differ: NDArray[np.bool_] = task_codes(a, task, classes)[0] != task_codes(b, task, classes)[0]
        if differ.any():
            row = a["row_id"][int(differ.argmax())].as_py()
            raise DataError(f"the two sides give row {row!r} different labels of {task} ({int(differ.sum())} rows differ)")
    return a, b


def _only(a: pa.Table, b: pa.Table) -> list[str]:
    return list(a.filter(pc.invert(pc.is_in(a["row_id"], value_set=b["row_id"].combine_chunks())))["row_id"].to_pylist())
