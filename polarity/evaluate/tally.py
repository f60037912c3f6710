"""Predictions of any number of rows condensed to a few thousand cells, so that class shares of millions of rows need little memory.

Rows are put together where label, predicted class and the log ratios of the probabilities (to the largest one, on a grid) agree;
a cell keeps its rows' mean log ratios. Tallies of parts can be added. Shape suffixes: N rows, C cells, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polarity.evaluate.predictions import MISSING, Codes, Floats

STEPS = {2: 0.1, 3: 0.25, 4: 0.5}
"""Width of a cell in log ratio, by number of classes; 1 for more than four, where the grid has more dimensions."""
LOWEST = -12.0
"""Log ratios below this (a probability of 6e-6) count as this."""


@dataclass(frozen=True)
class Tally:
    """Cells of one task's predictions: `label` (-1: none) and `predicted` (C,), `count` (C,), mean `log_ratio` (C, K)."""

    label: Codes
    predicted: Codes
    count: Floats
    log_ratio: Floats

    @classmethod
    def empty(cls, classes: int) -> "Tally":
        """No rows."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, np.zeros(0), np.zeros((0, classes)))

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], predicted: NDArray[np.integer], label: NDArray[np.integer] | None = None) -> "Tally":
        """The tally of N rows: `probabilities` (N, K), `predicted` and `label` (N,) class indices."""
        logs_NK = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), np.exp(2 * LOWEST)))
        ratio_NK = np.maximum(logs_NK - logs_NK.max(axis=1, keepdims=True), LOWEST)
        labels = np.full(len(ratio_NK), MISSING) if label is None else np.asarray(label)
        return cls(labels.astype(np.int64), np.asarray(predicted).astype(np.int64), np.ones(len(ratio_NK)), ratio_NK)._condensed()

    def __add__(self, other: "Tally") -> "Tally":
        both = zip(self._arrays(), other._arrays(), strict=True)
        return Tally(*(np.concatenate(pair) for pair in both))._condensed()

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.count.sum())

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.log_ratio.shape[1])

    def predicted_counts(self) -> Floats:
        """Rows predicted as each class (K,)."""
        return np.bincount(self.predicted, weights=self.count, minlength=self.classes).astype(np.float64)

    def labelled(self) -> "Tally":
        """The cells whose rows have a label."""
        known = self.label != MISSING
        return Tally(*(array[known] for array in self._arrays()))

    def _arrays(self) -> tuple[Codes, Codes, Floats, Floats]:
        return self.label, self.predicted, self.count, self.log_ratio

    def _condensed(self) -> "Tally":
        cell, first = self._cells()
        count = np.bincount(cell, weights=self.count, minlength=len(first)).astype(np.float64)
        total_CK = np.column_stack([np.bincount(cell, weights=self.count * column, minlength=len(first)) for column in self.log_ratio.T])
        return Tally(self.label[first], self.predicted[first], count, total_CK / count[:, None])

    def _cells(self) -> tuple[Codes, Codes]:
        """Per entry the index of its cell, and per cell one entry that stands for it."""
        step = STEPS.get(self.classes, 1.0)
        levels = round(-LOWEST / step) + 1
        grid = [np.round(-column / step).astype(np.int64) for column in self.log_ratio.T]
        columns = [(self.label + 1, self.classes + 1), (self.predicted, self.classes), *((column, levels) for column in grid)]
        cell, first, size = np.zeros(len(self.count), dtype=np.int64), np.zeros(0, dtype=np.int64), 1
        for codes, values in columns:
            if size > np.iinfo(np.int64).max // values:  # renumbered before the key overflows
                _, cell = np.unique(cell, return_inverse=True)
                size = len(self.count) + 1
            cell, size = cell * values + codes, size * values
        _, first, cell = np.unique(cell, return_index=True, return_inverse=True)
        return cell, first
