"""The loss: of a row, of a task over a global batch, and the exponents that adapt from epoch to epoch.

**A row**: focal loss, class weights and label smoothing in one formula, in float32,
w_y f_y (1 - p_y)^gamma_y * sum_c q_c (-log p_c), q = (1 - eps_y) onehot + eps_y / K
(Lin et al. 2017; Szegedy et al. 2016; f_y rescales adaptive gamma and is 1 otherwise.)

**A global batch**: each task's loss is sum(loss) / sum(w) over the labelled rows of the *global* batch, whose count is known before the
first micro-batch, times the task's weight; tasks are added. So class weights do not move the learning rate, the cut into micro-batches and
ranks does not matter, and a batch without a task's labels adds exactly zero.

**Adaptive gamma**: gamma_c = clip(gamma (1 + mean p - mean p_c), gamma / 2, 2 gamma), from how sure the model was of class c in the last
epoch. A larger gamma alone would shrink a hard class's loss, so each class's factors are rescaled to the mean that plain gamma gives on the
same rows (compare Equalized Focal Loss, Li et al. 2022).

Shapes: G rows of the global batch, B of a micro-batch, S dropout samples, V = 1 or 2 passes (R-Drop), K classes; ... any leading ones.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from polarity.arrays import Codes, Floats, Rows
from polarity.config import LossConfig
from polarity.data.ledger import TaskStatistics
from polarity.evaluate.predictions import MISSING


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


@dataclass
class AdaptiveGamma:
    """State of one task: the exponents and factors in force. It is part of every checkpoint and equal on all ranks."""

    gamma: float
    gammas: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, gamma: float, classes: int) -> "AdaptiveGamma":
        """Unchanged gamma for every class, as in the first epoch."""
        return cls(gamma, [gamma] * classes, [1.0] * classes)

    def update(self, labels: Codes, p: Floats, weights: Floats) -> None:
        """Set the next epoch's exponents from all ranks' observations: true class, its probability, and the row's share in mixup.

        A class without observations keeps plain gamma and takes no part in the mean of the means.
        """
        classes = range(len(self.gammas))
        own = {c: labels == c for c in classes}
        means = {c: float(np.average(p[m], weights=weights[m])) for c, m in own.items() if weights[m].sum() > 0}
        if not means:
            return
        center = float(np.mean(list(means.values())))
        for c in classes:
            gamma_c = self.gamma if c not in means else float(np.clip(self.gamma * (1 + center - means[c]), self.gamma / 2, 2 * self.gamma))
            self.gammas[c] = gamma_c
            self.factors[c] = _rescaling(1.0 - p[own[c]], weights[own[c]], self.gamma, gamma_c) if c in means else 1.0


def _rescaling(rest: Floats, weights: Floats, gamma: float, gamma_c: float) -> float:
    changed = float(np.average(rest**gamma_c, weights=weights))
    return float(np.average(rest**gamma, weights=weights)) / changed if changed > 0 else 1.0


@dataclass(frozen=True)
class Mixing:
    """One micro-batch's mixup: lambda and the permutation of its rows (B,)."""

    lam: float
    permutation: Rows


@dataclass(frozen=True)
class Counts:
    """A task's denominators over the global batch: sum of class weights, and number of labelled rows (mixup counts shares)."""

    weight: float
    rows: float


@dataclass(frozen=True)
class MicroLoss:
    """A micro-batch's share of the global loss, and its parts for the record (detached)."""

    total: Tensor
    parts: dict[str, Tensor]


class TaskObjective:
    """One task's loss."""

    def __init__(self, task: str, config: LossConfig, statistics: TaskStatistics, device: torch.device) -> None:
        self.weight = config.task_weights.get(task, 1.0)
        self.gamma = AdaptiveGamma.start(config.focal_gamma.get(task, 0.0), len(statistics.counts))
        self.adaptive = config.adaptive_gamma and self.gamma.gamma > 0
        self._device = device
        self._class_weights = np.asarray(statistics.class_weights, dtype=np.float64)
        epsilon = config.label_smoothing.get(task, 0.0)
        self._smoothing = smoothing_per_class(epsilon, statistics.counts, adaptive=config.adaptive_smoothing)
        prior = torch.tensor(statistics.sampled_prior, dtype=torch.float32, device=device).clamp(min=1e-12)
        self._adjustment_K = config.logit_adjustment * prior.log() if config.logit_adjustment else None
        self.refresh()

    def refresh(self) -> None:
        """Rebuild the per-class terms after gamma changed."""
        columns = (self._class_weights, self.gamma.gammas, self.gamma.factors, self._smoothing)
        weight_K, gamma_K, factor_K, smoothing_K = (torch.tensor(c, dtype=torch.float32, device=self._device) for c in columns)
        self._terms = ClassTerms(weight_K, gamma_K, factor_K, smoothing_K, focal=self.gamma.gamma > 0)

    def counts(self, labels_G: Codes, mixings: list[tuple[Rows, Mixing | None]]) -> Counts:
        """Denominators of the global batch; `mixings` holds each micro-batch's positions in it and its mixup."""
        weights_G = np.where(labels_G == MISSING, 0.0, self._class_weights[np.maximum(labels_G, 0)])
        known_G = (labels_G != MISSING).astype(np.float64)
        weight = rows = 0.0
        for positions, mixing in mixings:
            for share, index in _sides(mixing, positions):
                weight += share * float(weights_G[index].sum())
                rows += share * float(known_G[index].sum())
        return Counts(weight, rows)

    def __call__(
        self, logits_SVBK: Tensor, labels_B: Tensor, mix: tuple[float, Tensor] | None, counts: Counts, alpha: float,
        soft_BK: Tensor | None = None,
    ) -> MicroLoss:  # fmt: skip
        """This micro-batch's part of sum(loss) / sum(w) + alpha * mean KL, already weighted by the task's weight.

        `soft_BK` are a teacher's probabilities, for a student.
        """
        adjusted = logits_SVBK if self._adjustment_K is None else logits_SVBK + self._adjustment_K
        lam, other_B = (1.0, labels_B) if mix is None else (mix[0], labels_B[mix[1]])
        rows_B = row_losses(adjusted, labels_B, self._terms, soft_BK).mean((0, 1)) * lam
        share_B = (labels_B != MISSING).float() * lam
        if mix is not None:
            soft_other_BK = None if soft_BK is None else soft_BK[mix[1]]
            rows_B = rows_B + row_losses(adjusted, other_B, self._terms, soft_other_BK).mean((0, 1)) * (1.0 - lam)
            share_B = share_B + (other_B != MISSING).float() * (1.0 - lam)
        main = self.weight * rows_B.sum() / max(counts.weight, 1e-12)
        parts, total = {"loss": main.detach()}, main
        if alpha > 0 and logits_SVBK.shape[1] == 2:
            divergence_B = symmetric_kl(logits_SVBK[:, 0], logits_SVBK[:, 1]).mean(0)
            consistency = self.weight * alpha * (divergence_B * share_B).sum() / max(counts.rows, 1e-12)
            parts["consistency"], total = consistency.detach(), main + consistency
        return MicroLoss(total, parts)

    def observe(self, logits_SVBK: Tensor, labels_B: Tensor, mix: tuple[float, Tensor] | None) -> Tensor:
        """What adaptive gamma records of a micro-batch: rows of (class, mean p of the class, share), float32 (2B or B, 3)."""
        p_BK = logits_SVBK.detach().float().softmax(-1).mean((0, 1))
        sides = [(1.0, labels_B)] if mix is None else [(mix[0], labels_B), (1.0 - mix[0], labels_B[mix[1]])]
        found = []
        for share, label_B in sides:
            known_B = label_B != MISSING
            p_B = p_BK.gather(-1, label_B.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            found.append(torch.stack([label_B.float(), p_B, known_B.float() * share], dim=-1)[known_B])
        return torch.cat(found)


def _sides(mixing: Mixing | None, positions: Rows) -> list[tuple[float, Rows]]:
    if mixing is None:
        return [(1.0, positions)]
    return [(mixing.lam, positions), (1.0 - mixing.lam, positions[mixing.permutation])]


def r_drop_alpha(config: LossConfig, epoch: int, step_in_epoch: int, steps_per_epoch: list[int]) -> float:
    """R-Drop's alpha at a step: 0 in the warm-up epochs, then rising linearly, step by step, over as many epochs."""
    warmup = config.r_drop_warmup_epochs
    if epoch < warmup or not config.r_drop_alpha:
        return 0.0
    rise = sum(steps_per_epoch[warmup : 2 * warmup])
    done = sum(steps_per_epoch[warmup:epoch]) + step_in_epoch + 1
    return config.r_drop_alpha * (min(1.0, done / rise) if rise else 1.0)
