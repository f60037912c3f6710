"""`polarity data oversample` says what it leaves out, and refuses rows that it could not tell apart."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polarity.config import DataConfig
from polarity.data.formats import open_source
from polarity.data.oversample import id_hash
from polarity.data.oversample_file import write_oversampled
from polarity.data.read import settle
from polarity.data.survey import pieces_of, rows_of
from polarity.errors import DataError
from tests.tiny import tiny_csv


def appended(path: Path, *lines: str) -> str:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return str(path)


def test_bad_rows_that_are_left_out_are_counted(ray_cluster: None, tmp_path: Path) -> None:
    source = appended(
        tmp_path_csv(tmp_path), "b1,title,,positive,partisan", "b2,title,words,furious,partisan", ",title,words,neutral,partisan"
    )
    said: list[str] = []
    write_oversampled(source, DataConfig(bad_rows="drop"), tmp_path / "out.parquet", seed=0, epoch=0, say=said.append)
    (told,) = (line for line in said if "left out" in line)  # a slow machine says first how far it is
    assert "left out 2 of 63 rows; 1 more lost a bad label and keep a good one (data.bad_rows=drop):" in told and "line 62: empty" in told
    ids = set(pq.read_table(tmp_path / "out.parquet")["row_id"].to_pylist())
    assert "b1" not in ids and "b2" in ids, "an unknown label of one task does not cost the row, which has a good one of the other"


def test_a_piece_of_many_rows(ray_cluster: None, tmp_path: Path) -> None:
    """Its task is given a number for each row: more than the megabyte that Ray takes with a task without a word."""
    rows = 140_000
    numbers = pa.array(range(rows)).cast(pa.string())
    columns = {"row_id": numbers, "Title": [""] * rows, "Comment": numbers}
    labels = {"Final Sentiment": ["positive"] * rows, "Final Polarization": ["partisan"] * rows}
    pq.write_table(pa.table(columns | labels), tmp_path / "many.parquet", row_group_size=rows)
    assert write_oversampled(str(tmp_path / "many.parquet"), DataConfig(), tmp_path / "out.parquet", seed=0, epoch=0, say=print) >= rows
    assert pq.read_table(tmp_path / "out.parquet", columns=["row_id"])["row_id"].slice(0, 3).to_pylist() == ["0", "1", "2"]


def test_row_ids_that_stand_twice_are_refused_with_their_lines(ray_cluster: None, tmp_path: Path) -> None:
    source = appended(tmp_path_csv(tmp_path), "r7,title,other words,positive,partisan")
    with pytest.raises(DataError, match=r"line 62: the row id 'r7' .* line 9.*data\.id_column=null"):
        write_oversampled(source, DataConfig(), tmp_path / "out.parquet", seed=0, epoch=0, say=print)
    said: list[str] = []
    numbered = DataConfig(id_column=None)
    assert write_oversampled(source, numbered, tmp_path / "out.parquet", seed=0, epoch=0, say=said.append) >= 61
    assert not any("left out" in line for line in said)


def test_hashes_that_meet_by_chance_are_no_refusal(tmp_path: Path) -> None:
    """Only the ids themselves decide."""
    opened, said = open_source(str(tmp_path_csv(tmp_path))), list[str]()
    (piece,) = pieces_of([opened], DataConfig())
    suspects = rows_of(piece, id_hash(pa.array(["r3", "r5"])))
    assert suspects["row_id"].to_pylist() == ["r3", "r5"]
    assert settle(suspects, opened, piece.layout, DataConfig(), said.append).num_rows == 2 and not said


def tmp_path_csv(folder: Path) -> Path:
    return tiny_csv(folder / "in.csv", 60, missing=0.0)
