"""What Ray Train runs on every worker of a group. The driver does not import this: transformers and the model take seconds.

Checkpoints are written by the first worker, not by Ray's `report`: so they are whole or not there on a local disk, they count as soon as
they are written (Ray registers one when its controller next looks, and a worker may be killed before), and what is damaged is passed over.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import get_device

from polarity.errors import PolarityError
from polarity.quiet import MARK
from polarity.train.cluster import PREEMPTION_WATCHER
from polarity.train.control import Control, seconds, watchdog
from polarity.train.job import Job
from polarity.train.ray_metrics import run_tags
from polarity.train.stop import listen_for_stop, stop_on_sigterm
from polarity.train.worker import launch
from polarity.train.world import World


def train_on_worker(given: dict[str, Any]) -> object:
    """A worker's part of a run; returns a refusal that no restart can mend, as text, or the first worker's last metrics.

    `given` is the driver's `train_loop_config`.
    """
    job: Job = replace(given["job"], parts={name: ray.get(ref) for name, ref in given["parts"].items()})
    listener, cluster = given["listener"], job.config.cluster
    # It prints every report. Ray names this logger after its file.
    logging.getLogger(str(Path(ray.__file__).parent / "train/v2/_internal/execution/context.py")).setLevel(logging.WARNING)
    alone = listener is None  # a study reports epochs, and keeps or repeats its trials itself
    say = _say if alone else _nothing
    watcher = preemption if alone and os.environ.get(PREEMPTION_WATCHER) != "0" else None
    control = Control(seconds(cluster.checkpoint_minutes) if alone else None, watcher)
    world = World.current(get_device(), control)
    listen_for_stop(given["desk"], control, first=world.is_first)

    def epoch_ended(metrics: Mapping[str, float]) -> None:
        ray.train.report(dict(metrics))
        if listener is not None:
            listener(metrics)

    with watchdog(control, seconds(cluster.stall_minutes) if alone else None):
        try:
            with stop_on_sigterm(control, cluster.grace_s):
                return launch(job, world, say=say, resume=True, epoch_ended=epoch_ended, gauges=given["tags"] or run_tags(job))
        except PolarityError as error:
            return str(error)


def preemption() -> str | None:
    """Which nodes of this group are about to be taken away; every worker must ask, for Ray makes them agree."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"preemption: {len(info.preempted_node_ids)} node(s) with worker(s) {', '.join(map(str, info.preempted_ranks))} will go"


def _say(line: str) -> None:
    print("\n".join(f"{MARK}{part}" for part in line.splitlines()), flush=True)


def _nothing(line: str) -> None:
    """A study's trials are told of by the study, which draws its own table."""
