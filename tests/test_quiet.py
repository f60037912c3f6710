"""What is on the screen is ours: a training through Ray says nothing but what `say` was told, and on a terminal its steps are a bar."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from polarity import quiet
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
    encoder, data = tiny_encoder(folder / "encoder"), tiny_csv(folder / "comments.csv", 200)
    sets = [word for value in ("train.precision=fp32", "train.resamples=100", "train.log_every=1") for word in ("--set", value)]
    run = ["train", "--preset", "small", "--encoder", str(encoder), "--data", str(data), "--run-dir", str(folder / "run"), "--epochs", "1"]
    return [*run, *sets, *more]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_training_through_ray_prints_our_lines_and_no_other(tmp_path: Path) -> None:
    """Also where TMPDIR is too long for Ray's sockets, as Slurm makes it."""
    long = tmp_path / ("node_local_tmp_of_a_job_" * 4)
    long.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long), "COLUMNS": "80"}
    for name in ("PYTHONWARNINGS", "RAY_TMPDIR"):
        environment.pop(name, None)
    command = [sys.executable, "-c", RECORDED, str(tmp_path / "said"), *training(tmp_path, "--workers", "1")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for text in (tmp_path / "said").read_text().splitlines() for line in json.loads(text).splitlines()]
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(said)
    steps = [line for line in said if line.startswith("epoch 1/1  step ")]
    assert steps and any(line.startswith("epoch 1 done") for line in said), "the worker's own lines come through"
    assert any("TMPDIR is too long" in line for line in said) and any("Ray on this machine" in line for line in said) and "Next:" in said


@pytest.mark.slow
def test_on_a_terminal_the_steps_are_a_bar(tmp_path: Path) -> None:
    done, screen = [sys.executable, "-m", "polarity", *training(tmp_path, "--workers", "0")], b""
    master, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(done, stdin=end, stdout=end, stderr=end, env=environment)
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
    shown = screen.decode()
    assert "\x1b[" in shown and "epoch 1/1" in shown and "rows/s" in shown and "\u2501" in shown
    assert "  lr " not in shown, "no line a step"
    assert "epoch 1 done" in shown and "Next:" in shown
    plain = [line for line in shown.replace("\r", "\n").split("\n") if "\x1b" not in line and str(tmp_path) not in line]
    aligned = [line for line in plain if "  " in line.strip() and " done: " not in line]  # sentences are wrapped by the terminal
    assert len(aligned) > 8 and max(map(len, aligned)) <= 80


def test_what_matters_comes_through_and_verbose_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quiet.own_line(f"{quiet.MARK}epoch 1") == "epoch 1"
    assert quiet.own_line("(raylet) 1 Workers killed due to memory pressure (OOM)") is not None
    assert quiet.own_line("Loading weights: 100%") is None
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(quiet.VERBOSE, value)
        assert quiet.verbose() is expected
