"""Each point alone changes what it names and nothing else: model, rows, batches, schedule, loss and gradients against the baseline's."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import Corpus, epoch_rows, global_batches
from polarity.loss import TaskObjective, r_drop_alpha
from polarity.model.inference import score, to_tensors
from polarity.model.multitask import MultitaskModel
from polarity.optim import centralizable, centralize_gradients, learning_rate, parameter_groups
from polarity.train.loop import plan_batch
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, stepper, tables

CHANGES = {
    1: {"loss", "gradient"},
    2: {"rows"},
    3: {"epochs", "schedule"},
    4: {"parameters", "heads", "gradient", "scores"},
    5: {"parameters", "heads", "pooling", "gradient", "scores"},
    6: {"loss", "adaptive gamma", "gradient"},
    7: {"loss", "r-drop", "mixup", "weight decay", "gradient"},
    8: {"samples", "gradient", "scores"},
    9: {"schedule"},
    10: {"batches", "clipping and centralization"},
}
ROWS = np.arange(12)


def digest(arrays: list[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.detach().contiguous().numpy())
    return found.hexdigest()


def gradient_of_one_batch(config: Config) -> tuple[str, str]:
    """Hash of a gradient, and what clipping and centralization did to it; the same rows and random numbers for every point."""
    one_batch = Config.model_validate(
        config.model_dump() | {"train": config.train.model_dump() | {"micro_batch_size": 12, "global_batch_size": 12}}
    )
    model = fresh_model(one_batch).train()
    stepper(one_batch, tables(one_batch), model, World()).gradient(ROWS, 0, 0.0)
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
    if config.optim.gradient_centralization:
        centralize_gradients(centralizable(model))
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in before.values()]))
    scale = min(1.0, config.optim.max_grad_norm / (norm.item() + 1e-6))
    tables_of = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    centred = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        change = parameter.grad - scale * before[name]
        if change.abs().max() > 1e-6 * (1 + parameter.grad.abs().max()) and not any(parameter is t for t in tables_of):
            centred.append(name)
    return digest(list(before.values())), f"norm {config.optim.max_grad_norm}, centred {len(centred)}"


def decays(model: MultitaskModel, config: Config) -> set[float]:
    return {group["weight_decay"] for group in parameter_groups(model, config.optim)}


def rates(model: MultitaskModel, config: Config) -> set[float]:
    return {group["lr_multiplier"] for group in parameter_groups(model, config.optim)}


def scores(model: MultitaskModel, corpus: Corpus) -> str:
    """Hash of the untrained model's probabilities and predictions."""
    found = score(model.eval(), to_tensors(corpus.collate(ROWS), torch.device("cpu")))
    return digest([tensor for task in found.values() for tensor in task])


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
        losses.append(
            objective(logits, torch.tensor(labels, dtype=torch.int64), None, objective.counts(labels, [(rows, None)]), 0.0).total.item()
        )
    unordered = [sorted(epoch_rows(parts.train, config, epoch).tolist()) for epoch in (0, 1)]
    gradient, clipped = gradient_of_one_batch(config)
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
        "encoder": digest([t for name, t in model.state_dict().items() if name.startswith("encoder.")]),
        "heads": digest([t for name, t in model.state_dict().items() if not name.startswith("encoder.")]),
        "scores": scores(model, parts.validation),
        "gradient": gradient,
        "clipping and centralization": clipped,
        "precision": config.train.precision,
    }


@pytest.mark.parametrize("point", CHANGES)
def test_point_changes_what_it_names_and_nothing_else(point: int) -> None:
    baseline, found = observed(()), observed((point,))
    assert {name for name, value in found.items() if value != baseline[name]} == CHANGES[point]


def test_all_ten_change_all_of_it() -> None:
    baseline, found = observed(()), observed(tuple(CHANGES))
    assert {name for name, value in found.items() if value != baseline[name]} == set().union(*CHANGES.values())
