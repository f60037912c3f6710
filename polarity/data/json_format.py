"""JSON Lines: one object a line, read with the standard library, because only then has every fault a line number."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from polarity.data.csv_format import BOM, not_utf8
from polarity.data.source import ROWS_PER_BLOCK, Part, Source, readable
from polarity.errors import DataError

Row = dict[str, object]


def open_jsonl(name: str, path: Path) -> Source:
    """Open a file of JSON objects; its columns are the keys of the first rows. Raises DataError where there are none."""
    columns: dict[str, None] = {}
    with readable(name):
        for (_, row), _ in zip(_rows(name, path), range(ROWS_PER_BLOCK), strict=False):
            columns.update(dict.fromkeys(row))
        if not columns:
            raise DataError(f"{name}: the file is empty: no line holds an object with keys")
    return Source(
        name=name,
        columns=tuple(columns),
        unit="line",
        parts=(Part(0, partial(_blocks, name, path)),),
        locate=partial(_lines, name, path),
    )


def _rows(name: str, path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw[:2] in (b"\xff\xfe", b"\xfe\xff") and number == 1:
                raise DataError(f"{name}, line 1: the file is UTF-16, not UTF-8: save it as UTF-8")
            line = raw.removeprefix(BOM) if number == 1 else raw
            if line.strip():
                yield number, _row(name, number, line)


def _row(name: str, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(name, number, error)) from error
    except json.JSONDecodeError as error:
        advice = "each line must be one whole JSON object"
        raise DataError(f"{name}, line {number}: broken JSON: {error.msg} at character {error.colno}: {advice}") from error
    except RecursionError as error:
        raise DataError(f"{name}, line {number}: broken JSON: nested too deeply") from error
    if not isinstance(row, dict):
        kind = "an array" if isinstance(row, list) else f"a {type(row).__name__}"
        raise DataError(f"{name}, line {number}: holds {kind}, not an object: write one object a line (JSON Lines)")
    return row


def _blocks(name: str, path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name):
        cells: dict[str, list[str | None]] = {column: [] for column in columns}
        rows = 0
        for number, row in _rows(name, path):
            for column in columns:
                cells[column].append(_text(name, number, column, row.get(column)))
            rows += 1
            if rows % ROWS_PER_BLOCK == 0:
                yield _table(cells)
                cells = {column: [] for column in columns}
        if rows % ROWS_PER_BLOCK:
            yield _table(cells)


def _table(cells: dict[str, list[str | None]]) -> pa.Table:
    return pa.table({column: pa.array(values, pa.large_string()) for column, values in cells.items()})


def _text(name: str, number: int, column: str, value: object) -> str | None:
    if value is None or value != value:  # JSON's NaN is a missing value too
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{name}, line {number}, column {column!r}: holds a {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name}, line {number}, column {column!r}: character {error.start + 1} is half of a surrogate pair (\\ud800-\\udfff): "
            "write the file again from its source, as UTF-8"
        ) from error
    return value


def _lines(name: str, path: Path, rows: Sequence[int]) -> list[int]:
    wanted, found = set(rows), {}
    with path.open("rb") as file:
        filled = (number for number, raw in enumerate(file, start=1) if raw.removeprefix(BOM).strip())
        for row, number in enumerate(filled):
            if row in wanted:
                found[row] = number
    return [found[row] for row in rows]
