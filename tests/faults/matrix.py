"""All faults in turn against one undisturbed run, and the table of what came of them."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polarity.artifacts import HISTORY, METRICS, PREDICTIONS, RunFolder
from polarity.errors import ConfigError, RunError, nearest
from tests.faults.course import Course
from tests.faults.injections import FAULTS, ROUNDING, Stage, Struck
from tests.faults.inputs import SETTINGS, make_encoder, options
from tests.faults.local import LocalCluster, own_home

DISK_MB = 256
STEP_ROWS = int(SETTINGS["train.global_batch_size"])
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    `difference`: see `compare`; `lost`: training rows of steps that the run did not take, or took twice, and validation or test rows
    without a prediction.
    """

    fault: str
    total: int
    struck: Struck | None
    seconds: float
    difference: float
    lost: int
    problem: str | None

    @property
    def kept(self) -> bool:
        """Whether the promise was kept: the run came to its end, with every row, and with the same numbers."""
        return self.problem is None and self.lost == 0 and self.difference <= ROUNDING.get(self.fault, 0.0)


@dataclass(frozen=True)
class Size:
    """Of the small training."""

    rows: int = 360
    epochs: int = 3


def plan(injections: int, seed: int, only: list[str]) -> list[str]:
    """The faults in the order of their injection: all of them in turn, each round shuffled. Raises ConfigError: no such fault."""
    for name in only:
        if name not in FAULTS:
            raise ConfigError(f"there is no fault {name!r}; {nearest(name, FAULTS)}")
    draw, found = random.Random(seed), list[str]()
    while len(found) < injections:
        found += draw.sample(only or list(FAULTS), len(only or FAULTS))
    return found[:injections]


def run_matrix(place: Path, faults: list[str], seed: int, say: Say, size: Size) -> list[Row]:
    """Inject the faults one after another below the empty folder `place`, whose path is short: Ray puts sockets there."""
    own_home(place)
    encoder = make_encoder(place / "encoder")
    disk = _small_disk(place / "disk")
    cluster, rows = LocalCluster(), list[Row]()
    begin = _Starter(options(encoder, rows=size.rows, epochs=size.epochs), cluster.address)
    try:
        calm = place / "calm"
        course = begin.start(calm, place / "calm.log")
        if course.end():
            raise RunError(f"the undisturbed run failed: {course.tail()}")
        say(f"undisturbed: {time.monotonic() - course.started:.0f} s, {course.step} steps")
        for number, name in enumerate(faults):
            if name == "full disk" and disk is None:
                say("full disk: left out, no small disk can be mounted here (run as root, or where user namespaces are allowed)")
                continue
            folder = (disk if disk is not None and name == "full disk" else place) / f"f{number:02d}"
            log = place / f"f{number:02d}.log"
            stage = begin.stage(cluster, folder, log, random.Random(seed * 1000 + number), course.step)
            rows.append(_inject(name, stage, calm))
            cluster.add()
            say(line(rows[-1]))
            if folder.parent == disk:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        cluster.close()
    return rows


@dataclass(frozen=True)
class _Starter:
    """Starts drivers of the small training."""

    options: list[str]
    address: str

    def start(self, run: Path, log: Path, workers: str = "2", more: tuple[str, ...] = ()) -> Course:
        return Course([*self.options, "--workers", workers, "--run-dir", str(run), *more], self.address, log)

    def stage(self, cluster: LocalCluster, run: Path, log: Path, draw: random.Random, steps: int) -> Stage:
        run.parent.mkdir(exist_ok=True)
        return Stage(
            cluster=cluster,
            begin=lambda workers="2", more=(): self.start(run, log, workers, more),
            resume=lambda: Course(["--resume", "--run-dir", str(run)], self.address, log),
            run=run,
            draw=draw,
            steps=steps,
        )


def _inject(name: str, stage: Stage, calm: Path) -> Row:
    started, struck, problem, difference, lost = time.monotonic(), None, None, float("nan"), -1
    try:
        struck = FAULTS[name](stage)
        difference, lost = compare(calm, stage.run)
    except RunError as error:
        problem = str(error)
    return Row(name, stage.steps, struck, time.monotonic() - started, difference, lost, problem)


def compare(calm: Path, disturbed: Path) -> tuple[float, int]:
    """(largest difference of any probability, macro-F1, step's loss and gradient norm; rows lost) of two finished runs."""
    one, other = RunFolder.open(str(calm)), RunFolder.open(str(disturbed))
    tables = [folder.read_parquet(PREDICTIONS).sort_by([("split", "ascending"), ("row_id", "ascending")]) for folder in (one, other)]
    missing = abs(tables[0].num_rows - tables[1].num_rows)
    histories = [folder.read_parquet(HISTORY).to_pylist() for folder in (one, other)]
    steps = [{row["step"]: (row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "step"} for rows in histories]
    lost = missing + STEP_ROWS * len(set(steps[0]) ^ set(steps[1]))
    if lost or tables[0]["row_id"] != tables[1]["row_id"]:
        return float("inf"), lost
    floats = [name for name in tables[0].column_names if str(tables[0][name].type) in ("float", "double")]
    differences = [np.abs(tables[0][name].to_numpy() - tables[1][name].to_numpy()).max() for name in floats]
    scores = [folder.read_json(METRICS) for folder in (one, other)]
    differences += [abs(scores[0][part]["overall"]["macro_f1"] - scores[1][part]["overall"]["macro_f1"]) for part in ("validation", "test")]
    differences += [abs(a - b) for step, values in steps[0].items() for a, b in zip(values, steps[1][step], strict=True)]
    return float(max(differences)), lost


HEADER = "| fault | step | outcome | restarts | back after | whole run | largest difference | rows lost | promise |\n" + "|---" * 9 + "|"


def line(row: Row) -> str:
    """A row of the table."""
    struck, promise = row.struck, "kept" if row.kept else f"BROKEN{f': {row.problem}' if row.problem else ''}".replace("|", "/")
    if struck is None:
        return f"| {row.fault} | | | | | {row.seconds:.0f} s | | | {promise} |"
    back = "" if struck.recovery_s is None else f"{struck.recovery_s:.1f} s"
    difference = "0" if row.difference == 0 else f"{row.difference:.1e}"
    return (
        f"| {row.fault} | {struck.step} of {row.total} | {struck.outcome} | {struck.restarts} | {back} | {row.seconds:.0f} s "
        f"| {difference} | {row.lost} | {promise} |"
    )


def _small_disk(folder: Path) -> Path | None:
    """A disk of `DISK_MB` at the folder; None where this process may not mount one."""
    folder.mkdir()
    if os.environ.get(OWN_MOUNTS) is None:
        return None
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], capture_output=True, check=False)
    return folder if done.returncode == 0 else None


OWN_MOUNTS = "POLARITY_FAULTS_OWN_MOUNTS"
"""Set in a process that has name spaces of its own, where a small disk hurts nobody."""
