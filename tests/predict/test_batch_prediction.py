"""Batch prediction: which files are read and written, chunks, parts and resuming, formats, and cells that look like formulas."""

import csv
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polarity.errors import DataError, RunError
from polarity.predict import batch
from polarity.predict.batch import PartFiles, actor_resources, score_rows, working_folder
from polarity.predict.input import CHUNK_ROWS, Chunk, Input, Place, chunk_reads, open_inputs
from polarity.predict.output import Written, check_out, join, plan_targets, put_in_place
from polarity.predict.scorers import Scores

LABELS = {"mood": ["low", "high"], "side": ["left", "right", "none"]}
COLUMNS: tuple[str, str | None] = ("Comment", None)


class Echo:
    """A classifier whose scores tell which text they are of: the number at the end of the comment."""

    labels = LABELS

    def score(self, table: pa.Table) -> dict[str, Scores]:
        number = np.array([int("".join(c for c in text if c.isdigit()) or 0) for text in table["comment"].to_pylist()])
        mood = np.column_stack([1 - number % 2 * 0.8 - 0.1, number % 2 * 0.8 + 0.1]).astype(np.float32)
        side = np.eye(3, dtype=np.float32)[number % 3]
        return {"mood": Scores(mood, mood.argmax(axis=1)), "side": Scores(side, side.argmax(axis=1))}


def scored(inputs: list[Input], start: Place = Place()) -> list[Chunk]:  # noqa: B008
    """Every chunk with its predictions beside the rows."""
    chunks = [chunk for read in chunk_reads(inputs, start) for chunk in read()]
    return [replace(chunk, beside=score_rows(Echo(), chunk.beside)) for chunk in chunks]  # type: ignore[arg-type]


def predicted(data: str, out: Path, *, columns: tuple[str, str | None] = COLUMNS, prefix: str = "", escape: bool = True) -> Written:
    """The whole way from files to files, with the echo for a classifier."""
    is_folder = check_out(out, overwrite=False)
    inputs, _ = open_inputs(data, columns, leave_out=out)
    targets = plan_targets(out, inputs, is_folder=is_folder)
    with working_folder(out, {"test": 1}, overwrite=False) as (folder, _):
        parts = PartFiles(folder)
        for each in scored(inputs, parts.next_place()):
            parts.add(each)
        parts.flush()
        written = join(parts.tables, targets, folder / "joined", LABELS, prefix=prefix, escape=escape)
        put_in_place(targets, folder / "joined", out if is_folder else None)
    assert not folder.exists()
    return written


def write_csv(path: Path, rows: list[list[Any]], header: tuple[str, ...] = ("id", "Comment")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_rows(rows: list[dict[str, Any]]) -> None:
    """Each row's prediction is that of its own comment."""
    for row in rows:
        number = int("".join(c for c in row["Comment"] if c.isdigit()))
        assert row["mood"] == LABELS["mood"][number % 2] and row["side"] == LABELS["side"][number % 3]
        assert float(row["mood_p_high"]) == pytest.approx(0.9 if number % 2 else 0.1)
        assert float(row["mood_confidence"]) == pytest.approx(0.9) and float(row["side_confidence"]) == 1.0


def test_csv_keeps_columns_order_and_text(tmp_path: Path) -> None:
    rows = [[i, f'text, "{i}"\nof two lines' if i % 7 == 0 else f"text {i}"] for i in range(2 * CHUNK_ROWS + 17)]
    data = write_csv(tmp_path / "in.csv", rows)
    assert predicted(str(data), tmp_path / "out.csv").rows == len(rows)
    written = read_csv(tmp_path / "out.csv")
    assert [[int(row["id"]), row["Comment"]] for row in written] == rows
    assert list(written[0])[:3] == ["id", "Comment", "mood"]
    check_rows(written)


def test_empty_comments_get_nulls_and_are_counted(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", [[1, "text 1"], [2, ""], [3, " \u200b "], [4, "text 4"]])
    written = predicted(str(data), tmp_path / "out.parquet")
    assert (written.rows, written.empty) == (4, 2)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["mood"].is_null().to_pylist() == [False, True, True, False]
    assert table["side_p_none"].null_count == 2 and table["mood_confidence"].null_count == 2
    assert {task: tally.rows for task, tally in written.tallies.items()} == {"mood": 2, "side": 2}


def test_parquet_keeps_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"Comment": ["text 1", "text 2"], "tags": [["a"], ["b", "c"]], "day": [date(2026, 1, 1)] * 2, "n": [1.5, None]}, index=["x", "y"]
    )
    frame["kind"] = pd.Categorical(["p", "q"])
    frame.to_parquet(tmp_path / "in.parquet")
    predicted(str(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    back = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(back[list(frame)], frame)
    assert back["mood"].tolist() == ["high", "low"]
    predicted(str(tmp_path / "in.parquet"), tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv")[1]["tags"] == '["b", "c"]'
    predicted(str(tmp_path / "in.parquet"), tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert first["tags"] == ["b", "c"] and first["n"] is None and first["day"] == "2026-01-01"


def test_json_lines_keep_all_that_they_hold(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"Comment": "text 1", "deep": {"a": [1, None]}, "n": 3}, {"Comment": "text 2", "late": True}]
    (tmp_path / "in.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    predicted(str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    back = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in given} for row, given in zip(back, rows, strict=True)] == rows
    check_rows(back)
    predicted(str(tmp_path / "in.jsonl"), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("n").type == pa.int64() and table["late"].to_pylist() == [None, True]
    assert json.loads(table["deep"][0].as_py()) == rows[0]["deep"]


def test_folder_of_mixed_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    write_csv(folder / "a.csv", [[i, f"text {i}"] for i in range(CHUNK_ROWS + 5)])
    pq.write_table(
        pa.table({"Comment": [f"text {i}" for i in range(50)], "id": range(50)}), folder / "sub" / "b.parquet", row_group_size=20
    )
    (folder / "c.jsonl").write_text('{"Comment": "text 3", "other": 1}\n')
    (folder / "notes.txt").write_text("not a table")
    (folder / ".hidden.csv").write_text("x")
    _, skipped = open_inputs(str(folder), COLUMNS)
    assert [Path(name).name for name in skipped] == ["notes.txt"]
    assert predicted(str(folder), tmp_path / "out").rows == CHUNK_ROWS + 56
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == ["a.csv", "c.jsonl", "sub/b.parquet"]
    check_rows(read_csv(tmp_path / "out" / "a.csv"))
    check_rows(pq.read_table(tmp_path / "out" / "sub" / "b.parquet").to_pylist())
    # all in one file: columns of all, the id of a CSV (text) and of a Parquet file (number) as text
    predicted(str(folder), tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    assert (
        table.num_rows == CHUNK_ROWS + 56
        and table.schema.field("id").type == pa.large_string()
        and table["other"].null_count == table.num_rows - 1
    )
    check_rows(table.to_pylist())
    inputs, _ = open_inputs(str(folder / "**" / "*.parquet"), COLUMNS)
    assert [str(each.relative) for each in inputs] == ["b.parquet"]
    uri = (folder / "sub" / "b.parquet").as_uri()
    assert open_inputs(uri, COLUMNS)[0][0].source.name == uri
    predicted(uri, tmp_path / "remote.parquet")
    check_rows(pq.read_table(tmp_path / "remote.parquet").to_pylist())


def test_a_kill_loses_and_doubles_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after every number of chunks, with parts of one, two or three of them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, rows in (("a", 2 * CHUNK_ROWS), ("b", CHUNK_ROWS + 3), ("c", 5)):
        write_csv(folder / f"{name}.csv", [[i, f"text {i}"] for i in range(rows)])
    pq.write_table(pa.table({"Comment": [f"text {i}" for i in range(3000)]}), folder / "d.parquet", row_group_size=1500)
    inputs, _ = open_inputs(str(folder), COLUMNS)
    whole = scored(inputs)
    expected = [(each.file, text) for each in whole for text in each.rows["Comment"].to_pylist()]
    for part_rows in (1, CHUNK_ROWS + 1, 3 * CHUNK_ROWS):
        monkeypatch.setattr(batch, "PART_ROWS", part_rows)
        for stop in range(1, len(whole)):
            work = tmp_path / f"{part_rows}-{stop}"
            work.mkdir()
            killed = PartFiles(work)
            for each in whole[:stop]:
                killed.add(each)
            again = PartFiles(work)
            for each in scored(inputs, again.next_place()):
                again.add(each)
            again.flush()
            found = [(file, *tables) for file in range(len(inputs)) for tables in PartFiles(work).tables([file])]
            assert [(file, text) for file, _, rows in found for text in rows["Comment"].to_pylist()] == expected
            assert pa.concat_tables([of for _, of, _ in found]).equals(pa.concat_tables([each.beside for each in whole]))


def test_an_unfinished_prediction_of_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt), working_folder(out, {"run": "a"}, overwrite=False) as (folder, resumed):
        assert not resumed
        (folder / "part-00000000.parquet").write_bytes(b"")
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"run differ.*--overwrite"), working_folder(out, {"run": "b"}, overwrite=False):
        pass
    with working_folder(out, {"run": "b"}, overwrite=True) as (folder, resumed):
        assert not resumed and not list(folder.glob("part-*"))
        with pytest.raises(DataError, match="another process"), working_folder(out, {"run": "b"}, overwrite=True):
            pass
    assert not folder.exists()


def test_damaged_part(tmp_path: Path) -> None:
    (tmp_path / "part-00000000-000000000000-5.arrow").write_bytes(b"PAR1 cut")
    with pytest.raises(RunError, match="damaged"):
        PartFiles(tmp_path).next_place()


def test_an_input_is_read_once_and_may_change_afterwards(tmp_path: Path) -> None:
    """What is written are the rows that were scored, whatever has become of the file."""
    data = write_csv(tmp_path / "in.csv", [[i, f"text {i}"] for i in range(10)])
    inputs, _ = open_inputs(str(data), COLUMNS)
    parts = PartFiles(tmp_path)
    for each in scored(inputs):
        parts.add(each)
    parts.flush()
    data.unlink()
    targets = plan_targets(tmp_path / "o.csv", inputs, is_folder=False)
    assert join(parts.tables, targets, tmp_path / "j", LABELS, prefix="", escape=True).rows == 10
    written = read_csv(tmp_path / "j" / "o.csv")
    assert [row["id"] for row in written] == [str(i) for i in range(10)]
    check_rows(written)


HOSTILE = ["=cmd|' /C calc'!A0 1", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "=1"]
HARMLESS = ["-5", "+63 1", "+1,234.50", "-3e5", "5%", "a=1", "'=1", "text - 1"]


def test_cells_that_spreadsheets_would_run_get_an_apostrophe(tmp_path: Path) -> None:
    cells = HOSTILE + HARMLESS
    data = write_csv(tmp_path / "in.csv", [[cell, f"{cell} 1"] for cell in cells], ("=evil", "Comment"))
    written = predicted(str(data), tmp_path / "out.csv")
    back = read_csv(tmp_path / "out.csv")
    column = [row["'=evil"] for row in back]
    assert column[: len(HOSTILE)] == [f"'{cell}" for cell in HOSTILE]
    assert [cell for cell in column[len(HOSTILE) :] if cell.startswith("'+63")] == ["'+63 1"]  # no plain number: a telephone's
    assert [cell for cell in column[len(HOSTILE) :] if not cell.startswith("'+63")] == [cell for cell in HARMLESS if cell != "+63 1"]
    assert written.escaped > len(HOSTILE)
    assert all(not row["Comment"].startswith(("=", "@", "\t", "\r", "\n")) for row in back)
    predicted(str(data), tmp_path / "plain.csv", escape=False)
    assert [row["=evil"] for row in read_csv(tmp_path / "plain.csv")] == cells
    predicted(str(data), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["=evil"].to_pylist() == cells


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "in.csv", [[1, "text 1"]], ("id", "commnet"))
    with pytest.raises(DataError, match=r"no column 'Comment': did you mean 'commnet'\? \(name the column with --comment-column\)"):
        open_inputs(str(data), COLUMNS)
    with pytest.raises(DataError, match=r"--title-column"):
        open_inputs(str(data), ("commnet", "Title"))
    with pytest.raises(DataError, match="no such file"):
        open_inputs(str(tmp_path / "nowhere.csv"), COLUMNS)
    with pytest.raises(DataError, match="no file to predict"):
        open_inputs(str(tmp_path / "*.parquet"), COLUMNS)
    with pytest.raises(DataError, match="is an input"):
        plan_targets(data, open_inputs(str(data), ("commnet", None))[0], is_folder=False)
    with pytest.raises(DataError, match="is there already"):
        check_out(data, overwrite=False)
    with pytest.raises(DataError, match=r"unknown extension '.docx'"):
        check_out(tmp_path / "out.docx", overwrite=False)
    write_csv(tmp_path / "twice.csv", [[1, "text 1"]], ("mood", "Comment"))
    with pytest.raises(DataError, match=r"column 'mood', which predict adds.*--prefix"):
        predicted(str(tmp_path / "twice.csv"), tmp_path / "out.csv")
    predicted(str(tmp_path / "twice.csv"), tmp_path / "other.csv", prefix="new_")
    assert read_csv(tmp_path / "other.csv")[0]["new_mood"] == "high"
    (tmp_path / "header.csv").write_text("id,Comment\n")
    with pytest.raises(DataError, match="holds a header but no rows"):
        predicted(str(tmp_path / "header.csv"), tmp_path / "none.csv")
    (tmp_path / "ragged.csv").write_text("id,Comment\n1,a\n2,b,c\n")
    with pytest.raises(DataError, match=r"line 3.*expected 2 columns"):
        predicted(str(tmp_path / "ragged.csv"), tmp_path / "none2.csv")


def test_actors_fit_the_cluster() -> None:
    assert actor_resources({"CPU": 2.0}, None, "auto").count == 2
    assert [actor_resources({"CPU": 64.0}, None, "auto").count, actor_resources({"CPU": 64.0}, None, "auto").threads] == [16, 4]
    assert actor_resources({"CPU": 16.0, "GPU": 4.0}, None, "auto").gpus == 1.0
    assert actor_resources({"CPU": 2.0, "GPU": 4.0}, None, "auto").cpus == 0.5
    assert actor_resources({"CPU": 16.0, "GPU": 1.0}, 2, "auto").gpus == 0.5
    assert actor_resources({"CPU": 16.0, "GPU": 1.0}, None, "cpu").gpus == 0
    with pytest.raises(RunError, match="the cluster has 2 CPUs"):
        actor_resources({"CPU": 2.0}, 3, "auto")
