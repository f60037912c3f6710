"""Adaptive gamma: focal loss's exponent for each class, from how sure the model was of that class in the last epoch.

gamma_c = clip(gamma (1 + mean p - mean p_c), gamma / 2, 2 gamma). A larger gamma alone would shrink a hard class's loss, so each class's
factors are rescaled to the mean that plain gamma gives on the same rows (compare Equalized Focal Loss, Li et al. 2022).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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

    def update(self, labels: NDArray[np.int64], p: Floats, weights: Floats) -> None:
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
