"""CSV, TSV and JSON Lines: from bytes in any encoding to pieces of a table, with the line of every fault.

Clean UTF-8 asks for nothing. UTF-16 tells by its marks. A file that is neither, and has no whole UTF-8 letter in it, is in an encoding of
an older program, which is guessed and told. A file of UTF-8 with a few broken bytes is damaged: its line is named.

CSV is read by the csv module in its strict mode. pyarrow's reader takes a quote that is never closed, or closed by the opening quote of a
later row, for one long field, and the rows between are lost without a word; it refuses rows above its block size, and names no line.
"""

import codecs
import csv
import json
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from charset_normalizer import from_bytes

from polarity.data.source import ROWS_PER_BLOCK, Part, Source, number_text, readable
from polarity.errors import DataError

CHUNK_BYTES = 4 << 20
GUESS_BYTES = 200_000
"""Bytes of lines with foreign letters that an encoding is guessed from."""
WESTERN = frozenset(  # the second line: quotes, dashes, dots, the euro, and others beyond Latin-1
    "ñÑáéíóúÁÉÍÓÚüÜàèìòùâêîôûÀÈÌÒÙÂÊÎÔÛçÇ¿¡£°·«»\xa0\xb4\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac"
)
"""Letters that Windows writes (cp1252) in Filipino, Spanish, English and French texts: a few of them are too little for a statistic."""
MAGIC = {
    b"\x1f\x8b": "is compressed by gzip: unpack it (gunzip)",
    b"BZh": "is compressed by bzip2: unpack it (bunzip2)",
    b"\xfd7zXZ": "is compressed by xz: unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it (unzstd)",
    b"PK\x03\x04": "is a zip file: unpack it; if it is an Excel workbook, let its name end in .xlsx",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook (.xls), or one with a password: save it as .xlsx or CSV without a password",
    b"%PDF": "is a PDF: save the table as CSV",
}


@dataclass(frozen=True)
class TextFile:
    """A text file and the encoding it is read in; `note` says so where it is not UTF-8, else it is None."""

    path: Path
    encoding: str
    note: str | None

    def open(self) -> TextIO:
        """Opened with its line ends as they are."""
        return self.path.open(encoding=self.encoding, newline="")


def text_file(name: str, path: Path) -> TextFile:
    """Find a file's encoding. Raises DataError for what is no text: compressed and binary files, NUL bytes, damaged UTF-8."""
    with readable(name):
        with path.open("rb") as file:
            head = file.read(1024)
        for magic, what in MAGIC.items():
            if head.startswith(magic):
                raise DataError(f"{name}: {what}")
        wide = _wide(head)
        if wide is not None:
            return _checked(name, path, wide, "")
        if _is_utf8(name, path):
            return TextFile(path, "utf-8-sig", None)
        return _checked(name, path, _guess(name, path), ", a guess from its letters")


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by their marks, or UTF-16 without one, by the zero bytes of plain letters."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = len(head) // 2
    if half > 8 and head[1::2].count(0) > 0.9 * half and head[0::2].count(0) < 0.1 * half:
        return "utf-16-le"
    return "utf-16-be" if half > 8 and head[0::2].count(0) > 0.9 * half and head[1::2].count(0) < 0.1 * half else None


def _is_utf8(name: str, path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            if b"\0" in chunk:
                raise DataError(_nul(name, path))
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False
            if not chunk:
                return True


def _nul(name: str, path: Path) -> str:
    line = 1
    with path.open("rb") as file:
        for raw in file:
            if b"\0" in raw:
                return f"{name}, line {line}: holds a NUL byte (byte {raw.index(0) + 1} of the line): remove it"
            line += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    return f"{name}: holds a NUL byte: remove it"


def _guess(name: str, path: Path) -> str:
    """The encoding of a file that is not UTF-8. Raises DataError naming the line where the file is damaged UTF-8, or no guess is good."""
    line, fault, foreign, whole_letters = 1, "", bytearray(), 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.isascii():
                try:
                    raw.decode("utf-8")
                    whole_letters += 1
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
                    fault = fault or f"{name}, line {line}: not UTF-8: {byte}: save the file as UTF-8"
                    foreign += raw if len(foreign) < GUESS_BYTES else b""
            if b"\0" in raw:
                raise DataError(_nul(name, path))
            line += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    if whole_letters:
        raise DataError(f"{fault} (other lines are UTF-8)")
    sample = bytes(foreign)
    if {letter for letter in sample.decode("cp1252", errors="replace") if not letter.isascii()} <= WESTERN:
        return "cp1252"
    best = from_bytes(sample).best()
    if best is None or best.encoding.startswith("utf"):
        raise DataError(fault)
    return best.encoding


def _checked(name: str, path: Path, encoding: str, how: str) -> TextFile:
    """The file in an encoding other than UTF-8, if all of it can be read so."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            while text := file.read(CHUNK_BYTES):
                if "\0" in text:
                    raise DataError(f"{name}: holds a NUL character (read as {encoding}): remove it, and save the file as UTF-8")
                text.encode("utf-8")
    except UnicodeError as error:
        raise DataError(f"{name}: is not UTF-8, nor {encoding} throughout ({error}): save the file as UTF-8") from error
    return TextFile(path, encoding, f"{name}: not UTF-8: read as {encoding}{how}; if letters look wrong, save the file as UTF-8")


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
    """Columns of the first rows; -1 where they cannot be read on, for a quote that another delimiter would close."""
    widths: list[int] = []
    with text.open() as file:
        try:
            for record in islice(filter(None, _reader(file, delimiter)), SNIFFED):
                widths.append(len(record))
        except csv.Error:
            widths.append(-1)
    return widths


def _reader(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(FIELD_LIMIT)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _header(name: str, text: TextFile, delimiter: str) -> list[str]:
    with readable(name), closing(_records(name, text, delimiter)) as records:
        columns = next((record for _, _, record in records), [])
    if not columns:
        raise DataError(f"{name}: the file has no header, only empty lines")
    if columns[0].startswith("sep="):
        raise DataError(f"{name}, line 1: {columns[0]!r} is a mark for Excel and no header: remove the line")
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
    with closing(_records(name, text, delimiter)) as records:
        return _numbers_of(rows, (first for first, _, _ in islice(records, 1, None)))


def _numbers_of(rows: Sequence[int], numbers: Iterable[int]) -> list[int]:
    """The numbers at these positions; no more are read than are needed."""
    wanted = set(rows)
    found = {row: number for row, number in enumerate(islice(numbers, max(rows, default=-1) + 1)) if row in wanted}
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


Row = dict[str, object]


class NestedError(DataError):
    """A cell holds an object or a list; `column` is its column."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


WHOLE = "\0"
"""A column that JSON Lines have beside their keys: the whole object, as JSON."""
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
        parts=(Part(0, partial(_json_blocks, name, text)),),
        locate=partial(_json_lines, name, text),
        notes=(text.note,) if text.note else (),
    )


def json_rows(name: str, text: TextFile) -> Generator[tuple[int, Row], None, None]:
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


def _json_blocks(name: str, text: TextFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name):
        rows = json_rows(name, text)
        while cells := [[_cell(name, line, column, row) for column in columns] for line, row in islice(rows, ROWS_PER_BLOCK)]:
            yield pa.Table.from_arrays([pa.array(values, pa.large_string()) for values in zip(*cells, strict=True)], names=list(columns))


def _cell(name: str, line: int, column: str, row: Row) -> str | None:
    return json.dumps(row) if column == WHOLE else _text(name, line, column, row.get(column))


def _text(name: str, number: int, column: str, value: object) -> str | None:
    if value is None or value != value:  # JSON's NaN is a missing value too
        return None
    if isinstance(value, (bool, int, float)):
        return number_text(value)
    if not isinstance(value, str):
        raise NestedError(f"{name}, line {number}, column {column!r}: holds a {type(value).__name__}, not text", column)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name}, line {number}, column {column!r}: character {error.start + 1} is half of a surrogate pair (\\ud800-\\udfff): "
            "write the file again from its source, as UTF-8"
        ) from error
    return value


def _json_lines(name: str, text: TextFile, rows: Sequence[int]) -> list[int]:
    with closing(json_rows(name, text)) as found:
        return _numbers_of(rows, (line for line, _ in found))
