"""From a file's columns to the canonical comments table, with what is wrong with each row beside it.

Canonical columns: `row_id`, `title`, `comment` (large_string), one int8 class index a task (null where missing), and
`split` where the file says it. While reading there are four more, which no reader of the table sees: `_source_row`, the row's
position in its source; `_problem`, what makes it a bad row (null for a good one); `_usable`, whether a bad row has a comment, an id and
a good label all the same; and `_missing_words`, how many of its labels are words such as `nan` that mean "no label".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.config import DataConfig, TaskConfig
from polarity.data.annotators import as_column, majority, of_classes, of_counts, votes_column, votes_type
from polarity.data.source import Source
from polarity.errors import DataError, first_line, nearest
from polarity.spelling import canonical, match

DEFAULT_ID_COLUMN = "row_id"
SOURCE_ROW, PROBLEM, USABLE, MISSING_WORDS = "_source_row", "_problem", "_usable", "_missing_words"
HIDDEN = (SOURCE_ROW, PROBLEM, USABLE, MISSING_WORDS)
TEXT = pa.large_string()

FEWEST_NUMBERS = 5
"""Comments from which a column of nothing but numbers is no column of comments."""
VISIBLE = r"[^\pZ\p{Cc}\p{Cf}\x{2800}\x{3164}\x{115F}\x{1160}\x{FFA0}\x{FE00}-\x{FE0F}\x{034F}]"
"""A character that leaves a mark: no space, control, zero-width or filler character."""


@dataclass(frozen=True)
class Layout:
    """Which column of one source holds what."""

    source: str
    row_id: str | None
    title: str | None
    comment: str
    tasks: dict[str, TaskConfig]
    split: str | None
    missing_labels: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns to read, each once."""
        named = [self.row_id, self.title, self.comment, *(column for task in self.tasks.values() for column in task.columns), self.split]
        return list(dict.fromkeys(column for column in named if column is not None))

    @property
    def schema(self) -> pa.Schema:
        """Schema of the annotated blocks."""
        fields = [pa.field(name, TEXT) for name in ("row_id", "title", "comment")]
        fields += [pa.field(task, pa.int8()) for task in self.tasks]
        fields += [pa.field("split", TEXT)] if self.split else []
        fields += [pa.field(votes_column(name), votes_type(task)) for name, task in self.tasks.items() if task.annotators or task.counts]
        hidden = (pa.int64(), TEXT, pa.bool_(), pa.int8())
        return pa.schema([*fields, *(pa.field(name, kind) for name, kind in zip(HIDDEN, hidden, strict=True))])

    @property
    def canonical_schema(self) -> pa.Schema:
        """Schema of the comments table."""
        return pa.schema(list(self.schema)[: -len(HIDDEN)])


def find_columns(source: Source, data: DataConfig, *, labelled: bool = True) -> Layout:
    """Find the configured columns in a source, by their names or by names that are the same but for spelling (see polarity.spelling).

    Raises DataError naming the nearest column and the key for one that is missing.
    """
    taken = {"row_id", "title", "comment", "split", *HIDDEN} & set(data.tasks)
    if taken:
        raise DataError(f"data.tasks.{min(taken)}: the comments table has a column of that name: give the task another name")

    guessed = "; polarity init FILE guesses all of them" if labelled else ""

    def found(column: str, key: str, other: str = "") -> str:
        return find_column(source, column, f"set {key} to the column's name{other}{guessed}")

    row_id = data.id_column
    if row_id == DEFAULT_ID_COLUMN and match(row_id, source.columns) is None:
        row_id = None
    by_column = labelled and data.split.kind == "column" and not data.train
    return Layout(
        source=source.name,
        comment=found(data.comment_column, "data.comment_column"),
        title=data.title_column and found(data.title_column, "data.title_column", ", or data.title_column=null if there are no titles"),
        row_id=row_id and found(row_id, "data.id_column", ", or data.id_column=null to number the rows"),
        split=found(data.split.column, "data.split.column") if by_column else None,
        tasks={name: _found_task(name, task, found) for name, task in (data.tasks.items() if labelled else ())},
        missing_labels=tuple(data.missing_labels),
    )


def _found_task(name: str, task: TaskConfig, found: Callable[[str, str, str], str]) -> TaskConfig:
    """The task with the source's own names of its columns."""
    kind = "annotators" if task.annotators else "counts" if task.counts else "column"
    names = [found(column, f"data.tasks.{name}.{kind}", f", or data.tasks.{name}=null to leave the task out") for column in task.columns]
    return task.model_copy(update={kind: names[0] if kind == "column" else names})


def find_column(source: Source, column: str, advice: str) -> str:
    """The source's own name of a column. Raises DataError where there is none, or where several are the same but for spelling."""
    own = match(column, source.columns)
    if own is not None and source.columns.count(own) == 1:
        return own
    alike = [name for name in source.columns if canonical(name) == canonical(column)]
    if len(alike) > 1:
        shown = " and ".join(repr(name) for name in alike[:2])
        raise DataError(f"{source.name}: the columns {shown} have one name but for spelling: rename one of them, or {advice}")
    what = f"{source.name}: no column {column!r}: {nearest(column, filter(None, source.columns))} ({advice})"
    delimiter = next((mark for mark in (";", "\t", ",") if len(source.columns) == 1 and mark in source.columns[0]), None)
    if delimiter is not None:
        what += f"; the header is one column with {delimiter!r} in it: columns are separated by commas in a .csv, by tabs in a .tsv"
    raise DataError(what)


def annotate(block: pa.Table, first_row: int, layout: Layout) -> pa.Table:
    """Canonical columns of one block of a source plus `_source_row` and `_problem`; see the module."""
    rows = pa.array(np.arange(first_row, first_row + block.num_rows, dtype=np.int64))
    problems: list[pa.Array] = []
    comment = as_text(block, layout.comment, layout.source)
    problems.append(_where(_blank(comment), f"empty comment: the column {layout.comment!r} holds no text"))
    row_id = rows.cast(TEXT) if layout.row_id is None else as_text(block, layout.row_id, layout.source)
    problems.append(_where(_blank(row_id), f"no row id: the column {layout.row_id!r} is empty"))
    title = pa.array([""] * block.num_rows, TEXT) if layout.title is None else as_text(block, layout.title, layout.source).fill_null("")
    columns = [row_id, title, comment]
    unusable = _join(problems)
    words = np.zeros(block.num_rows, np.int8)
    votes: list[pa.Array] = []
    known = pa.array(np.zeros(block.num_rows, bool))
    for name, task in layout.tasks.items():
        cells = [as_text(block, column, layout.source) for column in task.columns]
        if task.counts:
            votes_NK, problem = of_counts(cells, task)
            problems.append(problem)
        else:
            named_cells = zip(task.columns, cells, strict=True)
            read = [_class_indices(texts, name, task, column, layout.missing_labels) for column, texts in named_cells]
            problems += [problem for _, problem, _ in read]
            words += sum(missing for _, _, missing in read)
            votes_NK = of_classes([classes for classes, _, _ in read], task)
        columns.append(majority(votes_NK))
        if len(task.columns) > 1:
            votes.append(as_column(votes_NK, task))
        known = pc.or_(known, pa.array(votes_NK.any(axis=1)))
    if layout.tasks:
        named = ", ".join(repr(column) for task in layout.tasks.values() for column in task.columns)
        wrong = _join(problems[2:]) if len(problems) > 2 else pa.nulls(block.num_rows, TEXT)
        unlabelled = pc.and_(pc.invert(known), pc.is_null(wrong))
        problems.append(_where(unlabelled, f"no label: none of the columns {named} holds one"))
    if layout.split is not None:
        split = as_text(block, layout.split, layout.source)
        problems.append(_where(_blank(split), f"no split: the column {layout.split!r} is empty"))
        unusable = _join([unusable, problems[-1]])
        columns.append(split)
    columns += [*votes, rows, _join(problems), pc.and_(known, pc.is_null(unusable)), pa.array(words)]
    return pa.Table.from_arrays(columns, schema=layout.schema)


def left_out(table: pa.Table, data: DataConfig) -> pa.ChunkedArray:
    """Whether each annotated row is bad (N,): any problem counts, but with `data.bad_rows=drop` a row with a good label stays usable."""
    bad = pc.is_valid(table[PROBLEM])
    return bad if data.bad_rows == "error" else pc.and_(bad, pc.invert(table[USABLE]))


def refuse_numbers(comments: pa.ChunkedArray, column: str, source: str, advice: str) -> None:
    """Raise DataError where all comments are numbers: then the column is another one. A handful of them may be."""
    if len(comments) - comments.null_count >= FEWEST_NUMBERS and pc.all(pc.match_substring_regex(comments, r"^[\s\d.,:%+-]+$")).as_py():
        raise DataError(f"{source}: the column {column!r} holds numbers alone, and comments are text: {advice}")


def as_text(block: pa.Table, column: str, source: str) -> pa.Array:
    """A column as text: numbers as written, whole floats without `.0`, NaN as null; raises DataError for lists, structs, bytes."""
    values = block[column].combine_chunks()
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_nested(kind):
        raise DataError(f"{source}, column {column!r}: holds {kind}, not text")
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values.cast(pa.float64())), None, values)
    try:
        return values.cast(TEXT)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{source}, column {column!r}: holds {kind} that is not text: {first_line(error)}") from error


def _blank(values: pa.Array) -> pa.Array:
    return pc.invert(pc.match_substring_regex(values, VISIBLE).fill_null(False))


def _where(mask: pa.Array, problem: str) -> pa.Array:
    return pc.if_else(mask, pa.scalar(problem, TEXT), pa.scalar(None, TEXT))


def _join(problems: list[pa.Array]) -> pa.Array:
    """Each row's problems in one text, null where there is none. (pyarrow 26's own null_handling="skip" loses rows of nulls.)"""
    joined = problems[0]
    for problem in problems[1:]:
        both = pc.binary_join_element_wise(joined, problem, pa.scalar("; ", TEXT))
        joined = pc.coalesce(both, joined, problem)
    return joined


def _class_indices(
    values: pa.Array, name: str, task: TaskConfig, column: str, missing: tuple[str, ...]
) -> tuple[pa.Array, pa.Array, NDArray[np.int8]]:  # fmt: skip
    """int8 class index and problem of each label, and 1 for each that is a word for "no label"; labels match by `canonical`."""
    known = {canonical(label): index for index, label in enumerate(task.labels)}
    words = {canonical(word) for word in missing} - set(known)
    encoded = values.dictionary_encode()
    indices: list[int | None] = []
    problems: list[str | None] = []
    absent: list[bool] = []
    for text in encoded.dictionary.to_pylist():
        form = canonical(text)
        indices.append(known.get(form))
        absent.append(form in words)
        unknown = form and form not in known and form not in words
        problems.append(_unknown_label(text.strip(), name, task, column) if unknown else None)
    classes = pc.take(pa.array(indices, pa.int8()), encoded.indices)
    of_row = pc.take(pa.array(absent, pa.bool_()), encoded.indices).fill_null(False)
    return classes, pc.take(pa.array(problems, TEXT), encoded.indices), of_row.to_numpy(zero_copy_only=False).astype(np.int8)


def _unknown_label(text: str, name: str, task: TaskConfig, column: str) -> str:
    shown = text if len(text) <= 60 else text[:60] + "..."
    hint = nearest(text[:60], task.labels)
    return f"unknown label: the column {column!r} holds {shown!r}: {hint} (labels are set in data.tasks.{name}.labels)"
