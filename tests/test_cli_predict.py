"""`polarity predict` as its user runs it, on a tiny trained run: files, one text, Ray's actors, a kill half way, and bad input."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from polarity.cli import main
from tests.tiny import tiny_csv
from tests.trained import trained_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder, and a CSV of 3,000 rows to predict."""
    folder = tmp_path_factory.mktemp("trained")
    return trained_run(folder / "run"), tiny_csv(folder / "new.csv", 3000, seed=7)


def run(arguments: list[str]) -> int:
    """Exit status of the command line in this process."""
    before = sys.argv
    sys.argv = ["polarity", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0)


def predict(run_folder: Path, *more: object) -> int:
    return run(["predict", str(run_folder), *map(str, more)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_file_with_shares(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = trained
    out, shares = tmp_path / "out.csv", tmp_path / "shares.json"
    assert predict(folder, "--data", data, "--out", out, "--workers", "0", "--shares", shares) == 0
    shown = capsys.readouterr().out
    assert "3,000 rows written" in shown and "rows/s" in shown and "counted" in shown
    given, written = rows(data), rows(out)
    assert [{key: row[key] for key in given[0]} for row in written] == given
    assert all(abs(sum(float(row[f"sentiment_p_{c}"]) for c in ("negative", "neutral", "positive")) - 1) < 1e-5 for row in written)
    raw = json.loads(shares.read_text())["tasks"]["sentiment"]["methods"]["raw"]
    assert raw["negative"]["share"] == pytest.approx(sum(row["sentiment"] == "negative" for row in written) / 3000)
    # predicted again: refused, then replaced
    assert predict(folder, "--data", data, "--out", out, "--workers", "0") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert predict(folder, "--data", data, "--out", out, "--workers", "0", "--overwrite", "--raw", "--votes", "vote") == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_one_text(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = trained
    assert predict(folder, "--text", "bulok ang mayor", "--title", "city hall and the people") == 0
    assert "sentiment " in capsys.readouterr().out
    assert predict(folder, "--text", "bulok ang mayor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    chances = found["tasks"]["polarization"]["probabilities"]
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    assert found["tasks"]["polarization"]["confidence"] == pytest.approx(chances[found["tasks"]["polarization"]["label"]])
    assert predict(folder, "--text", " ") == 2
    assert "nothing to classify" in capsys.readouterr().err
    assert predict(folder, "--text", "ang tao " * 130_000) == 0, "1 MB of text"


@pytest.mark.slow
def test_killed_half_way_and_run_again(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first process dies after its second part: the same file comes out as from a prediction in one go."""
    folder, data = trained
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    assert predict(folder, "--data", data, "--out", whole, "--workers", "0") == 0
    script = (
        "import os, sys\n"
        "from polarity.predict import batch\n"
        "batch.PART_ROWS = 1000\n"
        "flush = batch.PartFiles.flush\n"
        "def die(self):\n"
        "    flush(self)\n"
        "    if len(self._written) == 2: os._exit(9)\n"
        "batch.PartFiles.flush = die\n"
        "from polarity.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", script, "predict", str(folder), "--data", str(data), "--out", str(cut), "--workers", "0"]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 9
    assert not cut.exists() and (tmp_path / ".cut.parquet.predict").is_dir()
    capsys.readouterr()
    assert predict(folder, "--data", data, "--out", cut, "--workers", "0", "--raw") == 2
    assert "unfinished prediction" in capsys.readouterr().err
    assert predict(folder, "--data", data, "--out", cut, "--workers", "0") == 0
    shown = capsys.readouterr().out
    assert "stopped after 2,048 rows" in shown and "952 scored" in shown
    assert pq.read_table(cut).equals(pq.read_table(whole))
    assert not (tmp_path / ".cut.parquet.predict").exists()


@pytest.mark.slow
def test_actors_of_ray_give_the_same_file(
    trained: tuple[Path, Path], tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two actors on two CPUs, in order, from a folder of a CSV and a Parquet file; and a file that cannot be read to its end."""
    folder, data = trained
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "a.csv").write_bytes(data.read_bytes())
    assert predict(folder, "--data", data, "--out", inputs / "b.parquet", "--workers", "0", "--prefix", "old_") == 0
    assert predict(folder, "--data", inputs, "--out", tmp_path / "alone.parquet", "--workers", "0") == 0
    assert predict(folder, "--data", inputs, "--out", tmp_path / "two.parquet", "--workers", "2") == 0
    assert "2 actors" in capsys.readouterr().out
    alone, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("alone", "two"))
    assert two.num_rows == 6000 and two.drop_columns(_floats(two)).equals(alone.drop_columns(_floats(alone)))
    for name in _floats(two):
        assert two[name].to_numpy() == pytest.approx(alone[name].to_numpy(), abs=1e-5)
    broken = tmp_path / "broken.csv"
    broken.write_text(data.read_text() + "one,cell,too,many,for,this\n")
    assert predict(folder, "--data", broken, "--out", tmp_path / "broken.parquet", "--workers", "2") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {broken}, line 3002: expected 5 columns") and error.count("\n") == 1
    assert predict(folder, "--data", data, "--out", tmp_path / "three.csv", "--workers", "3") == 2
    assert "the cluster has 2 CPUs" in capsys.readouterr().err


def _floats(table: object) -> list[str]:
    names = [name for name in table.column_names if not name.startswith("old_")]  # type: ignore[attr-defined]
    return [name for name in names if "_p_" in name or name.endswith("_confidence")]


@pytest.mark.slow
def test_bad_input(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = trained
    (tmp_path / "other.csv").write_text("body,Title\nhello,t\n")
    cases = {
        "no run here": (tmp_path, data, []),
        "--comment-column": (folder, tmp_path / "other.csv", []),
        "no such file": (folder, tmp_path / "nowhere.csv", []),
        "known: mean, off, vote": (folder, data, ["--votes", "all"]),
        "local paths": (folder, data, ["--out", "s3://bucket/out.csv"]),
    }
    for fragment, (run_folder, file, more) in cases.items():
        assert predict(run_folder, "--data", file, "--out", tmp_path / "out.csv", "--workers", "0", *more) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and fragment in error
    assert predict(folder, "--data", data) == 2
    assert "--out" in capsys.readouterr().err
    columns = ["--comment-column", "body", "--title-column", ""]
    assert predict(folder, "--data", tmp_path / "other.csv", "--out", tmp_path / "out.csv", "--workers", "0", *columns) == 0
    assert "too few" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv", "out.csv"]
