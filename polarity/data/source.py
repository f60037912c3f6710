"""An opened source of rows: what every format gives, so that one code reads them all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from polarity.errors import DataError

ROWS_PER_BLOCK = 8192
"""Rows that are in memory at once: blocks of about 2 MB of comments."""

Blocks = Callable[[Sequence[str]], Iterator[pa.Table]]


@dataclass(frozen=True)
class Part:
    """A piece of a source that one task reads: its blocks in order, with the columns that are asked for."""

    first_row: int
    blocks: Blocks


@dataclass(frozen=True)
class Source:
    """Rows as they are in a file.

    `columns` are all that it has; `parts` together are its rows, in order; `locate` turns row positions (from 0) into the
    numbers that a person looks for: lines of the file or rows of the sheet (from 1), or, where `unit` is "row", the positions as a `list`.
    `notes` are lines for the reader: how the file was read, if not in the usual way.
    """

    name: str
    columns: tuple[str, ...]
    unit: Literal["line", "row", "sheet row"]
    parts: tuple[Part, ...]
    locate: Callable[[Sequence[int]], list[int]]
    notes: tuple[str, ...] = ()

    def places(self, rows: Sequence[int]) -> list[str]:
        """`line 7` or `row 5 (counted from 0)` of each row position; reads the file again, so only for rows to be shown."""
        tail = " (counted from 0)" if self.unit == "row" else ""
        return [f"{self.unit} {number}{tail}" for number in self.locate(rows)]


def number_text(value: bool | int | float) -> str:
    """A number as text: true and false, and whole floats without `.0`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn the operating system's refusal (missing, forbidden, vanished) into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
