import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from polarity.config import ClassWeightConfig
from polarity.data.ledger import class_weights

FREE = ClassWeightConfig(max_weight=1e9)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=5))
def test_equals_scikit_learn_where_nothing_is_clipped(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    weights, clipped = class_weights(counts, np.ones(len(counts)), FREE)
    np.testing.assert_allclose(weights, np.maximum(expected, 0.1), rtol=1e-12)
    np.testing.assert_array_equal(clipped, expected < 0.1)


def test_the_plan_by_hand() -> None:
    # 9,965 rows of polarization; 1.5 x 9965 / (3 x 588) = 8.47 meets the cap
    weights, clipped = class_weights([2771, 588, 6606], [1.0, 1.5, 1.0], ClassWeightConfig(max_weight=6.0))
    np.testing.assert_allclose(weights, [9965 / (3 * 2771), 6.0, 9965 / (3 * 6606)])
    assert clipped.tolist() == [False, True, False]


@pytest.mark.parametrize(("strength", "expected"), [(0.0, [2.0, 1.0]), (0.5, [2 * (50 / 90) ** 0.5, 5**0.5]), (1.0, [2 * 50 / 90, 5.0])])
def test_strength_is_an_exponent_of_the_frequency_alone(strength: float, expected: list[float]) -> None:
    weights, _ = class_weights([90, 10], [2.0, 1.0], ClassWeightConfig(strength=strength))
    np.testing.assert_allclose(weights, expected)


def test_clips_at_a_tenth_and_at_the_cap() -> None:
    weights, clipped = class_weights([10_000, 1, 0], [0.1, 1.0, 1.0], ClassWeightConfig(max_weight=3.0))
    assert weights.tolist() == [0.1, 3.0, 3.0]
    assert clipped.all()


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="same length"):
        class_weights([1, 2], [1.0], FREE)
