"""From a cold start to the first step: `polarity train` by its own lines of progress, beside a bare TorchTrainer with an empty loop."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from polarity.benchmark.timing import Spread
from polarity.errors import PolarityError

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


def startup(options: list[str], workers: int, *, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{"polarity": {part: seconds, "first step"}, "bare TorchTrainer", "ratio"}; `options` are those of `polarity train`."""
    parts: dict[str, list[float]] = {}
    bare: list[float] = []
    ratios: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="polarity-startup-") as folder:
            entered = _seconds_to([sys.executable, "-c", _BARE, str(workers), folder], ["entered"])[0]
            extra = ["--max-steps", "1", "--workers", str(workers), "--set", "train.log_every=1", "--run-dir", f"{folder}/run"]
            command = [sys.executable, "-m", "polarity.cli", "train", *options, *extra]
            marks = _seconds_to(command, [mark for _, mark in _MARKS])
        before = 0.0
        for (name, _), reached in zip(_MARKS, marks, strict=True):
            parts.setdefault(name, []).append(reached - before)
            before = reached
        parts.setdefault("first step", []).append(before)
        bare.append(entered)
        ratios.append(before / entered)
    result = {
        "polarity": {name: Spread.of(values).to_json() for name, values in parts.items()},
        "bare TorchTrainer": Spread.of(bare).to_json(),
        "ratio": Spread.of(ratios).to_json(),
    }
    first = Spread.of(parts["first step"])
    say(f"cold start to the first step: {first} s; bare TorchTrainer {Spread.of(bare)} s; ratio {Spread.of(ratios)}")
    return result


def _seconds_to(command: list[str], marks: list[str]) -> list[float]:
    """Seconds from the start of a process until a line with each mark appears; then waits for its end."""
    started = time.perf_counter()
    reached: list[float] = []
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(reached) < len(marks) and marks[len(reached)] in line:
                reached.append(time.perf_counter() - started)
    if len(reached) < len(marks):
        raise PolarityError(f"no line with {marks[len(reached)]!r} came from {' '.join(command[:5])} ...:\n{''.join(lines[-5:])}")
    return reached
