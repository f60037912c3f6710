"""Inference in plain torch: probabilities and predicted classes of a batch, with the three modes of multi-sample dropout."""

from typing import NamedTuple

import torch
from torch import Tensor

from polarity.data.batch import TokenBatch
from polarity.model.multitask import MultitaskModel


class Scores(NamedTuple):
    """One task's scores of B rows: `probabilities` (B, K) float32, `predicted` (B,) int64."""

    probabilities: Tensor
    predicted: Tensor


def to_tensors(batch: TokenBatch, device: torch.device) -> dict[str, Tensor]:
    """The model's keyword arguments for a batch, on `device`."""
    arrays = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": batch.token_type_ids}
    return {name: torch.from_numpy(a).to(device, non_blocking=True) for name, a in arrays.items() if a is not None}


def vote(probabilities_SBK: Tensor) -> Tensor:
    """Majority of the samples' argmax; ties go to the class with the larger mean probability. (S, B, K) -> (B,)."""
    classes = probabilities_SBK.shape[-1]
    votes_BK = torch.nn.functional.one_hot(probabilities_SBK.argmax(-1), classes).sum(0)
    mean_BK = probabilities_SBK.mean(0)
    return (votes_BK + mean_BK / 2).argmax(-1)  # a mean is at most 1, half of it never outweighs a vote


@torch.inference_mode()
def score(model: MultitaskModel, inputs: dict[str, Tensor], mode: str | None = None) -> dict[str, Scores]:
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
        scores[task] = Scores(mean_BK, vote(probabilities_SBK) if mode == "vote" else mean_BK.argmax(-1))
    return scores
