"""Every kind of bad input gives a DataError that names the file and the place, and says what to do."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from polarity.config import DataConfig, SplitConfig
from polarity.data.read import read_comments
from polarity.errors import DataError

HEADER = b"row_id,Title,Comment,Final Sentiment,Final Polarization\n"
GOOD = b"a,t,ayos,positive,partisan\n"


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def jsonl(**changed: object) -> bytes:
    row = {"row_id": "a", "Title": "t", "Comment": "ayos", "Final Sentiment": "positive", "Final Polarization": "partisan"}
    return json.dumps(row | changed).encode() + b"\n"


TABLE = pa.table({"Title": ["t"], "Comment": ["ayos"], "Final Sentiment": ["positive"], "Final Polarization": ["partisan"]})

# name, bytes of the file, what the message must hold
CASES: list[tuple[str, bytes, list[str]]] = [
    # columns
    ("x.csv", HEADER.replace(b"Comment", b"Coment") + GOOD, ["no column 'Comment'", "'Coment'", "data.comment_column"]),
    ("x.csv", HEADER.replace(b"Final Sentiment", b"Sentiment") + GOOD, ["'Final Sentiment'", "data.tasks.sentiment.column"]),
    ("x.csv", HEADER.replace(b"Title", b"Titel") + GOOD, ["no column 'Title'", "did you mean 'Titel'?", "data.title_column=null"]),
    ("x.csv", HEADER.replace(b",", b";") + b"one;two\n", ["no column 'Comment'", "';'", "commas"]),
    ("x.csv", b"Comment,Title,Comment\nx,y,z\n", ["line 1", "'Comment'", "2 times"]),
    (
        "x.parquet",
        parquet_bytes(TABLE.rename_columns(["Title", "Text", "Final Sentiment", "Final Polarization"])),
        ["'Comment'", "data.comment"],
    ),
    ("x.jsonl", jsonl().replace(b"Comment", b"commnet"), ["no column 'Comment'", "did you mean 'commnet'?"]),
    # values
    ("x.csv", HEADER + GOOD + b"b,t,bulok,negatve,partisan\n", ["line 3", "'Final Sentiment'", "'negatve'", "did you mean 'negative'?"]),
    ("x.csv", HEADER + b'a,t,"two\nlines",positive,partisan\nb,t,x,oops,partisan\n', ["line 4", "'oops'"]),
    ("x.csv", HEADER + b"\n\n" + GOOD + b"\nb,t,,positive,partisan\n", ["line 6", "empty comment", "'Comment'", "data.bad_rows=drop"]),
    ("x.csv", HEADER + GOOD + b"b,t, \t ,positive,partisan\n", ["line 3", "empty comment"]),
    ("x.csv", HEADER + "b,t,\u200b\ufeff\u2060,positive,partisan\n".encode(), ["line 2", "empty comment"]),
    ("x.csv", HEADER + b"b,t,x,,\nc,t,y, ,\n", ["line 2", "no label", "2 bad rows in all"]),
    ("x.csv", HEADER + GOOD + b",t,x,positive,partisan\n", ["line 3", "no row id"]),
    ("x.csv", HEADER + GOOD + b"b,t,x,neutral,partisan\n\n" + GOOD, ["line 5", "'a'", "line 2", "data.id_column=null"]),
    ("x.jsonl", jsonl() + b"\n" + jsonl(Comment=float("nan")), ["line 3", "empty comment"]),
    ("x.jsonl", jsonl() + jsonl(row_id="b", **{"Final Sentiment": 3}), ["line 2", "unknown label", "'3'"]),
    ("x.jsonl", jsonl() + jsonl(), ["line 2", "row id 'a'", "line 1"]),
    ("x.jsonl", jsonl(Comment=["a list"]), ["line 1", "'Comment'", "list", "not text"]),
    ("x.jsonl", jsonl(Comment="\ud83d"), ["line 1", "'Comment'", "surrogate"]),
    (
        "x.parquet",
        parquet_bytes(TABLE.set_column(1, "Comment", pa.array([None], pa.string()))),
        ["row 0 (counted from 0)", "empty comment"],
    ),
    ("x.parquet", parquet_bytes(TABLE.set_column(1, "Comment", pa.array([np.nan]))), ["row 0", "empty comment"]),
    ("x.parquet", parquet_bytes(TABLE.set_column(1, "Comment", pa.array([["a"]]))), ["'Comment'", "list", "not text"]),
    ("x.parquet", parquet_bytes(TABLE.set_column(1, "Comment", pa.array([b"\xff"]))), ["'Comment'", "binary"]),
    ("x.parquet", parquet_bytes(TABLE.set_column(2, "Final Sentiment", pa.array([1]))), ["row 0", "unknown label", "'1'"]),
    # encoding and bytes
    (
        "x.csv",
        HEADER + GOOD + b"b,t,se\xf1or,positive,partisan\nc,t,se\xc3\xb1or,positive,partisan\n",
        ["line 3", "0xf1", "byte 7", "other"],
    ),
    ("x.csv", HEADER.replace(b"Title", b"T\xeetle\xe2\x80\x99") + "c,t,señor,x,x\n".encode(), ["line 1", "not UTF-8", "0xee"]),
    ("x.csv", (HEADER + GOOD).decode().encode("utf-16") + b"x", ["utf-16", "UTF-8"]),
    ("x.csv", (HEADER + GOOD).decode().encode("utf-16-le") + b"\0\xd8", ["utf-16-le", "UTF-8"]),
    ("x.csv", b"\x1f\x8b\x08" + HEADER, ["gzip", "gunzip"]),
    ("x.jsonl", b"PK\x03\x04" + HEADER, ["zip", ".xlsx"]),
    ("x.csv.gz", b"\x1f\x8b", ["compressed", "unpack"]),
    ("x.csv", HEADER + GOOD + b"b,t,x\0y,positive,partisan\n", ["line 3", "NUL", "byte 6"]),
    (
        "x.jsonl",
        jsonl(row_id="c").replace(b"ayos", "ayós".encode()) + jsonl().replace(b"ayos", b"ay\xf3s"),
        ["line 2", "not UTF-8", "0xf3"],
    ),
    # what JSON's reader would take in silence, or not at all
    ("x.jsonl", jsonl() + jsonl(row_id="b").replace(b'"Title"', b'"Comment": "lost", "Title"'), ["line 2", "'Comment' 2 times"]),
    ("x.jsonl", jsonl() + jsonl(row_id=7).replace(b": 7", b": " + b"7" * 5000), ["line 2", "5,000 digits", "quotes"]),
    ("x.jsonl", jsonl() + jsonl(row_id=7).replace(b": 7", b": 1e999"), ["line 2", "too large", "1e999"]),
    ("x.jsonl", jsonl() + jsonl(row_id=7).replace(b": 7", b": -Infinity"), ["line 2", "-Infinity", "null"]),
    ("x.jsonl", jsonl() + b'{"a":' * 100_000 + b"\n", ["line 2", "nested too deeply"]),
    # CSV structure
    ("x.csv", HEADER + GOOD + b"b,t,one, two,positive,partisan\n", ["line 3", "expected 5 columns", "got 6", "quotes"]),
    ("x.csv", HEADER + GOOD + b"b,t,x\n", ["line 3", "expected 5 columns", "got 3"]),
    ("x.csv", HEADER + b'a,t,"x\ny",positive,partisan\nb,t,x\n', ["line 4", "got 3"]),
    ("x.csv", HEADER + GOOD + b'b,t,"never closed,positive,partisan\n' + GOOD, ["line 3", "never closed"]),
    ("x.csv", HEADER + GOOD + b'b,t,x,positive,"partisan\n' + GOOD, ["line 3", "never closed"]),
    ("x.csv", HEADER + b'a,t,"ok\nok",positive,"partisan\n' + GOOD, ["line 3", "never closed"]),
    (  # a second opening quote closes the first, and the rows between would be lost in silence
        "x.csv",
        HEADER + b'a,t,"open,positive,partisan\n' + GOOD * 3 + b'b,t,"open too,positive,partisan\n',
        ["line 2", "closes in line 6", "open too"],
    ),
    ("x.csv", HEADER + b'a,t,"said "yes" twice",positive,partisan\n', ["line 2", "yes"]),
    ("x.tsv", HEADER.replace(b",", b"\t") + b"a\tt\tx\n", ["line 2", "expected 5 columns", "got 3"]),
    ("x.csv", b"sep=;\n" + (HEADER + GOOD).replace(b",", b";"), ["line 1", "'sep=;'", "remove the line"]),
    # nothing there
    ("x.csv", b"", ["empty"]),
    ("x.csv", b"\n\n", ["no header"]),
    ("x.csv", HEADER, ["no rows"]),
    ("x.csv", HEADER.rstrip(), ["no rows"]),
    ("x.jsonl", b"", ["empty"]),
    ("x.jsonl", b"\n\n", ["empty"]),
    ("x.parquet", parquet_bytes(TABLE.slice(0, 0)), ["no rows"]),
    # damaged files
    ("x.parquet", b"", ["Parquet"]),
    ("x.parquet", b"not a parquet file at all", ["not a Parquet file"]),
    ("x.parquet", parquet_bytes(TABLE)[:-20], ["truncated"]),
    ("x.jsonl", jsonl() + b'{"Comment": "x", \n', ["line 2", "broken JSON"]),
    ("x.jsonl", jsonl() + b'["a", "b"]\n', ["line 2", "array", "object"]),
    ("x.json", b'[{"Comment": "x"}]', ["line 1", "array", "JSON Lines"]),
    ("x.jsonl", b'"text"\n', ["line 1", "object"]),
    # extensions
    ("x.xls", b"x", ["unknown extension '.xls'", ".xlsx"]),
    ("x.xlsx", b"x", ["not an Excel workbook"]),
    ("x.xlsx", b"\xd0\xcf\x11\xe0\xa1", ["password", ".xlsx"]),
    ("x.parqet", b"x", ["did you mean '.parquet'?"]),
    ("x", b"x", ["unknown extension ''"]),
]


@pytest.mark.parametrize(("name", "content", "fragments"), CASES, ids=[f"{i}-{name}-{f[0][:18]}" for i, (name, _, f) in enumerate(CASES)])
def test_message_names_the_place(tmp_path: Path, name: str, content: bytes, fragments: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_comments(str(path), DataConfig())
    message = str(raised.value)
    assert str(path) in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("delimiter", "name"), [(b",", "x.csv"), (b"\t", "x.tsv")])
def test_fault_far_from_the_beginning_has_its_line(tmp_path: Path, delimiter: bytes, name: str) -> None:
    rows = b"".join(b't,"line\r\nbreak %d",positive,partisan\r\n' % i for i in range(30_000))
    content = b"Title,Comment,Final Sentiment,Final Polarization\r\n" + rows + b"t,x,positiv,partisan\r\n" + rows
    (tmp_path / name).write_bytes(content.replace(b",", delimiter))
    with pytest.raises(DataError, match=r"line 60002: unknown label"):
        read_comments(str(tmp_path / name), DataConfig())


def test_missing_file_names_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "comments.csv").write_bytes(HEADER + GOOD)
    with pytest.raises(DataError, match=r"no such file: did you mean 'comments\.csv'"):
        read_comments(str(tmp_path / "coments.csv"), DataConfig())
    with pytest.raises(DataError, match="folder 'nowhere' does not exist"):
        read_comments(str(tmp_path / "nowhere" / "x.csv"), DataConfig())


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER)
    with pytest.raises(DataError, match=r"is a folder.*a\.csv"):
        read_comments(str(tmp_path), DataConfig())
    folder = tmp_path / "train.csv"
    folder.mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_comments(str(folder), DataConfig())


@pytest.mark.parametrize("source", ["sample:", "sample:0", "sample:-3", "sample:many", "hf:"])
def test_malformed_names(source: str) -> None:
    with pytest.raises(DataError, match=r"sample:ROWS|hf:NAME"):
        read_comments(source, DataConfig())


def test_named_id_column_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER + GOOD)
    with pytest.raises(DataError, match=r"no column 'id'.*data\.id_column"):
        read_comments(str(path), DataConfig(id_column="id"))


def test_split_column_must_exist_and_be_filled(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER.rstrip() + b",split\n" + GOOD.rstrip() + b",\n")
    with pytest.raises(DataError, match=r"no column 'part'.*data\.split\.column"):
        read_comments(str(path), DataConfig(split=SplitConfig(kind="column", column="part")))
    with pytest.raises(DataError, match="line 2: no split"):
        read_comments(str(path), DataConfig(split=SplitConfig(kind="column")))


def test_task_may_not_take_the_name_of_a_text_column() -> None:
    """The configuration refuses it, and so does the reader, for one that was built around the checks."""
    tasks = {"title": DataConfig().tasks["sentiment"]}
    with pytest.raises(ValidationError, match="the name 'title' is taken"):
        DataConfig(tasks=tasks, split=SplitConfig(kind="joint"))
    with pytest.raises(DataError, match=r"data\.tasks\.title"):
        read_comments("sample:10", DataConfig().model_copy(update={"tasks": tasks}))


def test_all_rows_bad_is_an_error_even_when_dropping(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER + b"a,t,,positive,partisan\n")
    with pytest.raises(DataError, match="all 1 rows are bad"):
        read_comments(str(path), DataConfig(bad_rows="drop"))
