"""Train, validation and test tables: read, cut, freed of leaks, and checked to hold every class.

Nothing is resampled before this point, and nothing after it moves a row from one part to another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.config import DataConfig, SplitConfig
from polarity.data.annotators import taught, votes_table, without_votes
from polarity.data.split_rows import noted_split, split_indices
from polarity.errors import DataError, Say

__all__ = ["Splits", "load_splits", "split_indices"]

_SHOWN = 5
NOT_LOOKED_FOR = "duplicates across the split were not looked for (data.duplicates: allow): scores may be too good"
SMALL_BYTES = 32_000_000
"""A file up to this size is read, in about a second, while Ray is still starting."""


@dataclass(frozen=True)
class Splits:
    """The three parts as canonical tables; row ids are unique over all of them."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table | None
    leaks: pa.Table
    """Pairs (train_row_id, held_out_row_id, kind, similarity) found before any row was dropped."""
    dropped: int
    """Training rows left out because of `leaks`."""
    seen: Callable[[], pa.Table] | None = None
    """Reads what a run remembers of its rows (`SeenRows.table`), where it is known already."""
    votes: Mapping[str, pa.Table] = field(default_factory=dict)
    """{part: row ids with the votes of tasks that have several annotators}; see `polarity.data.annotators`."""

    @property
    def parts(self) -> dict[str, pa.Table]:
        """{train, validation, test: table}, without test where there is none."""
        both = {"train": self.train, "validation": self.validation}
        return both if self.test is None else {**both, "test": self.test}

    @property
    def by_title(self) -> dict[str, bool]:
        """Whether titles are the unit of intervals, for each part that judges; see `titles_apart`."""
        from polarity.data.seen import title_keys, titles_apart

        training = title_keys(self.train["title"])
        return {name: titles_apart(training, table["title"]) for name, table in self.held_out.items()}

    @property
    def held_out(self) -> dict[str, pa.Table]:
        """The parts that judge: validation, and test where there is one."""
        return {name: table for name, table in self.parts.items() if name != "train"}


def is_small(data: DataConfig) -> bool:
    """Whether what `data` names are local files, or the sample, that this process reads sooner than Ray would start a task."""
    return all(s.split(":")[0] == "sample" or (Path(s).is_file() and Path(s).stat().st_size <= SMALL_BYTES) for s in _sources(data))


def in_shards(data: DataConfig) -> bool:
    """Whether rows and tokens are prepared as files that workers map (`polarity.data.shards`); the hub's data sets never are."""
    if any(task.annotators or task.counts for task in data.tasks.values()):
        if data.shards == "always":
            raise DataError("data.shards=always does not go with several annotators: set data.shards=auto")
        return False
    if data.shards == "auto":
        return not is_small(data) and not any(source.startswith("hf:") for source in _sources(data))
    return data.shards == "always"


def _sources(data: DataConfig) -> list[str]:
    return [source for source in (data.source, data.train, data.validation, data.test) if source]


def load_splits(data: DataConfig, say: Say) -> Splits:
    """Reads what `data` names and returns its parts, telling through `say` how they were made and what was left out.

    Raises DataError where a source cannot be read or cut, where a part has no rows,
    no label of a task or no row of one of its classes, and for leaks where `data.duplicates` is `error`.
    """
    parts = (_own_files if data.train else _cut_source)(data, say)
    votes = {name: votes_table(table, data.tasks) for name, table in parts.items()}
    parts = {n: taught(table, data.tasks) if n == "train" else without_votes(table, data.tasks) for n, table in parts.items()}
    splits = replace(_handle_leaks(parts, data, say), votes=votes)
    for part, table in splits.parts.items():
        check_part(part, table, data)
    return splits


def _cut_source(data: DataConfig, say: Say) -> dict[str, pa.Table]:
    from polarity.data.read import read_comments

    if not data.source:
        raise DataError("no data: give data.source (--data FILE), or data.train and data.validation (--train FILE --validation FILE)")
    comments = read_comments(data.source, data, say=say)
    try:
        rows, notes = noted_split(comments, data.split, list(data.tasks))
    except DataError as error:
        raise DataError(f"{data.source}: {error}") from error
    if "split" in comments.column_names and "split" not in data.tasks:
        comments = comments.drop_columns(["split"])
    parts = {name: comments.take(pa.array(np.sort(own))) for name, own in zip(("train", "validation", "test"), rows, strict=True)}
    if not len(rows[2]):
        del parts["test"]
    shown = ", ".join(f"{name} {table.num_rows:,} ({table.num_rows / comments.num_rows:.1%})" for name, table in parts.items())
    say(f"{data.source}: split by {split_words(data.split)}: {shown}")
    for note in notes:
        say(f"{data.source}: {note}")
    return parts


def split_words(split: SplitConfig) -> str:
    """How a source is cut, in words."""
    if split.kind == "column":
        return f"the column {split.column}"
    kind = {"plan": f"the plan, stratified by {split.stratify}", "joint": "all labels jointly", "group": "title"}[split.kind]
    return f"{kind}, seed {split.seed}" + (f", fold {split.fold} of {split.folds}" if split.folds else "")


def _own_files(data: DataConfig, say: Say) -> dict[str, pa.Table]:
    from polarity.data.read import read_comments

    whole = data.model_copy(update={"split": SplitConfig()})  # the files are the split: no column is asked for
    sources = {"train": data.train, "validation": data.validation, "test": data.test}
    parts = {name: read_comments(source, whole, say=say) for name, source in sources.items() if source}
    say("own split: " + ", ".join(f"{name} {table.num_rows:,} ({sources[name]})" for name, table in parts.items()))
    return _unique_ids(parts, say)


def _unique_ids(parts: dict[str, pa.Table], say: Say) -> dict[str, pa.Table]:
    """The parts as they are, or with their names before every row id where files share some, as files with numbered rows do."""
    ids = pa.chunked_array([chunk for table in parts.values() for chunk in table["row_id"].chunks], type=pa.large_string())
    shared = len(ids) - pc.count_distinct(ids).as_py()
    if not shared:
        return parts
    say(f"{shared:,} row ids are in more than one file; ids now start with the part: " + ", ".join(f"{name}/..." for name in parts))
    return {name: _prefixed(table, name) for name, table in parts.items()}


def _prefixed(table: pa.Table, name: str) -> pa.Table:
    text = pa.large_string()
    ids = pc.binary_join_element_wise(pa.scalar(f"{name}/", text), table["row_id"].cast(text), pa.scalar("", text))
    return table.set_column(table.schema.get_field_index("row_id"), "row_id", ids)


def _handle_leaks(parts: dict[str, pa.Table], data: DataConfig, say: Say) -> Splits:
    from polarity.data.duplicates import LEAKS, find_leaks

    for name, table in parts.items():
        if not table.num_rows:
            raise DataError(f"{_where(name, data)}: no rows; give it some, or change data.split")
    train, validation, test = parts["train"], parts["validation"], parts.get("test")
    if data.duplicates == "allow":
        say(NOT_LOOKED_FOR)
        return Splits(train, validation, test, LEAKS.empty_table(), 0)
    held_out = validation if test is None else pa.concat_tables([validation, test])
    leaks = find_leaks(train, held_out, say)
    if test is not None:
        report_held_out_pairs(find_leaks(validation, test, say), say)
    splits = Splits(train, validation, test, leaks, 0)
    if not leaks.num_rows:
        return splits
    rows = pc.unique(leaks["train_row_id"])
    found = leaking_words(leaks)
    if data.duplicates == "error":
        raise DataError(f"{found}; remove one side, or set data.duplicates to drop_from_train")
    say(f"{found}; dropped from train")
    return replace(splits, train=train.filter(pc.invert(pc.is_in(train["row_id"], value_set=rows))), dropped=len(rows))


def leaking_words(leaks: pa.Table) -> str:
    """How many training rows leak, and the first of them."""
    rows = pc.count_distinct(leaks["train_row_id"]).as_py()
    return f"{rows:,} training rows have a duplicate or near duplicate in validation or test: {_pairs(leaks)}"


def report_held_out_pairs(pairs: pa.Table, say: Say) -> None:
    """Say which validation rows have a (near) duplicate in test; both stay."""
    if pairs.num_rows:
        rows = pc.count_distinct(pairs["train_row_id"]).as_py()
        say(f"{rows:,} validation rows have a duplicate or near duplicate in test: {_pairs(pairs)}; kept, as neither part trains")


def _pairs(leaks: pa.Table) -> str:
    shown = [f"{row['train_row_id']} = {row['held_out_row_id']} ({row['kind']})" for row in leaks.slice(0, _SHOWN).to_pylist()]
    more = leaks.num_rows - len(shown)
    return ", ".join(shown) + (f" and {more:,} more pairs" if more else "")


def _where(part: str, data: DataConfig) -> str:
    own = getattr(data, part)
    return f"{part} ({own or data.source})"


def check_part(part: str, table: pa.Table, data: DataConfig) -> None:
    """Every class of every task in every part: without it a class cannot be learned, and macro-F1 over the fixed classes misjudges."""
    where = _where(part, data)
    if not table.num_rows:
        raise DataError(f"{where}: no rows are left once duplicates of validation and test rows were dropped; see data.duplicates")
    for task, spec in data.tasks.items():
        present = set(pc.unique(table[task]).to_pylist()) - {None}
        if not present:
            raise DataError(f"{where}: no row has a label of {task} (column {spec.column!r}); label some, or set data.tasks.{task}=null")
        if len(present) == 1:
            only = spec.labels[present.pop()]
            raise DataError(f"{where}: every label of {task} is {only!r}; {_advice(data, task, len(spec.labels) - 1)}")
        absent = [label for index, label in enumerate(spec.labels) if index not in present]
        if absent:
            named = " or ".join(map(repr, absent))
            raise DataError(f"{where}: no row of {task} is {named}; {_advice(data, task, len(absent))}")


def _advice(data: DataConfig, task: str, classes: int) -> str:
    """How many rows are lacking: own parts need one of each class; a split of one source needs a class as often as there are parts."""
    parts = 3 if data.split.test or data.split.folds else 2
    wanted = "1 row of it" if data.train else f"{parts} rows of it in all, one for each part, and better {_share_rows(data)}"
    each = "a class needs" if classes == 1 else "each class needs"
    other = ", or set data.split.kind=joint" if not data.train and data.split.kind in ("group", "column") else ""
    return f"{each} {wanted}: label some, or take the class out of data.tasks.{task}.labels{other}"


def _share_rows(data: DataConfig) -> int:
    """Rows of which every part's share is one."""
    if data.split.folds:
        return data.split.folds
    smallest = min(share for share in (data.split.validation, data.split.test, 1 - data.split.validation - data.split.test) if share > 0)
    return math.ceil(1 / smallest)
