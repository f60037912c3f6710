"""Scores of one trial, and how much each row moves them: the rows' part of an effect's variance without resampling.

The influence of row i on a score is the score's derivative by the row's weight, at weight 1. The sum of squared influences is the
infinitesimal jackknife's variance, which a bootstrap of the rows approaches as its resamples grow (Efron 1982, chapter 6); with
rows that come in groups (titles), a group's influences are added first, as the cluster bootstrap draws whole groups.
Shape suffixes: N rows, K classes, M metrics (overall, then each task, then each task's classes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polarity.evaluate.metrics import class_scores, confusion_matrix
from polarity.evaluate.predictions import Codes, Floats, Labels

OVERALL = "overall"
TaskCodes = Mapping[str, tuple[Codes, Codes]]
"""{task: (label, prediction)}, class indices (N,), -1 for a missing label."""


@dataclass(frozen=True)
class Judged:
    """One trial's scores (M,), and per task its codes and what a row of a label and a prediction moves (K + 1, K, 1 + K)."""

    scores_M: Floats
    tasks: tuple[tuple[Codes, Codes, Floats], ...]

    @property
    def influence_NM(self) -> Floats:
        """Influences of all rows."""
        return self.influence(slice(None))

    def influence(self, rows: slice) -> Floats:
        """Influences of some rows (n, M): with many rows and trials they are made in parts."""
        of_rows = [table[label[rows], predicted[rows]] for label, predicted, table in self.tasks]
        macro_nT = np.concatenate([values[:, :1] for values in of_rows], axis=1)
        return np.concatenate([macro_nT.mean(axis=1, keepdims=True), macro_nT, *(values[:, 1:] for values in of_rows)], axis=1)


def metric_names(labels: Labels) -> list[str]:
    """`overall`, each task, and each `task/class`: the order of M."""
    return [OVERALL, *labels, *(f"{task}/{name}" for task, names in labels.items() for name in names)]


def judge_rows(codes: TaskCodes, classes: Sequence[int]) -> Judged:
    """Scores and influences of one trial; `classes` holds each task's K, in the order of `codes`.

    F1 = 2 TP / (P + S) with P predicted and S labelled rows of a class, so a row moves it by
    (2 [hit] - F1 ([predicted] + [labelled])) / (P + S); macro-F1 and overall are means of those. A row without a label moves nothing.
    """
    f1, tables = [], []
    for (label, predicted), count in zip(codes.values(), classes, strict=True):
        task_f1_K, moves_KKK = _f1_moves(confusion_matrix(label, predicted, count))
        with_macro = np.concatenate([moves_KKK.mean(axis=-1, keepdims=True), moves_KKK], axis=-1)
        f1.append(task_f1_K)
        # A further row of zeros for the label -1 of rows that have none.
        tables.append((label, predicted, np.concatenate([with_macro, np.zeros((1, count, count + 1))])))
    macro_T = np.array([values.mean() for values in f1])
    return Judged(np.concatenate([[macro_T.mean()], macro_T, *f1]), tuple(tables))


def by_unit(influence_NM: Floats, unit_N: Codes | None, units: int) -> Floats:
    """Influences summed by unit (G = `units`, M), times sqrt(g / (g - 1)) for the g units that have rows, as a sample variance.

    `unit_N` is None where each row is a unit.
    """
    summed, present = influence_NM, units
    if unit_N is not None:
        summed, present = np.zeros((units, influence_NM.shape[1])), len(np.unique(unit_N))
        np.add.at(summed, unit_N, influence_NM)
    scaled: Floats = summed * np.sqrt(present / max(1, present - 1))
    return scaled


def _f1_moves(confusion_KK: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(F1 (K,), what a row with this label and this prediction does to each F1 (K, K, K)) of one task."""
    f1_K = class_scores(confusion_KK).f1
    below_K = (confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)).astype(np.float64)
    one_hot = np.eye(len(f1_K))
    is_label, is_predicted = one_hot[:, None, :], one_hot[None, :, :]
    change = 2 * is_label * is_predicted - f1_K * (is_label + is_predicted)
    return f1_K, np.divide(change, below_K, out=np.zeros_like(change), where=below_K > 0)
