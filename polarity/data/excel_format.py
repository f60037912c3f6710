"""Excel workbooks (.xlsx): the first sheet that holds a table, streamed by openpyxl, its cells as text; and how such a file is written."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from polarity.data.source import ROWS_PER_BLOCK, Part, Source, number_text, readable
from polarity.errors import DataError, first_line

if TYPE_CHECKING:
    from openpyxl import Workbook

MOST_ROWS = 1_048_576
MOST_CHARACTERS = 32_767
"""What one sheet and one cell can hold."""
MOST_ABOVE = 10
"""Rows of a title that may stand above a table."""
ESCAPE = re.compile("_(x[0-9A-Fa-f]{4}_)")
"""How a workbook writes a control character; a text that holds such words itself gets another underscore."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
"""Characters that XML has no place for, or, as a carriage return, does not keep; tabs and line feeds stand as they are."""
Cells = tuple[Any, ...]


def open_excel(name: str, path: Path) -> Source:
    """Open a workbook's first visible sheet with a table (see `_rows`), else its first with any row; the table's first row is the header.

    Raises DataError where there is none.
    """
    with _workbook(name, path) as book:
        filled = [sheet.title for sheet in book.worksheets if sheet.sheet_state == "visible" and next(_filled(sheet), None)]
        if not filled:
            raise DataError(f"{name}: the workbook is empty: no sheet holds a row")
        chosen = next((title for title in filled if _wide(next(_rows(book[title]))[1])), filled[0])
        number, header = next(_rows(book[chosen]))
        above = next(_filled(book[chosen]))[0] < number
    columns = _names(header)
    twice = [column for column in columns if column.strip() and columns.count(column) > 1]
    if twice:
        raise DataError(f"{name}: the column {twice[0]!r} is in the header {columns.count(twice[0])} times: rename or remove one")
    others = [title for title in filled if title != chosen]
    notes = [f"{name}: reads the sheet {chosen!r} only, not {', '.join(map(repr, others))}"] if others else []
    notes += [f"{name}: the columns are named in sheet row {number}; what stands above it is left out"] if above else []
    return Source(
        name=name,
        columns=tuple(columns),
        unit="sheet row",
        parts=(Part(0, partial(_blocks, name, path, chosen)),),
        locate=partial(_sheet_rows, name, path, chosen),
        notes=tuple(notes),
    )


@contextmanager
def _workbook(name: str, path: Path) -> Iterator["Workbook"]:
    """The opened workbook. openpyxl raises errors of many kinds for a damaged file: all become one DataError."""
    from openpyxl import load_workbook

    with readable(name), path.open("rb") as file:
        if file.read(4) == b"\xd0\xcf\x11\xe0":
            raise DataError(f"{name}: has a password, or is an old .xls: save it as .xlsx without a password")
        file.seek(0)
        try:
            book = load_workbook(file, read_only=True, data_only=True)
            try:
                yield book
            finally:
                book.close()
        except (DataError, GeneratorExit):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {first_line(error)[:120]}"
            raise DataError(
                f"{name}: damaged, or not an Excel workbook ({what}): open it in a spreadsheet program and save it again"
            ) from error


def _filled(sheet: Any) -> Iterator[tuple[int, Cells]]:
    """(number, cells) of the rows that hold anything, without the empty cells at a row's end."""
    sheet.reset_dimensions()  # some programs write wrong ones, and rows behind them would be lost
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        filled = [place for place, cell in enumerate(cells, start=1) if cell not in (None, "")]
        if filled:
            yield number, cells[: filled[-1]]


def _rows(sheet: Any) -> Iterator[tuple[int, Cells]]:
    """(number, cells) of a table's rows, the header first.

    Where the first filled row has one cell, a title may stand there: then the table begins with the first of two rows that have more.
    """
    rows = _filled(sheet)
    lead = list(islice(rows, MOST_ABOVE + 2))
    wide = [_wide(cells) for _, cells in lead]
    begins = 0 if wide[:1] == [True] else next((at for at, two in enumerate(pairwise(wide)) if all(two)), 0)
    yield from chain(lead[begins:], rows)


def _wide(cells: Cells) -> bool:
    return sum(cell not in (None, "") for cell in cells) > 1


def _names(header: Cells) -> list[str]:
    return ["" if cell is None else str(cell) for cell in header]


def _blocks(name: str, path: Path, sheet: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    with _workbook(name, path) as book:
        rows = _rows(book[sheet])
        header = _names(next(rows)[1])
        places = list(range(len(header))) if list(columns) == header else [header.index(column) for column in columns]
        while block := list(islice(rows, ROWS_PER_BLOCK)):
            for number, cells in block:
                if len(cells) > len(header):
                    beyond = f"has a cell beyond the {len(header)} columns of the header: name its column"
                    raise DataError(f"{name}, sheet row {number}: {beyond}")
            texts = [[_text(cells[at]) if at < len(cells) else None for _, cells in block] for at in places]
            yield pa.Table.from_arrays([pa.array(column, pa.large_string()) for column in texts], names=list(columns))


def _text(value: object) -> str | None:
    from openpyxl.utils.escape import unescape

    if value is None or isinstance(value, str):
        return value if value is None else str(unescape(value))
    return number_text(value) if isinstance(value, (bool, int, float)) else str(value)


def _sheet_rows(name: str, path: Path, sheet: str, rows: Sequence[int]) -> list[int]:
    with _workbook(name, path) as book:
        numbers = [number for number, _ in _rows(book[sheet])][1:]
    return [numbers[row] for row in rows]


class ExcelSheet:
    """Writes one sheet row by row, in flat memory. Text is text: what looks like a formula stays what it says."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        from openpyxl import Workbook

        self.path, self.rows = path, 0
        self.book = Workbook(write_only=True)
        self.sheet = self.book.create_sheet("Sheet1")
        self.append(columns)

    def append(self, values: Sequence[object]) -> None:
        """Write a row. Raises DataError for a row or text above what a sheet can hold."""
        self.rows += 1
        if self.rows > MOST_ROWS:
            raise DataError(f"{self.path}: more than {MOST_ROWS - 1:,} rows, which an Excel sheet cannot hold: write .csv or .parquet")
        self.sheet.append([self._cell(value) for value in values])

    def _cell(self, value: object) -> object:
        from openpyxl.cell import WriteOnlyCell

        if not isinstance(value, str):
            return value
        text = CONTROL.sub(lambda found: f"_x{ord(found[0]):04X}_", ESCAPE.sub(r"_x005F_\1", value))
        if len(text) > MOST_CHARACTERS:
            raise DataError(f"{self.path}: row {self.rows} has a text above {MOST_CHARACTERS:,} characters: write .csv or .parquet")
        cell = WriteOnlyCell(self.sheet)
        cell.value = text
        cell.data_type = "s"
        return cell

    def close(self, *, keep: bool = True) -> None:
        """Write the file, or, with `keep=False`, leave it."""
        if keep:
            self.book.save(self.path)
        else:
            self.sheet.close()
