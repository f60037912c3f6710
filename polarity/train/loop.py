"""The training loop, plain torch: load, while steps remain, step, validate, save. It knows nothing of Ray.

It runs in one process without a process group, or as one of several under DDP, with the same numbers.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polarity.artifacts import Fill
from polarity.config import Config
from polarity.data.batch import Corpus, Rows, global_batches, padded_share, steps_per_epoch
from polarity.data.ledger import TaskStatistics
from polarity.errors import RunError
from polarity.loss.adaptive import AdaptiveGamma
from polarity.loss.objective import TaskObjective, r_drop_alpha
from polarity.model.dropout import use_cheap_dropout
from polarity.model.frozen import split_model
from polarity.model.multitask import MultitaskModel
from polarity.model.vocabulary import WholeTable, use_rows
from polarity.optim.centralization import centralizable, centralize_gradients
from polarity.optim.groups import parameter_groups
from polarity.optim.schedule import learning_rate
from polarity.train.averaging import EpochAverage
from polarity.train.background import Background
from polarity.train.checkpoints import Checkpoint, Observed, TrainState, Weights, host_copy, load_checkpoint, save_checkpoint
from polarity.train.features import weights_digest, with_features
from polarity.train.precision import grad_scaler, resolve_precision
from polarity.train.progress import Progress, Watch
from polarity.train.step import Stepper, bare
from polarity.train.validate import Predictions, class_f1_scores, macro_f1_scores, predict
from polarity.train.world import World, seed_everything

Say = Callable[[str], None]


class Report(Protocol):
    """What the loop calls with metrics, on every worker, after each epoch; and with what writes a checkpoint, without metrics, on the first
    worker, in a thread beside the training: one checkpoint at a time."""

    def __call__(self, metrics: dict[str, float], checkpoint: Fill | None, name: str) -> None: ...


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
    predictions: dict[str, Predictions]
    state: TrainState
    seconds: float


def run_training(
    config: Config, tables: Tables, model: MultitaskModel, report: Report, *, world: World, say: Say, resume: Path | None = None,
    watch: Watch | None = None, wants_checkpoint: Callable[[], bool] | None = None,
) -> Result:  # fmt: skip
    """Train `model`, keep the best epoch by overall macro-F1 on validation, and score validation and test with it.

    `resume` is a checkpoint folder, `watch` is shown how it goes, and `wants_checkpoint`, where given, is asked after each epoch
    whether to write one. Checkpoints are written while the training goes on, from a copy in the first worker's memory (up to three times
    the trained weights), and are done when this returns or raises. Raises `RunError` on all workers where one failed, when the next is due
    or at the end; after `train.max_bad_steps` non-finite steps, naming the batch's rows; and when a checkpoint belongs to another
    configuration or to other rows; `ConfigError` where `model.frozen_layers` does not fit.
    """
    started = time.monotonic()
    checkpoint = None if resume is None else load_checkpoint(resume)
    training = Training(config, tables, model, world, say, precision=checkpoint.state.precision if checkpoint else None, watch=watch)
    if checkpoint is not None:
        training.restore(checkpoint)
        inside = f", {training.state.batch} batches into the next" if training.state.batch else ""
        say(f"resumed after epoch {training.state.epoch}{inside} (step {training.state.step})")
    with training.background as checkpoints:
        while not training.finished():
            training.run_epoch(report)
            training.validate()
            training.save(report, wanted=wants_checkpoint is None or wants_checkpoint())
        training.load_best()
        training.restore_table()
        parts = {"validation": tables.validation, "test": tables.test}
        training.model = model  # whole again where layers were frozen: what is saved is what is judged
        predictions = {name: training.predict(part) for name, part in parts.items() if part is not None}
        checkpoints.meet()
    return Result(model, predictions, training.state, time.monotonic() - started)


@dataclass
class _Epoch:
    """Running totals of an epoch."""

    losses: list[float] = field(default_factory=list)
    classification: list[float] = field(default_factory=list)
    """The losses without R-Drop's term, whose weight changes from step to step."""
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def continued(cls, running: dict[str, list[float]]) -> "_Epoch":
        """From what a checkpoint inside the epoch holds, or from nothing."""
        if not running:
            return cls()
        return cls(list(running["losses"]), list(running["classification"]), time.monotonic() - running["seconds"][0])

    def so_far(self) -> dict[str, list[float]]:
        """What `continued` takes."""
        return {"losses": self.losses, "classification": self.classification, "seconds": [time.monotonic() - self.started]}


class Training:
    """Model, optimizer and state of one run; each method is one word of the sentence in `run_training`."""

    def __init__(
        self, config: Config, tables: Tables, model: MultitaskModel, world: World, say: Say, precision: str | None,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.config, self.world, self.say = config, world, say
        seed_everything(config.train.seed)
        torch.use_deterministic_algorithms(config.train.deterministic)
        self.precision = precision or resolve_precision(config.train.precision, world)
        layers = model.encoder.config.num_hidden_layers
        if config.train.dropout_masks == "cheap" and world.device.type == "cpu":
            use_cheap_dropout(model.encoder)
        nn.Module.to(model, world.device)
        self.word_table: WholeTable | None = None
        model, self.tables, left_out = self._reduce(model, tables)
        model.train()
        self.model: nn.Module = model if world.size == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)
        groups = parameter_groups(model, layers, config.optim)
        self.optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)
        self.scaler = grad_scaler(self.precision, world.device)
        self.centralizable = centralizable(model) if config.optim.gradient_centralization else []
        self.objectives = {task: TaskObjective(task, config.loss, tables.statistics[task], world.device) for task in config.data.tasks}
        self.stepper = Stepper(self.model, self.tables.train, self.objectives, config, world, self.precision)
        self.steps = steps_per_epoch(tables.train, config)
        self.total_steps = sum(self.steps)
        world.assert_equal("the number of steps", self.steps)
        self.state = TrainState(precision=self.precision, fingerprint=fingerprint(config, tables, left_out))
        self.best: Weights | None = None
        self.average = EpochAverage(config.train.average_epochs)
        self.progress = Progress(config, self.steps, *((say, watch) if world.is_first else (None, None)))
        self.epoch = _Epoch()
        self.wishes: tuple[float, ...] = ()
        self.background = Background(world)

    def _reduce(self, model: MultitaskModel, tables: Tables) -> tuple[MultitaskModel, Tables, str]:
        """The part of the model that is trained, the rows as it takes them, and a hash of what is left out of it and its checkpoints.

        The test rows are for the whole model. Without frozen layers only the word table is reduced, in the model itself.
        """
        if not self.config.model.frozen_layers:
            self.word_table = use_rows(model.encoder, np.concatenate([tables.train.tokens, tables.validation.tokens]))
            return model, tables, weights_digest(self.word_table.table) if self.word_table else ""
        lower, upper = split_model(model, self.config.model.frozen_layers)
        corpora, size = [tables.train, tables.validation], self.config.train.eval_batch_size
        digest = weights_digest(lower)
        train, validation = with_features(lower, digest, corpora, self.world, batch_size=size, precision=self.precision, say=self.say)
        return upper, replace(tables, train=train, validation=validation), digest

    def finished(self) -> bool:
        """All epochs done, the step limit reached, or no gain for longer than the patience."""
        limit, patience = self.config.train.max_steps, self.config.train.early_stopping_patience
        if self.state.batch:  # resumed inside an epoch, which is to be validated
            return False
        if self.state.epoch >= self.config.train.epochs or (limit is not None and self.state.step >= limit):
            return True
        return patience is not None and self.state.epoch > 0 and self.state.epochs_without_gain() >= patience

    def run_epoch(self, report: Report = lambda metrics, checkpoint, name: None) -> None:
        """Take the epoch's optimizer steps, or the rest of them; `report` gets the checkpoints that are wished for meanwhile."""
        epoch, config = self.state.epoch, self.config
        batches = global_batches(self.tables.train, config, epoch)
        if len(batches) != self.steps[epoch]:
            raise RuntimeError(f"epoch {epoch + 1} has {len(batches)} batches, planned were {self.steps[epoch]}")
        self.epoch = _Epoch.continued(self.state.running)
        self.state.running = {}
        self.progress.start_epoch(epoch, padded_share(self.tables.train, batches, config.train.micro_batch_size))
        limit = config.train.max_steps
        for number, rows in enumerate(batches[self.state.batch :], self.state.batch):
            if limit is not None and self.state.step >= limit:
                break
            alpha = r_drop_alpha(config.loss, epoch, number, self.steps)
            self.step(rows, alpha)
            self.state.batch = number + 1
            self.world.pulse.beat(self.state.step)
            if any(self.wishes):
                self._heed(report)
        self._adapt_gamma()
        self.state.batch = 0

    def _heed(self, report: Report) -> None:
        """Do what a worker wished after this step, on all of them; raises `RunError` where the run is to stop."""
        stop, save, look = self.wishes
        news = self.world.pulse.look() if look else None
        if news:
            self.say(f"{news}: saving a checkpoint at step {self.state.step}")
        if stop or save or news:
            self.save_inside(report)
        if stop or news:
            self.background.meet()  # it must be on the storage before the worker, or its node, goes
        if stop:
            reason = next((r for r in self.world.gather(self.world.pulse.reason) if r), "asked to stop")
            raise RunError(f"{reason}: stopped after step {self.state.step} with a checkpoint of it; continue with --resume")

    def save_inside(self, report: Report) -> None:
        """Begin a checkpoint of the epoch under way."""
        self.state.running = self.epoch.so_far()
        mine = {task: torch.cat(seen).cpu() if seen else torch.zeros((0, 3)) for task, seen in self.stepper.observed.items()}
        each = self.world.gather(mine)
        self._begin_checkpoint(report, {task: [part[task] for part in each] for task in mine})
        self.state.running = {}

    def step(self, rows: Rows, alpha: float) -> None:
        """One optimizer step: gradient, check, clip, update."""
        rate = learning_rate(self.state.step, self.total_steps, self.config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_multiplier"]
        parts = self.stepper.gradient(rows, self.state.step, alpha, self.scaler)
        values = self._global_values(parts)
        self.scaler.unscale_(self.optimizer)
        clipped = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        norm, *rest = torch.cat([clipped.reshape(1).float(), values]).tolist()  # the step's only wait for a GPU
        losses = self._named_losses(rest)
        loss = sum(losses.values())
        finite = np.isfinite(loss) and np.isfinite(norm)
        # Where fp16's scale was too large it is halved and tried again; at a scale of 1 or less, scaling is not what is wrong.
        overflow = not finite and self.scaler.is_enabled() and np.isfinite(loss) and self.scaler.get_scale() > 1.0
        if finite:
            centralize_gradients(self.centralizable)
            self.scaler.step(self.optimizer)
            self.epoch.losses.append(loss)
            self.epoch.classification.append(sum(v for n, v in losses.items() if n.startswith("loss_")))
        elif not overflow:
            self._note_bad_step(rows, loss, norm)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        record = {"kind": "step", "epoch": self.state.epoch + 1, "step": self.state.step, "loss": loss, "lr": rate, "grad_norm": norm}
        self.state.history.append({**record, **losses})
        self.progress.step(self.state.history[-1], rows, self.tables.train)

    def _loss_names(self) -> list[str]:
        return [f"loss_{t}" for t in self.objectives] + [f"consistency_{t}" for t in self.objectives]

    def _global_values(self, parts: dict[str, Tensor]) -> Tensor:
        """Every part of the loss, then the wishes, summed over the workers in one small exchange."""
        zero = torch.zeros((), device=self.world.device)
        wishes = torch.tensor(self.world.pulse.wishes(first=self.world.is_first), device=self.world.device)
        return self.world.sum(torch.cat([torch.stack([parts.get(name, zero).float() for name in self._loss_names()]), wishes]))

    def _named_losses(self, values: list[float]) -> dict[str, float]:
        """The losses by name; takes note of the wishes behind them."""
        names = self._loss_names()
        self.wishes = tuple(values[len(names) :])
        return {n: v for n, v in zip(names, values, strict=False) if n.startswith("loss") or self.config.loss.r_drop_alpha}

    def _note_bad_step(self, rows: Rows, loss: float, norm: float) -> None:
        self.state.bad_steps += 1
        ids = ", ".join(self.tables.train.index["row_id"].take(rows[:12]).to_pylist())
        what = f"step {self.state.step + 1}: loss {loss}, gradient norm {norm}; row ids {ids}{' ...' if len(rows) > 12 else ''}"
        self.say(f"skipped {what}")
        if self.state.bad_steps >= self.config.train.max_bad_steps:
            raise RunError(
                f"training stopped after {self.state.bad_steps} non-finite steps (train.max_bad_steps). {what}. The last good checkpoint "
                "is kept. Look at these rows, lower optim.lr, or train with train.precision=fp32"
            )

    def _adapt_gamma(self) -> None:
        for task, objective in self.objectives.items():
            if objective.adaptive:
                seen = self.stepper.observed[task]
                mine = torch.cat(seen).double().cpu().numpy() if seen else np.zeros((0, 3))
                every = np.concatenate(self.world.gather(mine))
                self.stepper.observed[task] = []
                objective.gamma.update(every[:, 0].astype(np.int64), every[:, 1], every[:, 2])
                objective.refresh()
                self.state.gammas[task] = asdict(objective.gamma)

    def predict(self, part: Corpus) -> Predictions:
        """The model's scores of a part's rows, from all workers."""
        train = self.config.train
        return predict(bare(self.model), part, self.world, batch_size=train.eval_batch_size, precision=self.precision)

    def validate(self) -> None:
        """Score validation, and remember the weights of the best epoch."""
        seconds = time.monotonic() - self.epoch.started
        part, labels = self.tables.validation, self.config.labels
        with self.average.of(bare(self.model)) as judged:
            found = self.predict(part)
        scores = macro_f1_scores(found, part, labels)
        state, losses = self.state, self.epoch.losses
        row = {f"validation_{name}": value for name, value in scores.items()}
        state.epoch += 1
        mean = float(np.mean(losses)) if losses else None
        plain = float(np.mean(self.epoch.classification)) if losses else None
        record = {"kind": "epoch", "epoch": state.epoch, "step": state.step, "loss": mean, "classification_loss": plain}
        state.history.append({**record, "seconds": seconds, "bad_steps": state.bad_steps, **row})
        if self.config.train.keep == "last" or scores["overall"] > state.best_score:
            state.best_score, state.best_epoch = scores["overall"], state.epoch - 1
            self.best = judged
        shown = {**state.history[-1], **class_f1_scores(found, part, labels)}  # a score of each class is for watchers, not for the history
        self.progress.end_epoch(shown, scores, time.monotonic() - self.epoch.started - seconds, state.best_epoch + 1)

    def save(self, report: Report, *, wanted: bool = True) -> None:
        """Begin a checkpoint where it is `wanted`, and report the epoch on all workers."""
        if wanted:
            self._begin_checkpoint(report)
        metrics = {k: float(v) for k, v in self.state.history[-1].items() if isinstance(v, int | float)}
        report(metrics, None, self.state.name())

    def _begin_checkpoint(self, report: Report, observed: Observed | None = None) -> None:
        """Once the one before is done, copy on the first worker what changes with the next step, and write it beside the training."""
        self.background.meet()
        if self.world.is_first:
            state, best = self.state.copy(), self.best
            if self.average.epochs == 1 and best is not None and not state.batch and state.best_epoch == state.epoch - 1:
                weights, best = best, None  # as they are now: `validate` has just copied them
            else:
                weights = host_copy(bare(self.model).state_dict())
            rest = {"optimizer": host_copy(self.optimizer.state_dict()), "scaler": self.scaler.state_dict(), "observed": observed}
            rest["recent"] = self.average.for_the_next()
            write: Fill = partial(save_checkpoint, state=state, model=weights, best=best, **rest)
            self.background.start(partial(report, {}, write, state.name()))
        self.world.pulse.saved()

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
        self.scaler.load_state_dict(checkpoint.scaler)
        for task, gamma in self.state.gammas.items():
            self.objectives[task].gamma = AdaptiveGamma(**gamma)
            self.objectives[task].refresh()
        for task, parts in checkpoint.observed.items():
            self.stepper.observed[task] = [p.to(self.world.device) for p in parts[self.world.rank :: self.world.size]]

    def load_best(self) -> None:
        """Put the best epoch's weights into the model."""
        if self.best is None:
            raise RunError("no epoch was finished: nothing to keep")
        bare(self.model).load_state_dict(self.best)

    def restore_table(self) -> None:
        """Make the word table whole again, where it was reduced: the rows that were left out have what weight decay leaves of them."""
        if self.word_table is not None:
            self.word_table.restore(self._decay_of_unused_words())

    def _decay_of_unused_words(self) -> float:
        """The product of 1 - rate x decay (AdamW's, Loshchilov & Hutter 2019) over the steps up to the best epoch; where the weights are a
        mean over epochs, the mean of such products."""
        weight = bare(self.model).encoder.get_input_embeddings().weight
        group = next(g for g in self.optimizer.param_groups if any(p is weight for p in g["params"]))
        steps = [r for r in self.state.history if r["kind"] == "step" and np.isfinite(r["loss"]) and np.isfinite(r["grad_norm"])]
        best = self.state.best_epoch + 1
        left = [
            np.prod([1.0 - r["lr"] * group["lr_multiplier"] * group["weight_decay"] for r in steps if r["epoch"] <= epoch])
            for epoch in range(max(1, best - self.average.epochs + 1), best + 1)
        ]
        return float(np.mean(left))


def fingerprint(config: Config, tables: Tables, left_out: str) -> str:
    """Hash of what decides a run's numbers: configuration (placement, tracking and step limit left out), training and validation rows, and
    the hash of the weights that are left out of checkpoints. Places do not count, for data and encoder may be moved."""
    numberless: dict[str, Any] = {
        "cluster": True,
        "tracking": True,
        "train": {"max_steps", "log_every", "resamples"},
        "data": {"source", "train", "validation", "test"},
        "model": {"encoder", "revision"},
    }
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=numberless)
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True) + left_out).encode())
    for corpus in (tables.train, tables.validation):
        for array in (corpus.offsets, corpus.tokens, *corpus.labels.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
