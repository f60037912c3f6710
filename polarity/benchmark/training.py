"""Speed of training, of each point of the plan, of prediction and of checkpoints, beside peers that do the same work.

Training: this package, a bare torch loop on the same batches, and transformers' Trainer with and without length grouping. All do the same:
encoder, heads, class-weighted cross-entropy, rows of a step and of a forward pass, number format, fused AdamW.

A checkpoint: the loop's own, into a run folder, beside `torch.save` of the same weights and optimizer into one file. The loop's is measured
twice: how long the training stands still for it, and how long it takes until it is on the disk.
"""

import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from polarity.arrays import Rows
from polarity.artifacts import RunFolder
from polarity.benchmark.timing import Contestant, Measured, PointFigures, Spread, race, shown, timed
from polarity.config import Config
from polarity.data.batch import Corpus, evaluation_batches, global_batches, micro_batches
from polarity.data.ledger import TaskStatistics, build_ledger
from polarity.data.sample import sample_comments
from polarity.data.split import load_splits
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer, quiet_transformers, resolve_encoder
from polarity.errors import ConfigError, Say, nothing
from polarity.model.flops import wait
from polarity.model.inference import autocast, to_tensors
from polarity.model.multitask import MultitaskModel
from polarity.resolve import resolve
from polarity.strategy import ALL_POINTS
from polarity.train.loop import Tables, Training
from polarity.train.validate import predict
from polarity.train.worker import RunEvents
from polarity.train.world import World, device_here, resolve_precision


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor()


@dataclass(frozen=True)
class Setting:
    """Everything that all contestants share."""

    config: Config
    corpus: Corpus
    statistics: dict[str, TaskStatistics]
    folder: Path
    encoder: PreTrainedConfig
    precision: str
    world: World

    @classmethod
    def of(cls, config: Config, rows: int) -> "Setting":
        """The first `rows` training rows of the configuration's data (file order says nothing about length)."""
        files = resolve_encoder(config.model.encoder, config.model.revision)
        tokenizer = load_tokenizer(files.folder)
        train = load_splits(config.data, nothing).train
        ledger = build_ledger(train, config)
        tasks = list(config.labels)
        statistics = ledger.task_statistics
        corpus = Corpus.from_table(tokenize(train.slice(0, rows), tokenizer, config.data), tasks, tokenizer.pad_token_id)
        world = World.current(device_here(config.cluster.gpu))
        precision = resolve_precision(config.train.precision, world)
        model = MultitaskModel.from_encoder(files.folder, config.model, config.labels, seed=0)
        return cls(config, corpus, statistics, files.folder, model.encoder.config, precision, world)

    @property
    def device(self) -> torch.device:
        return self.world.device

    def model(self) -> MultitaskModel:
        """A fresh model on the device, in training mode, the same weights each time."""
        model = MultitaskModel.from_encoder(self.folder, self.config.model, self.config.labels, seed=0)
        nn.Module.to(model, self.device).train()
        return model

    def tables(self) -> Tables:
        return Tables(self.corpus, self.corpus, None, self.statistics)

    def weights(self, task: str) -> torch.Tensor:
        """Class weights (K,) on the device."""
        return torch.tensor(self.statistics[task].class_weights, device=self.device)


def shuffled(corpus: Corpus) -> Rows:
    """The corpus's rows in random order."""
    order: NDArray[np.int64] = np.random.default_rng(0).permutation(len(corpus))
    return order


def count_tokens(corpus: Corpus, batches: list[Rows], micro: int) -> dict[str, float]:
    """Rows, real tokens, and tokens computed with padding."""
    cuts = [corpus.lengths[m] for rows in batches for m in micro_batches(rows, micro)]
    return {
        "rows": float(sum(len(c) for c in cuts)),
        "tokens": float(sum(int(c.sum()) for c in cuts)),
        "padded_tokens": float(sum(int(c.max()) * len(c) for c in cuts)),
    }


def training_contestants(setting: Setting) -> dict[str, Contestant]:
    """Each takes one epoch over the setting's rows; `polarity` and the bare loop take the very same batches.

    Raises ConfigError for a configuration with R-Drop, mixup or several dropout samples: the peers do not have them.
    """
    config = setting.config
    if config.loss.r_drop_alpha or config.loss.mixup_alpha or config.model.multi_sample.samples:
        raise ConfigError("the benchmark's peers know no R-Drop, mixup or multi-sample dropout: use a preset without them, such as small")
    quiet_transformers()
    batches = global_batches(setting.corpus, config, 0)
    return {
        "polarity": _ours(setting, batches),
        "bare loop": _bare(setting, batches),
        "Trainer, length grouping": _trainer(setting, "group_by_length"),
        "Trainer": _trainer(setting, "random"),
    }


def _ours(setting: Setting, batches: list[Rows]) -> Contestant:
    model, config = setting.model(), setting.config
    training = Training(config, setting.tables(), model, setting.world, precision=setting.precision)

    def epoch() -> dict[str, float]:
        for rows in batches:
            training.step(rows, 0.0)
        wait(setting.device)
        return count_tokens(setting.corpus, batches, config.train.micro_batch_size)

    return timed(epoch)


def _bare(setting: Setting, batches: list[Rows]) -> Contestant:
    """What a careful person writes by hand for one process: nothing is checked, logged, seeded or gathered."""
    model, config, corpus = setting.model(), setting.config, setting.corpus
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
    weights = {task: setting.weights(task) for task in config.labels}

    def epoch() -> dict[str, float]:
        for rows in batches:
            cuts = micro_batches(rows, config.train.micro_batch_size)
            for cut in cuts:
                labels = {t: torch.from_numpy(v[cut].astype(np.int64)).to(setting.device) for t, v in corpus.labels.items()}
                with autocast(setting.precision, setting.device):
                    logits = model(**to_tensors(corpus.collate(cut), setting.device))
                scaler.scale(weighted_loss(logits, labels, weights) / len(cuts)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        wait(setting.device)
        return count_tokens(corpus, batches, config.train.micro_batch_size)

    return timed(epoch)


def weighted_loss(logits: dict[str, Tensor], labels: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """The sum over tasks of torch's class-weighted cross-entropy; labels (B,) are -1 where missing."""
    losses = [F.cross_entropy(logits[t][0].float(), labels[t], weight=weights[t], ignore_index=-1) for t in labels]
    return torch.stack(losses).sum()


class TrainerModel(nn.Module):
    """The model as the Trainer wants it: labels in, loss out. Counts the tokens that pass."""

    def __init__(self, model: MultitaskModel, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.weights = model, weights
        self.tokens = self.padded_tokens = 0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **labels: Tensor
    ) -> dict[str, Tensor]:
        """{"loss": scalar}; `labels` are named labels_TASK, (B,)."""
        self.tokens += int(attention_mask.sum())
        self.padded_tokens += attention_mask.numel()
        logits = self.model(input_ids, attention_mask, token_type_ids)
        return {"loss": weighted_loss(logits, {t: labels[f"labels_{t}"] for t in self.weights}, self.weights)}


class _Clock(TrainerCallback):
    """Counts from the first step to the end of training: the Trainer's preparations are not held against it."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def _trainer(setting: Setting, sampling: str) -> Contestant:
    model = TrainerModel(setting.model(), {task: setting.weights(task) for task in setting.config.labels})
    rows = _rows_as_lists(setting)

    def epoch() -> Measured:
        model.tokens = model.padded_tokens = 0
        clock = _Clock()
        with tempfile.TemporaryDirectory(prefix="polarity-trainer-") as folder:
            trainer = Trainer(
                model=model,
                args=_arguments(setting, folder, sampling),
                train_dataset=rows,
                data_collator=_Collate(setting),
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        wait(setting.device)
        counted = {"rows": float(len(rows)), "tokens": float(model.tokens), "padded_tokens": float(model.padded_tokens)}
        return Measured(counted, clock.seconds)

    return epoch


def _arguments(setting: Setting, folder: str, sampling: str) -> TrainingArguments:
    train, optim = setting.config.train, setting.config.optim
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.global_batch_size // train.micro_batch_size,
        num_train_epochs=1,
        learning_rate=optim.lr,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        optim="adamw_torch_fused",
        train_sampling_strategy=sampling,
        length_column_name="length",
        bf16=setting.precision == "bf16",
        fp16=setting.precision == "fp16",
        use_cpu=setting.device.type == "cpu",
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


Item = dict[str, Any]
"""A row as a dataset of transformers gives it."""


def _rows_as_lists(setting: Setting) -> list[Item]:
    """The rows as a dataset of lists, as a tokenizer gives them; in random order, for a file's order may be anything."""
    corpus = setting.corpus
    found = []
    for row in shuffled(corpus):
        item: Item = {"input_ids": corpus.tokens[row].tolist(), "length": int(corpus.lengths[row])}
        if corpus.types is not None:
            item["token_type_ids"] = corpus.types[row].tolist()
        found.append({**item, **{f"labels_{t}": int(v[row]) for t, v in corpus.labels.items()}})
    return found


class _Collate:
    """Pads to the longest row of the batch: what DataCollatorWithPadding does, for several labels."""

    def __init__(self, setting: Setting) -> None:
        self._pad = {"input_ids": setting.corpus.pad_id, "token_type_ids": 0}

    def __call__(self, items: list[Item]) -> dict[str, Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        texts = [name for name in self._pad if name in items[0]]
        batch = {n: torch.tensor([i[n] + [self._pad[n]] * (longest - len(i[n])) for i in items]) for n in texts}
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        batch["attention_mask"] = (torch.arange(longest)[None, :] < lengths[:, None]).long()
        return batch | {n: torch.tensor([i[n] for i in items]) for n in items[0] if n.startswith("labels_")}


TIMED_ROWS = 144
"""Rows of one measurement: whole batches for the baseline's 36 rows a step and for point 10's 48."""


def point_costs(encoder: str, *, repeats: int, say: Say) -> PointFigures:
    """Measure the baseline, each point alone and all ten on rows of the sample corpus, in float32 and one process.

    R-Drop is at its full weight in every arm that has it (the baseline has it too), so a step is two passes there.
    """
    files = resolve_encoder(encoder)
    comments = sample_comments(300, seed=0)
    arms = {"baseline": (), **{str(n): (n,) for n in ALL_POINTS}, "all": ALL_POINTS}
    lengths = ["data.order=comment_first", "data.max_comment=32", "data.max_title=8", "data.max_length=48"]  # to end in minutes
    sets = [*lengths, f"model.encoder={encoder}", "train.precision=fp32", "train.log_every=1000000"]
    found: dict[str, Spread] = {}
    for name in arms:
        if name == "baseline":
            continue
        # Pairs, not all at once: twelve models with their optimizer states would not fit a small machine.
        pair = {
            arm: _stepper(resolve("baseline", points=list(arms[arm]), sets=sets).config, comments, files.folder)
            for arm in ("baseline", name)
        }
        found[name] = race(pair, repeats, warm_up=False).cost(name, "baseline")
        say(f"point {name}: {shown(found[name])} of the baseline's step")
    about: dict[str, str | int] = {"encoder": encoder, "rows": "sample corpus, at most 48 tokens", "threads": torch.get_num_threads()}
    about |= {"repeats": repeats, "precision": "fp32"}
    return {"step": found, "about": about}


def _stepper(config: Config, comments: pa.Table, folder: Any) -> Contestant:
    """A function that takes the optimizer steps of TIMED_ROWS rows and returns their number."""
    tokenizer = load_tokenizer(folder)
    tasks = list(config.labels)
    ledger = build_ledger(comments, config)
    corpus = Corpus.from_table(tokenize(comments, tokenizer, config.data), tasks, tokenizer.pad_token_id)
    statistics = ledger.task_statistics
    model = MultitaskModel.from_encoder(folder, config.model, config.labels, seed=0)
    world = World.current(device_here(config.cluster.gpu))
    training = Training(config, Tables(corpus, corpus, None, statistics), model, world)
    rows = np.argsort(corpus.lengths[:TIMED_ROWS], kind="stable")  # the same rows for every arm, whatever it would sample
    batches = [rows[start : start + config.train.global_batch_size] for start in range(0, len(rows), config.train.global_batch_size)]

    def take() -> dict[str, float]:
        for batch in batches:
            training.step(batch, config.loss.r_drop_alpha)
        return {"rows": float(len(rows))}

    # Processor time where it is the processor that computes: ratios of a few percent drown in what else a machine does.
    return timed(take, time.process_time if world.device.type == "cpu" else time.perf_counter)


def prediction_contestants(setting: Setting) -> dict[str, Contestant]:
    """Each scores all the setting's rows once."""
    corpus, size = setting.corpus, setting.config.train.eval_batch_size
    model = setting.model()
    nn.Module.train(model, False)
    in_order = micro_batches(shuffled(corpus), size)

    def ours() -> dict[str, float]:
        predict(model, corpus, setting.world, batch_size=size, precision=setting.precision)
        return count_tokens(corpus, evaluation_batches(corpus.lengths, size), size)

    def usual() -> dict[str, float]:
        with torch.inference_mode(), autocast(setting.precision, setting.device):
            for rows in in_order:
                _probabilities(setting, model, rows)
        return count_tokens(corpus, in_order, size)

    return {"polarity": timed(ours), "usual loop": timed(usual)}


def _probabilities(setting: Setting, model: nn.Module, rows: Rows) -> None:
    logits = model(**to_tensors(setting.corpus.collate(rows), setting.device))
    for values in logits.values():
        values[0].float().softmax(-1).cpu().numpy()


def checkpoint_contestants(setting: Setting, folder: Path) -> dict[str, Contestant]:
    """Each writes one whole checkpoint below `folder`, of a model after one step; units are checkpoints and MB on disk.

    Of "polarity" only the time counts during which no step can be taken, of "polarity, until it is on disk" all of it.
    """
    run = RunFolder.create(folder / "run")
    events = RunEvents(run, nothing, lambda row: None, lambda metrics: None)
    training = Training(setting.config, setting.tables(), setting.model(), setting.world, events, precision=setting.precision)
    training.step(torch.arange(min(4, len(setting.corpus))).numpy(), 0.0)
    training.state.history.append({"kind": "epoch", "epoch": 1})

    def ours(*, whole: bool) -> Measured:
        training.state.epoch += 1  # of which none was validated: the weights are copied, as after an epoch that is not the best
        started = time.perf_counter()
        training.save()
        still = time.perf_counter() - started
        training.background.wait()
        seconds = time.perf_counter() - started if whole else still
        newest = folder / "run" / "checkpoints" / training.state.name()
        return Measured({"checkpoints": 1.0, "mb": sum(f.stat().st_size for f in newest.iterdir()) / 1e6}, seconds)

    def bare() -> dict[str, float]:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".pt") as file:
            torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, file)
            file.flush()
            return {"checkpoints": 1.0, "mb": Path(file.name).stat().st_size / 1e6}

    return {
        "polarity": lambda: ours(whole=False),
        "polarity, until it is on disk": lambda: ours(whole=True),
        "torch.save": timed(bare),
    }
