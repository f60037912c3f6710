"""The table that Ray Data writes against the pure function: the same rows, whatever the pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polarity.config import Config, DataConfig, OversampleConfig
from polarity.data.oversample import multiplicities, repeat_rows
from polarity.data.oversample_file import write_oversampled, write_parquet
from polarity.data.read import read_comments
from polarity.errors import DataError
from tests.tiny import COLUMNS

LABELS = Config().labels
NEW: dict[str, Any] = {"alpha": 0.7, "max_multiplier": 8.0, "boosts": {"polarization": {"objective": 6.0}, "sentiment": {"neutral": 2.5}}}
SETTINGS = {
    "stratified": OversampleConfig(**NEW, stratified=True),
    "drawn": OversampleConfig(**NEW),
    "kept": OversampleConfig(**NEW, stratified=True, size="keep"),
    "whole": OversampleConfig(alpha=0.0),
}


def comments(rows: int, missing: float = 0.05) -> pa.Table:
    rng = np.random.default_rng(rows)

    def labels(shares: list[float]) -> pa.Array:
        return pa.array(rng.choice(3, rows, p=shares), pa.int8(), mask=rng.random(rows) < missing)

    text = pa.large_string()
    return pa.table(
        {
            "row_id": pa.array([f"r{i}" for i in range(rows)], text),
            "title": pa.array([f"title {i % 7}" for i in range(rows)], text),
            "comment": pa.array([f"comment {'x' * (i % 13)} {i}" for i in range(rows)], text),
            "sentiment": labels([0.6, 0.27, 0.13]),
            "polarization": labels([0.28, 0.06, 0.66]),
        }
    )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("group", [2400, 700, 90])
def test_any_pieces_give_the_rows_of_the_pure_function(ray_cluster: None, tmp_path: Path, name: str, group: int) -> None:
    table, data = comments(2400), DataConfig(oversample=SETTINGS[name])
    has_label = np.array([bool(row["sentiment"] is not None or row["polarization"] is not None) for row in table.to_pylist()])
    table = table.filter(pa.array(has_label))
    expected = repeat_rows(table, multiplicities(table, LABELS, data.oversample, seed=5, epoch=2))
    source = tmp_path / "in.parquet"
    given = {"row_id": table["row_id"], "Title": table["title"], "Comment": table["comment"]}
    pq.write_table(
        pa.table(given | {COLUMNS[task]: named(table[task], names) for task, names in LABELS.items()}), source, row_group_size=group
    )
    write_oversampled(str(source), data, tmp_path / "out.parquet", seed=5, epoch=2, say=print)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == expected.column_names
    for column in ("row_id", "title", "comment", "multiplicity"):
        assert found[column].to_pylist() == expected[column].to_pylist(), column
    for task, names in LABELS.items():
        assert found[task].to_pylist() == named(expected[task], names).to_pylist(), task


def named(indices: pa.ChunkedArray, names: list[str]) -> pa.Array:
    return pa.array(names).take(indices.combine_chunks().cast(pa.int32()))


def csv_of(table: pa.Table, path: Path) -> str:
    rows = ["row_id,Title,Comment,Final Sentiment,Final Polarization"]
    for row in table.to_pylist():
        labels = ["" if row[task] is None else names[row[task]] for task, names in LABELS.items()]
        rows.append(",".join([row["row_id"], row["title"], row["comment"], *labels]))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def test_writes_one_epoch_as_a_file(ray_cluster: None, tmp_path: Path) -> None:
    source, out, said = csv_of(comments(500, missing=0.0), tmp_path / "in.csv"), tmp_path / "out.parquet", list[str]()
    data = DataConfig(oversample=SETTINGS["stratified"])
    rows = write_oversampled(source, data, out, seed=1, epoch=3, say=said.append)
    table = read_comments(source, data, say=said.append)
    times = multiplicities(table, LABELS, data.oversample, seed=1, epoch=3)
    written = pq.read_table(out)
    assert written.column_names == ["row_id", "title", "comment", "sentiment", "polarization", "multiplicity"]
    assert written["row_id"].to_pylist() == np.repeat(table["row_id"].to_pylist(), times).tolist()
    assert written["multiplicity"].to_pylist() == np.repeat(times, times).tolist()
    assert written["polarization"].to_pylist() == [LABELS["polarization"][i] for i in np.repeat(table["polarization"].to_pylist(), times)]
    assert rows == written.num_rows == times.sum()
    assert f"{rows:,} rows" in said[-1]
    with pytest.raises(DataError, match="exists already"):
        write_oversampled(source, data, out, seed=1, epoch=3, say=said.append)
    assert write_oversampled(source, data, out, seed=1, epoch=4, say=said.append, overwrite=True) == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.parquet"]


def test_a_bad_row_leaves_nothing_half_written(ray_cluster: None, tmp_path: Path) -> None:
    source = csv_of(comments(50, missing=0.0), tmp_path / "in.csv")
    with Path(source).open("a", encoding="utf-8") as file:
        file.write("r99,title,words,furious,partisan\n")
    with pytest.raises(DataError, match="furious"):
        write_oversampled(source, DataConfig(), tmp_path / "out.parquet", seed=0, epoch=0, say=print)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("name", "message"), [("out.csv", "ends in .parquet"), ("none/out.parquet", "does not exist"), ("dir.parquet", "is a folder")]
)
def test_targets_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "dir.parquet").mkdir()
    source = csv_of(comments(5, missing=0.0), tmp_path / "in.csv")
    with pytest.raises(DataError, match=message):
        write_oversampled(source, DataConfig(), tmp_path / name, seed=0, epoch=0, say=print)


def test_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "same.parquet"
    pq.write_table(comments(5), path)
    with pytest.raises(DataError, match="is the file that is read"):
        write_oversampled(str(path), DataConfig(), path, seed=0, epoch=0, say=print, overwrite=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_plainly() -> None:
    with pytest.raises(DataError, match="no space left on the disk"):
        write_parquet([comments(200_000)], Path("/dev/full"))
