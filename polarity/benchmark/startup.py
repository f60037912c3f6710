"""From a cold start to the first step: `polarity train` by its own lines of progress, beside a bare TorchTrainer with an empty loop."""

import sys
import tempfile
from collections.abc import Callable
from typing import Any

from polarity.benchmark.processes import seconds_to
from polarity.benchmark.timing import Spread

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
            entered = seconds_to([sys.executable, "-c", _BARE, str(workers), folder], ["entered"])[0]
            extra = ["--max-steps", "1", "--workers", str(workers), "--set", "train.log_every=1", "--run-dir", f"{folder}/run"]
            command = [sys.executable, "-m", "polarity.cli", "train", *options, *extra]
            marks = seconds_to(command, [mark for _, mark in _MARKS])
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
