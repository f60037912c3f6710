"""Each point alone changes what it names and nothing else: model, rows, batches, schedule, loss and gradients against the baseline's."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import epoch_rows, global_batches
from polarity.loss.objective import TaskObjective, r_drop_alpha
from polarity.model.multitask import MultitaskModel
from polarity.optim.centralization import centralizable
from polarity.optim.groups import parameter_groups
from polarity.optim.schedule import learning_rate
from polarity.train.step import plan_batch
from tests.train.runs import configured, fresh_model, tables

CHANGES = {
    1: {"loss"},
    2: {"rows"},
    3: {"epochs", "schedule"},
    4: {"parameters"},
    5: {"parameters", "pooling"},
    6: {"loss", "adaptive gamma"},
    7: {"loss", "r-drop", "mixup", "weight decay"},
    8: {"samples"},
    9: {"schedule"},
    10: {"batches", "gradients"},
}


def decays(model: MultitaskModel, config: Config) -> set[float]:
    return {group["weight_decay"] for group in parameter_groups(model, 2, config.optim)}


def rates(model: MultitaskModel, config: Config) -> set[float]:
    return {group["lr_multiplier"] for group in parameter_groups(model, 2, config.optim)}


@cache
def observed(points: tuple[int, ...]) -> dict[str, Any]:
    """What a run with these points does, each under its own name; losses for fixed logits and rows."""
    config = configured(points)
    parts, model = tables(config), fresh_model(config)
    objectives = {t: TaskObjective(t, config.loss, s, torch.device("cpu")) for t, s in parts.statistics.items()}
    logits = torch.randn(1, 1, 30, 3, generator=torch.Generator().manual_seed(0))
    rows, losses = np.arange(30), []
    for task, objective in objectives.items():
        labels = parts.train.labels[task][rows]
        losses.append(objective(logits, torch.tensor(labels), None, objective.counts(labels, [(rows, None)]), 0.0).total.item())
    unordered = [sorted(epoch_rows(parts.train, config, epoch).tolist()) for epoch in (0, 1)]
    same_rows = global_batches(parts.train, configured(points, data={"oversample": configured().data.oversample.model_dump()}), 0)
    return {
        "parameters": {name: tuple(p.shape) for name, p in model.named_parameters()},
        "pooling": (config.model.pooling, model.pooling.output_size),
        "dropout": config.model.dropout,
        "rows": unordered,
        "batches": ([b.tolist() for b in same_rows], config.train.micro_batch_size),
        "epochs": (config.train.epochs, config.train.early_stopping_patience),
        "schedule": [learning_rate(step, 100, config.optim) for step in range(100)],
        "layer rates": rates(model, config),
        "weight decay": decays(model, config),
        "loss": losses,
        "adaptive gamma": [objective.adaptive for objective in objectives.values()],
        "r-drop": [r_drop_alpha(config.loss, epoch, step, [5] * 8) for epoch in range(8) for step in range(5)],
        "mixup": [mixing is not None for mixing in plan_batch(rows[:12], parts.train, objectives, config, 0).mixings],
        "samples": (config.model.multi_sample.samples, model.config.inference_mode),
        "gradients": (config.optim.max_grad_norm, len(centralizable(model)) if config.optim.gradient_centralization else 0),
        "precision": config.train.precision,
    }


@pytest.mark.parametrize("point", CHANGES)
def test_point_changes_what_it_names_and_nothing_else(point: int) -> None:
    baseline, found = observed(()), observed((point,))
    assert {name for name, value in found.items() if value != baseline[name]} == CHANGES[point]


def test_all_ten_change_all_of_it() -> None:
    baseline, found = observed(()), observed(tuple(CHANGES))
    assert {name for name, value in found.items() if value != baseline[name]} == set().union(*CHANGES.values())
