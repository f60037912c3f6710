"""Class shares: against the inverse of a matrix, a plain EM over rows, and simulated shifts of the class prior."""

import numpy as np
import pytest

from polarity.evaluate.shares import Shares, Tally, class_shares, confusion, mixture_weights, render_shares

CLASSES = ["a", "b", "c"]
VALIDATION = np.array([0.6, 0.28, 0.12])
TAUGHT = np.array([0.25, 0.5, 0.25])
"""The prior that resampling and class weights taught the classifier."""
HEAT = 2.0
"""Its overconfidence: logits are twice what they should be."""


def scored(rng: np.random.Generator, rows: int, prior: np.ndarray, apart: float = 1.7) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and probabilities (N, 3) of rows drawn from Gaussians, under the taught prior and overconfident."""
    means = np.eye(3) * apart
    label = rng.choice(3, rows, p=prior)
    x = rng.normal(size=(rows, 3)) + means[label]
    logits = (x @ means.T - (means**2).sum(axis=1) / 2 + np.log(TAUGHT)) * HEAT
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return label, exp / exp.sum(axis=1, keepdims=True)


def tally(probabilities: np.ndarray, label: np.ndarray | None = None) -> Tally:
    return Tally.of(probabilities, probabilities.argmax(axis=1), label)


def estimated(rng: np.random.Generator, prior: np.ndarray, known: int, rows: int, resamples: int) -> Shares:
    label, chances = scored(rng, known, VALIDATION)
    return class_shares(CLASSES, tally(scored(rng, rows, prior)[1]), tally(chances, label), resamples=resamples)


@pytest.mark.slow
def test_corrected_intervals_cover_the_truth_under_prior_shift_and_counts_do_not() -> None:
    """200 such simulations with 1,500 + 3,000 rows and 200 resamples gave 95.0 % (EM), 94.5 % (adjusted), 14 % (counts)."""
    rng = np.random.default_rng(5)
    covered: dict[str, list[bool]] = {"raw": [], "adjusted": [], "em": []}
    for _ in range(40):
        prior = rng.dirichlet(np.full(3, 2.0))
        found = estimated(rng, prior, 800, 1500, 100)
        for method, hits in covered.items():
            for share, name in zip(prior, CLASSES, strict=True):
                low, high = found["methods"][method][name]["ci95"]
                hits.append(low <= share <= high)
    # 120 intervals that are right 95 times in 100: below 88 % one time in 1,000 if they were independent
    assert np.mean(covered["em"]) > 0.88 and np.mean(covered["adjusted"]) > 0.88
    assert np.mean(covered["raw"]) < 0.4


def test_corrections_undo_the_taught_prior_and_overconfidence() -> None:
    prior = np.array([0.1, 0.2, 0.7])
    found = estimated(np.random.default_rng(0), prior, 20_000, 20_000, 50)
    for method, tolerance in (("adjusted", 0.02), ("em", 0.02)):
        assert [found["methods"][method][name]["share"] for name in CLASSES] == pytest.approx(prior, abs=tolerance)
    assert found["methods"]["raw"]["c"]["share"] < 0.65
    assert found["headline"] == "em"
    width = {method: np.ptp(found["methods"][method]["b"]["ci95"]) for method in ("adjusted", "em")}
    assert width["em"] < width["adjusted"], "probabilities say more than classes"


def test_adjusted_counts_are_the_inverse_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(1)
    label, chances = scored(rng, 5000, VALIDATION)
    known, new = tally(chances, label), tally(scored(rng, 5000, np.array([0.3, 0.3, 0.4]))[1])
    found = class_shares(CLASSES, new, known, resamples=10)
    matrix = np.array([[np.mean(chances[label == true].argmax(axis=1) == said) for said in range(3)] for true in range(3)])
    counted = new.predicted_counts() / new.rows
    expected = np.linalg.solve(matrix.T, counted)
    assert [found["methods"]["adjusted"][name]["share"] for name in CLASSES] == pytest.approx(expected, abs=1e-3)
    assert confusion(known, known.count[None])[0] == pytest.approx(matrix, abs=1e-4)


def test_em_of_cells_is_that_of_rows() -> None:
    """The textbook EM of Saerens et al. over single rows, with the known prior and no calibration to be estimated."""
    rng = np.random.default_rng(2)
    _, chances = scored(rng, 4000, np.array([0.2, 0.3, 0.5]))
    posterior = chances ** (1 / HEAT)
    posterior /= posterior.sum(axis=1, keepdims=True)
    shares = TAUGHT.copy()
    for _ in range(500):
        weighted = posterior * shares / TAUGHT
        shares = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    cells = tally(posterior)
    likelihood = np.exp(cells.log_ratio) / TAUGHT
    found = mixture_weights(likelihood[None], cells.count[None], np.full((1, 3), 1 / 3))[0]
    assert found == pytest.approx(shares, abs=2e-3)
    assert len(cells.count) < 3500


@pytest.mark.parametrize("classes", [2, 3, 9, 30])
def test_tallies_of_parts_add_up(classes: int) -> None:
    rng = np.random.default_rng(3)
    chances = rng.dirichlet(np.full(classes, 0.3), 600).astype(np.float32)
    label = rng.integers(0, classes, 600)
    whole = Tally.of(chances, chances.argmax(axis=1), label)
    parts = Tally.empty(classes)
    for first in range(0, 600, 50):
        rows = slice(first, first + 50)
        parts = parts + Tally.of(chances[rows], chances[rows].argmax(axis=1), label[rows])
    assert parts.rows == 600 and parts.predicted_counts().tolist() == np.bincount(chances.argmax(axis=1), minlength=classes).tolist()
    assert sorted(parts.count) == sorted(whole.count)
    assert (parts.log_ratio * parts.count[:, None]).sum(axis=0) == pytest.approx((whole.log_ratio * whole.count[:, None]).sum(axis=0))


def test_same_seed_same_intervals() -> None:
    first, second = (estimated(np.random.default_rng(4), VALIDATION, 300, 300, 20) for _ in range(2))
    assert first == second


def test_without_validation_rows_counts_stand_alone_and_say_so() -> None:
    _, chances = scored(np.random.default_rng(0), 100, VALIDATION)
    for known in (None, tally(chances[:50]), tally(chances[:50], np.zeros(50, dtype=np.int64))):
        found = class_shares(CLASSES, tally(chances), known, resamples=20)
        assert found["headline"] == "raw" and set(found["methods"]) == {"raw"} and "not corrected" in found["notes"][0]
        assert "counted" in render_shares({"task": found})
    with pytest.raises(ValueError, match="no predicted rows"):
        class_shares(CLASSES, Tally.empty(3), None)


def test_a_classifier_that_knows_nothing_has_wide_intervals_and_a_note() -> None:
    rng = np.random.default_rng(0)
    blind = np.tile([0.5, 0.3, 0.2], (400, 1)) + rng.normal(0, 0.003, (400, 3))
    blind /= blind.sum(axis=1, keepdims=True)
    found = class_shares(CLASSES, tally(blind), tally(blind, rng.choice(3, 400, p=VALIDATION)), resamples=50)
    for method in ("adjusted", "em"):
        assert np.ptp(found["methods"][method]["a"]["ci95"]) > 0.4
    assert found["headline"] == "unknown" and "next to nothing" in found["reason"]
    assert "next to nothing" in render_shares({"task": found})


def test_comments_that_look_different_are_noticed() -> None:
    """Classes that overlap more than in validation: counts of errors and probabilities then disagree, or the counts cannot be explained."""
    rng = np.random.default_rng(0)
    label, chances = scored(rng, 3000, VALIDATION, apart=2.5)
    odd = np.tile([0.02, 0.96, 0.02], (3000, 1))
    found = class_shares(CLASSES, tally(odd), tally(chances, label), resamples=50)
    assert any("held at 0" in note or "differ" in note for note in found["notes"])


def test_a_classifier_without_errors_needs_no_correction() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(3, 2000, p=VALIDATION)
    sure = np.eye(3)[label] * (1 - 3e-7) + 1e-7
    found = class_shares(CLASSES, tally(np.eye(3)[rng.choice(3, 1000, p=[0.2, 0.3, 0.5])]), tally(sure, label), resamples=50)
    for method in ("adjusted", "em"):
        for name in CLASSES:
            assert found["methods"][method][name]["share"] == pytest.approx(found["methods"]["raw"][name]["share"], abs=2e-3)
