"""`read_loosely`: a file as text columns, whatever they are called, with what was noticed; for commands that know no settings yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from polarity.data.formats import open_source
from polarity.errors import DataError

TEXT = pa.large_string()


@dataclass(frozen=True)
class LooseTable:
    """What a file holds: all its columns as text (null where a cell is missing), and the lines to tell the user.

    `notes` say how it was read (encoding, delimiter, sheet); `fault` is why reading ended before the end, else None: then `table` holds the
    rows before that.
    """

    table: pa.Table
    notes: tuple[str, ...]
    fault: str | None


def read_loosely(name: str, most_rows: int = 100_000) -> LooseTable:
    """Read the first `most_rows` rows of any source that `open_source` knows into text columns.

    Numbers are as they would be read as labels (1.0 as 1), nested values are JSON, bytes are decoded as UTF-8. Raises DataError only for
    what cannot be opened at all (missing, empty, damaged, no header, a column twice).
    """
    source = open_source(name)
    blocks: list[pa.Table] = []
    rows, fault = 0, None
    try:
        for part in source.parts:
            if rows >= most_rows:
                break
            for block in part.blocks(source.columns):
                blocks.append(_as_text(block.slice(0, most_rows - rows), source.columns))
                rows += blocks[-1].num_rows
                if rows >= most_rows:
                    break
    except DataError as error:
        fault = str(error)
    empty = pa.schema([pa.field(column, TEXT) for column in source.columns])
    return LooseTable(pa.concat_tables([empty.empty_table(), *blocks]), source.notes, fault)


def _as_text(block: pa.Table, columns: Sequence[str]) -> pa.Table:
    return pa.Table.from_arrays([_text(block.column(at)) for at in range(len(columns))], names=list(columns))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(TEXT)
    return pa.chunked_array([pa.array([_value(value) for value in column.to_pylist()], TEXT)])


def _value(value: object) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)
