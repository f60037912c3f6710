"""The main job as its user runs it, with a tiny encoder: in this process, on Ray's workers, stopped and resumed; and bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from polarity.cli import main
from polarity.evaluate import metrics_schema
from tests.tiny import tiny_csv, tiny_encoder

SMALL = ["--epochs", "2", "--set", "train.precision=fp32", "--set", "train.resamples=100", "--set", "train.log_every=5"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    encoder, data = tiny_encoder(folder / "encoder", "bert"), folder / "comments.csv"
    tiny_csv(data, 240, seed=0)
    return str(encoder), str(data)


def command(inputs: tuple[str, str], run_dir: Path, *more: str) -> list[str]:
    return ["train", "--preset", "small", "--encoder", inputs[0], "--data", inputs[1], "--run-dir", str(run_dir), *SMALL, *more]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["polarity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def check_run(folder: Path) -> dict[str, object]:
    metrics = json.loads((folder / "metrics.json").read_text())
    jsonschema.validate(metrics, metrics_schema())
    predictions = pq.read_table(folder / "predictions.parquet")
    assert len(set(predictions["row_id"].to_pylist())) == predictions.num_rows
    for name in ("config.yaml", "environment.json", "ledger.json", "history.parquet", "model/config.json", "model/model.safetensors"):
        assert (folder / name).is_file(), name
    assert not list(folder.glob(".*"))
    return dict(metrics)


@pytest.mark.slow
def test_run_in_this_process(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command(inputs, tmp_path / "run", "--workers", "0"), monkeypatch) == 0
    check_run(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "linear floor" in shown and "epoch 2 done" in shown
    assert call(command(inputs, tmp_path / "run", "--workers", "0"), monkeypatch) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_ray_give_the_numbers_of_one_process(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    assert call(command(inputs, tmp_path / "alone", "--workers", "0"), monkeypatch) == 0
    assert call(command(inputs, tmp_path / "two", "--workers", "2"), monkeypatch) == 0
    alone, two = (check_run(tmp_path / name)["validation"]["overall"]["macro_f1"] for name in ("alone", "two"))  # type: ignore[index]
    assert two == pytest.approx(alone, abs=0.02)
    histories = [pq.read_table(tmp_path / name / "history.parquet").to_pylist() for name in ("alone", "two")]
    losses = [[row["loss"] for row in rows if row["kind"] == "step"] for rows in histories]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_stopped_and_resumed_run_has_the_numbers_of_a_whole_one(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first run dies after its first epoch, as by a kill: the resumed one must end with the same weights."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(command(inputs, whole, "--workers", "0"), monkeypatch) == 0
    script = (
        "import os, sys\n"
        "from polarity.train import worker\n"
        "save = worker.FolderReport.__call__\n"
        "def die(self, metrics, checkpoint, name):\n"
        "    save(self, metrics, checkpoint, name)\n"
        "    os._exit(9)\n"
        "worker.FolderReport.__call__ = die\n"
        "from polarity.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    died = subprocess.run([sys.executable, "-c", script, *command(inputs, cut, "--workers", "0")], env=environment, check=False)
    assert died.returncode == 9
    assert call(["train", "--resume", "--run-dir", str(cut), "--workers", "0"], monkeypatch) == 0
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    assert check_run(cut) == check_run(whole)
    assert call(["train", "--resume", "--run-dir", str(cut)], monkeypatch) == 2
    assert "finished" in capsys.readouterr().err


BAD = {
    "missing file": (["--data", "nowhere.csv"], "nowhere.csv"),
    "missing encoder": (["--encoder", "./no-such-encoder"], "no-such-encoder"),
    "no hub": (["--encoder", "someone/some-encoder"], "offline:minilm"),
    "unknown preset": (["--preset", "smal"], "did you mean 'small'"),
    "unknown key": (["--set", "optim.learning_rte=1"], "optim.learning_rte"),
    "negative rate": (["--set", "optim.lr=-1"], "optim.lr"),
    "contradiction": (["--set", "train.micro_batch_size=7"], "multiple"),
    "too many workers": (["--workers", "9"], "micro-batches"),
    "long rows": (["--set", "data.max_length=5000"], "max_length"),
    "missing column": (["--set", "data.comment_column=Coment"], "did you mean 'Comment'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_written(
    case: str, inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, fragment = BAD[case]
    assert call([*command(inputs, tmp_path / "run", "--workers", "0"), *options], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and fragment in error
    assert not (tmp_path / "run").exists()


def test_run_folder_that_is_a_file(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("mine")
    assert call(command(inputs, tmp_path / "run", "--workers", "0"), monkeypatch) == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "run").read_text() == "mine"


@pytest.mark.slow
def test_dry_run_estimates_and_writes_nothing(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command(inputs, tmp_path / "run", "--workers", "0", "--dry-run"), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("steps:", "padding", "memory:")) and not (tmp_path / "run").exists()


def test_config_shows_where_values_come_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["config", "--preset", "small", "--epochs", "7", "--set", "optim.lr=3e-5"], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("epochs: 7" in line and "--epochs" in line for line in lines)
    assert any("lr: 3" in line and "--set" in line for line in lines)
    assert call(["config", "--points", "6"], monkeypatch) == 0
    assert {line.split(":")[0] for line in capsys.readouterr().out.splitlines()} == {
        "loss.focal_gamma.sentiment",
        "loss.focal_gamma.polarization",
        "loss.adaptive_gamma",
    }


def test_points_table_and_data_commands(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_cluster: None
) -> None:
    assert call(["points"], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "Liang" in printed and printed.count(" x") >= 10, "each point with its source and what its step costs"
    assert call(["data", "check", inputs[1]], monkeypatch) == 0
    assert "240" in capsys.readouterr().out
    out = tmp_path / "epoch.parquet"
    assert call(["data", "oversample", inputs[1], "--points", "2", "--out", str(out)], monkeypatch) == 0
    table = pq.read_table(out)
    assert "multiplicity" in table.column_names and table.num_rows > 240
