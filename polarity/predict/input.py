"""What predict reads: a file, a folder, a glob, and the chunks of texts that are scored.

A chunk is CHUNK_ROWS rows of one file, cut at fixed places, so that a prediction that is begun again scores the same batches.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.config import DataConfig
from polarity.data.canonical import PROBLEM, TEXT, VISIBLE, Layout, annotate, find_column, refuse_numbers
from polarity.data.formats import EXTENSIONS, SAVED, open_source
from polarity.data.source import ROWS_PER_BLOCK, Part, Source
from polarity.data.text_formats import json_rows, text_file
from polarity.errors import DataError

CHUNK_ROWS = 1024
"""Rows of a chunk: enough to sort by length, few enough that little is lost when a run is killed."""
CHUNK = pa.schema(
    [
        pa.field("file", pa.int32()),
        pa.field("row", pa.int64()),
        pa.field("title", pa.large_list(TEXT)),
        pa.field("comment", pa.large_list(TEXT)),
        pa.field("fault", pa.string()),
    ]
)
"""A chunk as one row: file number, position of its first row, titles, comments (null where empty), or what cannot be read."""
FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".xlsx": "xlsx"}


@dataclass(frozen=True)
class Input:
    """One file to predict: its opened source, path (None for hub and sample), and path relative to the folder that was named."""

    source: Source
    path: Path | None
    relative: Path
    layout: Layout

    @property
    def format(self) -> str:
        """csv, tsv, parquet, jsonl, xlsx; or `rows` for a source that is no such file."""
        return "rows" if self.path is None or self.path.is_dir() else FORMATS[self.path.suffix.lower()]


@dataclass(frozen=True)
class Columns:
    """Names of the columns with the texts; a title of None scores comments alone."""

    comment: str
    title: str | None

    @classmethod
    def chosen(cls, data: DataConfig, comment: str | None, title: str | None) -> "Columns":
        """Those of the run, or what the options say: an empty title means that there are none."""
        named = data.title_column if title is None else title
        return cls(comment or data.comment_column, named or None)


def has_text(text: str) -> bool:
    """Whether a text holds anything that leaves a mark."""
    return bool(pc.match_substring_regex(pa.array([text], TEXT), VISIBLE)[0].as_py())


def open_inputs(data: str, columns: Columns, leave_out: Path | None = None) -> tuple[list[Input], list[str]]:
    """The files that `data` names, in order of their paths, opened; and the names of files in a folder that are left out.

    `leave_out` is never read: the output may lie in the folder. Raises DataError for what is not there, is no such file, has no rows or
    lacks a column.
    """
    found, skipped = _found(data)
    kept = [(name, path, relative) for name, path, relative in found if path is None or path != leave_out]
    if not kept:
        raise DataError(f"{data}: no file to predict: a folder or glob must hold files ending in {', '.join(EXTENSIONS)}")
    return [_opened(name, path, relative, columns) for name, path, relative in kept], skipped


def _found(data: str) -> tuple[list[tuple[str, Path | None, Path]], list[str]]:
    if data.startswith("hf:") or data.split(":")[0] == "sample":
        return [(data, None, Path(data.replace("/", "-").replace(":", "-") + ".parquet"))], []
    if "://" in data:
        return [(data, None, Path(data.rstrip("/").rpartition("/")[2] + ".parquet"))], []
    path = Path(data).expanduser()
    if path.is_dir() and not any((path / mark).is_file() for mark in SAVED):
        inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
        base = path
    elif has_magic(data) and not path.exists():
        inside = [Path(p) for p in sorted(glob(str(path), recursive=True)) if Path(p).is_file()]
        base = _common(inside)
    else:
        relative = Path(path.name + ".parquet" if path.is_dir() else path.name)
        return [(str(path), path.absolute(), relative)], []
    readable = [p for p in inside if p.suffix.lower() in EXTENSIONS]
    skipped = [str(p) for p in inside if p.suffix.lower() not in EXTENSIONS]
    return [(str(p), p.absolute(), p.relative_to(base)) for p in readable], skipped


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _common(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of them."""
    parents = [p.parent.parts for p in paths]
    shared = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return Path(*shared)


def _opened(name: str, path: Path | None, relative: Path, columns: Columns) -> Input:
    source = open_source(name)
    comment = find_column(source, columns.comment, "name the column with --comment-column")
    no_titles = 'name the column with --title-column, or --title-column "" if there are no titles'
    title = None if columns.title is None else find_column(source, columns.title, no_titles)
    twice = [each for each in source.columns if each.strip() and source.columns.count(each) > 1]
    if twice:
        raise DataError(f"{name}: has the column {twice[0]!r} {source.columns.count(twice[0])} times: rename or remove one")
    blank = [number for number, each in enumerate(source.columns, start=1) if not each.strip()]
    if len(blank) > 1:
        raise DataError(f"{name}: columns {', '.join(map(str, blank))} have no name: name or remove all but one of them")
    return Input(source, path, relative, Layout(name, None, title, comment, {}, None))


@dataclass(frozen=True)
class Place:
    """A row: file number and position in the file. Scoring begins at one."""

    file: int = 0
    row: int = 0


def chunk_parts(inputs: Sequence[Input], start: Place) -> list[Part]:
    """The pieces of all inputs from `start` on, each a stream of chunks that one task reads."""
    parts = []
    for number, each in enumerate(inputs):
        for index, part in enumerate(each.source.parts):
            following = each.source.parts[index + 1].first_row if index + 1 < len(each.source.parts) else None
            begin = start.row if number == start.file else 0
            done = number < start.file or (following is not None and following <= begin)
            if not done:
                parts.append(Part(part.first_row, partial(_chunks, number, each, part, begin)))
    return parts


def _chunks(number: int, given: Input, part: Part, begin: int, _: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Chunks of one part; what cannot be read comes as a last chunk with its words, for an error raised in a Ray task costs pages."""
    try:
        for row, block in _cut(given, part):
            if row == 0:
                refuse_numbers(block["comment"], given.layout.comment, given.source.name, "name the comments' with --comment-column")
            if row + block.num_rows > begin:
                skip = max(0, begin - row)
                yield _chunk(number, row + skip, block.slice(skip))
    except DataError as error:
        yield _fault(number, str(error))


def _cut(given: Input, part: Part) -> Iterator[tuple[int, pa.Table]]:
    row, held = part.first_row, None
    for block in part.blocks(given.layout.columns):
        read = 0 if held is None else held.num_rows
        annotated = annotate(block, row + read, given.layout)
        held = annotated if held is None else pa.concat_tables([held, annotated])
        while held.num_rows >= CHUNK_ROWS:
            yield row, held.slice(0, CHUNK_ROWS)
            row, held = row + CHUNK_ROWS, held.slice(CHUNK_ROWS)
    if held is not None and held.num_rows:
        yield row, held
    if held is None and len(given.source.parts) == 1:
        raise DataError(f"{given.source.name}: holds a header but no rows")


def _chunk(number: int, row: int, block: pa.Table) -> pa.Table:
    comment = pc.if_else(pc.is_null(block[PROBLEM]), block["comment"], pa.scalar(None, TEXT))
    texts = [_listed(block["title"]), _listed(comment)]
    return pa.Table.from_arrays(
        [pa.array([number], pa.int32()), pa.array([row], pa.int64()), *texts, pa.nulls(1, pa.string())], schema=CHUNK
    )


def _listed(values: pa.ChunkedArray) -> pa.Array:
    """One list of all values."""
    # a copy of these rows alone: a slice would carry the whole block's bytes into every message
    whole = values.take(pa.array(np.arange(len(values)))).combine_chunks()
    return pa.LargeListArray.from_arrays(pa.array([0, len(whole)], pa.int64()), whole)


def _fault(number: int, words: str) -> pa.Table:
    cells = {"file": [number], "row": [-1], "title": [None], "comment": [None], "fault": [words]}
    return pa.table(cells, schema=CHUNK)


Row = dict[str, Any]
Rows: TypeAlias = "pa.Table | list[Row]"


def row_blocks(given: Input) -> Iterator[Rows]:
    """Blocks of all rows with all columns."""
    if given.format == "jsonl" and given.path is not None:
        yield from _objects(given)
    elif given.format == "parquet" and given.path is not None:
        with pq.ParquetFile(given.path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BLOCK, use_threads=False):
                yield pa.Table.from_batches([batch])
    else:
        for part in given.source.parts:
            yield from part.blocks(given.source.columns)


def _objects(given: Input) -> Iterator[list[Row]]:
    assert given.path is not None
    name = given.source.name
    held: list[Row] = []
    for _, row in json_rows(name, text_file(name, given.path)):
        held.append(row)
        if len(held) == ROWS_PER_BLOCK:
            yield held
            held = []
    if held:
        yield held


def table_schema(inputs: Sequence[Input]) -> pa.Schema:
    """Columns of all inputs together, in the order in which they come; one whose type differs between files is text."""
    types: dict[str, pa.DataType] = {}
    for each in inputs:
        for field in _fields(each):
            known = types.get(field.name, field.type)
            types[field.name] = field.type if known.equals(field.type) or pa.types.is_null(known) else TEXT
    schema = pa.schema(list(types.items()))
    noted = pq.read_schema(inputs[0].path).metadata if len(inputs) == 1 and inputs[0].format == "parquet" else None
    # pandas' note says which column is the index; that of `datasets` would no longer fit the columns
    return schema.with_metadata({b"pandas": noted[b"pandas"]}) if noted and b"pandas" in noted else schema


def _fields(given: Input) -> list[pa.Field]:
    if given.format == "jsonl" and given.path is not None:
        return _json_fields(given)
    if given.format == "parquet" and given.path is not None:
        return list(pq.read_schema(given.path))
    if given.format in ("csv", "tsv"):
        return [pa.field(name, TEXT) for name in given.source.columns]
    first = next(given.source.parts[0].blocks(given.source.columns), None)
    return [] if first is None else list(first.schema)


def _json_fields(given: Input) -> list[pa.Field]:
    """Keys of all objects, each with the type that all its values have, else text."""
    kinds: dict[str, set[type]] = {}
    for rows in _objects(given):
        for row in rows:
            for key, value in row.items():
                kinds.setdefault(key, set()).add(type(value))
    return [pa.field(key, _json_type(found - {type(None)})) for key, found in kinds.items()]


def _json_type(kinds: set[type]) -> pa.DataType:
    if not kinds or kinds == {str}:
        return TEXT
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else TEXT


def as_table(rows: Rows, schema: pa.Schema, name: str) -> pa.Table:
    """Rows under a schema: columns that they lack are null, values of another type are text (nested ones as JSON)."""
    if isinstance(rows, list):
        return pa.table({field.name: _from_json([row.get(field.name) for row in rows], field.type) for field in schema}, schema=schema)
    columns = [_cast(rows, field, name) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _from_json(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == TEXT:
        return pa.array([None if value is None else value if isinstance(value, str) else json_text(value) for value in values], kind)
    try:
        return pa.array(values, kind)
    except (OverflowError, pa.ArrowInvalid):  # a whole number beyond 64 bits
        return pa.array([None if value is None else float(value) for value in values], pa.float64()).cast(kind)


def _cast(table: pa.Table, field: pa.Field, name: str) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table[field.name]
    if column.type.equals(field.type):
        return column
    return column_text(column, field.name, name)


def column_text(column: pa.ChunkedArray, column_name: str, name: str) -> pa.ChunkedArray:
    """A column as text: nested values as JSON. Raises DataError for bytes that are not text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pa.chunked_array([column.combine_chunks().dictionary_decode()])
        kind = column.type
    if pa.types.is_nested(kind):
        return pa.chunked_array([pa.array([None if v is None else json_text(v) for v in column.to_pylist()], TEXT)])
    try:
        return column.cast(TEXT)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name}, column {column_name!r}: holds {kind} that is not text: leave it out, or write Parquet") from error


def json_text(value: object) -> str:
    """A value as JSON; what JSON has no form for (dates, decimals) as text."""
    return json.dumps(value, ensure_ascii=False, default=str)
