"""All ten points, each alone, and ten random subsets: the same losses and gradients on one worker and on two, labels missing."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import global_batches
from polarity.loss import AdaptiveGamma, TaskObjective
from polarity.train.loop import Training, bare
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, on_ranks, stepper, tables

ALL = tuple(range(1, 11))
STEPS = 3


def combinations() -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [ALL, *[(point,) for point in ALL], *[tuple(p for p in ALL if rng.random() < 0.5) for _ in range(10)]]


def small(points: tuple[int, ...]) -> Config:
    """Four micro-batches a step, of other sizes where point 10 is on; R-Drop without warm-up, so that these few steps have it."""
    size = 4 if 10 in points else 3
    sizes = {"global_batch_size": 4 * size, "micro_batch_size": size, "sort_pool": 2}
    return narrow(configured(points, train=sizes, loss={"r_drop_warmup_epochs": 0}, optim={"warmup_ratio": 0.0}))


def narrow(config: Config) -> Config:
    """The same heads at a sixteenth of the width: this is about equality, not about memory."""
    tree = config.model_dump()
    head = tree["model"]["head"]
    head.update(hidden_size=head["hidden_size"] // 16, intermediate_size=(head["intermediate_size"] or 0) // 16 or None)
    return Config.model_validate(tree)


def summary(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Each gradient's norm and its product with a fixed random direction: two gradients that agree in both are the same."""
    found = {}
    for name, parameter in bare(model).named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        found[name] = (parameter.grad.norm().item(), (parameter.grad * direction).sum().item())
    return found


def first_steps(points: tuple[int, ...]) -> dict[str, Any]:
    """Losses and gradients of the first steps, adaptive gamma's state after them, and a step under that state."""
    config = small(points)
    parts, world = tables(config, 48), World.current(torch.device("cpu"))
    training = Training(config, parts, fresh_model(config), world, precision="fp32")
    batches, record, own = global_batches(parts.train, config, 0), [], []
    assert any((parts.train.labels[task][rows] < 0).any() for rows in batches[: STEPS + 1] for task in config.labels)
    for number, rows in enumerate(batches[: STEPS + 1]):
        if number == STEPS:
            own = world.gather(of_own_rows(training))
            training._adapt_gamma()
        share = training.stepper.gradient(rows, number, config.loss.r_drop_alpha)
        for task, seen in share.observed.items():
            training.stepper.observed[task] += seen
        losses = {name: world.sum(share.parts.get(name, torch.zeros(()))).item() for name in training.stepper._loss_names()}
        record.append((losses, summary(training.model)))
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), config.optim.max_grad_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
    everywhere = world.gather((training.state.gammas, {task: in_force(objective) for task, objective in training.objectives.items()}))
    gammas = {task: asdict(gamma) for task, gamma in training.state.gammas.items()}
    return {"record": record, "gammas": gammas, "own": own, "everywhere": everywhere}


def of_own_rows(training: Training) -> dict[str, list[float]]:
    """Each task's exponents as this worker's rows alone would set them, without the others'."""
    found = {}
    for task, objective in training.objectives.items():
        if objective.adaptive:
            seen = torch.cat(training.stepper.observed[task]).double().numpy()
            state = AdaptiveGamma.start(objective.gamma.gamma, len(objective.gamma.gammas))
            state.update(seen[:, 0].astype(np.int64), seen[:, 1], seen[:, 2])
            found[task] = state.gammas
    return found


def in_force(objective: TaskObjective) -> list[list[float]]:
    """Exponents and factors of the loss as it is computed."""
    return [objective._terms.gamma_K.tolist(), objective._terms.factor_K.tolist()]


def all_first_steps(every: list[tuple[int, ...]]) -> list[dict[str, Any]]:
    return [first_steps(points) for points in every]


def assert_same(points: tuple[int, ...], alone: dict[str, Any], together: dict[str, Any]) -> None:
    for step, ((losses, gradients), (others, theirs)) in enumerate(zip(alone["record"], together["record"], strict=True)):
        place = f"points {points}, step {step}"
        assert others == pytest.approx(losses, rel=1e-3, abs=1e-6), place
        assert all(np.isfinite(loss) for loss in losses.values()), place
        assert set(theirs) == set(gradients)
        for name, (norm, product) in gradients.items():
            assert theirs[name] == pytest.approx((norm, product), rel=2e-3, abs=2e-3 * norm + 1e-6), f"{place}, {name}"
    assert set(alone["gammas"]) == set(together["gammas"])
    for task, state in alone["gammas"].items():
        for key, values in state.items():
            assert together["gammas"][task][key] == pytest.approx(values, rel=1e-4), (points, task, key)


def gradient(config: Config, rows: np.ndarray, step: int, model: torch.nn.Module | None = None) -> dict[str, tuple[float, float]]:
    model = fresh_model(config).train() if model is None else model
    stepper(config, tables(config, 48), model, World()).gradient(rows, step, 0.6)
    return summary(model)


def test_randomness_is_of_seed_step_and_micro_batch_alone() -> None:
    """Dropout, mixup and R-Drop: what was drawn before does not matter, another step or seed does."""
    config, rows = small((5, 7, 8)), np.arange(12)
    one = gradient(config, rows, 3)
    torch.manual_seed(99)
    torch.rand(1000)
    assert gradient(config, rows, 3) == one
    assert gradient(config, rows, 4) != one
    reseeded = Config.model_validate(config.model_dump() | {"train": config.train.model_dump() | {"seed": 1}})
    assert gradient(reseeded, rows, 3, fresh_model(config).train()) != one


@pytest.mark.parametrize(("alpha", "passes"), [(0.0, 1), (0.6, 2)])
def test_r_drop_is_one_doubled_batch_and_samples_cost_no_encoder(alpha: float, passes: int) -> None:
    config, shapes = small((7, 8)), []
    model = fresh_model(config).train()
    model.encoder.register_forward_pre_hook(lambda _, __, given: shapes.append(given["input_ids"].shape[0]), with_kwargs=True)
    stepper(config, tables(config, 48), model, World()).gradient(np.arange(12), 0, alpha)
    assert shapes == [3 * passes] * 4


@pytest.mark.slow
def test_every_combination_is_the_same_on_one_and_two_workers(tmp_path: Path) -> None:
    every = combinations()
    assert len(every) == 21
    for points, alone, together in zip(every, all_first_steps(every), on_ranks(2, tmp_path / "ranks", all_first_steps, every), strict=True):
        assert_same(points, alone, together)
        consistency = [value for name, value in alone["record"][0][0].items() if name.startswith("consistency")]
        assert consistency and all(value > 0 for value in consistency), points
        assert bool(alone["gammas"]) == (6 in points)
        first, second = together["everywhere"]
        assert first == second, points  # to the bit, on both workers
        if 6 in points:
            mine, theirs = together["own"]
            assert mine != theirs, points  # they saw other rows, so it is by exchange that they agree
