"""Fuzzed files: each is read as an independent reader reads it, or refused with a DataError; never a traceback, never a row changed.

FUZZ_EXAMPLES=5000 runs more than the few of every day; `example` keeps the inputs that found something.
"""

import csv
import io
import json
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polarity.config import DataConfig
from polarity.data.formats import open_source
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.workflows.init import read_loosely

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
fuzzed = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None
)
TEXTS = st.text(max_size=12)
HEADER = "Title,Comment,Final Sentiment,Final Polarization\n"
SETTINGS = DataConfig(bad_rows="drop")


def read_rows(path: Path) -> list[list[str]] | None:
    """All cells as read, the header first; None where the file is refused."""
    try:
        source = open_source(str(path))
        blocks = [block for part in source.parts for block in part.blocks(source.columns)]
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error).split(": ", 1)[0]
        return None
    return [list(source.columns), *(list(row) for block in blocks for row in zip(*(c.to_pylist() for c in block.columns), strict=True))]


def comments_or_refusal(path: Path) -> None:
    """The canonical reading, too, ends in rows or in a DataError."""
    try:
        read_comments(str(path), SETTINGS, say=lambda line: None)
    except DataError as error:
        assert str(path) in str(error)


@fuzzed
@given(text=st.text('ab,;\t|"\n\r ñ\ufeff', max_size=40), name=st.sampled_from(["x.csv", "x.tsv"]))
@example(text='a,b\n"x\ny,"z",w\n', name="x.csv")
@example(text="a\rb\r\rc", name="x.csv")
@example(text=";\r;", name="x.csv")
def test_csv_text(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = read_rows(path)
    if rows is None:
        return
    heads = []
    for delimiter in ",\t;|":
        try:
            heads.append(
                [row for row in csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True) if row]
            )
        except csv.Error:
            continue
    assert rows in heads, "no reading of the csv module gives these rows"


@fuzzed
@given(content=st.binary(max_size=60), name=st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.parquet", "x.xlsx"]), header=st.booleans())
def test_bytes(tmp_path: Path, content: bytes, name: str, header: bool) -> None:
    path = tmp_path / name
    path.write_bytes((HEADER.encode() if header else b"") + content)
    read_rows(path)
    comments_or_refusal(path)


@fuzzed
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), min_size=2, max_size=2), min_size=1, max_size=5
    )
)
def test_csv_values(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    assert read_rows(path) == [["a", "b"], *rows]
    comments_or_refusal(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.integers(min_value=10**30),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


def as_cell(value: object) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@fuzzed
@given(rows=st.lists(st.fixed_dictionaries({"Comment": JSON, "Title": JSON}), min_size=1, max_size=4))
def test_json_values(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_rows(path)
    comments_or_refusal(path)
    odd = any(
        isinstance(v, list) or v in (float("inf"), -float("inf")) or (isinstance(v, str) and not v.isascii())
        for r in rows
        for v in r.values()
    )
    assert found is not None or odd
    if found is not None:
        assert found[1:] == [[as_cell(row[key]) for key in found[0]] for row in rows]


@fuzzed
@given(text=st.text('{}[]":,01eE+-.ntfNaI\\u \n\r\u2028', max_size=40))
def test_json_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode())
    rows = read_rows(path)
    if rows is not None:
        lines = [json.loads(line) for line in text.split("\n") if line.strip()]
        assert [[as_cell(line.get(key)) for key in rows[0]] for line in lines] == rows[1:]


TYPES = {
    "string": (pa.string(), TEXTS),
    "large_string": (pa.large_string(), TEXTS),
    "string_view": (pa.string_view(), TEXTS),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint8": (pa.uint8(), st.integers(0, 255)),
    "double": (pa.float64(), st.floats()),
    "float16": (pa.float16(), st.floats(width=16)),
    "bool": (pa.bool_(), st.booleans()),
    "binary": (pa.binary(), st.binary(max_size=6)),
    "binary_view": (pa.binary_view(), st.binary(max_size=6)),
    "fixed": (pa.binary(2), st.binary(min_size=2, max_size=2)),
    "decimal": (pa.decimal128(9, 2), st.decimals(-99999, 99999, places=2)),
    "timestamp": (pa.timestamp("us", "UTC"), st.datetimes()),
    "date": (pa.date32(), st.dates()),
    "time": (pa.time64("us"), st.times()),
    "null": (pa.null(), st.none()),
    "list": (pa.list_(pa.string()), st.lists(TEXTS, max_size=2)),
    "struct": (pa.struct([("x", pa.int8())]), st.fixed_dictionaries({"x": st.integers(0, 9)})),
    "dictionary of numbers": (pa.dictionary(pa.int8(), pa.int64()), st.integers(0, 9)),
}


@fuzzed
@given(data=st.data(), kind=st.sampled_from(sorted(TYPES)))
def test_parquet_values(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    arrow, values = TYPES[kind]
    cells = data.draw(st.lists(st.none() | values, min_size=1, max_size=4))
    try:
        column = pa.array(cells, arrow)
        pq.write_table(
            pa.table({"Comment": column, "Title": ["t"] * len(cells), "Final Sentiment": column, "Final Polarization": column}),
            tmp_path / "x.parquet",
        )
    except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError):
        return  # pyarrow itself does not write it
    comments_or_refusal(tmp_path / "x.parquet")
    assert read_loosely(str(tmp_path / "x.parquet")).fault is None
    try:
        whole = DataConfig().model_copy(update={"id_column": None})
        read = read_comments(str(tmp_path / "x.parquet"), whole, labelled=False, say=lambda line: None)
    except DataError:
        return
    for cell, text in zip(cells, read["comment"].to_pylist(), strict=True):
        assert text == cell if isinstance(cell, str) else True
        if isinstance(cell, (int, Decimal)) and not isinstance(cell, bool):
            assert Decimal(text) == cell
        if isinstance(cell, float):
            assert float(text) == cell


@fuzzed
@given(data=st.data())
def test_parquet_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """A file with some bytes changed is read, or refused."""
    path = tmp_path / "x.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: ["x", "neutral"] for name in HEADER.strip().split(",")}), sink)
    content = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 30, len(content)))])
    comments_or_refusal(path)
