"""The rows of `polarity best`: which train, which decide nothing, and the folds by which each is scored once.

Shapes: N rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.config import Config, SplitConfig
from polarity.data.annotators import without_votes
from polarity.data.duplicates import without_leaks
from polarity.data.read import read_comments
from polarity.data.split import Splits, split_indices
from polarity.errors import ConfigError, DataError, Say

FEWEST_ROWS = 30
NO_ENCODER = "none"
APART = 0.1
"""Share of the labelled rows that is kept apart to judge a student where there are no test rows."""


@dataclass(frozen=True)
class Asked:
    """What the user asks for, beside the configuration: `seconds` is the budget, the first of `encoders` the main one."""

    seconds: float
    encoders: list[str] = field(default_factory=list)
    test: str | None = None
    hold_out: float | None = None
    unlabelled: str | None = None
    student: bool = True
    workers: int | None = None


@dataclass(frozen=True)
class BestRows:
    """`labelled` rows train and are scored out of fold; `test` rows decide nothing."""

    labelled: pa.Table
    test: pa.Table | None


def check_asked(config: Config, asked: Asked) -> str:
    """The labelled file. Raises ConfigError where none is named, test rows are asked for in two ways, or a student would have none."""
    if not config.data.source:
        raise ConfigError("no data: name the one labelled file, such as polarity best comments.csv, or as data.source in the YAML file")
    if asked.test and (asked.hold_out or config.data.split.kind == "column"):
        raise ConfigError("--test names the test rows: leave --hold-out and data.split.kind=column out")
    if asked.hold_out == 0 and asked.student and asked.encoders != [NO_ENCODER] and not asked.test and config.data.split.kind != "column":
        raise ConfigError("--hold-out 0 leaves no rows to judge the student on: add --no-student, or leave --hold-out out")
    return config.data.source


def read_rows(config: Config, asked: Asked, say: Say) -> BestRows:
    """The labelled rows and, from `--test`, `--hold-out` or a split column, the test rows; near duplicates of test rows do not train."""
    data, source = config.data, check_asked(config, asked)
    whole = data if data.split.kind == "column" else data.model_copy(update={"split": SplitConfig()})
    comments = without_votes(read_comments(source, whole, say=say), data.tasks)
    test = None
    if asked.test:
        plain = data.model_copy(update={"split": SplitConfig()})
        test = without_votes(read_comments(asked.test, plain, say=say), data.tasks)
    elif data.split.kind == "column" or asked.hold_out:
        comments, test = _cut(comments, data.split, asked.hold_out or 0.0, list(config.labels))
    if "split" in comments.column_names:
        comments = comments.drop_columns(["split"])
    rows = _without_leaks(BestRows(comments, test), say)
    _check_rows(rows, config)
    shown = "" if rows.test is None else f", {rows.test.num_rows:,} test rows that decide nothing"
    say(f"{source}: {rows.labelled.num_rows:,} labelled rows{shown}")
    return rows


def for_student(rows: BestRows, config: Config, say: Say) -> BestRows:
    """A tenth of the labelled rows becomes test rows, if there are none. Raises DataError where none can be kept apart.

    A student is taught what models say of rows that they were not trained on. But each of these models was trained on the rest, so that
    its words hold the labels of the rest, and the student can learn these: rows that judge a student must be kept from its teachers, too.
    """
    if rows.test is not None:
        return rows
    labelled, test = _cut(rows.labelled, config.data.split, APART, list(config.labels))
    if test is None:
        raise DataError(f"{config.data.source}: no row can be kept apart to judge the student on: add --no-student, or give --test FILE")
    apart = _without_leaks(BestRows(labelled, test), say)
    _check_rows(apart, config)
    say(
        f"{test.num_rows:,} of these rows are kept apart as test rows, for a student needs rows that its teachers have not seen either; "
        "with --no-student they train, and with --test FILE others judge"
    )
    return apart


def _cut(comments: pa.Table, split: SplitConfig, hold_out: float, tasks: list[str]) -> tuple[pa.Table, pa.Table | None]:
    if split.kind != "column":
        kind: Literal["group", "joint"] = "group" if split.kind == "group" else "joint"
        split = SplitConfig(kind=kind, seed=split.seed, validation=min(0.05, (1 - hold_out) / 2), test=hold_out)
    train, validation, test = split_indices(comments, split, tasks)
    labelled = comments.take(pa.array(np.sort(np.concatenate([train, validation]))))
    return labelled, comments.take(pa.array(test)).drop_columns([n for n in ["split"] if n in comments.column_names]) if len(test) else None


def _without_leaks(rows: BestRows, say: Say) -> BestRows:
    if rows.test is None:
        return rows
    apart = without_leaks(rows.labelled, rows.test)
    if apart.dropped:
        say(f"{apart.dropped:,} labelled rows are near duplicates of test rows: left out")
    return BestRows(apart.train, rows.test)


def _check_rows(rows: BestRows, config: Config) -> None:
    table = rows.labelled
    if table.num_rows < FEWEST_ROWS:
        raise DataError(f"{config.data.source}: {table.num_rows} labelled rows are too few for a model (from {FEWEST_ROWS} on)")
    for task, spec in config.data.tasks.items():
        for name, part in (("labelled", table), ("test", rows.test)):
            classes = [] if part is None else [k for k in pc.unique(part[task]).to_pylist() if k is not None]
            if part is not None and (not classes or (len(classes) < 2 and name == "labelled")):
                raise DataError(f"{config.data.source}: the {name} rows hold {len(classes)} class(es) of {task} (column {spec.column!r})")


@dataclass(frozen=True)
class Folds:
    """`number` (N,) is the fold that scores each row; `splits` give each fold's training rows and, as validation, its scored rows."""

    number: NDArray[np.int64]
    splits: list[Splits]

    @property
    def count(self) -> int:
        return len(self.splits)

    def places(self, comments: pa.Table) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Of each fold, places in the labelled table: the training rows and the scored ones."""
        ids = comments["row_id"].combine_chunks()
        for fold, split in enumerate(self.splits):
            rows = pc.index_in(split.train["row_id"].combine_chunks(), value_set=ids).to_numpy(zero_copy_only=False).astype(np.int64)
            yield rows, np.flatnonzero(self.number == fold)


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


def _split(comments: pa.Table, number: NDArray[np.int64], fold: int) -> Splits:
    train, scored = (comments.filter(pa.array(mask)) for mask in (number != fold, number == fold))
    apart = without_leaks(train, scored)
    return Splits(apart.train, scored, None, apart.leaks, apart.dropped)
