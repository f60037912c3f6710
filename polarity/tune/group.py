"""A trial on several workers: the trial's process starts a group of Ray Train beside it and passes its reports on.

Tune alone would end such a trial by ending its process; the group's reservation then outlives it (Ray 2.60), and the next trial waits for
CPUs that nobody uses. So the workers ask after each epoch whether there shall be another, and end by themselves where there shall not.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed as dist

from polarity.artifacts import RunFolder
from polarity.train.driver import fit
from polarity.train.job import checkpoint_names
from polarity.tune.trial import Stopped, Talk, TrialSpec, judge_trial


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
