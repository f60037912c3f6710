"""A trial inside a process that Ray Tune keeps from trial to trial.

The training runs in a thread and hands each epoch's metrics over in its report; it goes on when Tune asks for the next epoch, and
unwinds, with model, optimizer and features, when the trial is stopped: then nothing of it computes or holds memory, and the process takes
the next trial without importing torch and transformers again.

A trial on several workers starts a group of Ray Train beside its process and passes its reports on. Tune alone would end such a trial by
ending its process; the group's reservation then outlives it (Ray 2.60), and the next trial waits for CPUs that nobody uses. So the workers
ask after each epoch whether there shall be another, and end by themselves where there shall not.
"""

import asyncio
import ctypes
import gc
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import torch
import torch.distributed as dist
from ray.tune import Trainable

from polarity.artifacts import CHECKPOINTS, METRICS, RunFolder
from polarity.config import Config
from polarity.data.ledger import TaskStatistics
from polarity.encoders import EncoderFiles
from polarity.errors import RunError
from polarity.evaluate import build_metrics
from polarity.run import Run
from polarity.train.control import Control
from polarity.train.driver import fit
from polarity.train.job import Job, checkpoint_names
from polarity.train.worker import launch
from polarity.train.world import World

KEEP_AFTER_S = 600.0
"""A trial that has trained so long since its last kept checkpoint keeps one: what a killed study has to repeat is bounded by it."""


@dataclass(frozen=True)
class TrialSpec:
    """All that a trial's process needs: `tokens` names the shared tables, `run_dir` is reachable from every node.

    `total_steps` is the length of the trial's own schedule; progress is measured by it. `by_title`: titles are the unit of intervals.
    """

    config: Config
    statistics: dict[str, TaskStatistics]
    tokens: str
    run_dir: str
    total_steps: int
    by_title: bool
    encoder: EncoderFiles
    pad_id: int
    tags: Mapping[str, str]
    """Of its metrics (`ray_metrics.RUN_TAGS`)."""
    keep_model: bool = False
    keep_after_s: float = KEEP_AFTER_S

    def job(self, tables: Mapping[str, Any]) -> Job:
        """What a worker needs; `tables` are object references by part."""
        parts = {name: ray.get(ref) for name, ref in tables.items()}
        return Job(self.config, parts, self.statistics, self.run_dir, self.encoder, pad_id=self.pad_id, keep_model=self.keep_model)


class Stopped(RunError):
    """Raised inside the loop's report to end a trial that Tune has stopped."""


class Talk(Protocol):
    """Between Tune's thread and the training: one goes on while the other waits."""

    def allow(self) -> None:
        """Tune: one more epoch."""

    def wait(self) -> dict[str, float] | None:
        """Tune: the next report; None when the training has ended."""

    def stop(self) -> None:
        """Tune: the training is to unwind at its report."""

    def finish(self) -> None:
        """The training has returned or raised."""


Begin = Callable[[TrialSpec, Mapping[str, Any]], tuple[Talk, Callable[[], None]]]
"""From a spec and its tables' references to the talk and the training, which another thread will call."""


class StudyTrial(Trainable):
    """One step is one epoch; the last step comes when the run folder is written, and is `done`."""

    def setup(
        self,
        config: dict[str, Any],
        begin: Begin | None = None,
        specs: Mapping[str, TrialSpec] | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> None:
        """`specs`: {trial id: spec}; `tables`: {token key: {part: object reference}}. Ray Tune passes them as keywords."""
        assert begin is not None and specs is not None and tables is not None
        self._begin, self._specs, self._tables = begin, specs, tables
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial")
        self._start_trial(config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in this process."""
        self._end_trial()
        self._start_trial(new_config["trial"])
        return True

    def step(self) -> dict[str, Any]:
        """Let the training run to its next report, or to its end; raises what it raised."""
        self._talk.allow()
        metrics = self._talk.wait()
        if metrics is not None:
            return metrics
        self._future.result()
        return {"done": True}

    def cleanup(self) -> None:
        """End the training before the process ends."""
        self._end_trial()
        self._threads.shutdown(wait=True)

    def _start_trial(self, trial: str) -> None:
        spec = self._specs[trial]
        talk, train = self._begin(spec, self._tables[spec.tokens])
        self._talk = talk
        self._future: Future[None] = self._threads.submit(train)
        self._future.add_done_callback(lambda _: talk.finish())

    def _end_trial(self) -> None:
        self._talk.stop()
        self._future.exception()  # waits; whatever it was, the trial it belonged to is over
        del self._future
        free_memory()


class Handover:
    """The talk between two threads of one process."""

    def __init__(self) -> None:
        self._go, self._stopped = threading.Semaphore(0), False
        self._metrics: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()

    def allow(self) -> None:
        self._go.release()

    def wait(self) -> dict[str, float] | None:
        return self._metrics.get()

    def stop(self) -> None:
        self._stopped = True
        self._go.release()

    def finish(self) -> None:
        self._metrics.put(None)

    def proceed(self) -> None:
        """The training: wait until an epoch is wanted. Raises Stopped where none is."""
        self._go.acquire()
        if self._stopped:
            raise Stopped("the trial was stopped")

    def report(self, metrics: Mapping[str, float]) -> None:
        """The training: an epoch is done; returns when the next one is wanted."""
        self._metrics.put(dict(metrics))
        self.proceed()


def begin_alone(spec: TrialSpec, tables: Mapping[str, Any]) -> tuple[Talk, Callable[[], None]]:
    """A trial of one worker: the loop itself, in this process."""
    handover, device = Handover(), torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    return handover, lambda: _train_alone(spec, tables, device, handover)


def _train_alone(spec: TrialSpec, tables: Mapping[str, Any], device: torch.device, handover: Handover) -> None:
    handover.proceed()
    folder = RunFolder.open(spec.run_dir)
    local = folder.local is not None  # a trial keeps no checkpoints elsewhere
    control = Control(keeps_epoch=every(spec.keep_after_s) if local else lambda: False)
    world = World(device=device, control=control)
    launch(spec.job(tables), world, say=lambda _: None, resume=local, epoch_ended=handover.report, keep=1, gauges=spec.tags)
    judge_trial(spec, folder)


def every(seconds: float) -> Callable[[], bool]:
    """Whether so long has passed since now, and since it last had."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def judge_trial(spec: TrialSpec, folder: RunFolder) -> None:
    """Write the trial's metrics.json, without floors, which are the study's and not the trial's, and drop its checkpoints.

    A trial keeps no model, so nothing scores other rows with it: hashes of its rows (seen.parquet) would have no reader.
    """
    run = Run(folder)
    metrics = build_metrics(
        run.predictions,
        {},
        spec.config.labels,
        resamples=spec.config.train.resamples,
        by_title=spec.by_title,
        stability=run.stability,
    )
    folder.write_json(METRICS, metrics)
    if folder.exists(CHECKPOINTS):
        folder.delete_folder(CHECKPOINTS)


def free_memory() -> None:
    """Give back what a trial held: Python's cycles, torch's cache, and glibc's free pages, which it would keep for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent in other C libraries
        if trim is not None:
            trim(0)


@ray.remote(num_cpus=0)
class Desk:
    """Where the first worker leaves an epoch's metrics and waits for the word to go on."""

    def __init__(self) -> None:
        self._metrics: asyncio.Queue[dict[str, float] | None] = asyncio.Queue()
        self._orders: asyncio.Queue[bool] = asyncio.Queue()

    async def leave(self, metrics: dict[str, float] | None) -> None:
        """The training: an epoch's metrics, or None at the end."""
        await self._metrics.put(metrics)

    async def take(self) -> dict[str, float] | None:
        """Tune: what was left, in order."""
        return await self._metrics.get()

    async def order(self, go_on: bool) -> None:
        """Tune: whether the training is to go on."""
        await self._orders.put(go_on)

    async def ask(self) -> bool:
        """The training: wait for the word."""
        return await self._orders.get()


@dataclass(frozen=True)
class DeskTalk:
    """The talk across processes; see `Talk`."""

    desk: Any

    def allow(self) -> None:
        ray.get(self.desk.order.remote(True))

    def wait(self) -> dict[str, float] | None:
        metrics: dict[str, float] | None = ray.get(self.desk.take.remote())
        return metrics

    def stop(self) -> None:
        ray.get(self.desk.order.remote(False))

    def finish(self) -> None:
        ray.get(self.desk.leave.remote(None))


@dataclass(frozen=True)
class AskAfterEpoch:
    """What every worker calls after its report: the first one asks, and all do as it hears."""

    desk: Any

    def __call__(self, metrics: Mapping[str, float]) -> None:
        word = [True]
        if dist.get_rank() == 0:
            ray.get(self.desk.leave.remote(dict(metrics)))
            word = [ray.get(self.desk.ask.remote())]
        dist.broadcast_object_list(word, src=0)
        if not word[0]:
            raise Stopped("the trial was stopped")


def begin_group(spec: TrialSpec, tables: Mapping[str, Any]) -> tuple[Talk, Callable[[], None]]:
    """A trial of `cluster.workers` workers; a killed study leaves checkpoints in its folder, from which the same trial goes on."""
    desk = Desk.remote()  # type: ignore[attr-defined]
    return DeskTalk(desk), lambda: _train_group(spec, tables, desk)


def _train_group(spec: TrialSpec, tables: Mapping[str, Any], desk: Any) -> None:
    if not ray.get(desk.ask.remote()):
        raise Stopped("the trial was stopped")
    folder = RunFolder.open(spec.run_dir)
    resume = bool(checkpoint_names(folder))
    fit(spec.job(tables), lambda _: None, resume=resume, listener=AskAfterEpoch(desk), tags=spec.tags)
    judge_trial(spec, folder)
