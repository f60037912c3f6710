"""The formats give the same table, whatever runs the reading."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polarity.config import DataConfig, SplitConfig, TaskConfig
from polarity.data import formats, source, text_formats
from polarity.data.formats import open_source
from polarity.data.read import read_comments
from polarity.data.survey import LEFT_OUT, Piece, pieces_of, run, survey
from polarity.errors import DataError

COLUMNS = ["row_id", "Title", "Comment", "Final Sentiment", "Final Polarization"]
HARD = [
    "emoji 🤣🇵🇭 ❤️",
    "zero\u200bwidth\u200d and \ufeff inside",
    "x" * 10_000,
    'said "yes",\nthen\r\nleft',
    "שלום עולם, مرحبا",
    "!!!???",
    "NA",
    "null",
    "NaN",
    "  spaces kept  ",
    "e\u0301 decomposed",
]


def rows_of(comments: list[str]) -> list[list[str]]:
    sentiments, polarizations = ["negative", "neutral", "positive"], ["non_polarized", "objective", "partisan"]
    return [[f"r{i}", f"title, {i % 2}", text, sentiments[i % 3], polarizations[i // 3 % 3]] for i, text in enumerate(comments)]


def write_csv(path: Path, rows: list[list[str]], columns: list[str] = COLUMNS, **options: str) -> str:
    with path.open("w", encoding=options.pop("encoding", "utf-8"), newline="") as file:
        csv.writer(file, **options).writerows([columns, *rows])  # type: ignore[arg-type]
    return str(path)


def write_jsonl(path: Path, rows: list[list[str]]) -> str:
    path.write_text("".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, rows: list[list[str]], **options: int) -> str:
    table = pa.table({name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)})
    pq.write_table(table, path, **options)
    return str(path)


def write_saved(path: Path, rows: list[list[str]]) -> str:
    from datasets import Dataset

    columns = zip(COLUMNS, zip(*rows, strict=True), strict=True)
    Dataset.from_dict({name: list(values) for name, values in columns}).save_to_disk(str(path))
    return str(path)


def write_all(folder: Path, rows: list[list[str]]) -> dict[str, str]:
    return {
        "csv": write_csv(folder / "x.csv", rows),
        "bom": write_csv(folder / "bom.csv", rows, encoding="utf-8-sig"),
        "tsv": write_csv(folder / "x.tsv", rows, delimiter="\t"),
        "parquet": write_parquet(folder / "x.parquet", rows),
        "jsonl": write_jsonl(folder / "x.jsonl", rows),
        "json": write_jsonl(folder / "x.json", rows),
        "saved": write_saved(folder / "saved", rows),
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several blocks from a few rows."""
    monkeypatch.setattr(text_formats, "ROWS_PER_BLOCK", 3)
    yield


def test_all_formats_give_the_same_table(tmp_path: Path) -> None:
    rows = rows_of(HARD)
    tables = {kind: read_comments(path, DataConfig()) for kind, path in write_all(tmp_path, rows).items()}
    first = tables["csv"]
    assert first["comment"].to_pylist() == HARD
    assert first["row_id"].to_pylist() == [row[0] for row in rows]
    assert first["sentiment"].to_pylist() == [i % 3 for i in range(len(rows))]
    assert first.schema == pa.schema(
        [
            *(pa.field(name, pa.large_string()) for name in ("row_id", "title", "comment")),
            *(pa.field(name, pa.int8()) for name in ("sentiment", "polarization")),
        ]
    )
    for kind, table in tables.items():
        assert table.equals(first), kind


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(comments=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=5))
def test_what_the_csv_module_writes_is_read_back(tmp_path: Path, comments: list[str]) -> None:
    comments = ["x" + text for text in comments]  # of dots alone it would be a column of numbers
    path = write_csv(tmp_path / "x.csv", rows_of(comments), quoting=csv.QUOTE_ALL)  # type: ignore[arg-type]
    assert read_comments(path, DataConfig())["comment"].to_pylist() == comments
    path = write_csv(tmp_path / "y.csv", rows_of(comments))
    assert read_comments(path, DataConfig())["comment"].to_pylist() == comments


def test_lone_quotes_in_unquoted_text_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('Title,Comment,Final Sentiment,Final Polarization\nt,5" pipe,neutral,partisan\nt,6" pipe,neutral,partisan\n')
    assert read_comments(str(path), DataConfig())["comment"].to_pylist() == ['5" pipe', '6" pipe']


def test_labels_match_after_trimming_and_case_folding(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [["1", "t", "x", " NEGATIVE ", "Partisan"], ["2", "", "y", "", "non_polarized\t"]])
    table = read_comments(path, DataConfig())
    assert table["sentiment"].to_pylist() == [0, None]
    assert table["polarization"].to_pylist() == [2, 0]
    assert table["title"].to_pylist() == ["t", ""]


def test_third_task_and_other_labels_need_configuration_only(tmp_path: Path) -> None:
    rows = [["1", "t", "x", "yes", "3"], ["2", "t", "y", "", "4"]]
    path = write_csv(tmp_path / "x.csv", rows, columns=["row_id", "Title", "Comment", "spam", "stars"])
    tasks = {"spam": TaskConfig(column="spam", labels=["no", "yes"]), "stars": TaskConfig(column="stars", labels=["3", "4"])}
    table = read_comments(path, DataConfig(tasks=tasks, split=SplitConfig(kind="joint")))
    assert table.column_names == ["row_id", "title", "comment", "spam", "stars"]
    assert (table["spam"].to_pylist(), table["stars"].to_pylist()) == ([1, None], [0, 1])


def test_row_ids_from_the_file_or_by_number(tmp_path: Path) -> None:
    rows = rows_of(["a", "b", "c"])
    named = write_csv(tmp_path / "named.csv", rows)
    bare = write_csv(tmp_path / "bare.csv", [row[1:] for row in rows], columns=COLUMNS[1:])
    assert read_comments(named, DataConfig())["row_id"].to_pylist() == ["r0", "r1", "r2"]
    assert read_comments(named, DataConfig(id_column=None))["row_id"].to_pylist() == ["0", "1", "2"]
    assert read_comments(bare, DataConfig())["row_id"].to_pylist() == ["0", "1", "2"]
    assert read_comments(named, DataConfig(id_column="Comment"))["row_id"].to_pylist() == ["a", "b", "c"]


def test_comment_alone_and_unlabelled(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [["x"], ["y"]], columns=["Comment"])
    data = DataConfig(title_column=None)
    table = read_comments(path, data, labelled=False)
    assert table.to_pydict() == {"row_id": ["0", "1"], "title": ["", ""], "comment": ["x", "y"]}
    with pytest.raises(DataError, match="Final Sentiment"):
        read_comments(path, data)


def test_split_column_is_kept(tmp_path: Path) -> None:
    rows = [[*row, part] for row, part in zip(rows_of(["a", "b"]), ["train", "test"], strict=True)]
    path = write_csv(tmp_path / "x.csv", rows, columns=[*COLUMNS, "split"])
    assert "split" not in read_comments(path, DataConfig()).column_names
    assert read_comments(path, DataConfig(split=SplitConfig(kind="column")))["split"].to_pylist() == ["train", "test"]


def test_numbers_dictionaries_and_class_labels_as_text(tmp_path: Path) -> None:
    columns = {
        "row_id": pa.array([7, 8, 9]),
        "Title": pa.array(["t", "t", None]).dictionary_encode(),
        "Comment": pa.array([1.0, 2.5, 3.0]),
        "Final Sentiment": pa.array([2.0, float("nan"), 0.0]),
        "Final Polarization": pa.array(["partisan"] * 3),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    tasks = DataConfig().tasks | {"sentiment": TaskConfig(column="Final Sentiment", labels=["0", "1", "2"])}
    table = read_comments(str(tmp_path / "x.parquet"), DataConfig(tasks=tasks))
    assert table["row_id"].to_pylist() == ["7", "8", "9"]
    assert table["title"].to_pylist() == ["t", "t", ""]
    assert table["comment"].to_pylist() == ["1", "2.5", "3"]
    assert table["sentiment"].to_pylist() == [2, None, 0]


def test_class_labels_of_datasets_are_read_by_name(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    text = Value("string")
    features = Features(
        {"Title": text, "Comment": text, "Final Sentiment": ClassLabel(names=["positive", "negative"]), "Final Polarization": text}
    )
    columns = {"Title": ["t"] * 3, "Comment": ["a", "b", "c"], "Final Sentiment": [0, 1, -1], "Final Polarization": ["partisan"] * 3}
    dataset = Dataset.from_dict(columns, features=features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    dataset.to_parquet(str(tmp_path / "x.parquet"))
    for name in ("saved", "x.parquet"):
        assert read_comments(str(tmp_path / name), DataConfig())["sentiment"].to_pylist() == [2, 0, None]


def test_saved_dataset_with_splits_asks_for_one(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = rows_of(["a", "b", "c"])
    part = Dataset.from_dict({name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)})
    DatasetDict({"train": part, "dev": part}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match="train, dev"):
        read_comments(str(tmp_path / "two"), DataConfig())
    assert read_comments(str(tmp_path / "two" / "train"), DataConfig()).num_rows == 3
    # a filtered dataset is stored as indices into the whole: only its rows count
    part.select([2, 0]).save_to_disk(str(tmp_path / "some"))
    assert read_comments(str(tmp_path / "some"), DataConfig())["comment"].to_pylist() == ["c", "a"]


def test_a_dataset_by_name_is_read_split_by_split(tmp_path: Path) -> None:
    """`datasets` takes a folder of files for a repository: the same call, without a hub."""
    rows, folder = rows_of(["a", "b, c", "d"]), tmp_path / "repository"
    folder.mkdir()
    write_csv(folder / "train.csv", rows)
    write_csv(folder / "test.csv", rows[:1])
    table = read_comments(f"hf:{folder}@train", DataConfig())
    assert table.equals(read_comments(str(folder / "train.csv"), DataConfig()))
    assert read_comments(f"hf:{folder}@test", DataConfig()).num_rows == 1
    with pytest.raises(DataError, match=r"holds the splits .*: name one, such as hf:.*@t"):
        read_comments(f"hf:{folder}", DataConfig())
    with pytest.raises(DataError, match=r"dev.*train"):
        read_comments(f"hf:{folder}@dev", DataConfig())
    (folder / "test.csv").unlink()
    assert read_comments(f"hf:{folder}", DataConfig()).equals(table)


def test_hub_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'some/where' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"hub cannot be reached.*some/where.*give a file"):
        read_comments("hf:some/where@train", DataConfig())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "saved"])
def test_bad_rows_are_dropped_and_told_with_their_lines(tmp_path: Path, kind: str) -> None:
    rows = rows_of(["a\nb", "c", "", "d", "e", "\u200b", "f"])
    rows[4][3] = "positve"
    told: list[str] = []
    path = write_all(tmp_path, rows)[kind]
    table = read_comments(path, DataConfig(bad_rows="drop"), say=told.append)
    assert table["row_id"].to_pylist() == ["r0", "r1", "r3", "r4", "r6"], "a bad label of one task does not cost the other's good one"
    assert table["sentiment"].to_pylist()[3] is None and table["polarization"].to_pylist()[3] is not None
    assert len(told) == 1 and "left out 2 of 7 rows; 1 more lost a bad label and keep a good one" in told[0]
    # the first comment spans two lines of a CSV, and a header stands above; JSON Lines has neither
    lines = {"csv": (5, 7, 8), "tsv": (5, 7, 8), "jsonl": (3, 5, 6)}
    empty, wrong, blank = [f"line {n}" for n in lines[kind]] if kind in lines else [f"row {n} (counted from 0)" for n in (2, 4, 5)]
    assert f"  {empty}, {blank}: empty comment" in told[0], "what is wrong with two rows is told once"
    assert f"  {wrong}: unknown label" in told[0] and "did you mean 'positive'?" in told[0]


def test_a_wrong_label_of_many_rows_is_told_once_with_its_count(tmp_path: Path) -> None:
    rows = rows_of([f"comment {i}" for i in range(30)])
    for i in range(4, 30):
        rows[i][3] = "POSITIVO"
    rows[5][2] = ""
    path, told = write_csv(tmp_path / "x.csv", rows), list[str]()
    read_comments(path, DataConfig(bad_rows="drop"), say=told.append)
    assert told[0].count("'POSITIVO'") == 2 and "  line 6, line 8, line 9 and 22 more: unknown label" in told[0]
    with pytest.raises(
        DataError, match=r"(?s)x.csv, line 6: unknown label.*26 bad rows in all.*\n  line 7: empty comment.*; unknown label"
    ):
        read_comments(path, DataConfig())


@pytest.mark.usefixtures("small_blocks")
def test_duplicate_ids_are_found_across_blocks(tmp_path: Path) -> None:
    rows = rows_of([f"comment {i}" for i in range(20)])
    rows[17][0] = rows[2][0]
    with pytest.raises(DataError, match=r"line 19: the row id 'r2'.*that of line 4"):
        read_comments(write_csv(tmp_path / "x.csv", rows), DataConfig())


def test_a_folder_of_parquet_files_is_one_source_and_large_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of([f"comment {i}" for i in range(400)])
    whole = read_comments(write_parquet(tmp_path / "x.parquet", rows), DataConfig())
    folder = tmp_path / "folder"
    folder.mkdir()
    write_parquet(folder / "a.parquet", rows[:250], row_group_size=240)
    write_parquet(folder / "b.parquet", rows[250:], row_group_size=60)
    (folder / "_SUCCESS").touch()
    assert [part.first_row for part in open_source(str(folder)).parts] == [0, 240, 250, 310, 370]
    monkeypatch.setattr(formats, "ROWS_PER_BLOCK", 32)
    monkeypatch.setattr(formats, "ROWS_PER_PART", 100)
    assert [part.first_row for part in open_source(str(folder)).parts] == [0, 96, 192, 240, 250, 310, 370]
    assert read_comments(str(folder), DataConfig()).equals(whole)
    monkeypatch.setattr(formats, "MAX_PARTS", 3)  # small groups go together, two of a file
    assert [part.first_row for part in open_source(str(folder)).parts] == [0, 96, 192, 240, 250, 370]
    assert read_comments(folder.as_uri(), DataConfig()).equals(whole)
    pq.write_table(pq.read_table(folder / "b.parquet").drop_columns(["Title"]), folder / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet: has not the columns of .*/a.parquet \(only one has 'Title'\)"):
        open_source(str(folder))


# with Ray


def through_ray(path: str, data: DataConfig) -> pa.Table:
    """The good rows, surveyed and read again by Ray Data's tasks."""

    def tables_of(piece: Piece, codes: Any) -> Iterator[pa.Table]:
        yield from (table for table, _ in piece.rows(codes))

    pieces = pieces_of([open_source(path)], data)
    found = survey("test", pieces, say=print, noted=print, through_ray=True)
    codes = found.cut(np.where(found.bad, LEFT_OUT, 0).astype(np.int8))
    return pa.concat_tables(run(pieces, [(own,) for own in codes], tables_of, through_ray=True))


@pytest.mark.usefixtures("ray_cluster")
def test_ray_streams_in_order_and_drops_bad_rows(tmp_path: Path) -> None:
    rows = rows_of(["" if i % 50 == 3 else f"comment {i}" for i in range(400)])
    path = write_parquet(tmp_path / "x.parquet", rows, row_group_size=20)
    streamed = through_ray(path, DataConfig(bad_rows="drop"))
    assert streamed["row_id"].to_pylist() == [row[0] for row in rows if row[2]]
    assert streamed.column_names == ["row_id", "title", "comment", "sentiment", "polarization"]
    told: list[str] = []
    assert read_comments(path, DataConfig(bad_rows="drop"), say=told.append).num_rows == 392
    assert "left out 8 of 400 rows" in told[0] and "row 3 (counted from 0)" in told[0]


@pytest.mark.usefixtures("ray_cluster")
def test_ray_raises_the_original_error(tmp_path: Path) -> None:
    rows = rows_of([f"comment {i}" for i in range(40)])
    rows[30][3], rows[35][2] = "positve", " "
    parquet = write_parquet(tmp_path / "x.parquet", rows, row_group_size=10)
    message = r"row 30 \(counted from 0\): unknown label.*2 bad rows in all"
    with pytest.raises(DataError, match=message) as raised:
        read_comments(parquet, DataConfig())
    in_driver = str(raised.value)
    with pytest.raises(DataError, match=message) as raised:
        through_ray(parquet, DataConfig())
    assert type(raised.value) is DataError
    assert str(raised.value) == in_driver
    broken = tmp_path / "x.jsonl"
    broken.write_text((json.dumps(dict(zip(COLUMNS[1:], rows[0][1:], strict=True))) + "\n") * (source.ROWS_PER_BLOCK + 1) + "{oops\n")
    line = source.ROWS_PER_BLOCK + 2
    with pytest.raises(DataError, match=rf"line {line}: broken JSON") as raised:
        read_comments(str(broken), DataConfig())
    assert type(raised.value) is DataError
    with pytest.raises(DataError, match=rf"line {line}: broken JSON: .* at character \d+: each line must be one whole JSON object$"):
        through_ray(str(broken), DataConfig())
