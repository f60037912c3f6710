"""A disk without room in the middle of a run: a clear error, nothing that looks finished, and --resume once there is room again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_csv, tiny_encoder

POLARITY = f"{sys.executable} -m polarity"
SETTINGS = (
    "--preset small --workers 0 --epochs 2 --set train.precision=fp32 --set train.resamples=100 --set train.log_every=1000 "
    "--set train.global_batch_size=64"
)
FINISHED = {"metrics.json", "predictions.parquet", "history.parquet", "model"}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The options of a tiny training, all but its run folder."""
    folder = tmp_path_factory.mktemp("inputs")
    encoder, rows = tiny_encoder(folder / "encoder", "bert", hidden=64, layers=2), tiny_csv(folder / "comments.csv", 160, seed=0)
    return f"{SETTINGS} --encoder {encoder} --data {rows}"


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in name spaces of its own, where it may mount a small disk; skips where the system does not let us."""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no small disk can be mounted here: {probe.stderr.decode().strip()}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "DISK": str(folder)}
    return subprocess.run(
        ["unshare", "-rm", "bash", "-uc", script],
        env=environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(command: str, tmp_path: Path) -> None:
    """The first checkpoint takes about 1,350 kB, the second at most 1,800: the first finds room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = shell(
        f"""
        mount -t tmpfs -o size=2500k tmpfs $DISK
        {POLARITY} train {command} --run-dir $DISK/run; echo "status $?"
        echo "left $(ls -A $DISK/run $DISK/run/checkpoints 2>/dev/null | tr '\\n' ' ')"
        mount -o remount,size=64m $DISK
        {POLARITY} train --resume --run-dir $DISK/run --workers 0; echo "then $?"
        cp -r $DISK/run $DISK/../kept
        """,
        disk,
    )
    assert said(done, "status") == "2" and said(done, "then") == "0", done.stdout + done.stderr
    assert "error: " in done.stderr and "the disk is full" in done.stderr and "Traceback" not in done.stderr
    left = set(said(done, "left").split())
    assert {name for name in left if name.startswith("epoch")} == {"epoch_0001"}
    assert "config.yaml" in left and not left & FINISHED and not [name for name in left if name.startswith(".")]
    assert "resumed after epoch 1" in done.stdout
    metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
    assert 0 < metrics["validation"]["overall"]["macro_f1"] <= 1


@pytest.mark.slow
def test_a_temporary_folder_without_room(command: str, tmp_path: Path) -> None:
    """The model is made in the system's temporary folder first; another disk may be full than that of the run. Checkpoints are not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = shell(
        f"""
        mount -t tmpfs -o size=200k tmpfs $DISK
        TMPDIR=$DISK {POLARITY} train {command} --run-dir $DISK/../run; echo "status $?"
        echo "left $(ls -A $DISK/../run $DISK/../run/checkpoints | tr '\\n' ' ')"
        """,
        disk,
    )
    assert said(done, "status") == "2", done.stdout + done.stderr
    assert "error: " in done.stderr and "full" in done.stderr and "TMPDIR" in done.stderr and "Traceback" not in done.stderr
    left = set(said(done, "left").split())
    assert not left & (FINISHED - {"model"}) and {"epoch_0001", "epoch_0002"} <= left


def said(done: subprocess.CompletedProcess[str], word: str) -> str:
    """The rest of the script's line that begins with the word."""
    return done.stdout.split(f"\n{word} ")[1].splitlines()[0]
