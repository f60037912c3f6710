"""What a configuration does, as plain values that can be compared: a run's weights and record, and prepared data."""

import csv
import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polarity.config import Config
from polarity.errors import PolarityError
from polarity.resolve import dump_config, parse_config, resolve
from polarity.train.loop import Training, run_training
from polarity.train.validate import predict
from polarity.train.world import World
from polarity.workflows.train import prepare
from tests.tiny import COLUMNS, DEFAULT_TASKS, tiny_comments
from tests.train.runs import Heard, encoder_folder, fresh_model, tables

Refused = tuple[str, str]
CPU = torch.device("cpu")
_SMALL = (
    "train.precision=fp32", "train.epochs=2", "train.global_batch_size=12", "train.micro_batch_size=6", "train.log_every=1000",
    "train.early_stopping_patience=null", "model.head.hidden_size=8", "model.head.layers=1", "optim.lr=1e-3", "loss.r_drop_alpha=0.4",
    "loss.r_drop_warmup_epochs=1",
)  # fmt: skip


def configured(*settings: str) -> Config:
    """The baseline made small, with `key=value` settings as on the command line."""
    return resolve("baseline", sets=[*_SMALL, f"model.encoder={encoder_folder()}", *settings]).config


def trained(config: Config) -> Any:
    """Weights, record, and predictions of a run of two short epochs."""
    return _trained(dump_config(config))


@cache
def _trained(text: str) -> Any:
    config = parse_config(text, "the test")
    result = run_training(config, tables(config, 30), fresh_model(config), world=World())
    weights = {name: _digest(tensor.numpy()) for name, tensor in result.model.state_dict().items()}
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in result.state.history]
    scores = {n: [(_digest(p.probabilities[t]), _digest(p.predicted[t])) for t in config.labels] for n, p in result.predictions.items()}
    return weights, history, scores


def _digest(array: np.ndarray) -> str:
    return f"{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def prepared(config: Config) -> Any:
    """The parts' rows and tokens, the ledger and the encoder's hash; or the refusal."""
    try:
        found = prepare(config, lambda _: None)
    except PolarityError as error:
        return "refused", str(error)
    rows = {name: table.to_pylist() for name, table in found.splits.parts.items()}
    tokens = {name: table.to_pylist() for name, table in found.tokens.items()}
    return rows, tokens, asdict(found.ledger), found.encoder.sha256, found.encoder.revision, found.splits.dropped


def shard_folders(config: Config) -> str:
    """Where the tokens that workers map lie; nothing where they are in memory."""
    found = prepare(config, lambda _: None)
    return str(Path(found.shards["train"].folder).parent) if found.shards else ""


def said_by(config: Config) -> list[str]:
    """The progress lines of a run."""
    lines: list[str] = []
    run_training(config, tables(config, 30), fresh_model(config), Heard(lines), world=World())
    return [line for line in lines if "  step " in line]


def encoder_passes(config: Config) -> list[tuple[int, ...]]:
    """The shapes that the encoder is given in one evaluation."""
    model, parts, shapes = fresh_model(config), tables(config, 30), []
    model.encoder.register_forward_pre_hook(lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    predict(model, parts.validation, World(), batch_size=config.train.eval_batch_size, precision="fp32")
    return shapes


def refuses_what_cannot_be_repeated(config: Config) -> bool:
    """Whether, once training was set up, torch refuses an operation that it cannot do deterministically."""
    try:
        Training(config, tables(config, 30), fresh_model(config), World())
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    except RuntimeError as error:
        return "deterministic" in str(error)
    finally:
        torch.use_deterministic_algorithms(False)
    return False


def bad_steps_survived(config: Config) -> int:
    """How many steps a run takes whose every step is bad."""
    model, lines = fresh_model(config), list[str]()
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[5:] = float("inf")
    try:
        run_training(config, tables(config, 30), model, Heard(lines), world=World())
    except PolarityError:
        return sum(line.startswith("skipped") for line in lines)
    return -1


HEADER = ["row_id", "code", "Title", "Headline", "Comment", "Text", *COLUMNS.values(), "Gold", "Topic", "split", "part", "n1", "n2", "n3"]


def write_rows(path: Path, rows: int = 150, seed: int = 0, *, bad: bool = False, leak: bool = False, unsure: bool = False) -> Path:
    """A CSV in which every column that a configuration can name has a second one with other content."""
    table = tiny_comments(rows, seed, missing=0.0).to_pylist()
    if leak:
        table += [row | {"row_id": f"copy of {row['row_id']}"} for row in table[:60]]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number, row in enumerate(table):
            labels = ["" if row[task] is None else DEFAULT_TASKS[task][row[task]] for task in COLUMNS]
            if unsure and number == 5:
                labels[0] = "unsure"
            gold = DEFAULT_TASKS["sentiment"][number % 3]
            words = row["comment"] + (" ang mga tao sa bayan" * 12 if number % 9 == 0 else "")
            comment = "" if bad and number == 5 else words
            parts = ["train", "train", "train", "validation", "test"]
            texts = [row["title"], f"city hall {number % 7}", comment, f"rice prices {words}"]
            others = [gold, "ab"[number // 3 % 2], parts[number % 5], parts[number // 2 % 5], *np.roll([2, 1, 0], number // 4)]
            writer.writerow([row["row_id"], f"c{number}", *texts, *labels, *others])
    return path
