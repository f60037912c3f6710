"""Confusion matrices and what follows from them, over a fixed set of classes. Every division by zero gives 0.

Equal to scikit-learn's `precision_recall_fscore_support(..., labels=classes, zero_division=0)`. All functions take leading
dimensions, so that thousands of bootstrap resamples are scored in one call.
Shape suffixes: R resamples, K classes (rows of a confusion matrix: label; columns: prediction).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.errors import DataError
from polarity.evaluate.predictions import Labels, task_codes


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 and support per class, each (..., K)."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Floats


def softmax(logits_NK: Floats) -> Floats:
    """Probabilities (N, K) of logits, -inf for what cannot be."""
    exp_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    shares: Floats = exp_NK / exp_NK.sum(axis=1, keepdims=True)
    return shares


def confusion_matrix(labels: Codes, predicted: Codes, classes: int) -> NDArray[np.int64]:
    """Counts (K, K) of (label, prediction), from class indices (N,); rows with label -1 (missing) are left out."""
    known = labels >= 0
    flat = np.bincount(labels[known] * classes + predicted[known], minlength=classes * classes)
    return flat.reshape(classes, classes)


def class_scores(confusion: NDArray[np.integer] | Floats) -> ClassScores:
    """Scores per class from confusion matrices (..., K, K)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    predicted = confusion.sum(axis=-2).astype(np.float64)
    support = confusion.sum(axis=-1).astype(np.float64)
    return ClassScores(_ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, predicted + support), support)


def macro_f1(confusion: NDArray[np.integer] | Floats) -> Floats:
    """Unweighted mean of the classes' F1, (...,) from (..., K, K)."""
    mean: Floats = class_scores(confusion).f1.mean(axis=-1)
    return mean


def accuracy(confusion: NDArray[np.integer] | Floats) -> Floats:
    """Share of rows on the diagonal, (...,) from (..., K, K)."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1).astype(np.float64), confusion.sum(axis=(-2, -1)).astype(np.float64))


def confusions(predictions: pa.Table, labels: Labels) -> dict[str, NDArray[np.int64]]:
    """Each task's confusion matrix (K, K); raises DataError where a task has no labelled row."""
    result = {}
    for task, classes in labels.items():
        result[task] = confusion_matrix(*task_codes(predictions, task, classes), len(classes))
        if not result[task].sum():
            raise DataError(f"no row has a label of task {task!r}: nothing to judge; leave the task out of data.tasks or label some rows")
    return result


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
