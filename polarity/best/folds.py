"""Folds: each row is scored once, by models that neither it nor a near duplicate of it has trained.

Shapes: N rows.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.config import SplitConfig
from polarity.data.duplicates import find_leaks
from polarity.data.split import Rows, Splits, split_indices
from polarity.errors import DataError


@dataclass(frozen=True)
class Folds:
    """`number` (N,) is the fold that scores each row; `splits` give each fold's training rows and, as validation, its scored rows."""

    number: Rows
    splits: list[Splits]

    @property
    def count(self) -> int:
        return len(self.splits)


def make_folds(comments: pa.Table, split: SplitConfig, tasks: list[str], count: int) -> Folds:
    """`count` (3 or more) folds by label combination, or by title where the split is of the kind group.

    Training rows that are near duplicates of a fold's scored rows do not train it: else the out-of-fold scores were too good. Raises
    DataError where the rows or titles are too few.
    """
    kind: Literal["group", "joint"] = "group" if split.kind == "group" else "joint"
    number = np.full(comments.num_rows, -1, dtype=np.int64)
    for fold in range(count):
        asked = SplitConfig(kind=kind, folds=count, fold=fold, seed=split.seed)
        number[split_indices(comments, asked, tasks)[2]] = fold
    if (np.bincount(number, minlength=count) == 0).any():
        raise DataError(f"{comments.num_rows} rows are too few for {count} folds: give more rows")
    return Folds(number, [_split(comments, number, fold) for fold in range(count)])


def _split(comments: pa.Table, number: Rows, fold: int) -> Splits:
    train, scored = (comments.filter(pa.array(mask)) for mask in (number != fold, number == fold))
    leaks = find_leaks(train, scored)
    twins = pc.unique(leaks["train_row_id"])
    train = train.filter(pc.invert(pc.is_in(train["row_id"], value_set=twins.cast(train["row_id"].type))))
    return Splits(train, scored, None, leaks, len(twins))
