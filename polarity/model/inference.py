"""Scores of a batch in plain torch, in the number format that this hardware computes fast."""

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polarity.arrays import Rows
from polarity.data.batch import Corpus, TokenBatch
from polarity.model.frozen import given_states
from polarity.model.multitask import MultitaskModel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bf16 than in float32.

    A processor's flags do not tell: on one with avx512_bf16 the bf16 product took twice as long as the float32 one, on another
    with the same flag a third. So on CPUs that have the instructions a product of each is timed, for some hundredths of a second.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    return _product_seconds(torch.bfloat16) < 0.8 * _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(768, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one chooses a kernel


def precision_here(precision: str, device: torch.device) -> str:
    """`bf16`, `fp16` or `fp32` for the configured `precision`; `auto` is what this device computes fast."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a forward pass: weights stay float32, matrix products run in the short format."""
    if precision == "fp32":
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.type, dtype=_DTYPES[precision])
    return context


class BatchScores(NamedTuple):
    """One task's scores of B rows: `probabilities` (B, K) float32, `predicted` (B,) int64."""

    probabilities: Tensor
    predicted: Tensor


def to_tensors(batch: TokenBatch, device: torch.device) -> dict[str, Tensor]:
    """The model's keyword arguments for a batch, on `device`."""
    arrays = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    return {name: torch.from_numpy(a).to(device, non_blocking=True) for name, a in arrays.items() if a is not None}


def states_of(batch: TokenBatch, device: torch.device) -> Tensor | None:
    """The batch's features on `device`, for `given_states`; None where the corpus has none."""
    return None if batch.features is None else torch.from_numpy(batch.features).to(device, non_blocking=True)


def score_corpus(
    model: MultitaskModel, corpus: Corpus, batches: Iterable[Rows], device: torch.device, precision: str, mode: str | None = None
) -> Iterator[tuple[Rows, dict[str, tuple[NDArray[np.float32], Rows]]]]:
    """The one loop that scores rows: of each batch its rows, and {task: (probabilities (B, K), predicted classes (B,))} on the host."""
    for rows in batches:
        batch = corpus.collate(rows)
        with autocast(precision, device), given_states(model, states_of(batch, device)):
            scores = score(model, to_tensors(batch, device), mode)
        yield rows, {task: (found.probabilities.float().cpu().numpy(), found.predicted.cpu().numpy()) for task, found in scores.items()}


def vote(probabilities_SBK: Tensor) -> Tensor:
    """Majority of the samples' argmax; ties go to the class with the larger mean probability. (S, B, K) -> (B,)."""
    classes = probabilities_SBK.shape[-1]
    votes_BK = torch.nn.functional.one_hot(probabilities_SBK.argmax(-1), classes).sum(0)
    mean_BK = probabilities_SBK.mean(0)
    return (votes_BK + mean_BK / 2).argmax(-1)  # a mean is at most 1, half of it never outweighs a vote


@torch.inference_mode()
def score(model: MultitaskModel, inputs: dict[str, Tensor], mode: str | None = None) -> dict[str, BatchScores]:
    """{task: scores} of one batch; `mode` off, mean or vote, by default the one that the model was trained for.

    `off` is one pass without dropout; `mean` and `vote` average the samples' probabilities, and differ in the predicted class.
    The model must be in evaluation mode.
    """
    mode = mode or model.config.inference_mode
    if mode == "off":
        logits = model(**inputs)
    else:
        names = {"input_ids", "attention_mask", "token_type_ids"}
        logits = model.sample_logits(**{k: v for k, v in inputs.items() if k in names}, samples=model.config.inference_samples)
    scores = {}
    for task, logits_SBK in logits.items():
        probabilities_SBK = logits_SBK.float().softmax(-1)
        mean_BK = probabilities_SBK.mean(0)
        scores[task] = BatchScores(mean_BK, vote(probabilities_SBK) if mode == "vote" else mean_BK.argmax(-1))
    return scores
