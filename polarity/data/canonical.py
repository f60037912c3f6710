"""From a file's columns to the canonical comments table, with what is wrong with each row beside it.

Canonical columns: `row_id`, `title`, `comment` (large_string), one int8 class index a task (null where missing), and
`split` where the file says it. While reading there are two more, which no reader of the table sees: `_source_row`, the row's
position in its source, and `_problem`, what makes it a bad row (null for a good one).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.config import DataConfig, TaskConfig
from polarity.data.source import Source
from polarity.errors import DataError, nearest

DEFAULT_ID_COLUMN = "row_id"
SOURCE_ROW, PROBLEM = "_source_row", "_problem"
TEXT = pa.large_string()

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

    @property
    def columns(self) -> list[str]:
        """The columns to read, each once."""
        named = [self.row_id, self.title, self.comment, *(task.column for task in self.tasks.values()), self.split]
        return list(dict.fromkeys(column for column in named if column is not None))

    @property
    def schema(self) -> pa.Schema:
        """Schema of the annotated blocks."""
        fields = [pa.field(name, TEXT) for name in ("row_id", "title", "comment")]
        fields += [pa.field(task, pa.int8()) for task in self.tasks]
        fields += [pa.field("split", TEXT)] if self.split else []
        return pa.schema([*fields, pa.field(SOURCE_ROW, pa.int64()), pa.field(PROBLEM, TEXT)])

    @property
    def canonical_schema(self) -> pa.Schema:
        """Schema of the comments table."""
        return pa.schema(list(self.schema)[:-2])


def find_columns(source: Source, data: DataConfig, *, labelled: bool = True) -> Layout:
    """Find the configured columns in a source; raises DataError naming the nearest column and the key for one that is missing."""
    taken = {"row_id", "title", "comment", "split", SOURCE_ROW, PROBLEM} & set(data.tasks)
    if taken:
        raise DataError(f"data.tasks.{min(taken)}: the comments table has a column of that name: give the task another name")
    row_id = data.id_column
    if row_id == DEFAULT_ID_COLUMN and row_id not in source.columns:
        row_id = None
    split = data.split.column if labelled and data.split.kind == "column" and not data.train else None
    tasks = dict(data.tasks) if labelled else {}
    wanted = [
        (data.comment_column, "data.comment_column", ""),
        (data.title_column, "data.title_column", ", or data.title_column=null if there are no titles"),
        (row_id, "data.id_column", ", or data.id_column=null to number the rows"),
        (split, "data.split.column", ""),
    ]
    for name, task in tasks.items():
        wanted.append((task.column, f"data.tasks.{name}.column", f", or data.tasks.{name}=null to leave the task out"))
    for column, key, other in wanted:
        if column is not None and column not in source.columns:
            raise DataError(_missing(source, column, key, other))
    return Layout(source=source.name, row_id=row_id, title=data.title_column, comment=data.comment_column, tasks=tasks, split=split)


def _missing(source: Source, column: str, key: str, other: str) -> str:
    hint = nearest(column, [name for name in source.columns if name])
    what = f"{source.name}: no column {column!r}: {hint} (set {key} to the column's name{other})"
    joined = source.columns[0] if len(source.columns) == 1 else ""
    for delimiter in (";", "\t", ","):
        if delimiter in joined:
            return (
                f"{what}; the header is one column with {delimiter!r} in it: columns are separated by commas in a .csv, by tabs in a .tsv"
            )
    return what


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
    for name, task in layout.tasks.items():
        classes, problem = _class_indices(as_text(block, task.column, layout.source), name, task)
        columns.append(classes)
        problems.append(problem)
    if layout.tasks:
        named = ", ".join(repr(task.column) for task in layout.tasks.values())
        known = [pc.or_(pc.is_valid(c), pc.is_valid(p)) for c, p in zip(columns[3:], problems[2:], strict=True)]
        some = known[0]
        for each in known[1:]:
            some = pc.or_(some, each)
        problems.append(_where(pc.invert(some), f"no label: none of the columns {named} holds one"))
    if layout.split is not None:
        split = as_text(block, layout.split, layout.source)
        problems.append(_where(_blank(split), f"no split: the column {layout.split!r} is empty"))
        columns.append(split)
    columns += [rows, _join(problems)]
    return pa.Table.from_arrays(columns, schema=layout.schema)


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
        raise DataError(f"{source}, column {column!r}: holds {kind} that is not text: {str(error).splitlines()[0]}") from error


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


def _class_indices(values: pa.Array, name: str, task: TaskConfig) -> tuple[pa.Array, pa.Array]:
    """int8 class index and problem of each label; a label matches after trimming and case folding."""
    known = {label.strip().casefold(): index for index, label in enumerate(task.labels)}
    encoded = values.dictionary_encode()
    indices: list[int | None] = []
    problems: list[str | None] = []
    for text in encoded.dictionary.to_pylist():
        folded = text.strip().casefold()
        indices.append(known.get(folded))
        unknown = folded and folded not in known
        problems.append(_unknown_label(text.strip(), name, task) if unknown else None)
    if not indices:
        return pa.nulls(len(values), pa.int8()), pa.nulls(len(values), TEXT)
    classes = pc.take(pa.array(indices, pa.int8()), encoded.indices)
    return classes, pc.take(pa.array(problems, TEXT), encoded.indices)


def _unknown_label(text: str, name: str, task: TaskConfig) -> str:
    shown = text if len(text) <= 60 else text[:60] + "..."
    hint = nearest(text[:60], task.labels)
    return f"unknown label: the column {task.column!r} holds {shown!r}: {hint} (labels are set in data.tasks.{name}.labels)"
