"""The objective of a global batch: every task's loss over its global count, known before the first micro-batch.

Each task's loss is sum(loss) / sum(w) over the labelled rows of the *global* batch, times the task's weight, and tasks are added. So class
weights do not move the learning rate, the cut into micro-batches and ranks does not matter, and a batch without a task's labels adds
exactly zero. Shapes: G rows of the global batch, B of a micro-batch, S dropout samples, V = 1 or 2 passes (R-Drop), K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polarity.config import LossConfig
from polarity.data.ledger import TaskStatistics
from polarity.loss.adaptive import AdaptiveGamma
from polarity.loss.classification import MISSING, ClassTerms, row_losses, smoothing_per_class, symmetric_kl

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Mixing:
    """One micro-batch's mixup: lambda and the permutation of its rows (B,)."""

    lam: float
    permutation: NDArray[np.int64]


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

    def counts(self, labels_G: Labels, mixings: list[tuple[NDArray[np.int64], Mixing | None]]) -> Counts:
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


def _sides(mixing: Mixing | None, positions: NDArray[np.int64]) -> list[tuple[float, NDArray[np.int64]]]:
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
