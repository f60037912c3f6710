"""`polarity train --dry-run`: check everything, then estimate rows, steps, time and memory from a few timed steps."""

import time
from collections.abc import Callable

import torch
from transformers import logging as transformers_logging

from polarity.config import Config
from polarity.data.batch import Corpus, Rows, global_batches, padded_share, steps_per_epoch
from polarity.encoders import load_tokenizer
from polarity.loss.objective import TaskObjective, TaskStatistics
from polarity.model.multitask import MultitaskModel
from polarity.train.precision import grad_scaler, resolve_precision
from polarity.train.progress import clock
from polarity.train.step import Stepper
from polarity.train.worker import use_threads
from polarity.train.world import World, device_here, seed_everything
from polarity.workflows.train import prepare

TIMED_STEPS = 3


def estimate(config: Config, *, say: Callable[[str], None]) -> str:
    """The plan in words: rows, steps and padding are exact, time and memory extrapolated from steps of one worker on this machine."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    prepared = prepare(config, say)
    tokenizer = load_tokenizer(prepared.encoder.folder)
    corpus = Corpus.from_table(prepared.tokens["train"], list(config.labels), tokenizer.pad_token_id)
    steps, batches = steps_per_epoch(corpus, config), global_batches(corpus, config, 0)
    total = min(sum(steps), config.train.max_steps or sum(steps))
    statistics = {
        t: TaskStatistics(prepared.ledger.class_weights(t), prepared.ledger.counts(t), prepared.ledger.sampled_prior(t))
        for t in config.labels
    }
    model = MultitaskModel.from_encoder(prepared.encoder.folder, config.model, config.labels, seed=config.train.seed)
    seconds, precision = _seconds_per_token(config, corpus, batches, model, statistics)
    workers = max(1, config.cluster.workers)
    tokens = sum(int(corpus.lengths[rows].sum()) for rows in batches) * total / len(batches)
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"rows: train {len(corpus)}, {', '.join(f'{n} {t.num_rows}' for n, t in prepared.tokens.items() if n != 'train')}; "
        f"an epoch has {sum(len(b) for b in batches)}",
        f"steps: {total} ({steps[0]} in the first of {len(steps)} epochs, {config.train.global_batch_size} rows each)",
        f"tokens: {corpus.lengths.mean():.1f} a row, padding {padded_share(corpus, batches, config.train.micro_batch_size):.1%}",
        f"time: about {clock(seconds * tokens / workers)} of training in {precision} on {workers} worker(s) like this machine's "
        "(without validation, start and exchange)",
        f"memory: {parameters / 1e6:.1f} M parameters, about {16 * parameters / 1e9:.1f} GB a worker for weights, gradients and "
        "optimizer, plus activations and about 1 GB of libraries",
    ]
    return "\n".join(lines)


def _seconds_per_token(
    config: Config, corpus: Corpus, batches: list[Rows], model: MultitaskModel, statistics: dict[str, TaskStatistics]
) -> tuple[float, str]:
    use_threads(config.cluster.cpus_per_worker)
    seed_everything(config.train.seed)
    world = World.current(device_here(config.cluster.gpu))
    precision = resolve_precision(config.train.precision, world)
    objectives = {t: TaskObjective(t, config.loss, s, world.device) for t, s in statistics.items()}
    stepper = Stepper(torch.nn.Module.to(model, world.device).train(), corpus, objectives, config, world, precision)
    scaler = grad_scaler(precision, world.device)
    timed = batches[: TIMED_STEPS + 1]
    started = time.perf_counter()
    for step, rows in enumerate(timed):
        if step == 1 or len(timed) == 1:
            started = time.perf_counter()  # the first step warms up
        stepper.gradient(rows, step, config.loss.r_drop_alpha, scaler)
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    counted = timed[1:] or timed
    return (time.perf_counter() - started) / sum(int(corpus.lengths[rows].sum()) for rows in counted), precision
