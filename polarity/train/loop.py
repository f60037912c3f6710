"""The training loop, plain torch: load, while steps remain, step, validate, save. It knows nothing of Ray.

It runs in one process without a process group, or as one of several under DDP, with the same numbers. `Stepper.take` is the optimizer step
from a global batch's rows to the changed weights; `Training` is what surrounds it. A micro-batch's random numbers come from (seed, step,
micro-batch), its share of the loss from the global batch's counts: so the gradient is the same for any number of workers, up to the order
in which floats are added.

Shapes: G rows of the global batch, B of a micro-batch, L tokens, S dropout samples, V = 1 or 2 passes (R-Drop), K classes.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polarity.arrays import Rows
from polarity.artifacts import Fill
from polarity.config import Config
from polarity.data.batch import Corpus, global_batches, micro_batches, mixup_draw, padded_share, steps_per_epoch, torch_seed
from polarity.data.ledger import TaskStatistics
from polarity.errors import RunError
from polarity.loss import Counts, Mixing, TaskObjective, r_drop_alpha
from polarity.model.frozen import given_states
from polarity.model.inference import autocast, states_of, to_tensors
from polarity.model.multitask import Mix, MultitaskModel
from polarity.optim import centralizable, centralize_gradients, learning_rate, parameter_groups
from polarity.train.checkpoints import (
    Background,
    Checkpoint,
    EpochAverage,
    EpochTotals,
    Observed,
    TrainState,
    Weights,
    fingerprint,
    host_copy,
    load_checkpoint,
    save_checkpoint,
)
from polarity.train.control import Events, HistoryRow, Requests, number_of
from polarity.train.progress import Progress, Utilisation
from polarity.train.reduce import reduced
from polarity.train.validate import PartScores, class_f1_scores, macro_f1_scores, predict
from polarity.train.world import World, resolve_precision, seed_everything


@dataclass(frozen=True)
class Tables:
    """The tokenized parts, and what the loss must know of each task's training rows."""

    train: Corpus
    validation: Corpus
    test: Corpus | None
    statistics: dict[str, TaskStatistics]


@dataclass(frozen=True)
class Result:
    """A finished training: the best epoch's model, its predictions by part, and the record."""

    model: MultitaskModel
    predictions: dict[str, PartScores]
    state: TrainState
    seconds: float


def run_training(
    config: Config, tables: Tables, model: MultitaskModel, events: Events | None = None, *, world: World, resume: Path | None = None
) -> Result:
    """Train `model`, keep the best epoch by overall macro-F1 on validation, and score validation and test with it.

    `events` are told how it goes and get the checkpoints; `world.control` says when to save and when to stop; `resume` is a checkpoint
    folder. Checkpoints are written while the training goes on, from a copy in the first worker's memory (up to three times the trained
    weights), and are done when this returns or raises. Raises `RunError` on all workers where one failed, when the next is due or at the
    end; after `train.max_bad_steps` non-finite steps, naming the batch's rows; and when a checkpoint belongs to another configuration or to
    other rows; `ConfigError` where `model.frozen_layers` does not fit.
    """
    started = time.monotonic()
    checkpoint = None if resume is None else load_checkpoint(resume)
    training = Training(config, tables, model, world, events, precision=checkpoint.state.precision if checkpoint else None)
    if checkpoint is not None:
        training.restore(checkpoint)
    with training.background as checkpoints:
        while not training.finished():
            training.run_epoch()
            training.validate()
            training.save()
        training.load_best()
        training.restore_whole_model()
        parts = {"validation": training.validation_rows, "test": training.reduced.test}
        predictions = {name: training.predict(part) for name, part in parts.items() if part is not None}
        checkpoints.wait()
    return Result(model, predictions, training.state, time.monotonic() - started)


class GlobalBatch(NamedTuple):
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
    counts = {task: objective.counts(corpus.labels[task][rows].astype(np.int64), placed) for task, objective in objectives.items()}
    return GlobalBatch(micros, mixings, counts)


@dataclass
class WorkerShare:
    """This worker's part of a step: each part of the loss (detached), and what adaptive gamma saw of each task."""

    parts: dict[str, Tensor]
    observed: dict[str, list[Tensor]]


@dataclass(frozen=True)
class Step:
    """What a step came to, the same on all workers.

    `bad`: loss or gradient were not finite. `overflow`: nor were they, but it was fp16's scale that was too large; it is halved.
    """

    losses: dict[str, float]
    grad_norm: float
    outcome: Literal["taken", "overflow", "bad"]
    requests: Requests

    @property
    def loss(self) -> float:
        """All parts together."""
        return sum(self.losses.values())


class Stepper:
    """Takes optimizer steps. A step that fails leaves no trace: weights, optimizer, running statistics and observations stay as they
    were."""

    def __init__(
        self, model: nn.Module, corpus: Corpus, objectives: dict[str, TaskObjective], config: Config, world: World, precision: str,
        optimizer: torch.optim.Optimizer,
    ) -> None:  # fmt: skip
        self.model, self.corpus, self.objectives, self.optimizer = model, corpus, objectives, optimizer
        self.config, self.world, self.precision = config, world, precision
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")  # fp16's small gradients would vanish
        self.centralizable = centralizable(bare(model)) if config.optim.gradient_centralization else []
        self.statistics = running_statistics(model)
        self.observed: dict[str, list[Tensor]] = {task: [] for task in objectives}
        """What adaptive gamma has seen on this worker in this epoch, of the steps that were taken."""

    def take(self, rows: Rows, step: int, alpha: float, rate: float) -> Step:
        """One optimizer step: gradient, check, clip, update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_multiplier"]
        statistics = [buffer.clone() for buffer in self.statistics]
        share = self.gradient(rows, step, alpha)
        names, zero = self._loss_names(), torch.zeros((), device=self.world.device)
        requests = torch.tensor(self.world.control.requests(first=self.world.is_first), device=self.world.device)
        values = torch.cat([torch.stack([share.parts.get(name, zero).float() for name in names]), requests])
        values = self.world.sum(values)  # the loss, and what workers are asked to do, in one small exchange
        self.scaler.unscale_(self.optimizer)
        clipped = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        norm, *rest = torch.cat([clipped.reshape(1).float(), values]).tolist()  # the step's only wait for a GPU
        losses, loss = dict(zip(names, rest, strict=False)), sum(rest[: len(names)])
        if np.isfinite(loss) and np.isfinite(norm):
            outcome: Literal["taken", "overflow", "bad"] = "taken"
            centralize_gradients(self.centralizable)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            for task, seen in share.observed.items():
                self.observed[task] += seen
        else:
            # Where fp16's scale was too large it is halved and tried again; at a scale of 1 or less, scaling is not what is wrong.
            outcome = "overflow" if self.scaler.is_enabled() and np.isfinite(loss) and self.scaler.get_scale() > 1.0 else "bad"
            self.scaler.update(None if outcome == "overflow" or not self.scaler.is_enabled() else self.scaler.get_scale())
            for buffer, before in zip(self.statistics, statistics, strict=True):
                buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)
        return Step(losses, norm, outcome, Requests(*rest[len(names) :]))

    def _loss_names(self) -> list[str]:
        kinds = ("loss", "consistency") if self.config.loss.r_drop_alpha else ("loss",)
        return [f"{kind}_{task}" for kind in kinds for task in self.objectives]

    def gradient(self, rows: Rows, step: int, alpha: float) -> WorkerShare:
        """Accumulate the gradient of the global loss from this worker's micro-batches."""
        plan = plan_batch(rows, self.corpus, self.objectives, self.config, step)
        mine = list(range(len(plan.micros)))[self.world.rank :: self.world.size]
        share = WorkerShare({}, {task: [] for task in self.objectives})
        for number, micro in enumerate(mine):
            with self._without_sync() if number < len(mine) - 1 else nullcontext():
                loss = self._forward(plan, micro, step, alpha, share)
                self.scaler.scale(loss * self.world.size).backward()  # DDP averages over the workers; the loss is a sum
        if not mine:  # a last, short batch may not reach every worker, but DDP waits for all of them
            self.scaler.scale(self._forward(plan, 0, step, alpha, WorkerShare({}, {task: [] for task in self.objectives})) * 0.0).backward()
        return share

    def _forward(self, plan: GlobalBatch, micro: int, step: int, alpha: float, share: WorkerShare) -> Tensor:
        """A micro-batch's part of the global loss; its parts and observations are added to `share`."""
        rows, mixing, device = plan.micros[micro], plan.mixings[micro], self.world.device
        passes, samples = 2 if alpha > 0 else 1, max(1, self.config.model.multi_sample.samples)
        batch = self.corpus.collate(rows)
        inputs = {name: t.repeat(passes, 1) for name, t in to_tensors(batch, device).items()}
        states = states_of(batch, device)
        states = states if states is None else states.repeat(passes, 1, 1)
        mix = None if mixing is None else (mixing.lam, torch.from_numpy(mixing.permutation).to(device))
        torch.manual_seed(torch_seed(self.config.train.seed, step, micro))
        with autocast(self.precision, device), given_states(bare(self.model), states):
            logits = self.model(**inputs, mix=_for_passes(mix, len(rows), passes), samples=samples)
        total = torch.zeros((), device=device)
        for task, objective in self.objectives.items():
            labels_B = torch.from_numpy(self.corpus.labels[task][rows].astype(np.int64)).to(device)
            logits_SVBK = logits[task].view(samples, passes, len(rows), -1)
            soft = (self.corpus.soft or {}).get(task)
            soft_BK = None if soft is None else torch.from_numpy(soft[rows]).to(device)
            loss = objective(logits_SVBK, labels_B, mix, plan.counts[task], alpha, soft_BK)
            total = total + loss.total
            for kind, value in loss.parts.items():
                share.parts[f"{kind}_{task}"] = share.parts.get(f"{kind}_{task}", 0.0) + value
            if objective.adaptive:
                share.observed[task].append(objective.observe(logits_SVBK, labels_B, mix))
        return total

    def _without_sync(self) -> AbstractContextManager[object]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()


def _for_passes(mix: tuple[float, Tensor] | None, rows: int, passes: int) -> Mix | None:
    """The micro-batch's mixup, repeated for R-Drop's second pass: the same lambda and permutation in both."""
    if mix is None:
        return None
    return Mix(mix[0], torch.cat([mix[1] + i * rows for i in range(passes)]))


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in training mode changes: those of batch norms, in the few encoders that have any."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def bare(model: nn.Module) -> MultitaskModel:
    """The model inside DDP's wrapper, or itself."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, MultitaskModel)
    return inner


class Training:
    """Model, optimizer and state of one run; each method is one word of the sentence in `run_training`."""

    def __init__(
        self, config: Config, tables: Tables, model: MultitaskModel, world: World, events: Events | None = None,
        precision: str | None = None,
    ) -> None:  # fmt: skip
        self.config, self.world, self.events = config, world, events or Events()
        seed_everything(config.train.seed)
        torch.use_deterministic_algorithms(config.train.deterministic)
        self.precision = precision or resolve_precision(config.train.precision, world)
        encoder = model.encoder.config
        parts = (tables.train, tables.validation, tables.test)
        self.reduced = reduced(model, parts, config, world, precision=self.precision, say=self.events.say)
        self.train_rows, self.validation_rows = self.reduced.train, self.reduced.validation
        trained = self.reduced.model.train()
        self.model: nn.Module = trained if world.size == 1 else DistributedDataParallel(trained, gradient_as_bucket_view=True)
        groups = parameter_groups(trained, config.optim)
        self.optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)
        self.objectives = {task: TaskObjective(task, config.loss, tables.statistics[task], world.device) for task in config.data.tasks}
        self.stepper = Stepper(self.model, self.train_rows, self.objectives, config, world, self.precision, self.optimizer)
        self.steps = steps_per_epoch(tables.train, config)
        self.total_steps = sum(self.steps)
        world.assert_equal("the number of steps", self.steps)
        self.state = TrainState(
            precision=self.precision, fingerprint=fingerprint(config, (tables.train, tables.validation), self.reduced.digest)
        )
        self.best: Weights | None = None
        self.average = EpochAverage(config.train.average_epochs)
        told = self.events if world.is_first else Events()
        layers = encoder.num_hidden_layers - config.model.frozen_layers
        self.utilisation = Utilisation(encoder, tables.train, layers, self.precision, world, told.say)
        self.progress = Progress(config, self.steps, told, self.utilisation)
        self.epoch = EpochTotals()
        self.background = Background(world)

    def finished(self) -> bool:
        """All epochs done, the step limit reached, or no gain for longer than the patience."""
        limit, patience = self.config.train.max_steps, self.config.train.early_stopping_patience
        if self.state.batch:  # resumed inside an epoch, which is to be validated
            return False
        if self.state.epoch >= self.config.train.epochs or (limit is not None and self.state.step >= limit):
            return True
        return patience is not None and self.state.epoch > 0 and self.state.epochs_without_gain() >= patience

    def run_epoch(self) -> None:
        """Take the epoch's optimizer steps, or the rest of them, and do meanwhile what is requested."""
        epoch, config = self.state.epoch, self.config
        batches = global_batches(self.train_rows, config, epoch)
        if len(batches) != self.steps[epoch]:
            raise RuntimeError(f"epoch {epoch + 1} has {len(batches)} batches, planned were {self.steps[epoch]}")
        self.epoch = EpochTotals.continued(self.state.running)
        self.state.running = {}
        self.progress.start_epoch(epoch, padded_share(self.train_rows, batches, config.train.micro_batch_size))
        alphas = [r_drop_alpha(config.loss, epoch, number, self.steps) for number in range(len(batches))]
        limit = config.train.max_steps
        for number, rows in enumerate(batches[self.state.batch :], self.state.batch):
            if limit is not None and self.state.step >= limit:
                break
            requests = self.step(rows, alphas[number])
            self.state.batch = number + 1
            self.world.control.heartbeat(self.state.step)
            if any(requests):
                self._serve(requests)
        tokens = [int(self.train_rows.lengths[rows].sum()) for rows in batches[: self.state.batch]]
        self.epoch.tokens = sum(tokens)
        self.epoch.computed_tokens = sum(n * _passes(alpha) for n, alpha in zip(tokens, alphas, strict=False))
        self._adapt_gamma()
        self.state.batch = 0

    def _serve(self, requests: Requests) -> None:
        """Do what was requested of a worker, on all of them; raises `RunError` where the run is to stop."""
        preemption = self.world.control.new_preemption() if requests.ask_preemption else None
        if preemption:
            self.events.say(f"{preemption}: saving a checkpoint at step {self.state.step}")
        if requests.stop or requests.save or preemption:
            self.save_inside()
        if requests.stop or preemption:
            self.background.wait()  # it must be on the storage before the worker, or its node, goes
        if requests.stop:
            reason = next((r for r in self.world.gather(self.world.control.reason) if r), "asked to stop")
            raise RunError(f"{reason}: stopped after step {self.state.step} with a checkpoint of it; continue with --resume")

    def step(self, rows: Rows, alpha: float) -> Requests:
        """One optimizer step and its row of the history; returns what is requested of the workers."""
        rate = learning_rate(self.state.step, self.total_steps, self.config.optim)
        step = self.stepper.take(rows, self.state.step, alpha, rate)
        if step.outcome == "taken":
            self.epoch.losses.append(step.loss)
            self.epoch.classification.append(sum(v for n, v in step.losses.items() if n.startswith("loss_")))
        elif step.outcome == "bad":
            self._note_bad_step(rows, step)
        self.state.step += 1
        record: HistoryRow = {"kind": "step", "epoch": self.state.epoch + 1, "step": self.state.step, "loss": step.loss, "lr": rate}
        self.state.history.append({**record, "grad_norm": step.grad_norm, **step.losses})
        self.progress.step(self.state.history[-1], rows, self.train_rows, _passes(alpha))
        return step.requests

    def _note_bad_step(self, rows: Rows, step: Step) -> None:
        self.state.bad_steps += 1
        ids = ", ".join(self.train_rows.index["row_id"].take(rows[:12]).to_pylist())
        shown = f"step {self.state.step + 1}: loss {step.loss}, gradient norm {step.grad_norm}"
        what = f"{shown}; row ids {ids}{' ...' if len(rows) > 12 else ''}"
        self.events.say(f"skipped {what}")
        if self.state.bad_steps >= self.config.train.max_bad_steps:
            raise RunError(
                f"training stopped after {self.state.bad_steps} non-finite steps (train.max_bad_steps). {what}. The last good checkpoint "
                "is kept. Look at these rows, lower optim.lr, or train with train.precision=fp32"
            )

    def _adapt_gamma(self) -> None:
        """Set the next epoch's exponents from what all workers saw in this one."""
        for task, objective in self.objectives.items():
            if objective.adaptive:
                seen = self.stepper.observed[task]
                mine = torch.cat(seen).double().cpu().numpy() if seen else np.zeros((0, 3))
                every = np.concatenate(self.world.gather(mine))
                self.stepper.observed[task] = []
                objective.gamma.update(every[:, 0].astype(np.int64), every[:, 1], every[:, 2])
                objective.refresh()
                self.state.gammas[task] = deepcopy(objective.gamma)

    def predict(self, part: Corpus) -> PartScores:
        """The model's scores of a part's rows, from all workers."""
        train = self.config.train
        return predict(bare(self.model), part, self.world, batch_size=train.eval_batch_size, precision=self.precision)

    def validate(self) -> None:
        """Score validation, and remember the weights of the best epoch."""
        seconds = time.monotonic() - self.epoch.started
        part, labels = self.validation_rows, self.config.labels
        with self.average.of(bare(self.model)) as judged:
            found = self.predict(part)
        scores = macro_f1_scores(found, part, labels)
        state, losses = self.state, self.epoch.losses
        row = {f"validation_{name}": value for name, value in scores.items()}
        state.epoch += 1
        mean = float(np.mean(losses)) if losses else None
        plain = float(np.mean(self.epoch.classification)) if losses else None
        record: HistoryRow = {"kind": "epoch", "epoch": state.epoch, "step": state.step, "loss": mean, "classification_loss": plain}
        mfu = self.utilisation.of(self.epoch.computed_tokens / seconds, passes=1)
        speed = {"seconds": seconds, "tokens_per_s": self.epoch.tokens / seconds, "mfu": mfu}
        state.history.append({**record, **speed, "bad_steps": state.bad_steps, **row})
        if self.config.train.keep == "last" or scores["overall"] > state.best_score:
            state.best_score, state.best_epoch = scores["overall"], state.epoch - 1
            self.best = judged
        shown = {**state.history[-1], **class_f1_scores(found, part, labels)}  # a score of each class is for watchers, not for the history
        self.progress.end_epoch(shown, scores, time.monotonic() - self.epoch.started - seconds, state.best_epoch + 1)

    def save(self) -> None:
        """Begin a checkpoint of the epoch where one is kept, and tell of the epoch on all workers."""
        if self.world.control.keeps_epoch():
            self._begin_checkpoint()
        self.events.epoch_ended({k: float(v) for k, v in self.state.history[-1].items() if isinstance(v, int | float)})

    def save_inside(self) -> None:
        """Begin a checkpoint of the epoch under way."""
        self.state.running = self.epoch.so_far()
        mine = {task: torch.cat(seen).cpu() if seen else torch.zeros((0, 3)) for task, seen in self.stepper.observed.items()}
        each = self.world.gather(mine)
        self._begin_checkpoint({task: [part[task] for part in each] for task in mine})
        self.state.running = {}

    def _begin_checkpoint(self, observed: Observed | None = None) -> None:
        """Once the one before is done, copy on the first worker what changes with the next step, and write it beside the training."""
        self.background.wait()
        if self.world.is_first:
            state, best = self.state.copy(), self.best
            if self.average.epochs == 1 and best is not None and not state.batch and state.best_epoch == state.epoch - 1:
                weights = best  # as they are now: `validate` has just copied them
            else:
                weights = host_copy(bare(self.model).state_dict())
            optimizer, scaler = host_copy(self.optimizer.state_dict()), self.stepper.scaler.state_dict()
            checkpoint = Checkpoint(state, weights, best, optimizer, scaler, observed or {}, self.average.for_the_next())
            write: Fill = partial(save_checkpoint, checkpoint=checkpoint)
            self.background.start(partial(self.events.save, state.name(), write))
        self.world.control.saved()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where `checkpoint` stood."""
        if checkpoint.state.fingerprint != self.state.fingerprint:
            raise RunError(
                "the checkpoint was made with another configuration, other rows or other encoder weights: "
                "resume with what it was started with"
            )
        self.state, self.best, self.average.recent = checkpoint.state, checkpoint.best, checkpoint.recent
        if self.state.step != sum(self.steps[: self.state.epoch]) + self.state.batch and not self.finished():
            raise RunError(f"the run was cut inside epoch {self.state.epoch} by train.max_steps: the rest of that epoch cannot be made up")
        bare(self.model).load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.stepper.scaler.load_state_dict(checkpoint.scaler)
        for task, gamma in self.state.gammas.items():
            self.objectives[task].gamma = deepcopy(gamma)
            self.objectives[task].refresh()
        for task, parts in checkpoint.observed.items():
            self.stepper.observed[task] = [p.to(self.world.device) for p in parts[self.world.rank :: self.world.size]]
        inside = f", {self.state.batch} batches into the next" if self.state.batch else ""
        self.events.say(f"resumed after epoch {self.state.epoch}{inside} (step {self.state.step})")

    def load_best(self) -> None:
        """Put the best epoch's weights into the model."""
        if self.best is None:
            raise RunError("no epoch was finished: nothing to keep")
        bare(self.model).load_state_dict(self.best)

    def restore_whole_model(self) -> None:
        """Make the model whole again where it was reduced: words that were left out have what weight decay leaves of them."""
        self.reduced.restore(self._decay_of_unused_words)

    def _decay_of_unused_words(self, weight: nn.Parameter) -> float:
        """The product of 1 - rate x decay (AdamW's, Loshchilov & Hutter 2019) over the steps up to the best epoch; where the weights are a
        mean over epochs, the mean of such products."""
        group = next(g for g in self.optimizer.param_groups if any(p is weight for p in g["params"]))
        steps = [
            r for r in self.state.history if r["kind"] == "step" and np.isfinite([number_of(r, "loss"), number_of(r, "grad_norm")]).all()
        ]
        best = self.state.best_epoch + 1
        left = [
            np.prod(
                [1.0 - number_of(r, "lr") * group["lr_multiplier"] * group["weight_decay"] for r in steps if number_of(r, "epoch") <= epoch]
            )
            for epoch in range(max(1, best - self.average.epochs + 1), best + 1)
        ]
        return float(np.mean(left))


def _passes(alpha: float) -> int:
    """R-Drop reads every row twice."""
    return 2 if alpha > 0 else 1
