"""How fast this machine trains an encoder: a few forward and backward passes of the recipe's own batches, on one thread."""

import time

import numpy as np
import pyarrow as pa
import torch

from polarity.artifacts import user_cache_dir
from polarity.best.plan import Speed
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer, quiet_transformers, resolve_encoder
from polarity.model.dropout import use_cheap_dropout
from polarity.model.inference import autocast, to_tensors
from polarity.model.multitask import MultitaskModel

PASSES = 4
ALL_ELSE = 1.1
"""Optimizer, checkpoints and batching, as a factor on the passes: measured at 3 to 8 %."""


def measure_speed(config: Config, comments: pa.Table, precision: str, device: torch.device) -> Speed:
    """The encoder of `config.model` on rows like these; takes some seconds and leaves torch's number of threads as it was."""
    quiet_transformers()
    encoder = resolve_encoder(config.model.encoder, config.model.revision)
    tokenizer = load_tokenizer(encoder.folder)
    tokens = tokenize(comments, tokenizer, config.data, cache_dir=user_cache_dir(), say=lambda _: None)
    corpus = Corpus.from_table(tokens, list(config.labels), int(tokenizer.pad_token_id))
    model = MultitaskModel.from_encoder(encoder.folder, config.model, config.labels, seed=0)
    if device.type == "cpu":
        use_cheap_dropout(model.encoder)
    torch.nn.Module.to(model, device)
    model.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = _seconds_per_token(model, corpus, config.train.micro_batch_size, precision, device)
    finally:
        torch.set_num_threads(threads)
    return Speed(
        encoder=config.model.encoder,
        seconds_per_row=seconds * float(corpus.lengths.mean()) * ALL_ELSE,
        layers=int(model.encoder.config.num_hidden_layers),
    )


def _seconds_per_token(model: MultitaskModel, corpus: Corpus, size: int, precision: str, device: torch.device) -> float:
    """Of batches from the short to the long end of the rows, after one that warms up."""
    order = np.argsort(corpus.lengths, kind="stable")
    starts = np.linspace(0, max(0, len(order) - size), PASSES).astype(int)
    batches = [order[at : at + size] for at in starts]
    started = time.perf_counter()
    for number, rows in enumerate([batches[-1], *batches]):
        if number == 1:
            started = time.perf_counter()
        with autocast(precision, device):
            logits = model(**to_tensors(corpus.collate(rows), device))
        torch.stack([of_task.float().logsumexp(-1).sum() for of_task in logits.values()]).sum().backward()
        model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / max(1, sum(int(corpus.lengths[rows].sum()) for rows in batches))
