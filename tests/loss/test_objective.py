"""The objective of a global batch: denominators, mixup, R-Drop, logit adjustment, and what adaptive gamma observes."""

from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import LossConfig
from polarity.data.ledger import TaskStatistics
from polarity.loss import Counts, Mixing, TaskObjective, r_drop_alpha, row_losses, symmetric_kl

CPU = torch.device("cpu")
STATISTICS = TaskStatistics([0.5, 1.8, 3.0], [50, 30, 20], [0.2, 0.3, 0.5])
LABELS = np.array([0, 1, -1, 2, 2, -1, 0, 1])


def objective(**settings: Any) -> TaskObjective:
    settings = {"task_weights": {"t": 1.2}, "focal_gamma": {"t": 1.5}, "label_smoothing": {"t": 0.05}} | settings
    return TaskObjective("t", LossConfig(**settings), STATISTICS, CPU)


def logits(passes: int = 1, samples: int = 1, rows: int = len(LABELS)) -> torch.Tensor:
    return torch.randn(samples, passes, rows, 3, generator=torch.Generator().manual_seed(3))


def whole(task: TaskObjective, mixing: Mixing | None = None) -> Counts:
    return task.counts(LABELS, [(np.arange(len(LABELS)), mixing)])


def test_loss_is_the_weighted_mean_times_the_tasks_weight() -> None:
    task, x = objective(focal_gamma={}), logits()
    found = task(x, torch.tensor(LABELS), None, whole(task), 0.0).total
    known = LABELS >= 0
    weights = np.array(STATISTICS.class_weights)[LABELS[known]]
    each = torch.nn.functional.cross_entropy(x[0, 0][known], torch.tensor(LABELS[known]), label_smoothing=0.05, reduction="none").numpy()
    assert found.item() == pytest.approx(1.2 * (weights * each).sum() / weights.sum(), rel=1e-5)
    assert whole(task).weight == pytest.approx(weights.sum()) and whole(task).rows == known.sum()


def test_class_weights_do_not_move_the_scale() -> None:
    """Ten times every weight is the same loss."""
    x, big = logits(), TaskStatistics([10 * w for w in STATISTICS.class_weights], STATISTICS.counts, STATISTICS.sampled_prior)
    one, other = (
        objective(),
        TaskObjective("t", LossConfig(task_weights={"t": 1.2}, focal_gamma={"t": 1.5}, label_smoothing={"t": 0.05}), big, CPU),
    )
    found = [task(x, torch.tensor(LABELS), None, whole(task), 0.0).total.item() for task in (one, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_cut_into_micro_batches_does_not_matter(size: int, alpha: float) -> None:
    task, x = objective(), logits(passes=2, samples=3)
    counts = whole(task)
    full = task(x, torch.tensor(LABELS), None, counts, alpha).total.item()
    parts = [task(x[:, :, at : at + size], torch.tensor(LABELS[at : at + size]), None, counts, alpha) for at in range(0, 8, size)]
    assert sum(p.total.item() for p in parts) == pytest.approx(full, rel=1e-5)
    cut = task.counts(LABELS, [(np.arange(at, min(at + size, 8)), None) for at in range(0, 8, size)])
    assert (cut.weight, cut.rows) == pytest.approx((counts.weight, counts.rows))


def test_mixup_with_missing_labels_in_a_loop() -> None:
    """A side without a label drops out of numerator and denominator."""
    lam, turn = 0.3, np.array([2, 0, 1, 5, 4, 3, 7, 6])
    task, x = objective(), logits()
    counts = whole(task, Mixing(lam, turn))
    found = task(x, torch.tensor(LABELS), (lam, torch.tensor(turn)), counts, 0.0).total.item()
    above = below = rows = 0.0
    for i in range(len(LABELS)):
        for share, label in ((lam, LABELS[i]), (1 - lam, LABELS[turn[i]])):
            if label >= 0:
                above += share * row_losses(x[0, 0, i], torch.tensor(label), task._terms).item()
                below += share * STATISTICS.class_weights[label]
                rows += share
    assert (counts.weight, counts.rows) == pytest.approx((below, rows))
    assert found == pytest.approx(1.2 * above / below, rel=1e-5)


def test_mixing_with_lambda_one_is_no_mixup() -> None:
    task, x, turn = objective(), logits(passes=2), np.arange(8)[::-1].copy()
    plain = task(x, torch.tensor(LABELS), None, whole(task), 0.4).total
    mixed = task(x, torch.tensor(LABELS), (1.0, torch.tensor(turn)), whole(task, Mixing(1.0, turn)), 0.4).total
    torch.testing.assert_close(mixed, plain)


def test_r_drop_adds_the_unweighted_mean_over_labelled_rows() -> None:
    task, x = objective(), logits(passes=2, samples=3)
    without = task(x, torch.tensor(LABELS), None, whole(task), 0.0)
    with_it = task(x, torch.tensor(LABELS), None, whole(task), 0.6)
    known = LABELS >= 0
    each = torch.stack([symmetric_kl(x[s, 0], x[s, 1]) for s in range(3)]).mean(0)[known]
    assert (with_it.total - without.total).item() == pytest.approx(1.2 * 0.6 * each.mean().item(), rel=1e-4)
    assert with_it.parts["consistency"].item() == pytest.approx(1.2 * 0.6 * each.mean().item(), rel=1e-5)


def test_losses_not_logits_are_averaged_over_passes_and_samples() -> None:
    task, x = objective(), logits(passes=2, samples=3)
    alone = [task(x[s : s + 1, v : v + 1], torch.tensor(LABELS), None, whole(task), 0.0).total.item() for s in range(3) for v in range(2)]
    assert task(x, torch.tensor(LABELS), None, whole(task), 0.0).total.item() == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_without_the_tasks_labels_adds_exactly_zero(mixed: bool) -> None:
    task, x = objective(), (200 * logits(passes=2)).requires_grad_()
    none, turn = np.full(8, -1), np.arange(8)[::-1].copy()
    counts = task.counts(none, [(np.arange(8), Mixing(0.4, turn) if mixed else None)])
    loss = task(x, torch.tensor(none), (0.4, torch.tensor(turn)) if mixed else None, counts, 0.6).total
    loss.backward()
    assert loss.item() == 0.0 and x.grad is not None and not x.grad.any()
    assert (counts.weight, counts.rows) == (0.0, 0.0)


def test_logit_adjustment_adds_the_sampled_prior() -> None:
    """Menon et al. 2021, with tau: the loss is that of logits + tau log prior; R-Drop's softmax stays plain."""
    task, plain, x = objective(logit_adjustment=0.7), objective(), logits(passes=2)
    shifted = x + 0.7 * torch.tensor(STATISTICS.sampled_prior).log()
    found = task(x, torch.tensor(LABELS), None, whole(task), 0.4)
    torch.testing.assert_close(found.parts["loss"], plain(shifted, torch.tensor(LABELS), None, whole(plain), 0.0).total)
    torch.testing.assert_close(found.parts["consistency"], plain(x, torch.tensor(LABELS), None, whole(plain), 0.4).parts["consistency"])


def test_what_adaptive_gamma_observes() -> None:
    task, x, turn = objective(adaptive_gamma=True), logits(passes=2, samples=2), np.array([1, 0, 3, 2, 5, 4, 7, 6])
    p = x.softmax(-1).mean((0, 1)).numpy()
    expected = [(LABELS[i], p[i, LABELS[i]], 0.3) for i in range(8) if LABELS[i] >= 0]
    expected += [(LABELS[turn[i]], p[i, LABELS[turn[i]]], 0.7) for i in range(8) if LABELS[turn[i]] >= 0]
    found = task.observe(x, torch.tensor(LABELS), (0.3, torch.tensor(turn))).numpy()
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)
    assert task.adaptive and not objective(adaptive_gamma=True, focal_gamma={}).adaptive


def test_refresh_puts_adapted_gamma_in_force() -> None:
    task, x = objective(adaptive_gamma=True, label_smoothing={}), logits()
    before = task(x, torch.tensor(LABELS), None, whole(task), 0.0).total
    task.gamma.gammas, task.gamma.factors = [0.75, 1.5, 3.0], [1.0, 1.0, 1.0]
    task.refresh()
    assert not torch.equal(before, task(x, torch.tensor(LABELS), None, whole(task), 0.0).total)


def test_r_drops_ramp() -> None:
    """Two warm-up epochs of none, then two epochs that rise by the step to the full alpha, then all of it."""
    config, steps = LossConfig(r_drop_alpha=0.6, r_drop_warmup_epochs=2), [4, 4, 4, 6, 4]
    found = [r_drop_alpha(config, e, s, steps) for e in range(5) for s in range(steps[e])]
    assert found == pytest.approx([0.0] * 8 + [0.06 * (i + 1) for i in range(10)] + [0.6] * 4)
    assert r_drop_alpha(LossConfig(r_drop_alpha=0.6), 0, 0, steps) == 0.6
    assert r_drop_alpha(LossConfig(), 3, 0, steps) == 0.0


def by_numpy(x: np.ndarray, labels: np.ndarray, lam: float, turn: np.ndarray, alpha: float) -> float:
    """Everything at once in loops over numbers: R-Drop x mixup x samples x missing labels x weights x gamma x smoothing."""
    above = below = rows = divergence = 0.0
    samples, passes, _, classes = x.shape
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    for i in range(len(labels)):
        kl = 0.0
        for s in range(samples):
            one, two = p[s, 0, i], p[s, 1, i]
            kl += 0.5 * sum((a - b) * (np.log(a) - np.log(b)) for a, b in zip(one, two, strict=True)) / samples
        for share, y in ((lam, labels[i]), (1 - lam, labels[turn[i]])):
            if y < 0:
                continue
            for s in range(samples):
                for v in range(passes):
                    q = [0.95 * (c == y) + 0.05 / classes for c in range(classes)]
                    entropy = -sum(q_c * np.log(p_c) for q_c, p_c in zip(q, p[s, v, i], strict=True))
                    focal = (1 - p[s, v, i, y]) ** 1.5
                    above += share * STATISTICS.class_weights[y] * focal * entropy / (samples * passes)
            below += share * STATISTICS.class_weights[y]
            rows += share
            divergence += share * kl
    return float(1.2 * (above / below + alpha * divergence / rows))


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9])
def test_all_of_it_together_in_numpy(lam: float) -> None:
    turn = np.array([2, 0, 1, 5, 4, 3, 7, 6])
    task, x = objective(), 2 * logits(passes=2, samples=3)
    found = task(x, torch.tensor(LABELS), (lam, torch.tensor(turn)), whole(task, Mixing(lam, turn)), 0.6).total
    assert found.item() == pytest.approx(by_numpy(x.double().numpy(), LABELS, lam, turn, 0.6), rel=1e-4)


@pytest.mark.parametrize("size", [30.0, 300.0, 1e4])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_gradients_are_finite_where_the_model_is_sure(size: float, gamma: float) -> None:
    """Right or wrong, in both passes or in one, with adapted gamma and logit adjustment."""
    task = objective(focal_gamma={"t": gamma}, adaptive_gamma=True, logit_adjustment=1.0)
    task.gamma.update(np.array([0, 1, 2]), np.array([1.0, 0.0, 1.0]), np.ones(3))
    task.refresh()
    x = (size * torch.eye(3)[torch.arange(8) % 3]).repeat(2, 2, 1, 1)
    x[1, 1] = -x[1, 1]
    x.requires_grad_()
    task(x, torch.tensor(LABELS), None, whole(task), 0.6).total.backward()
    assert x.grad is not None and x.grad.isfinite().all()
