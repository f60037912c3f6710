"""What Ray Train runs on every worker of a group. The driver does not import this: transformers and the model take seconds.

Checkpoints are written by the first worker, not by Ray's `report`: so they are whole or not there on a local disk, they count as soon as
they are written (Ray registers one when its controller next looks, and a worker may be killed before), and what is damaged is passed over.
"""

import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import get_device

from polarity.artifacts import CHECKPOINTS, Fill, RunFolder
from polarity.errors import PolarityError
from polarity.train.cluster import PREEMPTION_WATCHER
from polarity.train.job import Job, Listener
from polarity.train.ray_metrics import LastValues, watched
from polarity.train.stop import hear, heed_sigterm
from polarity.train.watchdog import Pulse, seconds, watched_pulse
from polarity.train.worker import FolderReport, newest_checkpoint, use_threads, work
from polarity.train.world import World


def train_on_worker(given: dict[str, Any]) -> str | LastValues | None:
    """A worker's part of a run; returns a refusal that no restart can mend, or the first worker's last metrics.

    `given` is the driver's `train_loop_config`.
    """
    job: Job = replace(given["job"], parts={name: ray.get(ref) for name, ref in given["parts"].items()})
    listener, cluster = given["listener"], job.config.cluster
    use_threads(cluster.cpus_per_worker)
    # It prints every report. Ray names this logger after its file.
    logging.getLogger(str(Path(ray.__file__).parent / "train/v2/_internal/execution/context.py")).setLevel(logging.WARNING)
    alone = listener is None  # a study reports epochs, and keeps or repeats its trials itself
    watcher = preemption if alone and os.environ.get(PREEMPTION_WATCHER) != "0" else None
    pulse = Pulse(seconds(cluster.checkpoint_minutes) if alone else None, watcher)
    world = World.current(get_device(), pulse)
    hear(given["desk"], pulse, first=world.is_first)
    with (
        tempfile.TemporaryDirectory(prefix="polarity-resume-") as temporary,
        watched_pulse(pulse, seconds(cluster.stall_minutes) if alone else None),
    ):
        try:
            resume = _newest(job, world, Path(temporary))
            report = _Report(RunFolder.open(job.run_dir), listener)
            with heed_sigterm(pulse, cluster.grace_s), watched(job, world, tags=given["tags"], resume=resume) as watch:
                work(job, report, world=world, say=_say, resume=resume, watch=watch)
            return None if watch is None else watch.last_values()
        except PolarityError as error:
            return str(error)


def _newest(job: Job, world: World, target: Path) -> Path | None:
    """The run folder's newest whole checkpoint; the first worker chooses for all. A new run's folder has none."""
    folder, found, problem = RunFolder.open(job.run_dir), None, None
    if world.is_first:
        try:
            found = newest_checkpoint(folder, target, _say)
        except PolarityError as error:
            problem = str(error)
    world.raise_together(problem)
    name = world.gather(None if found is None else found.name)[0]
    if name is None or found is not None:
        return found
    return folder.fetch_folder(f"{CHECKPOINTS}/{name}", target)


def preemption() -> str | None:
    """Which nodes of this group are about to be taken away; every worker must ask, for Ray makes them agree."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"preemption: {len(info.preempted_node_ids)} node(s) with worker(s) {', '.join(map(str, info.preempted_ranks))} will go"


@dataclass(frozen=True)
class _Report:
    """The loop's report: a checkpoint goes into the run folder, metrics to Ray, and then to the listener."""

    folder: RunFolder
    listener: Listener | None

    def __call__(self, metrics: dict[str, float], checkpoint: Fill | None, name: str) -> None:
        if checkpoint is not None:
            FolderReport(self.folder)(metrics, checkpoint, name)
            return
        ray.train.report(metrics)
        if self.listener is not None:
            self.listener(metrics)


def _say(line: str) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        print(line, flush=True)
