"""One fault of `jobs/faults.py`, injected for real: the command exits with 0 only where every promise was kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polarity.errors import ConfigError
from tests.faults.injections import FAULTS
from tests.faults.matrix import plan

ROOT = Path(__file__).parents[2]
CHOSEN = "worker killed"
"""Dead drivers, damaged checkpoints, signals and full disks have cheaper tests of their own; the job injects all of them."""


@pytest.mark.slow
@pytest.mark.cluster
def test_a_run_survives_a_fault(tmp_path: Path) -> None:
    options = ["--injections", "1", "--epochs", "2", "--only", CHOSEN, "--out", str(tmp_path / "table.md")]
    command = [sys.executable, str(ROOT / "jobs" / "faults.py"), *options]
    environment = {**os.environ, "TMPDIR": "/tmp"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line.strip("| ").split(" | ") for line in (tmp_path / "table.md").read_text().splitlines()[2:]]
    assert [(row[0], row[6:]) for row in rows] == [(CHOSEN, ["0", "0", "kept"])]


def test_plan_takes_all_faults_in_turn() -> None:
    order = plan(30, 1, [])
    assert len(order) == 30 and set(order[: len(FAULTS)]) == set(FAULTS) == set(order[len(FAULTS) : 2 * len(FAULTS)])
    assert plan(30, 1, []) == order != plan(30, 2, [])
    with pytest.raises(ConfigError, match="did you mean 'full disk'"):
        plan(1, 0, ["ful disk"])
