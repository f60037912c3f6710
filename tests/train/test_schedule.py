"""Schedules: after the warm-up those of transformers, with a floor of our own."""

import pytest
import torch
import transformers

from polarity.config import OptimConfig
from polarity.optim import learning_rate, warmup_steps

TOTAL = 50


def of_transformers(name: str, warmup: int, cycles: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    if name == "linear":
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, TOTAL)
    elif name == "cosine":
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, TOTAL)
    else:
        schedule = transformers.get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, warmup, TOTAL, num_cycles=cycles)
    rates = []
    for _ in range(TOTAL):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(
    ("name", "cycles"), [("linear", 1), ("cosine", 1), ("cosine_restarts", 1), ("cosine_restarts", 2), ("cosine_restarts", 3)]
)
def test_after_warmup_as_in_transformers(name: str, cycles: int, ratio: float) -> None:
    config = OptimConfig(lr=2.0, schedule=name, warmup_ratio=ratio, cycles=cycles)  # type: ignore[arg-type]
    warmup = warmup_steps(config, TOTAL)
    found = [learning_rate(step, TOTAL, config) for step in range(TOTAL)]
    assert found[warmup:] == pytest.approx(of_transformers(name, warmup, cycles)[warmup:], abs=1e-12)
    assert found[:warmup] == pytest.approx([2.0 * (s + 1) / warmup for s in range(warmup)])  # theirs begins with a step of rate 0


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_restarts"])
def test_floor(name: str) -> None:
    config = OptimConfig(lr=1.0, lr_floor=0.1, schedule=name, warmup_ratio=0.2)  # type: ignore[arg-type]
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert min(rates[200:]) >= 0.1 and rates[-1] == pytest.approx(0.1, abs=2e-3) and max(rates) == 1.0
    assert [learning_rate(step, 1000, config) for step in (1000, 1001, 5000)] == [0.1] * 3


def test_restarts_start_at_the_peak() -> None:
    config = OptimConfig(lr=1.0, lr_floor=0.0, schedule="cosine_restarts", warmup_ratio=0.2, cycles=2)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[199] == rates[200] == rates[600] == 1.0 and rates[599] < 1e-4
    assert rates[200:600] == pytest.approx(rates[600:])


@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_trainings(total: int) -> None:
    for ratio in (0.0, 0.5, 0.9):
        config = OptimConfig(lr=1.0, warmup_ratio=ratio)
        assert all(0 < learning_rate(step, total, config) <= 1.0 for step in range(total))
