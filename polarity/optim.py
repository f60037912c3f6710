"""The optimizer's side of a step: learning rates by layer, their schedule, and gradient centralization.

Layer-wise rates are Howard & Ruder 2018's discriminative fine-tuning, as in BEiT. The top encoder layer has multiplier 1, and so has what
runs after it (a final norm); each layer below has `layer_decay` times the one above, and what runs before the first layer (embeddings,
their projection, tables of relative positions) one step further. A layer that runs more than once (ALBERT) has the rate of its last run.
Pooling and heads have `head_lr_multiplier`. Biases and norms are not decayed.

Schedules are pure functions of the step: (s + 1) / W in warm-up, then linear or cosine (with restarts) to the floor.
Gradient centralization is Yong et al. 2020: a weight's gradient loses its mean over all dimensions but the first.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from polarity.config import OptimConfig
from polarity.model.multitask import MultitaskModel


def lr_multiplier(layers_above: int | None, config: OptimConfig) -> float:
    """Multiple of the peak rate for a parameter that has so many encoder layers above its own; None: it is outside the encoder."""
    return config.head_lr_multiplier if layers_above is None else config.layer_decay**layers_above


ParameterGroup = dict[str, Any]
"""A group as torch's optimizers take it."""


def parameter_groups(model: MultitaskModel, config: OptimConfig) -> list[ParameterGroup]:
    """Groups for AdamW, each with `params`, `names`, `lr`, `lr_multiplier` and `weight_decay`; every trained parameter is in one.

    The model is one that `MultitaskModel.from_encoder` made, or the upper part of one.
    """
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = lr_multiplier(model.layers_above[name] if name.startswith("encoder.") else None, config)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        empty = {"params": [], "names": [], "lr": config.lr * multiplier, "lr_multiplier": multiplier, "weight_decay": decay}
        group = groups.setdefault((multiplier, decay), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def shape(schedule: str, progress: float, cycles: int) -> float:
    """Height between floor (0) and peak (1) at `progress` in [0, 1) after warm-up; cosines as in transformers' schedules."""
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0)))


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """W, whole steps."""
    return round(config.warmup_ratio * total_steps)


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of the step `step` (from 0) for a multiplier of 1; each group's is this times its multiplier."""
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    height = shape(config.schedule, min(progress, 1.0), config.cycles) if progress < 1.0 else 0.0
    return config.lr_floor + (config.lr - config.lr_floor) * height


@torch.no_grad()
def centralize_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Centralize the gradients of weights of two or more dimensions, in place; call it after clipping, before the step."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.ndim > 1:
            dims = tuple(range(1, parameter.grad.ndim))
            parameter.grad.sub_(parameter.grad.mean(dim=dims, keepdim=True))


def centralizable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that centralization touches: weights of two or more dimensions, embedding tables excepted."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if p.ndim > 1 and id(p) not in tables]
