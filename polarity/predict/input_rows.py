"""The rows of an input as they are, every column of them, to be written out again beside the predictions.

JSON Lines give their objects, the other formats tables. The rows are those that were scored, in the same order.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from polarity.data.json_format import json_rows
from polarity.data.source import ROWS_PER_BLOCK
from polarity.data.text_file import text_file
from polarity.errors import DataError
from polarity.predict.input import Input

Row = dict[str, Any]
Rows: TypeAlias = "pa.Table | list[Row]"
TEXT = pa.large_string()


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
