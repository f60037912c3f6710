"""Frozen lower layers: the encoder as a lower part, run once for every row, and an upper part that is trained.

Both parts are views: they share layers, and so weights, with the whole model, which stays as it is. What the upper part learns is
therefore in the whole model at once, under the same names, and saving or predicting with that one needs to know nothing of the cut.

Shapes: B rows, L tokens, D hidden size.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from polarity.errors import ConfigError
from polarity.model.multitask import MultitaskModel
from polarity.model.pooling import LAST_LAYERS

# Model type: the module inside the encoder that holds `layer`, the list of layers.
_STACKS = {"bert": "encoder", "distilbert": "transformer", "rembert": "encoder", "roberta": "encoder", "xlm-roberta": "encoder"}


class Parts(NamedTuple):
    """The two views: `lower` maps tokens to the states (B, L, D) that `upper` is given by `given_states`."""

    lower: PreTrainedModel
    upper: MultitaskModel


def check_frozen_layers(frozen: int, pooling: str, encoder_config: PreTrainedConfig) -> None:
    """Raise `ConfigError` where `model.frozen_layers` does not fit the encoder or `model.pooling`."""
    if not frozen:
        return
    if encoder_config.model_type not in _STACKS:
        raise ConfigError(
            f"model.frozen_layers is {frozen}, but a {encoder_config.model_type!r} encoder cannot be cut: that is there for "
            f"{', '.join(_STACKS)}. Set model.frozen_layers=0"
        )
    layers = encoder_config.num_hidden_layers
    if frozen > layers:
        raise ConfigError(f"model.frozen_layers is {frozen}, but the encoder has {layers} layers: give at most {layers}")
    pooled = min(LAST_LAYERS, layers)
    most = layers + 1 - pooled  # the states that enter the upper part count as a layer's
    if pooling == "last4_mean" and frozen > most:
        raise ConfigError(
            f"model.frozen_layers is {frozen}, but model.pooling last4_mean needs the states of the last {pooled} layers, "
            f"and the encoder has {layers}: give at most {most}, or another model.pooling"
        )


def split_model(model: MultitaskModel, frozen: int) -> Parts:
    """Cut the model above the embeddings and its `frozen` lowest layers; raises as `check_frozen_layers`.

    With dropout off, `upper` on the states of `lower` gives the whole model's logits.
    """
    encoder: Any = model.encoder
    check_frozen_layers(frozen, model.config.pooling, encoder.config)
    if model.pooling.needs_all_layers:
        _install_hooks(encoder)
    stack = _STACKS[encoder.config.model_type]
    layers = list(getattr(encoder, stack).layer.named_children())

    lower, below = _view(encoder), _view(getattr(encoder, stack))
    below.layer = _listed(layers[:frozen])
    setattr(lower, stack, below)

    trained, above = _view(encoder), _view(getattr(encoder, stack))
    above.layer = _listed(layers[frozen:])
    if hasattr(above, "embedding_hidden_mapping_in"):  # RemBERT's narrow embeddings are widened before its first layer
        above.embedding_hidden_mapping_in = nn.Identity()
    setattr(trained, stack, above)
    trained.embeddings = _GivenStates()
    upper = _view(model)
    upper.encoder = trained
    return Parts(lower, upper)


@contextmanager
def given_states(upper: MultitaskModel, states_BLD: Tensor | None) -> Iterator[None]:
    """Inside, `upper` continues from these states of the batch that it is called with; None leaves a whole model alone."""
    if states_BLD is None:
        yield
        return
    inputs = upper.encoder.embeddings
    assert isinstance(inputs, _GivenStates), "a whole model computes its own states"
    inputs.states_BLD = states_BLD
    try:
        yield
    finally:
        inputs.states_BLD = None


class _GivenStates(nn.Module):
    """Stands where the embeddings stood, and returns the states that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.states_BLD: Tensor | None = None

    def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.states_BLD is None or self.states_BLD.shape[:2] != input_ids.shape:
            raise RuntimeError("the upper part of a model was called without the states of its batch")
        return self.states_BLD


def _view(module: Any) -> Any:
    """The module over again, with the same children and parameters, but with room of its own for other children."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view


def _listed(layers: list[tuple[str, nn.Module]]) -> nn.ModuleList:
    """The layers under the names, that is the numbers, that they have in the whole encoder."""
    listed = nn.ModuleList()
    for name, layer in layers:
        listed.add_module(name, layer)
    return listed


@torch.no_grad()
def _install_hooks(encoder: Any) -> None:
    """Run one token, so that the whole encoder puts its hooks on the layers (transformers collects their states so, once).

    Else each view would do it for itself, and a layer that is in two of them would be collected twice.
    """
    training = encoder.training
    encoder.train(False)
    one_11 = torch.ones(1, 1, dtype=torch.long, device=encoder.device)
    encoder(input_ids=one_11, attention_mask=one_11, output_hidden_states=True)
    encoder.train(training)
