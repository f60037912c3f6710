"""CSV and TSV, read by the csv module in its strict mode.

pyarrow's reader takes a quote that is never closed, or closed by the opening quote of a later row, for one long field, and the rows between
are lost without a word; it refuses rows above its block size, and names no line. The strict csv module finds all of these itself.
"""

import csv
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from polarity.data.source import ROWS_PER_BLOCK, Part, Source, readable
from polarity.data.text_file import TextFile, text_file
from polarity.errors import DataError

FIELD_LIMIT = 64 << 20
"""Most characters of a field: a quote that is never closed ends there, and not at the end of the memory."""
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SNIFFED = 50
"""Rows that must agree with another delimiter than the usual one."""
QUOTE_ADVICE = 'close it, or write each quote that belongs to the text twice ("")'


def open_csv(name: str, path: Path, delimiter: str) -> Source:
    """Open a CSV file whose first record is the header; `delimiter` is the usual one of its extension.

    Another delimiter is taken, and noted, if the usual one is not in the header and the first rows agree with the other. Raises
    DataError for a header that cannot be used.
    """
    with readable(name):
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty")
        text = text_file(name, path)
        found = _delimiter(text, delimiter)
    notes = [text.note] if text.note else []
    if found != delimiter:
        notes.append(f"{name}: its columns are separated by {DELIMITERS[found]}, not {DELIMITERS[delimiter]}: read so")
    return Source(
        name=name,
        columns=tuple(_header(name, text, found)),
        unit="line",
        parts=(Part(0, partial(_blocks, name, text, found)),),
        locate=partial(_lines, name, text, found),
        notes=tuple(notes),
    )


def _delimiter(text: TextFile, usual: str) -> str:
    widths = {delimiter: _widths(text, delimiter) for delimiter in DELIMITERS}
    if widths[usual][:1] != [1]:
        return usual
    agreeing = {delimiter: found[0] for delimiter, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1}
    return max(agreeing, key=lambda delimiter: agreeing[delimiter], default=usual)


def _widths(text: TextFile, delimiter: str) -> list[int]:
    """Columns of the first rows."""
    with text.open() as file:
        try:
            return [len(record) for record in islice(filter(None, _reader(file, delimiter)), SNIFFED)]
        except csv.Error:
            return []


def _reader(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(FIELD_LIMIT)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _header(name: str, text: TextFile, delimiter: str) -> list[str]:
    with readable(name), closing(_records(name, text, delimiter)) as records:
        columns = next((record for _, _, record in records), [])
    if not columns:
        raise DataError(f"{name}: the file has no header, only empty lines")
    twice = [column for column in columns if column.strip() and columns.count(column) > 1]
    if twice:
        raise DataError(f"{name}, line 1: the column {twice[0]!r} is in the header {columns.count(twice[0])} times: rename or remove one")
    return columns


def _blocks(name: str, text: TextFile, delimiter: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name), text.open() as file:
        records = filter(None, _reader(file, delimiter))
        try:
            header = next(records)
            # by place if all are wanted: several columns may lack a name
            places = list(range(len(header))) if list(columns) == header else [header.index(column) for column in columns]
            while rows := list(islice(records, ROWS_PER_BLOCK)):
                if set(map(len, rows)) != {len(header)}:
                    _refuse(name, text, delimiter)
                cells = list(zip(*rows, strict=True))
                yield pa.Table.from_arrays([pa.array(cells[at], pa.large_string()) for at in places], names=list(columns))
        except (csv.Error, UnicodeDecodeError, ValueError, StopIteration) as error:
            _refuse(name, text, delimiter)
            raise DataError(f"{name}: changed while it was read ({error}): try again") from error


def _refuse(name: str, text: TextFile, delimiter: str) -> None:
    """Raise the DataError that names the first bad line, if there is one."""
    for _ in _records(name, text, delimiter):
        pass


def _records(name: str, text: TextFile, delimiter: str) -> Generator[tuple[int, int, list[str]], None, None]:
    """Records with their first and last line, empty lines skipped; raises DataError naming the line of a bad quote or a ragged row."""
    width = None
    with text.open() as file:
        kept = _KeptLines(file)
        try:
            for record in _reader(kept, delimiter):
                if record:
                    if width is None:
                        width, header = len(record), record
                    if len(record) != width:
                        raise DataError(_ragged(name, header, record, kept.first, kept.read))
                    yield kept.first, kept.read, record
                kept.next_record()
        except csv.Error as error:
            raise DataError(_bad_quote(name, kept, delimiter, str(error))) from error


def _ragged(name: str, header: list[str], record: list[str], first: int, last: int) -> str:
    named = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
    what = f"{name}, line {first}: expected {len(header)} columns ({named}), got {len(record)}"
    if last > first:
        return f"{what} in a row that ends in line {last}: is there a quote in line {first} that is not closed?"
    return f"{what}: a text that holds the delimiter needs quotes around it"


def _bad_quote(name: str, kept: "_KeptLines", delimiter: str, reason: str) -> str:
    if "field limit" in reason:
        most = f"{FIELD_LIMIT >> 20} million characters"
        return f"{name}, line {kept.first}: a field of more than {most} begins here: is its quote closed? {QUOTE_ADVICE}"
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


def _lines(name: str, text: TextFile, delimiter: str, rows: Sequence[int]) -> list[int]:
    """First line of each row (0 is the row after the header)."""
    wanted, found = set(rows), {}
    with closing(_records(name, text, delimiter)) as records:
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


def _count_lines(text: str) -> int:
    return text.replace("\r\n", "\n").replace("\r", "\n").count("\n")
