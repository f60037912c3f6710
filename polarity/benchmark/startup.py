"""Time that is not training: from the start of a command to the lines that matter, and between the trials of a study."""

import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from polarity.artifacts import STUDY
from polarity.benchmark.timing import StartupFigures, TrialFigures, shown, spread
from polarity.errors import PolarityError, Say


def seconds_to(command: list[str], marks: list[str]) -> list[float]:
    """Seconds from the start of a process until a line with each mark appears, in order; waits for its end.

    Raises PolarityError with the last lines where a mark never comes.
    """
    waiting = iter(marks)
    mark = next(waiting, None)
    reached: list[float] = []

    def see(seconds: float, line: str) -> None:
        nonlocal mark
        if mark is not None and mark in line:
            reached.append(seconds)
            mark = next(waiting, None)

    last = watch_lines(command, see)
    if mark is not None:
        raise PolarityError(f"no line with {mark!r} came from {' '.join(command[:5])} ...:\n{''.join(last)}")
    return reached


def watch_lines(command: list[str], see: Callable[[float, str], None]) -> list[str]:
    """Run a process to its end; `see` gets each line of its output with the seconds since the start. Returns its last lines."""
    started = time.perf_counter()
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-9:], line]
            see(time.perf_counter() - started, line)
    return lines


# What a line of output says has just ended, in order.
_MARKS = (
    ("import and Ray", "Ray on this machine"),
    ("data, tokenizing and ledger", "starting "),
    ("workers and model, to the first step", "epoch 1/"),
)

_BARE = """
import os, sys
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
import ray, ray.train, torch, transformers
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
ray.init(address="local", logging_level="WARNING")
def loop():
    import torch, transformers
    print("entered", flush=True)
TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=int(sys.argv[1])),
             run_config=RunConfig(storage_path=sys.argv[2], name="bare", logging_config=LoggingConfig(log_level="WARNING"))).fit()
"""


def startup(options: list[str], workers: int, *, repeats: int, say: Say) -> StartupFigures:
    """{"polarity": {part: seconds, "first step"}, "bare TorchTrainer", "ratio"}; `options` are those of `polarity train`."""
    parts: dict[str, list[float]] = {}
    bare: list[float] = []
    ratios: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="polarity-startup-") as folder:
            entered = seconds_to([sys.executable, "-c", _BARE, str(workers), folder], ["entered"])[0]
            extra = ["--max-steps", "1", "--workers", str(workers), "--set", "train.log_every=1", "--run-dir", f"{folder}/run"]
            command = [sys.executable, "-m", "polarity", "train", *options, *extra]
            marks = seconds_to(command, [mark for _, mark in _MARKS])
        before = 0.0
        for (name, _), reached in zip(_MARKS, marks, strict=True):
            parts.setdefault(name, []).append(reached - before)
            before = reached
        parts.setdefault("first step", []).append(before)
        bare.append(entered)
        ratios.append(before / entered)
    result: StartupFigures = {
        "polarity": {name: spread(values) for name, values in parts.items()},
        "bare TorchTrainer": spread(bare),
        "ratio": spread(ratios),
    }
    first, empty, times = shown(spread(parts["first step"])), shown(result["bare TorchTrainer"]), shown(result["ratio"])
    say(f"cold start to the first step: {first} s; bare TorchTrainer {empty} s; ratio {times}")
    return result


_ENDED = re.compile(r"(\S+): finished after")
EPOCHS = 2


def trials(options: list[str], *, repeats: int, say: Say) -> TrialFigures:
    """{"first", "next": seconds a trial that are not training}; `options` are those of `polarity ablate`.

    A study of two arms alike, `repeats` + 1 trials or one more, one at a time in one process, which the first trial starts. Validation,
    scoring and writing the results are not training.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-trials-") as folder:
        arms = Path(folder) / "arms.yaml"
        arms.write_text("- {name: baseline}\n- {name: again, set: {train.log_every: 20}}\n")
        study = Path(folder) / "study"
        plan = ["--design", "custom", "--arms", str(arms), "--seeds", str(-(-(repeats + 1) // 2)), "--no-asha", "--max-concurrent", "1"]
        command = [sys.executable, "-m", "polarity", "ablate", *options, *plan, "--epochs", str(EPOCHS), "--study-dir", str(study)]
        ends: list[tuple[str, float]] = []

        def see(seconds: float, line: str) -> None:
            if found := _ENDED.search(line):
                ends.append((found[1], seconds))

        last = watch_lines(command, see)
        if len(ends) < 2:
            raise PolarityError(f"the study of trials did not end:\n{''.join(last)}")
        record = json.loads((study / STUDY).read_text())
    by_id = {trial["id"]: trial for trial in record["trials"]}
    after = [(by_id[name], seconds - before) for (_, before), (name, seconds) in itertools.pairwise(ends)]
    spent = [seconds - trial["train_seconds"] for trial, seconds in after][:repeats]
    first = by_id[ends[0][0]]
    alone = first["seconds"] - first["train_seconds"]
    result: TrialFigures = {
        "first": spread([alone]),
        "next": spread(spent),
        "training": spread([trial["train_seconds"] for trial, _ in after]),
        "epochs": EPOCHS,
    }
    say(f"between trials: {shown(result['next'])} s that are not training; the first one {alone:.1f} s")
    return result
