"""Where this process stands among the workers, and the few things that they exchange."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from polarity.errors import RunError
from polarity.model.inference import precision_here
from polarity.train.control import Control


@dataclass(frozen=True)
class World:
    """Rank, number of workers, and this worker's device. Without a process group: one worker."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Control = field(default_factory=Control, compare=False)
    """Signs of life, and requests to save or to stop."""

    @classmethod
    def current(cls, device: torch.device | None = None, control: Control | None = None) -> "World":
        """This process's place in torch's process group, where there is one."""
        control = control or Control()
        chosen = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not dist.is_initialized():
            return cls(device=chosen, control=control)
        return cls(dist.get_rank(), dist.get_world_size(), chosen, control)

    @property
    def is_first(self) -> bool:
        """Whether this worker writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The tensor summed over the workers."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, part: Any) -> list[Any]:
        """Every worker's part, in rank order, on every worker."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts

    def assert_equal(self, name: str, value: object) -> None:
        """Raise where workers disagree on `value`: a plan that differs would hang or, worse, not."""
        values = self.gather(value)
        if any(v != values[0] for v in values):
            raise RuntimeError(f"workers disagree on {name}: {values}")

    def raise_together(self, problem: str | None) -> None:
        """Raise a RunError on every worker where one has a problem: the others would wait for it for ever."""
        found = [p for p in self.gather(problem) if p is not None]
        if found:
            raise RunError(found[0])


def device_here(gpu: str) -> torch.device:
    """The device of a training without Ray, by `cluster.gpu`; raises `RunError` where it says always and torch sees no GPU."""
    available = torch.cuda.is_available()
    if gpu == "always" and not available:
        raise RunError("cluster.gpu is always, but torch sees no GPU here: set cluster.gpu=auto, or train where there is one")
    return torch.device("cuda" if available and gpu != "never" else "cpu")


def resolve_precision(precision: str, world: World) -> str:
    """`bf16`, `fp16` or `fp32` for the configured `precision`; under `auto` the first worker decides for all."""
    return precision if precision != "auto" else str(world.gather(precision_here(precision, world.device))[0])


def use_threads(cpus: float) -> None:
    """Torch computes on as many threads as CPUs were reserved: more would slow every worker on the node."""
    torch.set_num_threads(max(1, int(cpus)))


def seed_everything(seed: int) -> None:
    """Seed every generator that a library may draw from; the loop seeds torch's again for each micro-batch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
