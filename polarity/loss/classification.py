"""The loss of a row: focal loss, class weights and label smoothing in one formula, in float32.

w_y f_y (1 - p_y)^gamma_y * sum_c q_c (-log p_c), q = (1 - eps_y) onehot + eps_y / K
(Lin et al. 2017; Szegedy et al. 2016; f_y rescales adaptive gamma and is 1 otherwise.) Shapes: ... any leading dimensions, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MISSING = -1


@dataclass(frozen=True)
class ClassTerms:
    """What the formula takes from a row's true class; float32 tensors (K,)."""

    weight_K: Tensor
    gamma_K: Tensor
    factor_K: Tensor
    smoothing_K: Tensor
    focal: bool
    """Whether any gamma is above 0: known here, so that no step waits for a device to find out."""


def log_one_minus_p(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - p_y) of `logits` (..., K) and `labels` (...), from logsumexp over the other classes: exact as p_y -> 1."""
    others = logits.scatter(-1, labels.unsqueeze(-1), float("-inf"))
    return others.logsumexp(-1) - logits.logsumexp(-1)


def row_losses(logits: Tensor, labels: Tensor, terms: ClassTerms, soft: Tensor | None = None) -> Tensor:
    """Loss of each row (...), zero where the label is `MISSING`; `logits` (..., K), `labels` (...) int64, broadcast to the logits.

    `soft` (..., K), a teacher's probabilities (Hinton et al. 2015), take the place of q; the label still gives the row's weight.
    """
    labels = labels.expand(logits.shape[:-1])
    known = labels != MISSING
    safe = labels.clamp(min=0)
    logits = logits.float()
    log_p = logits.log_softmax(-1)
    target_log_p = log_p.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
    smoothing = terms.smoothing_K[safe]
    smoothed = -(1.0 - smoothing) * target_log_p - smoothing * log_p.mean(-1)
    loss = smoothed if soft is None else -(soft * log_p).sum(-1)
    if terms.focal:
        loss = loss * torch.exp(terms.gamma_K[safe] * log_one_minus_p(logits, safe)) * terms.factor_K[safe]
    return torch.where(known, loss * terms.weight_K[safe], torch.zeros_like(loss))


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """R-Drop's half of KL(p || q) + KL(q || p) for each row, plain softmax (Liang et al. 2021); (..., K) -> (...)."""
    log_p, log_q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def smoothing_per_class(epsilon: float, counts_K: list[int], *, adaptive: bool) -> list[float]:
    """Label smoothing of each class: `epsilon`, or eps (n_c - n_min) / (n_max - n_min) where adaptive (after Zhong et al. 2021)."""
    low, high = min(counts_K), max(counts_K)
    if not adaptive or low == high:
        return [epsilon] * len(counts_K)
    return [epsilon * (n - low) / (high - low) for n in counts_K]
