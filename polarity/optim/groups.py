"""Parameter groups with layer-wise learning rates (Howard & Ruder 2018's discriminative fine-tuning, as in BEiT).

The top encoder layer has multiplier 1, and so has what runs after it (a final norm); each layer below has `layer_decay` times the one
above, and what runs before the first layer (embeddings, their projection, tables of relative positions) one step further. A layer that
runs more than once (ALBERT) has the rate of its last run. Pooling and heads have `head_lr_multiplier`. Biases and norms are not decayed.
"""

from typing import Any

from polarity.config import OptimConfig
from polarity.model.multitask import MultitaskModel


def lr_multiplier(layers_above: int | None, config: OptimConfig) -> float:
    """Multiple of the peak rate for a parameter that has so many encoder layers above its own; None: it is outside the encoder."""
    return config.head_lr_multiplier if layers_above is None else config.layer_decay**layers_above


def parameter_groups(model: MultitaskModel, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups for AdamW, each with `params`, `names`, `lr`, `lr_multiplier` and `weight_decay`; every trained parameter is in one.

    The model is one that `MultitaskModel.from_encoder` made, or the upper part of one.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
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
