"""What each of the ten points costs: time of an optimizer step for each row, as a ratio to the baseline's, on this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from polarity.benchmark.timing import Contestant, Spread, race, timed
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.data.ledger import build_ledger
from polarity.data.sample import sample_comments
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer, resolve_encoder
from polarity.model.multitask import MultitaskModel
from polarity.resolve import resolve
from polarity.strategy import ALL_POINTS
from polarity.train.loop import Tables, Training
from polarity.train.world import World, device_here

TIMED_ROWS = 144
"""Rows of one measurement: whole batches for the baseline's 36 rows a step and for point 10's 48."""


@dataclass(frozen=True)
class PointCosts:
    """By point the ratio of a step's time for each row; `all` is all ten together."""

    step: dict[str, Spread]
    about: dict[str, Any]


def point_costs(encoder: str, *, repeats: int = 5, rows: int = 300, say: Callable[[str], None]) -> PointCosts:
    """Measure the baseline, each point alone and all ten on rows of the sample corpus, in float32 and one process.

    R-Drop is at its full weight in every arm that has it (the baseline has it too), so a step is two passes there.
    """
    files = resolve_encoder(encoder)
    comments = sample_comments(rows, seed=0)
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
        say(f"point {name}: {found[name]} of the baseline's step")
    about = {"encoder": encoder, "rows": "sample corpus, at most 48 tokens", "threads": torch.get_num_threads()}
    about |= {"repeats": repeats, "precision": "fp32"}
    return PointCosts(found, about)


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
