"""The main job as its user runs it, with a tiny encoder: stopped and resumed; and bad input. On Ray's workers: test_quiet.py."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from polarity.artifacts import Fill
from polarity.cli import main
from polarity.errors import RunError
from polarity.evaluate import metrics_schema
from polarity.train.checkpoints import load_checkpoint
from polarity.train.loop import Stepper
from polarity.train.worker import RunEvents
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
    monkeypatch.setenv("POLARITY_VERBOSE", "")  # the command sets it for --verbose
    assert call(command(inputs, tmp_path / "run", "--workers", "0", "--verbose"), monkeypatch) == 0
    check_run(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "linear floor" in shown and "epoch 2 done" in shown and "confusion" in shown.lower()
    assert 0 <= shown.index("in the loss") < shown.index("Oversampling by label combination") < shown.index("step 5/")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    for entry in [*ledger["tasks"]["sentiment"], *ledger["tasks"]["polarization"]]:
        printed = [f"{entry[key]:.1%}" for key in ("share", "sampled_share", "effective_prior")] + [f"{entry['class_weight']:.3f}"]
        assert any(all(word in line for word in (entry["name"], *printed)) for line in shown.splitlines()), entry
    assert call(command(inputs, tmp_path / "run", "--workers", "0"), monkeypatch) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_and_resumed_run_has_the_numbers_of_a_whole_one(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first run dies after its first epoch, as by a kill: the resumed one must end with the same weights.

    It was begun with names relative to a folder; it goes on in another one, with data and encoder in new places.
    """
    whole, cut, begun, later = (tmp_path / name for name in ("whole", "cut", "begun", "later"))
    assert call(command(inputs, whole, "--workers", "0"), monkeypatch) == 0
    shutil.copytree(inputs[0], begun / "models" / "bert")
    shutil.copy(inputs[1], begun / "comments.csv")
    script = (
        "import os, sys\n"
        "from polarity.train import worker\n"
        "save = worker.RunEvents.save\n"
        "def die(self, name, write):\n"
        "    save(self, name, write)\n"
        "    os._exit(9)\n"
        "worker.RunEvents.save = die\n"
        "from polarity.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    typed = command(("models/bert", "comments.csv"), Path("../cut"), "--workers", "0")
    died = subprocess.run([sys.executable, "-c", script, *typed], env=environment, cwd=begun, check=False)
    assert died.returncode == 9
    kept = (cut / "config.yaml").read_text()
    assert f"source: {begun / 'comments.csv'}  # typed: comments.csv" in kept and f"encoder: {begun / 'models/bert'}" in kept
    begun.rename(later)
    monkeypatch.chdir(later)
    resumed = ["train", "--resume", "--run-dir", "../cut", "--workers", "0"]
    assert call(resumed, monkeypatch) == 2
    assert "comments.csv: no such file; if the run's data was moved, name its new place with --data" in capsys.readouterr().err
    Path("other.csv").write_bytes(Path("comments.csv").read_bytes().replace(b"mayor", b"major"))
    assert call([*resumed, "--encoder", "models/bert", "--data", "other.csv"], monkeypatch) == 2
    assert "other.csv: not the data that the run began with" in capsys.readouterr().err
    assert call([*resumed, "--train", "comments.csv"], monkeypatch) == 2
    assert "--train: the run began without it; it has --data" in capsys.readouterr().err
    assert call(["train", "--resume", "--dry-run", "--run-dir", str(cut)], monkeypatch) == 2
    assert "leave out --dry-run" in capsys.readouterr().err
    assert call([*resumed, "--data", "comments.csv"], monkeypatch) == 0  # the encoder's new place is kept from above
    assert f"source: {later / 'comments.csv'}" in (cut / "config.yaml").read_text()
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    assert check_run(cut) == check_run(whole)
    assert call(["train", "--resume", "--run-dir", str(cut)], monkeypatch) == 2
    assert "finished" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_names_the_command_that_goes_on(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", pressed)
        assert call(command(inputs, tmp_path / "run", "--workers", "0"), monkeypatch) != 0
    assert f"go on from its last checkpoint with\n  polarity train --resume --run-dir {tmp_path / 'run'}" in capsys.readouterr().out
    assert call(["train", "--resume", "--run-dir", str(tmp_path / "run"), "--max-steps", "2"], monkeypatch) == 0


def test_a_resumed_run_stops_early_where_a_whole_one_does(inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is learned, so the first epoch stays the best and the third is the last: also where the first two were of another process."""
    more = ["--workers", "0", "--epochs", "6", "--set", "train.early_stopping_patience=2", "--set", "optim.lr=1e-9"]
    assert call(command(inputs, tmp_path / "whole", *more), monkeypatch) == 0
    save = RunEvents.save

    def stop(self: RunEvents, name: str, write: Fill) -> None:
        save(self, name, write)
        if name == "epoch_0002":
            raise RunError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(RunEvents, "save", stop)
        assert call(command(inputs, tmp_path / "cut", *more), monkeypatch) == 2
    assert call(["train", "--resume", "--run-dir", str(tmp_path / "cut"), "--workers", "0"], monkeypatch) == 0
    whole, cut = (pq.read_table(tmp_path / name / "history.parquet").to_pylist() for name in ("whole", "cut"))
    assert [row["epoch"] for row in whole if row["kind"] == "epoch"] == [1, 2, 3]
    assert [row["loss"] for row in cut] == [row["loss"] for row in whole]
    assert check_run(tmp_path / "cut") == check_run(tmp_path / "whole")


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name.startswith("epoch_"))


@pytest.mark.slow
def test_non_finite_steps_end_the_run_with_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One training row holds a word whose embedding is infinite, so each of the epochs has a bad step: the second one ends the run."""
    texts = ["ang mga tao sa bayan", "lason"]
    encoder = tiny_encoder(tmp_path / "encoder", "bert", vocab_texts=texts)
    weights, word = load_file(encoder / "model.safetensors"), (encoder / "tokenizer.json").read_text()
    weights["embeddings.word_embeddings.weight"][json.loads(word)["model"]["vocab"]["lason"]] = float("inf")
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    train, validation = tiny_csv(tmp_path / "train.csv", 100), tiny_csv(tmp_path / "validation.csv", 60, seed=1)
    with train.open("a", encoding="utf-8") as file:
        file.write("the bad one,title,lason ang mga tao,negative,partisan\n")
    run = ["train", "--preset", "small", "--encoder", str(encoder), "--train", str(train), "--validation", str(validation), *SMALL]
    run += ["--run-dir", str(tmp_path / "run"), "--workers", "0", "--set", "train.max_bad_steps=2"]
    assert call(run, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "train.max_bad_steps" in error and "row ids" in error
    assert checkpoints(tmp_path / "run") == ["epoch_0001"] and not (tmp_path / "run" / "metrics.json").exists()
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch_0001")
    assert kept.state.bad_steps == 1 and all(tensor.isfinite().all() for name, tensor in kept.model.items() if "word_embed" not in name)


@pytest.mark.slow
def test_checkpoint_minutes_is_read(inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes, expected in (("1e-9", ["epoch_0000_step_00000002", "epoch_0001"]), ("null", ["epoch_0001"])):
        run = command(inputs, tmp_path / minutes, "--workers", "0", "--max-steps", "2", "--set", f"cluster.checkpoint_minutes={minutes}")
        assert call(run, monkeypatch) == 0
        assert checkpoints(tmp_path / minutes) == expected


@pytest.mark.slow
def test_grace_is_read(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SIGTERM in the second step, which then takes a second: with less grace than that there is no checkpoint of it."""
    gradient = Stepper.gradient

    def slow(self: Stepper, rows: Any, step: int, *more: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)
        return gradient(self, rows, step, *more)

    monkeypatch.setattr(Stepper, "gradient", slow)
    for grace, words in (("0.2", "no step ended in time for a last checkpoint"), ("60", "stopped after step 2 with a checkpoint")):
        folder = tmp_path / grace
        assert call(command(inputs, folder, "--workers", "0", "--set", f"cluster.grace_s={grace}"), monkeypatch) == 2
        assert words in capsys.readouterr().err
        assert (folder / "checkpoints" / "epoch_0000_step_00000002").is_dir() == (grace == "60")


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
def test_dry_run_estimates_what_the_run_then_does_and_writes_nothing(
    inputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(inputs, tmp_path / "run", "--workers", "0", "--points", "2")
    assert call([*arguments, "--dry-run"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists() and "in the loss" in shown
    assert re.search(r"^time: about \d+:\d\d of training in fp32 on 1 worker", shown, re.MULTILINE)
    assert re.search(r"^memory: \d+\.\d M parameters, .* GB a worker", shown, re.MULTILINE)
    train, epoch, steps, first = (int(found) for found in re.findall(r"rows: train (\d+).* has (\d+)\nsteps: (\d+) \((\d+) in", shown)[0])
    padding = re.findall(r"padding ([\d.]+%)", shown)[0]
    assert call(arguments, monkeypatch) == 0
    real, history = capsys.readouterr().out, pq.read_table(tmp_path / "run" / "history.parquet").to_pylist()
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["rows"]["train"] == train
    assert [sum(row["kind"] == "step" for row in rows) for rows in (history, history[:first])] == [steps, first]
    assert history[first]["kind"] == "epoch" and f"padding {padding}" in real
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["epoch_rows"] == epoch > train
    assert call([*arguments, "--run-dir", str(tmp_path / "other"), "--set", "data.comment_column=Coment", "--dry-run"], monkeypatch) == 2
    assert "did you mean 'Comment'" in capsys.readouterr().err


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
    assert max(map(len, printed.splitlines())) <= 110
    assert call(["data", "check", inputs[1]], monkeypatch) == 0
    assert "240" in capsys.readouterr().out
    out = tmp_path / "epoch.parquet"
    assert call(["data", "oversample", inputs[1], "--points", "2", "--out", str(out)], monkeypatch) == 0
    table = pq.read_table(out)
    assert "multiplicity" in table.column_names and table.num_rows > 240
