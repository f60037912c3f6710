"""Class biases: constants added to the classes' log-probabilities so that the argmax has the best macro-F1.

Shapes: N rows, K classes, C cells, R resamples.
"""

from statistics import NormalDist  # scipy.stats takes a second to import
from typing import Any

import numpy as np

from polarity.evaluate.intervals import interval, joint_cells
from polarity.evaluate.metrics import confusion_matrix, macro_f1
from polarity.evaluate.predictions import Codes, Floats

ROUNDS = 10
LARGEST = 3.0
"""Bound of a bias: odds moved by a factor of 20."""
RESAMPLES = 1000
KEPT_ERRORS = 1.96
"""Biases are kept where the cross-fitted gain exceeds so many of its standard errors: its 95 % interval excludes zero."""
BOUND = 0.005
"""The part of the 5 % that bounds a kept gain by the plain interval of the estimate."""


def fit_biases(logs_NK: Floats, labels: Codes) -> list[float]:
    """Biases (K,), mean 0, that maximise macro-F1 on rows of log-probabilities (N, K): coordinate ascent, each coordinate exactly.

    Among equally good values the one nearest to no bias is taken.
    """
    biases = np.zeros(logs_NK.shape[1])
    best = float(macro_f1(confusion_matrix(labels, logs_NK.argmax(axis=1), len(biases))))
    for _ in range(ROUNDS):
        before = best
        for k in range(len(biases)):
            biases[k], best = _best_bias(logs_NK + np.where(np.arange(len(biases)) == k, 0.0, biases), labels, k, float(biases[k]), best)
        if best <= before:
            break
    centred: list[float] = (biases - biases.mean()).tolist()
    return centred


def _best_bias(others_NK: Floats, labels: Codes, k: int, current: float, best: float) -> tuple[float, float]:
    """The best bias of class k while the others' are in `others_NK`, and its macro-F1; the current one where none is better.

    Row i goes to k where the bias exceeds its threshold, so between two neighbouring thresholds nothing changes: a sweep over the
    sorted thresholds, moving one row at a time, sees every macro-F1 that there is.
    """
    classes = others_NK.shape[1]
    rivals_NK = others_NK.copy()
    rivals_NK[:, k] = -np.inf
    rival = rivals_NK.argmax(axis=1)
    thresholds = rivals_NK[np.arange(len(labels)), rival] - others_NK[:, k]
    order = np.argsort(thresholds, kind="stable")
    sorted_ = thresholds[order]
    start = confusion_matrix(labels, rival, classes)  # no row goes to k
    moves = np.zeros((len(labels) + 1, classes, classes), np.int64)
    at, label = np.arange(1, len(labels) + 1), labels[order]
    moves[at, label, rival[order]] -= 1
    moves[at, label, k] += 1
    scores = macro_f1(start + np.cumsum(moves, axis=0))
    edges = np.concatenate([[-np.inf], sorted_, [np.inf]])
    middles = np.clip((np.clip(edges[:-1], -LARGEST, LARGEST) + np.clip(edges[1:], -LARGEST, LARGEST)) / 2, -LARGEST, LARGEST)
    real = (edges[:-1] < middles) & (middles < edges[1:])  # ties have no room between them
    if not real.any() or scores[real].max() <= best + 1e-12:
        return current, best
    candidates = np.flatnonzero(real & (scores >= scores[real].max() - 1e-12))
    chosen = candidates[np.abs(middles[candidates]).argmin()]
    return float(middles[chosen]), float(scores[chosen])


def gain_of(labels: Codes, before: Codes, after: list[Codes], classes: int, seed: int) -> dict[str, Any]:
    """Macro-F1 of `after` (one (N,) array a repeat, averaged) less that of `before`: `cross_fitted`, its standard error and 95 % interval.

    `kept` only if the interval excludes zero. A gain is looked at only where it was kept, so a kept one is stated as what it is worth
    given that it had to be large to be kept: `gain` and `gain_ci95` (see `after_selection`). Where it was not kept they are null.
    """
    ids, first = joint_cells([labels, before, *after])
    counts_C = np.bincount(ids, minlength=len(first)).astype(np.float64)
    shares_C = counts_C / len(labels)
    drawn_RC = np.random.default_rng(seed).multinomial(len(labels), shares_C, size=RESAMPLES).astype(np.float64)

    def score(counts: Floats, predicted: Codes) -> Floats:
        to_confusion = np.zeros((len(first), classes * classes))
        to_confusion[np.arange(len(first)), labels[first] * classes + predicted[first]] = 1
        return macro_f1((counts @ to_confusion).reshape(-1, classes, classes))

    point_before, point_after = (np.mean([score(counts_C[None], p)[0] for p in some]) for some in ([before], after))
    spread = np.mean([score(drawn_RC, predicted) for predicted in after], axis=0) - score(drawn_RC, before)
    observed, error = float(point_after - point_before), float(spread.std())
    kept = error > 0 and observed > KEPT_ERRORS * error
    gain, gain_ci95 = after_selection(observed, error) if kept else (None, None)
    return {
        "macro_f1_before": float(point_before),
        "macro_f1_after": float(point_after),
        "cross_fitted": observed,
        "standard_error": error,
        "ci95": interval(spread),
        "kept": kept,
        "gain": gain,
        "gain_ci95": gain_ci95,
    }


def after_selection(observed: float, error: float, threshold: float = KEPT_ERRORS) -> tuple[float, list[float]]:
    """The gain behind an estimate that is reported only because it exceeded `threshold` standard errors, with its 95 % interval.

    The estimate is normal around the true gain and cut off below the threshold. The value returned is the true gain under which the
    observed estimate would be the median of what is left, so it is as often too high as too low; the limits likewise. Just above the
    threshold that alone would allow any negative gain, so the gain is also held within the plain 99.5 % interval of the estimate: the
    hybrid inference on winners of Andrews, Kitagawa and McCloskey (2024). Raises ValueError where the estimate is not above the threshold.
    """
    if observed <= threshold * error:
        raise ValueError(f"an estimate of {observed} with standard error {error} does not exceed {threshold} of them")
    from scipy.optimize import brentq

    below = NormalDist().cdf
    z, reach = observed / error, NormalDist().inv_cdf(1 - BOUND / 2)

    def share_above(mean: float) -> float:
        """P(estimate > z) among the estimates that are above the threshold and within reach of the mean: rises with the mean."""
        low, high = max(threshold - mean, -reach), reach
        return (below(high) - below(z - mean)) / (below(high) - below(low))

    def mean_of(share: float) -> float:
        return error * float(brentq(lambda mean: share_above(mean) - share, z - reach + 1e-9, z + reach - 1e-9))

    tail = (0.05 - BOUND) / (1 - BOUND) / 2
    return mean_of(0.5), [mean_of(tail), mean_of(1 - tail)]
