"""The gradient is global: the same for 1, 2 and 4 workers with dropout, mixup and R-Drop on and labels missing in the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from polarity.config import Config
from polarity.data.batch import global_batches
from polarity.train.loop import bare, run_training
from polarity.train.world import World
from tests.train.runs import all_ten, configured, fresh_model, on_ranks, stepper, tables

REGULARIZED = (5, 7, 8)
BATCH = {"global_batch_size": 12, "micro_batch_size": 3, "sort_pool": 2}


def gradients(configs: list[Config]) -> list[dict[str, np.ndarray]]:
    """The global gradient, with R-Drop on, of each configuration's first batch that lacks a label and of its last, short one."""
    world, found = World.current(torch.device("cpu")), []
    for config in configs:
        for short in (False, True):
            parts, model = tables(config), fresh_model(config).train()
            wrapped = model if world.size == 1 else DistributedDataParallel(model)
            batches = global_batches(parts.train, config, 0)
            incomplete = [rows for rows in batches if any((parts.train.labels[task][rows] < 0).any() for task in config.labels)]
            rows = batches[-1] if short else incomplete[0]
            stepper(config, parts, wrapped, world).gradient(rows, 7, 0.5)
            found.append({name: p.grad.numpy().copy() for name, p in bare(wrapped).named_parameters() if p.grad is not None})
    return found


def trained(configs: list[Config]) -> list[dict[str, Any]]:
    """Losses, validation probabilities and score of each configuration's whole run."""
    world, found = World.current(torch.device("cpu")), []
    for config in configs:
        result = run_training(config, tables(config), fresh_model(config), world=world)
        losses = [row["loss"] for row in result.state.history if row["kind"] == "step"]
        probabilities = result.predictions["validation"].probabilities
        found.append({"losses": losses, "probabilities": probabilities, "score": result.state.best_score})
    return found


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_gradient_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    """One worker accumulates four micro-batches, four take one each; a short batch leaves some without. Two: below."""
    sizes = [{"global_batch_size": 12, "micro_batch_size": 3}, {"global_batch_size": 28, "micro_batch_size": 7}]
    configs = [configured(REGULARIZED, train=BATCH | size) for size in sizes]
    alone, together = gradients(configs), on_ranks(4, tmp_path / "ranks", gradients, configs)
    assert len(alone) == len(together) == 4
    for one, other in zip(alone, together, strict=True):
        assert_close(one, other)
        assert max(np.abs(g).max() for g in one.values()) > 1e-4


@pytest.mark.parametrize("micro", [4, 6, 12])
def test_without_randomness_the_cut_into_micro_batches_does_not_matter(micro: int) -> None:
    def cut(size: int) -> dict[str, np.ndarray]:
        config = configured(model={"dropout": 0.0}, train=BATCH | {"micro_batch_size": size})
        parts, model = tables(config), fresh_model(config).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        model.encoder.config.attention_probs_dropout_prob = 0.0
        rows = global_batches(parts.train, config, 0)[0]
        stepper(config, parts, model, World()).gradient(rows, 0, 0.0)
        return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}

    assert_close(cut(3), cut(micro))


@pytest.mark.slow
def test_whole_runs_agree_on_one_and_two_workers(tmp_path: Path) -> None:
    """The baseline and all ten points: the same losses, and the same evaluation. Subsets: test_points_on_workers.py."""
    changes = {"epochs": 2, "early_stopping_patience": None} | BATCH
    configs = [configured(train=changes), all_ten(train=changes)]
    for alone, together in zip(trained(configs), on_ranks(2, tmp_path / "ranks", trained, configs), strict=True):
        np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-3)
        for task, probabilities in alone["probabilities"].items():
            np.testing.assert_allclose(together["probabilities"][task], probabilities, atol=1e-3)
        assert together["score"] == pytest.approx(alone["score"], abs=0.02)
