"""One training through Ray and on a terminal: the screen shows our lines and no other, or a bar for the steps; the numbers are the same."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from polarity import quiet
from polarity.cli import net
from polarity.evaluate import metrics_schema
from tests.tiny import tiny_csv, tiny_encoder

ROOT = Path(__file__).parent.parent
# Every line that the command means to print is noted beside it.
RECORDED = """
import json, sys
from polarity.cli import main, net, training
say, place = net.say, sys.argv.pop(1)
def noted(line):
    with open(place, "a") as file:
        file.write(json.dumps(line) + "\\n")
    say(line)
net.say = training.say = noted
main()
"""


def training(folder: Path, *more: str) -> list[str]:
    """By names that are relative to the folder above, in which Ray's workers don't stand; the encoder's could be one of the hub."""
    sets = [word for value in ("train.precision=fp32", "train.resamples=100", "train.log_every=1") for word in ("--set", value)]
    places = ["--encoder", f"{folder.name}/encoder", "--data", f"{folder.name}/comments.csv"]
    return ["train", "--preset", "small", *places, "--epochs", "1", *sets, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    tiny_encoder(made / "encoder")
    tiny_csv(made / "comments.csv", 200)
    return made


@pytest.fixture(scope="module")
def by_ray(folder: Path) -> subprocess.CompletedProcess[str]:
    """Two workers of Ray, where TMPDIR is too long for Ray's sockets, as Slurm makes it."""
    long = folder / ("node_local_tmp_of_a_job_" * 4)
    long.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long), "COLUMNS": "80"}
    for name in ("PYTHONWARNINGS", "RAY_TMPDIR"):
        environment.pop(name, None)
    run = training(folder, "--workers", "2", "--run-dir", str(folder / "two"))
    command = [sys.executable, "-c", RECORDED, str(folder / "said"), *run]
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def on_a_terminal(folder: Path) -> str:
    """What a terminal shows of the training in one process."""
    run, screen = training(folder, "--workers", "0", "--run-dir", str(folder / "alone")), b""
    master, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-m", "polarity", *run], stdin=end, stdout=end, stderr=end, env=environment, cwd=folder.parent
    )
    os.close(end)
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # so Linux ends a terminal that nobody writes to
            break
        if not part:
            break
        screen += part
    assert driver.wait() == 0, screen.decode()
    return screen.decode()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_training_through_ray_prints_our_lines_and_no_other(by_ray: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert by_ray.returncode == 0, by_ray.stderr
    said = [line for text in (folder / "said").read_text().splitlines() for line in json.loads(text).splitlines()]
    assert by_ray.stderr == ""
    assert sorted(by_ray.stdout.splitlines()) == sorted(said)
    steps = [line for line in said if line.startswith("epoch 1/1  step ")]
    assert steps and any(line.startswith("epoch 1 done") for line in said), "the worker's own lines come through"
    assert any("TMPDIR is too long" in line for line in said) and any("Ray on this machine" in line for line in said) and "Next:" in said


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_of_ray_give_the_numbers_of_one_process(by_ray: subprocess.CompletedProcess[str], on_a_terminal: str, folder: Path) -> None:
    runs = [folder / name for name in ("alone", "two")]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    for found in metrics:
        jsonschema.validate(found, metrics_schema())
    alone, two = (found["validation"]["overall"]["macro_f1"] for found in metrics)
    assert two == pytest.approx(alone, abs=0.02)
    histories = [pq.read_table(run / "history.parquet").to_pylist() for run in runs]
    losses = [[row["loss"] for row in rows if row["kind"] == "step"] for rows in histories]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(list((runs[1] / "tensorboard").iterdir())) == 1, "one worker of two writes"


@pytest.mark.slow
@pytest.mark.cluster
def test_on_a_terminal_the_steps_are_a_bar(on_a_terminal: str, folder: Path) -> None:
    shown = on_a_terminal
    assert "\x1b[" in shown and "epoch 1/1" in shown and "rows/s" in shown and "\u2501" in shown
    assert "  lr " not in shown, "no line a step"
    assert "epoch 1 done" in shown and "Next:" in shown
    plain = [line for line in shown.replace("\r", "\n").split("\n") if "\x1b" not in line and str(folder) not in line]
    aligned = [line for line in plain if "  " in line.strip() and " done: " not in line]  # sentences are wrapped by the terminal
    assert len(aligned) > 8 and max(map(len, aligned)) <= 80


def test_sentences_fold_at_words_on_a_terminal_and_commands_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = f"    polarity best {'deep/' * 20}config.yaml --time 2h"
    shown = net.folded(f"x.csv: left out 2 rows:\n  line 5: {'a word of it ' * 12}\n{command}").split("\n")
    assert shown[-1] == command and max(map(len, shown[:-1])) <= 80
    assert len(shown) == 5 and shown[1].startswith("  line 5: a word") and all(line.startswith("    ") for line in shown[2:])


def test_what_matters_comes_through_and_verbose_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quiet.own_line(f"{quiet.MARK}epoch 1") == "epoch 1"
    assert quiet.own_line("(raylet) 1 Workers killed due to memory pressure (OOM)") is not None
    assert quiet.own_line("Loading weights: 100%") is None
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(quiet.VERBOSE, value)
        assert quiet.verbose() is expected
