"""JSON Lines: one object a line, read with the standard library, because only then has every fault a line number."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from polarity.data.source import ROWS_PER_BLOCK, Part, Source, number_text, readable
from polarity.data.text_file import TextFile, text_file
from polarity.errors import DataError

Row = dict[str, object]


MOST_DIGITS = 4000
"""Digits of a whole number; Python itself refuses a few more."""


def open_jsonl(name: str, path: Path) -> Source:
    """Open a file of JSON objects; its columns are the keys of the first rows. Raises DataError where there are none."""
    columns: dict[str, None] = {}
    with readable(name):
        text = text_file(name, path)
        for (_, row), _ in zip(json_rows(name, text), range(ROWS_PER_BLOCK), strict=False):
            columns.update(dict.fromkeys(row))
        if not columns:
            raise DataError(f"{name}: the file is empty: no line holds an object with keys")
    return Source(
        name=name,
        columns=tuple(columns),
        unit="line",
        parts=(Part(0, partial(_blocks, name, text)),),
        locate=partial(_lines, name, text),
        notes=(text.note,) if text.note else (),
    )


def json_rows(name: str, text: TextFile) -> Iterator[tuple[int, Row]]:
    """(line, object) of each line that is not empty. Raises DataError naming the line of what is not one whole JSON object."""
    with text.path.open(encoding=text.encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _row(name, number, line)


def _row(name: str, number: int, line: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_object, parse_int=_whole, parse_float=_decimal, parse_constant=_constant)
    except json.JSONDecodeError as error:
        advice = "each line must be one whole JSON object"
        raise DataError(f"{name}, line {number}: broken JSON: {error.msg} at character {error.colno}: {advice}") from error
    except ValueError as error:
        raise DataError(f"{name}, line {number}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{name}, line {number}: broken JSON: nested too deeply") from error
    if not isinstance(row, dict):
        kind = "an array" if isinstance(row, list) else f"a {type(row).__name__}"
        raise DataError(f"{name}, line {number}: holds {kind}, not an object: write one object a line (JSON Lines)")
    return row


def _object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} {keys.count(twice)} times: keep one")
    return row


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits):,} digits: write it as text, in quotes")
    return int(digits)


def _decimal(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"holds a number too large to be read ({digits[:20]}): write it as text, in quotes")
    return value


def _constant(word: str) -> float:
    if word == "NaN":
        return math.nan
    raise ValueError(f"holds {word}, which is no JSON: write null, or text in quotes")


def _blocks(name: str, text: TextFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name):
        cells: dict[str, list[str | None]] = {column: [] for column in columns}
        rows = 0
        for number, row in json_rows(name, text):
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
    if isinstance(value, (bool, int, float)):
        return number_text(value)
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


def _lines(name: str, text: TextFile, rows: Sequence[int]) -> list[int]:
    wanted, found = set(rows), {}
    for row, (number, _) in enumerate(json_rows(name, text)):
        if row in wanted:
            found[row] = number
            if len(found) == len(wanted):
                break
    return [found[row] for row in rows]
