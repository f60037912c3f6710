"""Tiny trainings for the tests of this folder: a random encoder, random comments with missing labels, and ranks as processes."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from polarity.artifacts import Fill, RunFolder
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.data.ledger import build_ledger
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer
from polarity.loss import TaskObjective
from polarity.model.multitask import MultitaskModel
from polarity.resolve import resolve
from polarity.strategy import apply_points
from polarity.train.control import Events, HistoryRow
from polarity.train.loop import Stepper, Tables
from polarity.train.worker import RunEvents
from polarity.train.world import World
from tests.tiny import tiny_comments, tiny_encoder
from tests.trained import scratch

_ENCODER = "POLARITY_TEST_ENCODER"
BASE = resolve("baseline").config


@cache
def encoder_folder() -> Path:
    """A tiny BERT, made once and handed to the ranks by the environment."""
    if _ENCODER not in os.environ:
        os.environ[_ENCODER] = str(tiny_encoder(scratch("polarity-tiny-"), "bert", hidden=16, layers=2))
    return Path(os.environ[_ENCODER])


def configured(points: tuple[int, ...] = (), **changes: dict[str, Any]) -> Config:
    """The baseline with points and changes of sections: `configured((6,), train={"epochs": 2})`; float32."""
    tree = apply_points(BASE, points).model_dump()
    tree["train"].update(precision="fp32", log_every=1000)
    for section, values in changes.items():
        tree[section].update(values)
    return Config.model_validate(tree)


def all_ten(**changes: dict[str, Any]) -> Config:
    """All ten points, point 9's heads with as many layers but thirty times narrower: these tests are about equality, not about size."""
    head = {"layers": 3, "hidden_size": 24, "intermediate_size": 32, "residual": True}
    return configured(tuple(range(1, 11)), model={"head": head}, **changes)


def tables(config: Config, rows: int = 60) -> Tables:
    """Train and validation rows, a tenth of the labels missing."""
    tokenizer = load_tokenizer(encoder_folder())
    tasks = list(config.labels)
    train, held_out = tiny_comments(rows, seed=0, missing=0.1), tiny_comments(40, seed=1, missing=0.1)
    ledger = build_ledger(train, config)
    parts = [Corpus.from_table(tokenize(table, tokenizer, config.data), tasks, tokenizer.pad_token_id) for table in (train, held_out)]
    return Tables(parts[0], parts[1], None, ledger.task_statistics)


def fresh_model(config: Config) -> MultitaskModel:
    return MultitaskModel.from_encoder(encoder_folder(), config.model, config.labels, seed=config.train.seed)


def stepper(config: Config, parts: Tables, model: torch.nn.Module, world: World) -> Stepper:
    objectives = {t: TaskObjective(t, config.loss, s, world.device) for t, s in parts.statistics.items()}
    return Stepper(model, parts.train, objectives, config, world, "fp32", torch.optim.AdamW(model.parameters()))


class Heard(Events):
    """Keeps what a training says, and shows rows and checkpoints to whoever wants them."""

    def __init__(
        self, lines: list[str] | None = None, record: Callable[[HistoryRow], None] = lambda row: None, folder: Path | None = None
    ) -> None:
        self.lines, self._record, self.folder = [] if lines is None else lines, record, folder
        self.epochs: list[float] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def record(self, row: HistoryRow) -> None:
        self._record(row)

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        self.epochs.append(metrics["epoch"])

    def save(self, name: str, write: Fill) -> None:
        if self.folder is not None:
            (self.folder / name).mkdir()
            write(self.folder / name)


def saved(folder: RunFolder, name: str, write: Fill) -> None:
    """Keep a checkpoint as a run does."""
    RunEvents(folder, lambda line: None, lambda row: None, lambda metrics: None).save(name, write)


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a history without what the clock says."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s", "mfu")} for row in history]


def _rank(rank: int, size: int, function: Callable[..., Any], arguments: tuple[Any, ...], folder: str, encoder: str) -> None:
    torch.set_num_threads(1)
    os.environ[_ENCODER] = encoder
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=300))
    result = function(*arguments)
    if rank == 0:
        torch.save(result, f"{folder}/result.pt")
    dist.destroy_process_group()


def on_ranks(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a module-level function on `size` gloo ranks and return the first one's result.

    The ranks are forked from a server that has imported torch and the training once for all tests of a session.
    """
    if size == 1:
        return function(*arguments)
    folder.mkdir()
    multiprocessing.set_forkserver_preload(["tests.train.runs"])
    mp.start_processes(_rank, args=(size, function, arguments, str(folder), str(encoder_folder())), nprocs=size, start_method="forkserver")
    return torch.load(folder / "result.pt", weights_only=False)
