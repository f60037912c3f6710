"""The loss of a row against torch, and against the formula in plain Python."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from polarity.evaluate.predictions import MISSING
from polarity.loss import ClassTerms, log_one_minus_p, row_losses, smoothing_per_class, symmetric_kl

WEIGHTS, SMOOTHING = [0.5, 1.8, 3.0], [0.0, 0.05, 0.2]


def terms(
    gamma: list[float], weight: list[float] | None = None, smoothing: list[float] | None = None, factor: list[float] | None = None
) -> ClassTerms:
    columns = (weight or [1.0] * 3, gamma, factor or [1.0] * 3, smoothing or [0.0] * 3)
    weight_K, gamma_K, factor_K, smoothing_K = (torch.tensor(column) for column in columns)
    return ClassTerms(weight_K, gamma_K, factor_K, smoothing_K, focal=max(gamma) > 0)


def softmax(row: list[float]) -> list[float]:
    raised = [math.exp(x - max(row)) for x in row]
    return [x / sum(raised) for x in raised]


def by_hand(row: list[float], y: int, gamma: float, weight: float, epsilon: float, factor: float = 1.0) -> float:
    p = softmax(row)
    q = [(1 - epsilon) * (c == y) + epsilon / len(row) for c in range(len(row))]
    return weight * factor * (1 - p[y]) ** gamma * sum(-q_c * math.log(p_c) for q_c, p_c in zip(q, p, strict=True))


def random_batch(rows: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(rows, 3, generator=generator), torch.randint(0, 3, (rows,), generator=generator)


@pytest.mark.parametrize("epsilon", [0.0, 0.08, 0.5])
def test_plain_loss_is_torchs_cross_entropy(epsilon: float) -> None:
    logits, labels = random_batch()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=epsilon, reduction="none")
    torch.testing.assert_close(row_losses(logits, labels, terms([0.0] * 3, smoothing=[epsilon] * 3)), expected)


def test_weighted_loss_is_torchs() -> None:
    logits, labels = random_batch()
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS), reduction="none")
    torch.testing.assert_close(row_losses(logits, labels, terms([0.0] * 3, WEIGHTS)), expected)


def test_weights_and_smoothing_are_torchs_of_soft_targets() -> None:
    """torch's cross-entropy of the smoothed targets, times the true class's weight."""
    logits, labels = random_batch()
    epsilon = torch.tensor(SMOOTHING)[labels].unsqueeze(-1)
    targets = (1 - epsilon) * torch.nn.functional.one_hot(labels, 3) + epsilon / 3
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * torch.tensor(WEIGHTS)[labels]
    torch.testing.assert_close(row_losses(logits, labels, terms([0.0] * 3, WEIGHTS, SMOOTHING)), expected)


def test_the_mean_is_torchs_weighted_mean() -> None:
    """Sum of losses over sum of weights, which is torch's reduction "mean" with weights; a missing label is its ignore_index."""
    logits, labels = random_batch()
    labels[::5] = -1
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS), ignore_index=-1)
    known = labels >= 0
    total = row_losses(logits, labels, terms([0.0] * 3, WEIGHTS)).sum() / torch.tensor(WEIGHTS)[labels[known]].sum()
    torch.testing.assert_close(total, expected)


def sigmoid_focal_loss(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """The form of torchvision.ops.sigmoid_focal_loss (torchvision is not installed for one function)."""
    p = torch.sigmoid(inputs)
    ce = torch.nn.functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * ce * ((1 - p_t) ** gamma)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 2.5])
def test_of_two_classes_it_is_torchvisions_focal_loss(gamma: float) -> None:
    """A softmax over (0, x) is the sigmoid of x; alpha is the weight of class 1, 1 - alpha that of class 0."""
    x = 3 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 2
    both = ClassTerms(torch.tensor([0.75, 0.25]), torch.tensor([gamma] * 2), torch.ones(2), torch.zeros(2), focal=True)
    found = row_losses(torch.stack([torch.zeros(50), x], dim=-1), labels, both)
    torch.testing.assert_close(found, sigmoid_focal_loss(x, labels.float(), 0.25, gamma), rtol=1e-4, atol=1e-7)


def test_the_whole_formula_row_by_row() -> None:
    """Weight, gamma, factor and smoothing are those of the true class: torch's smoothing would weigh the other classes by theirs."""
    logits, labels = random_batch()
    gamma, factor = [0.7, 2.0, 5.0], [1.0, 1.5, 0.3]
    found = row_losses(logits, labels, terms(gamma, WEIGHTS, SMOOTHING, factor))
    expected = [
        by_hand(row, y, gamma[y], WEIGHTS[y], SMOOTHING[y], factor[y]) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5)


def test_a_case_on_paper() -> None:
    """p = (1/2, 1/4, 1/4), y = 0, gamma 2, weight 3: 3 * (1/2)^2 * ln 2."""
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    found = row_losses(logits, torch.tensor([0]), terms([2.0] * 3, [3.0] * 3))
    assert found.item() == pytest.approx(0.75 * math.log(2.0), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.1, 0.3, 0.5, 0.99, 1.0, 1.5, 2.0, 2.5, 5.0, 20.0])
@pytest.mark.parametrize("size", [0.0, 1.0, 9.0, 20.0, 60.0, 100.0, 200.0, 1e4])
def test_gradients_are_finite_at_both_ends(gamma: float, size: float) -> None:
    logits = torch.tensor([[size, -size, -size], [-size, size, -size], [size, size, size], [0.0, -size, 0.0]], requires_grad=True)
    for label in range(3):
        logits.grad = None
        losses = row_losses(logits, torch.full((4,), label), terms([gamma] * 3, smoothing=[0.05] * 3))
        losses.sum().backward()
        assert losses.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def test_gradient_is_the_numerical_one() -> None:
    logits, labels = random_batch(5)
    logits = logits.requires_grad_()
    gamma = torch.tensor([0.3, 1.0, 2.5])
    row_losses(logits, labels, terms(gamma.tolist(), WEIGHTS, SMOOTHING)).sum().backward()
    assert logits.grad is not None
    for i, (row, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        for c in range(3):
            shifted = [[x + step * (k == c) for k, x in enumerate(row)] for step in (1e-6, -1e-6)]
            up, down = (by_hand(s, y, float(gamma[y]), WEIGHTS[y], SMOOTHING[y]) for s in shifted)
            assert logits.grad[i, c].item() == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-5)


def test_log_of_one_minus_p_stays_exact() -> None:
    found = log_one_minus_p(torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(math.log(2.0) - 30.0, rel=1e-6)  # 1 - p would be 0 in float32


def test_missing_labels_add_zero_and_no_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    losses = row_losses(logits, torch.tensor([-1, -1]), terms([0.3] * 3, WEIGHTS, SMOOTHING))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert logits.grad is not None and logits.grad.tolist() == [[0.0] * 3] * 2


def test_losses_are_float32_whatever_the_logits() -> None:
    logits, labels = random_batch()
    assert row_losses(logits.bfloat16(), labels, terms([1.0] * 3)).dtype == torch.float32


def test_symmetric_kl_in_a_loop() -> None:
    first, second = random_batch(6)[0], random_batch(12)[0][6:]
    for a, b, found in zip(first.tolist(), second.tolist(), symmetric_kl(first, second).tolist(), strict=True):
        p, q = softmax(a), softmax(b)
        there = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        back = sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
        assert found == pytest.approx((there + back) / 2, rel=1e-4)


def test_symmetric_kl_sends_gradients_through_both_sides() -> None:
    first, second = (random_batch(3)[0] * f for f in (1.0, 0.5))
    first.requires_grad_()
    second.requires_grad_()
    symmetric_kl(first, second).sum().backward()
    assert first.grad is not None and second.grad is not None
    assert first.grad.abs().sum() > 0 and second.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_gradients_of_the_divergence_are_finite_where_passes_are_sure_of_opposite_classes(size: float) -> None:
    first = torch.tensor([[size, -size, 0.0], [size, -size, 0.0]], requires_grad=True)
    second = torch.tensor([[-size, size, 0.0], [size, -size, 0.0]], requires_grad=True)
    divergence = symmetric_kl(first, second)
    divergence.sum().backward()
    assert divergence.isfinite().all() and divergence[1] == 0.0
    for side in (first, second):
        assert side.grad is not None and side.grad.isfinite().all()


def test_adaptive_smoothing() -> None:
    assert smoothing_per_class(0.08, [5905, 2677, 1383], adaptive=True) == pytest.approx([0.08, 0.08 * 1294 / 4522, 0.0])
    assert smoothing_per_class(0.08, [7, 7, 7], adaptive=True) == [0.08] * 3
    assert smoothing_per_class(0.08, [5905, 2677, 1383], adaptive=False) == [0.08] * 3


def test_adaptive_smoothing_in_a_loop() -> None:
    counts = np.random.default_rng(0).integers(1, 5000, 7)
    found = smoothing_per_class(0.1, counts.tolist(), adaptive=True)
    expected = [0.1 * (n - min(counts)) / (max(counts) - min(counts)) for n in counts]
    assert found == pytest.approx(expected) and min(found) == 0.0 and max(found) == pytest.approx(0.1)


def test_a_teachers_probabilities_take_the_place_of_the_label_and_the_label_keeps_the_weight() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, soft = torch.randn(6, 3, generator=generator), torch.rand(6, 3, generator=generator).softmax(-1)
    labels = torch.tensor([0, 1, 2, 0, MISSING, 1])
    weights = torch.tensor(WEIGHTS)[labels.clamp(min=0)]
    expected = torch.nn.functional.cross_entropy(logits, soft, reduction="none") * weights * (labels != MISSING)
    torch.testing.assert_close(row_losses(logits, labels, terms([0.0] * 3, WEIGHTS), soft), expected)
    hard = torch.nn.functional.one_hot(labels.clamp(min=0), 3).float()
    plain = row_losses(logits, labels, terms([0.0] * 3, WEIGHTS))
    torch.testing.assert_close(row_losses(logits, labels, terms([0.0] * 3, WEIGHTS), hard), plain)
