"""Likely label errors by confident learning (Northcutt, Jiang and Chuang 2021), as cleanlab's filter `confident_learning` finds them.

Shapes: N rows, K classes. The probabilities must be of rows that the model was not trained on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarity.evaluate.predictions import Codes, Floats


class LabelErrors(NamedTuple):
    """Rows (M,) whose label is likely wrong, the least likely label first, and the class suggested for each (M,)."""

    rows: NDArray[np.int64]
    suggested: Codes


def label_errors(labels: Codes, probabilities: Floats) -> LabelErrors:
    """A row is suspect where a class other than its label is both the model's choice and confidently so.

    A class is confident at or above the mean probability that the rows labelled with it give it. Rows without a label (-1) are
    never suspect. `labels` (N,), `probabilities` (N, K).
    """
    known = labels >= 0
    classes = probabilities.shape[1]
    thresholds_K = np.full(classes, np.inf)  # a class that no row is labelled with is never confident
    for label in range(classes):
        own = probabilities[labels == label, label]
        if own.size:
            # 1e-6 as in cleanlab: where all rows of a class have one probability, rounding must not leave them below its mean.
            thresholds_K[label] = own.mean() - 1e-6
    confident_NK = probabilities >= thresholds_K
    best = np.where(confident_NK, probabilities, -1.0).argmax(axis=1)
    suspect = known & confident_NK.any(axis=1) & (best != labels) & (probabilities.argmax(axis=1) != labels)
    rows = np.flatnonzero(suspect)
    order = np.argsort(probabilities[rows, labels[rows]], kind="stable")
    return LabelErrors(rows[order], best[rows[order]])
