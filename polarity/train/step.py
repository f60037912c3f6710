"""One optimizer step of a global batch, cut into micro-batches that are dealt to the workers.

A micro-batch's random numbers come from (seed, step, micro-batch), its share of the loss from the global batch's counts. So the gradient is
the same for any number of workers, up to the order in which floats are added.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polarity.config import Config
from polarity.data.batch import Corpus, Rows, micro_batches, mixup_draw, torch_seed
from polarity.loss.objective import Counts, Mixing, TaskObjective
from polarity.model.frozen import given_states
from polarity.model.multitask import Mix, MultitaskModel
from polarity.train.precision import autocast
from polarity.train.validate import states_of, to_tensors
from polarity.train.world import World


@dataclass(frozen=True)
class GlobalBatch:
    """The plan of one step: its rows, their cut, each micro-batch's mixup, and every task's denominators over all of them."""

    micros: list[Rows]
    mixings: list[Mixing | None]
    counts: dict[str, Counts]


def plan_batch(rows: Rows, corpus: Corpus, objectives: dict[str, TaskObjective], config: Config, step: int) -> GlobalBatch:
    """Everything about a step that all workers must agree on, computed by each before its first forward pass."""
    micros = micro_batches(rows, config.train.micro_batch_size)
    alpha, seed = config.loss.mixup_alpha, config.train.seed
    mixings = [Mixing(*mixup_draw(seed, step, i, len(m), alpha)) if alpha else None for i, m in enumerate(micros)]
    starts = np.cumsum([0, *(len(m) for m in micros)])
    placed = [(np.arange(starts[i], starts[i + 1]), mixing) for i, mixing in enumerate(mixings)]
    counts = {task: objective.counts(corpus.labels[task][rows], placed) for task, objective in objectives.items()}
    return GlobalBatch(micros, mixings, counts)


class Stepper:
    """Computes a global batch's gradient on this worker's part of it."""

    def __init__(
        self, model: nn.Module, corpus: Corpus, objectives: dict[str, TaskObjective], config: Config, world: World, precision: str
    ) -> None:
        self._model, self._corpus, self._objectives = model, corpus, objectives
        self._config, self._world, self._precision = config, world, precision
        self.observed: dict[str, list[Tensor]] = {task: [] for task in objectives}
        """What adaptive gamma has seen on this worker in this epoch."""

    def gradient(self, rows: Rows, step: int, alpha: float, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
        """Accumulate the gradient of the global loss; returns this worker's share of each part of the loss, detached."""
        plan = plan_batch(rows, self._corpus, self._objectives, self._config, step)
        mine = list(range(len(plan.micros)))[self._world.rank :: self._world.size]
        parts: dict[str, Tensor] = {}
        for number, micro in enumerate(mine):
            with self._without_sync() if number < len(mine) - 1 else nullcontext():
                loss = self._forward(plan, micro, step, alpha, parts)
                scaler.scale(loss * self._world.size).backward()  # DDP averages over the workers; the loss is a sum
        if not mine:  # a last, short batch may not reach every worker, but DDP waits for all of them
            scaler.scale(self._forward(plan, 0, step, alpha, {}, observe=False) * 0.0).backward()
        return parts

    def _forward(self, plan: GlobalBatch, micro: int, step: int, alpha: float, parts: dict[str, Tensor], *, observe: bool = True) -> Tensor:
        rows, mixing, device = plan.micros[micro], plan.mixings[micro], self._world.device
        passes, samples = 2 if alpha > 0 else 1, max(1, self._config.model.multi_sample.samples)
        batch = self._corpus.collate(rows)
        inputs = {name: t.repeat(passes, 1) for name, t in to_tensors(batch, device).items()}
        states = states_of(batch, device)
        states = states if states is None else states.repeat(passes, 1, 1)
        mix = None if mixing is None else (mixing.lam, torch.from_numpy(mixing.permutation).to(device))
        torch.manual_seed(torch_seed(self._config.train.seed, step, micro))
        with autocast(self._precision, device), given_states(bare(self._model), states):
            logits = self._model(**inputs, mix=_for_passes(mix, len(rows), passes), samples=samples)
        total = torch.zeros((), device=device)
        for task, objective in self._objectives.items():
            labels_B = torch.from_numpy(self._corpus.labels[task][rows]).to(device)
            logits_SVBK = logits[task].view(samples, passes, len(rows), -1)
            loss = objective(logits_SVBK, labels_B, mix, plan.counts[task], alpha)
            total = total + loss.total
            for name, value in loss.parts.items():
                parts[f"{name}_{task}"] = parts.get(f"{name}_{task}", 0.0) + value
            if objective.adaptive and observe:
                self.observed[task].append(objective.observe(logits_SVBK, labels_B, mix))
        return total

    def _without_sync(self) -> AbstractContextManager[object]:
        return self._model.no_sync() if isinstance(self._model, DistributedDataParallel) else nullcontext()


def _for_passes(mix: tuple[float, Tensor] | None, rows: int, passes: int) -> Mix | None:
    """The micro-batch's mixup, repeated for R-Drop's second pass: the same lambda and permutation in both."""
    if mix is None:
        return None
    return Mix(mix[0], torch.cat([mix[1] + i * rows for i in range(passes)]))


def bare(model: nn.Module) -> MultitaskModel:
    """The model inside DDP's wrapper, or itself."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, MultitaskModel)
    return inner
