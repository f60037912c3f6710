"""Files as people really have them: Excel, older encodings, other separators; read right and told, or refused in one line."""

from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polarity.config import DataConfig
from polarity.data.excel_format import ExcelSheet
from polarity.data.formats import open_source
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.workflows.init import read_loosely

HEADER = ["row_id", "Title", "Comment", "Final Sentiment", "Final Polarization"]
ROWS = [
    ["a", "Señor", "\u201cayos\u201d \u2018yan\u2019 \u2014 ñ", "positive", "partisan"],
    ["b", "t", "ano ba, ito", "negative", "objective"],
]
TEXT = "\n".join(";".join(row) for row in [HEADER, *ROWS]) + "\n"


def read(path: Path) -> tuple[list[str], str]:
    told: list[str] = []
    table = read_comments(str(path), DataConfig(), say=told.append)
    assert table["row_id"].to_pylist() == ["a", "b"]
    return table["comment"].to_pylist(), "\n".join(told)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-8"])
def test_encoding_is_found_and_told(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.csv").write_text(TEXT.replace(";", "\t").replace(", ", " ").replace("\t", ","), encoding=encoding)
    comments, told = read(tmp_path / "x.csv")
    assert comments == [ROWS[0][2], "ano ba ito"]
    assert told == "" if encoding.startswith("utf-8") else f"read as {encoding[:6]}" in told


def test_encoding_of_another_script(tmp_path: Path) -> None:
    words = "Η κυβέρνηση υπόσχεται πάλι δρόμους και σχολεία στον λαό, αλλά κάνει κάτι εντελώς άλλο. "  # noqa: RUF001
    (tmp_path / "x.tsv").write_text("Comment\tTitle\n" + f"{words * 4}\tt\n" * 4, encoding="cp1253")
    table = read_loosely(str(tmp_path / "x.tsv"))
    assert table.table["Comment"][0].as_py() == words * 4
    assert "not UTF-8: read as" in table.notes[0]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_separator_is_found_and_told(tmp_path: Path, delimiter: str, name: str) -> None:
    (tmp_path / name).write_text(TEXT.replace(";", delimiter), encoding="utf-8")
    comments, told = read(tmp_path / name)
    assert comments == [row[2] for row in ROWS]
    assert ("separated by" in told) is not (name == "x.tsv" and delimiter == "\t")


def test_one_column_with_semicolons_in_its_texts_stays_one(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Comment\nayos; salamat\nhindi\n")
    assert open_source(str(tmp_path / "x.csv")).columns == ("Comment",)
    assert read_loosely(str(tmp_path / "x.csv")).table.to_pydict() == {"Comment": ["ayos; salamat", "hindi"]}


def test_rows_above_any_block_size(tmp_path: Path) -> None:
    long = "mahaba " * 1_000_000
    (tmp_path / "x.csv").write_text("Comment,Title\n" + f'a,t\n"{long}",t\nb,t\n')
    assert read_loosely(str(tmp_path / "x.csv")).table["Comment"].to_pylist() == ["a", long, "b"]


def write_book(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_excel_reads_the_first_filled_sheet(tmp_path: Path) -> None:
    sheets: dict[str, list[list[object]]] = {"cover": [], "data": [[], [*HEADER, None], *ROWS, [None, ""]], "notes": [["x"]]}
    comments, told = read(write_book(tmp_path / "x.xlsx", sheets))
    assert comments == [row[2] for row in ROWS]
    assert "reads the sheet 'data' only, not 'notes'" in told


def test_excel_finds_the_table_below_a_title_and_behind_a_page_of_notes(tmp_path: Path) -> None:
    sheets: dict[str, list[list[object]]] = {"notes": [["made in May"], ["by us"]], "data": [["Comments"], [], HEADER, *ROWS]}
    comments, told = read(write_book(tmp_path / "x.xlsx", sheets))
    assert comments == [row[2] for row in ROWS]
    assert "reads the sheet 'data' only, not 'notes'" in told and "named in sheet row 3; what stands above it is left out" in told
    bad = [["b", "t", "x", "oops", "partisan"]]
    with pytest.raises(DataError, match=f"sheet row {4 + len(ROWS)}: unknown label"):
        read_comments(str(write_book(tmp_path / "y.xlsx", {**sheets, "data": [*sheets["data"], *bad]})), DataConfig())
    alone = write_book(tmp_path / "z.xlsx", {"s": [["text"], ["a"], ["b"], ["c"]]})
    assert read_loosely(str(alone)).table["text"].to_pylist() == ["a", "b", "c"]


def test_excel_cells_as_text(tmp_path: Path) -> None:
    cells: list[object] = [1, 1.0, 2.5, True, datetime(2026, 5, 9, 8, 30), "#N/A", " x_x0007_y "]
    path = write_book(tmp_path / "x.xlsx", {"s": [["v", "w"], *([cell, "t"] for cell in cells)]})
    read = read_loosely(str(path)).table["v"].to_pylist()
    assert read == ["1", "1", "2.5", "true", "2026-05-09 08:30:00", "#N/A", " x\u0007y "]


def test_excel_faults_name_their_row(tmp_path: Path) -> None:
    bad = write_book(tmp_path / "x.xlsx", {"s": [[], HEADER, ROWS[0], ["b", "t", "x", "oops", "partisan"]]})
    with pytest.raises(DataError, match="sheet row 4: unknown label"):
        read_comments(str(bad), DataConfig())
    wide = write_book(tmp_path / "y.xlsx", {"s": [HEADER, [*ROWS[0], None, "more"]]})
    with pytest.raises(DataError, match="sheet row 2: has a cell beyond the 5 columns"):
        read_comments(str(wide), DataConfig())
    with pytest.raises(DataError, match="no sheet holds a row"):
        open_source(str(write_book(tmp_path / "z.xlsx", {"s": []})))
    with pytest.raises(DataError, match="'v' is in the header 2 times"):
        open_source(str(write_book(tmp_path / "t.xlsx", {"s": [["v", "v"]]})))


def test_excel_writes_what_it_reads(tmp_path: Path) -> None:
    texts = ["=1+1", "+63 917", "\u0007bell", "_x0041_", "two\nlines", "@x", "🤣 ñ"]
    sheet = ExcelSheet(tmp_path / "x.xlsx", ["text", "chance"])
    for number, text in enumerate(texts):
        sheet.append([text, number / 4])
    sheet.close()
    found = read_loosely(str(tmp_path / "x.xlsx")).table
    assert found["text"].to_pylist() == texts
    assert found["chance"].to_pylist()[:3] == ["0", "0.25", "0.5"]
    assert openpyxl.load_workbook(tmp_path / "x.xlsx").active["A2"].data_type == "s"
    with pytest.raises(DataError, match="32,767 characters"):
        sheet = ExcelSheet(tmp_path / "y.xlsx", ["text"])
        sheet.append(["x" * 40_000])
    sheet.close(keep=False)


def test_loose_reading_keeps_rows_before_a_fault(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1.0, "b": null}\n' * 9000 + "oops\n")
    loose = read_loosely(str(tmp_path / "x.jsonl"))
    assert loose.fault is not None and "line 9001" in loose.fault
    assert loose.table.num_rows == 8192 and loose.table.slice(0, 1).to_pylist() == [{"a": "1", "b": None}]
    assert read_loosely(str(tmp_path / "x.jsonl"), most_rows=10).fault is None


def test_loose_reading_of_any_parquet_type(tmp_path: Path) -> None:
    table = pa.table(
        {
            "list": pa.array([["a", "b"], None]),
            "dictionary": pa.array(["x", None]).dictionary_encode(),
            "binary": pa.array([b"\xc3\xb1", b"\xff"]),
            "float": pa.array([1.0, float("nan")]),
            "time": pa.array([datetime(2026, 5, 9), None], pa.timestamp("ms")),
            "bool": pa.array([True, False]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    loose = read_loosely(str(tmp_path / "x.parquet"))
    assert loose.nested == ("list",) and loose.table.to_pylist() == [
        {"dictionary": "x", "binary": "ñ", "float": "1", "time": "2026-05-09 00:00:00", "bool": "true"},
        {"dictionary": None, "binary": "\ufffd", "float": None, "time": None, "bool": "false"},
    ]
