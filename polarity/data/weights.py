"""Class weights: the formula alone, on counts, so that both the ledger and the loss can use it."""

import numpy as np
import numpy.typing as npt

from polarity.config import ClassWeightConfig

MIN_WEIGHT = 0.1

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def unclipped_weights(counts: npt.ArrayLike, multipliers: npt.ArrayLike, strength: float) -> FloatArray:
    """m_c (N / (K n_c))^strength before any cap; a class without rows has an infinite weight where strength is above 0.

    counts: (K,) labelled rows, or expected rows after resampling; multipliers: (K,). Formula: scikit-learn's
    `class_weight="balanced"` (King and Zeng 2001), with a multiplier and an exponent.
    """
    n = np.asarray(counts, dtype=np.float64)
    m = np.asarray(multipliers, dtype=np.float64)
    if n.ndim != 1 or n.shape != m.shape:
        raise ValueError(f"counts and multipliers must be of the same length, got {n.shape} and {m.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        balanced = np.where(n > 0, n.sum() / (len(n) * n), np.inf)
    return m * balanced**strength


def class_weights(counts: npt.ArrayLike, multipliers: npt.ArrayLike, config: ClassWeightConfig) -> tuple[FloatArray, BoolArray]:
    """w_c = clip(m_c (N / (K n_c))^strength, 0.1, max_weight), and which of them were clipped: two (K,) arrays.

    counts and multipliers as in `unclipped_weights`; the basis of the counts (raw or resampled) is the caller's.
    """
    free = unclipped_weights(counts, multipliers, config.strength)
    weights = np.clip(free, MIN_WEIGHT, config.max_weight)
    return weights, weights != free
