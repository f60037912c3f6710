"""A trial inside a process that Ray Tune keeps from trial to trial.

The training runs in a thread and hands each epoch's metrics over in its report; it goes on when Tune asks for the next epoch, and
unwinds, with model, optimizer and features, when the trial is stopped: then nothing of it computes or holds memory, and the process takes
the next trial without importing torch and transformers again.

A trial on several workers starts a group of Ray Train beside its process and passes its reports on. Tune alone would end such a trial by
ending its process; the group's reservation then outlives it (Ray 2.60), and the next trial waits for CPUs that nobody uses. So the workers
ask after each epoch whether there shall be another, and end by themselves where there shall not.
"""

import ctypes
import gc
import queue
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import torch
import torch.distributed as dist
from ray.tune import Trainable
from ray.util.queue import Queue

from polarity.artifacts import CHECKPOINTS, METRICS, RunFolder
from polarity.config import Config
from polarity.data.ledger import TaskStatistics
from polarity.encoders import EncoderFiles
from polarity.errors import RunError, nothing
from polarity.evaluate import build_metrics
from polarity.run import Run
from polarity.train.control import Control, Job, checkpoint_names
from polarity.train.driver import fit
from polarity.train.worker import launch
from polarity.train.world import World

KEEP_AFTER_S = 600.0
"""A trial that has trained so long since its last kept checkpoint keeps one: what a killed study has to repeat is bounded by it."""


TokenRefs = Mapping[str, "ray.ObjectRef[pa.Table]"]
"""{part: reference to its tokens}."""


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

    def job(self, tables: TokenRefs) -> Job:
        """What a worker needs."""
        parts = {name: ray.get(ref) for name, ref in tables.items()}
        return Job(self.config, parts, self.statistics, self.run_dir, self.encoder, pad_id=self.pad_id, keep_model=False)


class Stopped(RunError):
    """Raised inside the loop's report to end a trial that Tune has stopped."""


class Talk:
    """Between Tune's thread and the training: one goes on while the other waits.

    Of its two queues one has Tune's word whether there shall be another epoch, the other the epochs' metrics, and None at the end.
    """

    def __init__(self, new_queue: Callable[[], Any]) -> None:
        """`new_queue` makes one of this process, or one of Ray's that other processes reach."""
        self._words, self._metrics = new_queue(), new_queue()

    def allow(self, more: bool) -> None:
        """Tune: one more epoch, or none: then the training unwinds at its report."""
        self._words.put(more)

    def wait(self) -> dict[str, float] | None:
        """Tune: the next report; None when the training has ended."""
        metrics: dict[str, float] | None = self._metrics.get()
        return metrics

    def report(self, metrics: Mapping[str, float] | None) -> None:
        """The training: an epoch's metrics, or None where it has returned or raised."""
        self._metrics.put(None if metrics is None else dict(metrics))

    def goes_on(self) -> bool:
        """The training: wait for the word."""
        return bool(self._words.get())


Begin = Callable[[TrialSpec, TokenRefs], tuple[Talk, Callable[[], None]]]
"""From a spec and its tables' references to the talk and the training, which another thread will call."""


class StudyTrial(Trainable):
    """One step is one epoch; the last step comes when the run folder is written, and is `done`."""

    def setup(
        self,
        config: dict[str, Any],
        begin: Begin | None = None,
        specs: Mapping[str, TrialSpec] | None = None,
        tables: Mapping[str, TokenRefs] | None = None,
    ) -> None:
        """`specs`: {trial id: spec}; `tables`: {token key: the tables}. Ray Tune passes them as keywords."""
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
        self._talk.allow(True)
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
        self._future: Future[None] = self._threads.submit(_when_allowed, talk, train)
        self._future.add_done_callback(lambda _: talk.report(None))

    def _end_trial(self) -> None:
        self._talk.allow(False)
        self._future.exception()  # waits; whatever it was, the trial it belonged to is over
        del self._future
        free_memory()


def _when_allowed(talk: Talk, train: Callable[[], None]) -> None:
    """Nothing begins before Tune asks for an epoch."""
    if talk.goes_on():
        train()


@dataclass(frozen=True)
class AskAfterEpoch:
    """What every worker calls after an epoch: the first one reports and asks, and all do as it hears. Raises Stopped."""

    talk: Talk

    def __call__(self, metrics: Mapping[str, float]) -> None:
        word = [True]
        alone = not dist.is_initialized()
        if alone or dist.get_rank() == 0:
            self.talk.report(metrics)
            word = [self.talk.goes_on()]
        if not alone:
            dist.broadcast_object_list(word, src=0)
        if not word[0]:
            raise Stopped("the trial was stopped")


def begin_alone(spec: TrialSpec, tables: TokenRefs) -> tuple[Talk, Callable[[], None]]:
    """A trial of one worker: the loop itself, in this process."""
    talk, device = Talk(queue.SimpleQueue), torch.device("cuda" if ray.get_gpu_ids() else "cpu")

    def train() -> None:
        folder = RunFolder.open(spec.run_dir)
        local = folder.local is not None  # a trial keeps no checkpoints elsewhere
        control = Control(keeps_epoch=every(KEEP_AFTER_S) if local else lambda: False)
        world = World(device=device, control=control)
        launch(spec.job(tables), world, say=nothing, resume=local, epoch_ended=AskAfterEpoch(talk), keep=1, gauges=spec.tags)
        judge_trial(spec, folder)

    return talk, train


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


def begin_group(spec: TrialSpec, tables: TokenRefs) -> tuple[Talk, Callable[[], None]]:
    """A trial of `cluster.workers` workers; a killed study leaves checkpoints in its folder, from which the same trial goes on."""
    talk = Talk(partial(Queue, actor_options={"num_cpus": 0}))

    def train() -> None:
        folder = RunFolder.open(spec.run_dir)
        fit(spec.job(tables), nothing, resume=bool(checkpoint_names(folder)), listener=AskAfterEpoch(talk), tags=spec.tags)
        judge_trial(spec, folder)

    return talk, train
