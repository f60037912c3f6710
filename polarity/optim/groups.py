"""Parameter groups with layer-wise learning rates (Howard & Ruder 2018's discriminative fine-tuning, as in BEiT).

The top encoder layer has multiplier 1, each layer below `layer_decay` times the one above, the embeddings one step further; pooling and
heads have `head_lr_multiplier`. Biases and norms are not decayed.
"""

import re
from typing import Any

from torch import nn

from polarity.config import OptimConfig

_LAYER = re.compile(r"^encoder\..*?layers?\.(\d+)\.")


def lr_multiplier(name: str, layers: int, config: OptimConfig) -> float:
    """Multiple of the peak rate for the parameter `name` of a model with `layers` encoder layers."""
    if not name.startswith("encoder."):
        return config.head_lr_multiplier
    found = _LAYER.match(name)
    depth = layers - 1 - int(found.group(1)) if found else layers
    return config.layer_decay**depth


def parameter_groups(model: nn.Module, layers: int, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups for AdamW, each with `params`, `names`, `lr`, `lr_multiplier` and `weight_decay`; every parameter is in one."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        multiplier = lr_multiplier(name, layers, config)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        empty = {"params": [], "names": [], "lr": config.lr * multiplier, "lr_multiplier": multiplier, "weight_decay": decay}
        group = groups.setdefault((multiplier, decay), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
