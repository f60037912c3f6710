"""The floor of floors: every row gets the training rows' most common class."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.errors import DataError
from polarity.evaluate.predictions import MISSING, Codes, Floats, Labels


def majority(train: pa.Table, held_out: pa.Table, labels: Labels) -> dict[str, Floats]:
    """Per task the training shares of the classes, repeated for each held-out row: (N, K)."""
    return {
        task: np.tile(class_shares(label_codes(train, task), len(classes), task), (held_out.num_rows, 1))
        for task, classes in labels.items()
    }


def label_codes(comments: pa.Table, task: str) -> Codes:
    """Class indices (N,) of a comments table, -1 where the label is missing."""
    codes: Codes = pc.fill_null(comments[task], MISSING).to_numpy().astype(np.int64)
    return codes


def class_shares(codes: Codes, classes: int, task: str) -> Floats:
    """Share of each class (K,) among the labelled rows; raises DataError where none is labelled."""
    counts = np.bincount(codes[codes >= 0], minlength=classes)
    if not counts.sum():
        raise DataError(f"no training row has a label of task {task!r}: there is nothing to fit a baseline on")
    shares: Floats = counts / counts.sum()
    return shares
