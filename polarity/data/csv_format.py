"""CSV and TSV: pyarrow reads; what it would accept in silence or refuse without a line number is found by the csv module.

pyarrow takes a quote that is never closed, or closed by the opening quote of a later row, for one long field, and the rows
between are lost without a word. So each file is first checked in one cheap pass over its bytes (`looks_sound`).
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from polarity.data.source import Part, Source, readable
from polarity.errors import DataError

BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 4 << 20
FIELD_LIMIT = 64 << 20
QUOTE, NEWLINE, RETURN = ord('"'), ord("\n"), ord("\r")
QUOTE_ADVICE = 'close it, or write each quote that belongs to the text twice ("")'


def open_csv(name: str, path: Path, delimiter: str) -> Source:
    """Open a CSV file whose first record is the header; raises DataError for a header that cannot be used."""
    return Source(
        name=name,
        columns=tuple(_header(name, path, delimiter)),
        unit="line",
        parts=(Part(0, partial(_blocks, name, path, delimiter)),),
        locate=partial(_lines, path, delimiter),
    )


def _blocks(name: str, path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name):
        if not looks_sound(path, delimiter):
            diagnose(name, path, delimiter)
        options = {
            "read_options": arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            "parse_options": arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            # "NA" and "null" are comments like any other: nothing is null in a text file
            "convert_options": arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={column: pa.large_string() for column in columns},
                null_values=[],
                strings_can_be_null=False,
            ),
        }
        try:
            with arrow_csv.open_csv(path, **options) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            if len(_header(name, path, delimiter)) and not _has_rows(path, delimiter):
                return  # pyarrow refuses a header without a line break; the caller says that there are no rows
            diagnose(name, path, delimiter)
            raise DataError(f"{name}: {error}") from error


def looks_sound(path: Path, delimiter: str) -> bool:
    """Whether no byte is NUL and each quote opens after a delimiter or line break and closes before one (RFC 4180).

    One pass, a few hundred MB/s. False is a suspicion, not a verdict: an unquoted field may hold a lone quote.
    """
    edges = np.array([ord(delimiter), NEWLINE, RETURN, QUOTE], dtype=np.uint8)
    tail, quotes = b"\n", 0
    with path.open("rb") as file:
        if file.read(len(BOM)) != BOM:
            file.seek(0)
        while True:
            chunk = file.read(BLOCK_BYTES)
            window = np.frombuffer(tail + (chunk or b"\n"), dtype=np.uint8)
            at = np.flatnonzero(window[1:-1] == QUOTE) + 1
            opens = (quotes + np.arange(len(at))) % 2 == 0
            neighbour = np.where(opens, window[at - 1], window[at + 1])
            if not np.isin(neighbour, edges).all() or (window == 0).any():
                return False
            quotes += len(at)
            if not chunk:
                return quotes % 2 == 0
            tail = window[-2:].tobytes()


def diagnose(name: str, path: Path, delimiter: str) -> None:
    """Raise the DataError that names the first bad line, if there is one: encoding, NUL, quotes, then ragged rows."""
    _check_bytes(name, path)
    with _records(path, delimiter, strict=True) as (records, kept):
        header: list[str] | None = None
        try:
            for first, last, record in records:
                header = header or record
                if len(record) != len(header):
                    raise DataError(_ragged(name, header, record, first, last))
        except csv.Error as error:
            raise DataError(_bad_quote(name, kept, delimiter, str(error))) from error


def _check_bytes(name: str, path: Path) -> None:
    line = 1
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            if number == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{name}, line 1: the file is UTF-16, not UTF-8: save it as UTF-8")
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(not_utf8(name, line, error)) from error
            if b"\0" in raw:
                raise DataError(f"{name}, line {line}: holds a NUL byte (byte {raw.index(0) + 1} of the line): remove it")
            line += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")


def not_utf8(name: str, line: int, error: UnicodeDecodeError) -> str:
    """Where a line stops being UTF-8, in words."""
    byte = error.object[error.start]
    return f"{name}, line {line}: not UTF-8: byte 0x{byte:02x} at byte {error.start + 1} of the line: save the file as UTF-8"


def _ragged(name: str, header: list[str], record: list[str], first: int, last: int) -> str:
    what = f"{name}, line {first}: expected {len(header)} columns ({', '.join(header)}), got {len(record)}"
    if last > first:
        return f"{what} in a row that ends in line {last}: is there a quote in line {first} that is not closed?"
    return f"{what}: a text that holds the delimiter needs quotes around it"


def _bad_quote(name: str, kept: "_KeptLines", delimiter: str, reason: str) -> str:
    text = "".join(kept.lines)
    opened, closed = _unbalanced(text, delimiter)
    line = kept.first + _count_lines(text[:opened])
    if closed is None:
        return f"{name}, line {line}: a quote opens here and is never closed ({reason}): {QUOTE_ADVICE}"
    end = kept.first + _count_lines(text[:closed])
    after = text[closed + 1 : closed + 13]
    return f"{name}, line {line}: a quote opens here and closes in line {end}, where {after!r} follows it: {QUOTE_ADVICE}"


def _unbalanced(text: str, delimiter: str) -> tuple[int, int | None]:
    """Position of the quote that opens the faulty field of a record, and of the one that closes it wrongly."""
    position, opened = 0, -1
    while (position := text.find('"', position)) >= 0:
        if opened < 0:
            if position == 0 or text[position - 1] in (delimiter, "\n", "\r"):
                opened = position
        elif text[position + 1 : position + 2] == '"':
            position += 1
        elif text[position + 1 : position + 2] in (delimiter, "\n", "\r", ""):
            opened = -1
        else:
            return opened, position
        position += 1
    return max(opened, 0), None


def _header(name: str, path: Path, delimiter: str) -> list[str]:
    with readable(name):
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty")
        try:
            with _records(path, delimiter, strict=True) as (records, _):
                columns = next((record for _, _, record in records), [])
        except (UnicodeDecodeError, csv.Error) as error:
            diagnose(name, path, delimiter)
            raise DataError(f"{name}, line 1: {error}") from error
    if not columns:
        raise DataError(f"{name}: the file has no header, only empty lines")
    twice = [column for column in columns if column.strip() and columns.count(column) > 1]
    if twice:
        raise DataError(f"{name}, line 1: the column {twice[0]!r} is in the header {columns.count(twice[0])} times: rename or remove one")
    return columns


def _has_rows(path: Path, delimiter: str) -> bool:
    with _records(path, delimiter, strict=False) as (records, _):
        return len([record for record, _ in zip(records, range(2), strict=False)]) > 1


def _lines(path: Path, delimiter: str, rows: Sequence[int]) -> list[int]:
    """First line of each row (0 is the row after the header)."""
    wanted, found = set(rows), {}
    with _records(path, delimiter, strict=False) as (records, _):
        for row, (first, _, _) in enumerate(records, start=-1):
            if row in wanted:
                found[row] = first
                if len(found) == len(wanted):
                    break
    return [found[row] for row in rows]


class _KeptLines:
    """Lines of a file as the csv module asks for them; those of the record in progress are kept for the error message."""

    def __init__(self, file: Iterator[str]) -> None:
        self.file, self.lines, self.first, self.read = file, list[str](), 1, 0

    def __iter__(self) -> "_KeptLines":
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.read += 1
        self.lines.append(line)
        return line

    def next_record(self) -> None:
        self.lines.clear()
        self.first = self.read + 1


@contextmanager
def _records(path: Path, delimiter: str, *, strict: bool) -> Iterator[tuple[Iterator[tuple[int, int, list[str]]], _KeptLines]]:
    """Records with their first and last line, empty lines skipped as pyarrow does; and the lines kept so far."""
    errors = "strict" if strict else "replace"
    limit = csv.field_size_limit(FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            kept = _KeptLines(file)
            yield _numbered(csv.reader(kept, delimiter=delimiter, strict=strict), kept), kept
    finally:
        csv.field_size_limit(limit)


def _numbered(reader: Iterator[list[str]], kept: _KeptLines) -> Iterator[tuple[int, int, list[str]]]:
    for record in reader:
        if record:
            yield kept.first, kept.read, record
        kept.next_record()


def _count_lines(text: str) -> int:
    return text.replace("\r\n", "\n").replace("\r", "\n").count("\n")
