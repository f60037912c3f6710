"""Adaptive gamma against the definition in plain Python."""

import numpy as np
import pytest

from polarity.loss import AdaptiveGamma


def observations(rows: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, classes, rows), rng.random(rows), rng.choice([0.3, 0.7, 1.0], rows)


def mean_p(labels: np.ndarray, p: np.ndarray, shares: np.ndarray, c: int) -> float:
    own = [i for i in range(len(labels)) if labels[i] == c]
    return sum(shares[i] * p[i] for i in own) / sum(shares[i] for i in own)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.5])
def test_exponents_in_a_loop(gamma: float) -> None:
    labels, p, shares = observations()
    state = AdaptiveGamma.start(gamma, 3)
    assert state.gammas == [gamma] * 3 and state.factors == [1.0] * 3
    state.update(labels, p, shares)
    means = [mean_p(labels, p, shares, c) for c in range(3)]
    center = sum(means) / 3
    assert state.gammas == pytest.approx([min(max(gamma * (1 + center - m), gamma / 2), 2 * gamma) for m in means])


def test_factors_keep_each_classs_mean() -> None:
    labels, p, shares = observations()
    state = AdaptiveGamma.start(2.0, 3)
    state.update(labels, p, shares)
    for c in range(3):
        rows = [i for i in range(len(labels)) if labels[i] == c]
        plain = sum(shares[i] * (1 - p[i]) ** 2.0 for i in rows)
        changed = sum(shares[i] * state.factors[c] * (1 - p[i]) ** state.gammas[c] for i in rows)
        assert changed == pytest.approx(plain, rel=1e-12)


def test_the_bounds() -> None:
    """Means 1, 0, 0, 0: 1 + 1/4 - 1 is below a half. 1, 1, 1, 0 comes near 2, never above."""
    labels = np.arange(4)
    low, high = AdaptiveGamma.start(2.0, 4), AdaptiveGamma.start(2.0, 4)
    low.update(labels, np.array([1.0, 0.0, 0.0, 0.0]), np.ones(4))
    assert low.gammas == pytest.approx([1.0, 2.5, 2.5, 2.5])
    assert low.factors[0] == 1.0  # the class's factors are all 0: nothing to rescale
    high.update(labels, np.array([1.0, 1.0, 1.0, 0.0]), np.ones(4))
    assert high.gammas[3] == pytest.approx(3.5)


def test_a_class_that_was_not_seen_keeps_gamma_and_counts_for_nothing() -> None:
    state = AdaptiveGamma.start(2.0, 3)
    state.update(np.array([0, 1, 2]), np.array([0.9, 0.1, 0.5]), np.array([1.0, 1.0, 0.0]))
    assert state.gammas == pytest.approx([2.0 * 0.6, 2.0 * 1.4, 2.0])
    assert state.factors[2] == 1.0


def test_an_epoch_without_observations_changes_nothing() -> None:
    state = AdaptiveGamma.start(1.5, 3)
    state.update(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    assert state == AdaptiveGamma.start(1.5, 3)


def test_order_of_observations_does_not_matter() -> None:
    labels, p, shares = observations()
    one, other = AdaptiveGamma.start(2.0, 3), AdaptiveGamma.start(2.0, 3)
    turn = np.random.default_rng(1).permutation(len(labels))
    one.update(labels, p, shares)
    other.update(labels[turn], p[turn], shares[turn])
    assert one.gammas == pytest.approx(other.gammas, rel=1e-12)
