"""Before a run: what it would take, what is set and where from, and the ten points."""

import json
import time
from collections.abc import Callable
from importlib.resources import files

import numpy as np

from polarity import tables
from polarity.arrays import Rows
from polarity.benchmark.timing import PointFigures, Spread
from polarity.config import Config
from polarity.data.batch import Corpus, global_batches, padded_share, steps_per_epoch
from polarity.encoders import load_tokenizer, quiet_transformers
from polarity.model.flops import wait
from polarity.model.multitask import MultitaskModel
from polarity.resolve import Resolved, leaves, resolve
from polarity.strategy import CLAIMS_NOTE, POINTS
from polarity.train.control import clock
from polarity.train.loop import Tables, Training
from polarity.train.world import World, device_here, use_threads
from polarity.workflows.train import prepare

TIMED_STEPS = 3
PLAN_BYTES = 48
"""Memory of a sampled row while `global_batches` makes the plan of an epoch: hash, key, order, place and copies."""


def estimate(config: Config, *, say: Callable[[str], None]) -> str:
    """The plan in words: rows, steps and padding are exact, time and memory extrapolated from steps of one worker on this machine."""
    quiet_transformers()
    prepared = prepare(config, say)
    tokenizer = load_tokenizer(prepared.encoder.folder)
    corpus = Corpus.from_table(prepared.tokens["train"], list(config.labels), tokenizer.pad_token_id)
    steps, batches = steps_per_epoch(corpus, config), global_batches(corpus, config, 0)
    total = min(sum(steps), config.train.max_steps or sum(steps))
    statistics = prepared.ledger.task_statistics
    model = MultitaskModel.from_encoder(prepared.encoder.folder, config.model, config.labels, seed=config.train.seed)
    use_threads(config.cluster.cpus_per_worker)
    world = World.current(device_here(config.cluster.gpu))
    # With the features of frozen layers, where there are any, computed once as a run does.
    training = Training(config, Tables(corpus, corpus, None, statistics), model, world)
    seconds = _seconds_per_token(training, batches, config.loss.r_drop_alpha)
    workers = max(1, config.cluster.workers)
    tokens = sum(int(corpus.lengths[rows].sum()) for rows in batches) * total / len(batches)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in training.model.parameters())
    states = int(corpus.offsets[-1]) * model.encoder.config.hidden_size * 4 if config.model.frozen_layers else 0
    kept = " and the frozen layers' output" if states else ""
    epochs = config.train.average_epochs
    averaged = "" if epochs == 1 else f"; every worker {4 * epochs * trained / 1e9:.1f} GB for the mean over {epochs} epochs"
    lines = [
        f"rows: train {len(corpus)}, {', '.join(f'{n} {t.num_rows}' for n, t in prepared.tokens.items() if n != 'train')}; "
        f"an epoch has {sum(len(b) for b in batches)}",
        f"steps: {total} ({steps[0]} in the first of {len(steps)} epochs, {config.train.global_batch_size} rows each)",
        f"tokens: {corpus.lengths.mean():.1f} a row, padding {padded_share(corpus, batches, config.train.micro_batch_size):.1%}",
        f"time: about {clock(seconds * tokens / workers)} of training in {training.precision} on {workers} worker(s) like this machine's "
        "(without validation, start and exchange)",
        f"memory: {parameters / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained: about "
        f"{(4 * parameters + 12 * trained + states) / 1e9:.1f} GB a worker for weights, gradients, optimizer"
        f"{kept}, plus activations and about 1 GB of libraries; the first worker holds up to {16 * trained / 1e9:.1f} GB more in the "
        f"host's memory: the best epoch's weights, and the checkpoint that is being written{averaged}",
    ]
    if prepared.shards is not None:
        size = sum(size for part in prepared.shards.values() for _, size in part.files)
        sampled = sum(len(b) for b in batches)
        held = len(corpus) * (4 + len(config.labels)) + sampled * PLAN_BYTES
        lines.append(
            f"shards: {size / 1e9:.2f} GB on disk in {prepared.shards['train'].folder}; each worker maps them and holds {held / 1e9:.2f} "
            "GB at the most beside the model: labels, lengths, and the plan of an epoch while it is made"
        )
    return "\n".join(lines)


def _seconds_per_token(training: Training, batches: list[Rows], alpha: float) -> float:
    """Of a few steps' gradients, after a batch of the longest rows and the shortest one: it takes most memory, and padding too, so that it
    warms up and fails where a run would."""
    corpus, timed, size = training.train_rows, batches[:TIMED_STEPS], training.config.train.micro_batch_size
    order = np.argsort(-corpus.lengths, kind="stable")
    training.stepper.gradient(np.append(order[: size - 1], order[-1:]) if size > 1 else order[:1], 0, alpha)
    started = time.perf_counter()
    for step, rows in enumerate(timed):
        training.stepper.gradient(rows, step, alpha)
    wait(training.world.device)
    return (time.perf_counter() - started) / sum(int(corpus.lengths[rows].sum()) for rows in timed)


def recorded_costs() -> PointFigures:
    """The ratios that were measured when this version was made, by point, and of `all`."""
    costs: PointFigures = json.loads(files("polarity.benchmark").joinpath("point_costs.json").read_text(encoding="utf-8"))
    return costs


def changed_lines(resolved: Resolved, preset: str | None) -> str:
    """One line a setting that differs from the preset: key, value, what it was, and its source."""
    before, after = leaves(resolve(preset).config.model_dump()), leaves(resolved.config.model_dump())
    keys = [key for key in after if key not in before or before[key] != after[key]]
    gone = [f"{key}: removed\n" for key in before if key not in after and not any(k.startswith(key) for k in after)]
    lines = [f"{key}: {after[key]}  # was {before.get(key, 'not set')}; {resolved.sources.get(key, 'default')}\n" for key in keys]
    return "".join(lines + gone)


def points_table() -> str:
    """The ten points: what each sets, its source, the plan's claim, and the time of its step as a ratio to the baseline's."""
    costs, base = recorded_costs(), resolve().config
    lines = ["The plan's ten points. polarity train --points 1,6 switches two of them on.", ""]
    before = leaves(base.model_dump())
    for number, point in POINTS.items():
        after = leaves(point.apply(base).model_dump())
        lines.append(f"{number:>2}  {point.title} (tier {point.tier})")
        low, high = point.claim
        claim = f"+{low:g}" if low == high else f"+{low:g} to +{high:g}"
        lines += _noted("claim", f"{claim} points of macro-F1; time of a step {_cost(costs['step'][str(number)])}")
        lines += _noted("source", point.source)
        lines += _noted("sets", ", ".join(f"{key}={after[key]}" for key in after if before.get(key) != after[key]))
        lines.append("")
    about = costs["about"]
    where = f"on {about['when']} on {about['device']} with {about['encoder']} in {about['precision']}, {about['rows']}"
    note = (
        f"Steps: time for each row against the baseline's, median [least, greatest] of {about['repeats']} interleaved repeats, "
        f"measured {where}; all ten together {_cost(costs['step']['all'])}. The baseline has R-Drop already, so its step is two passes. "
        "Points 2 and 3 cost rows and epochs, not time a step: on the plan's data an epoch has 1.5 times as many rows, and there are "
        "twice as many epochs. Measure here: polarity benchmark --parts points"
    )
    return "\n".join([*lines, *tables.wrapped(CLAIMS_NOTE), *tables.wrapped(note)])


def _noted(what: str, text: str) -> list[str]:
    return tables.wrapped(text, first=f"    {what:<8}", later=" " * 12)


def _cost(spread: Spread) -> str:
    return f"x{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"
