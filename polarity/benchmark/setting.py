"""The machine that is measured, in words."""

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from polarity.config import Config
from polarity.data.batch import Corpus, Rows, micro_batches
from polarity.data.ledger import TaskStatistics, build_ledger
from polarity.data.split import load_splits
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer, resolve_encoder
from polarity.model.multitask import MultitaskModel
from polarity.train.loop import Tables
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
        train = load_splits(config.data, lambda line: None).train
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
        torch.nn.Module.to(model, self.device).train()
        return model

    def tables(self) -> Tables:
        return Tables(self.corpus, self.corpus, None, self.statistics)

    def weights(self, task: str) -> torch.Tensor:
        """Class weights (K,) on the device."""
        return torch.tensor(self.statistics[task].class_weights, device=self.device)


def shuffled(corpus: Corpus, seed: int = 0) -> Rows:
    """The corpus's rows in random order."""
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(corpus))
    return order


def count_tokens(corpus: Corpus, batches: list[Rows], micro: int) -> dict[str, float]:
    """Rows, real tokens, and tokens computed with padding."""
    cuts = [corpus.lengths[m] for rows in batches for m in micro_batches(rows, micro)]
    return {
        "rows": float(sum(len(c) for c in cuts)),
        "tokens": float(sum(int(c.sum()) for c in cuts)),
        "padded_tokens": float(sum(int(c.max()) * len(c) for c in cuts)),
    }
