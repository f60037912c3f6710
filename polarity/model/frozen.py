"""What of the encoder is not trained: frozen lower layers, and the rows of the word table that no comment uses.

Frozen lower layers: the encoder as a lower part, run once for every row, and an upper part that is trained. Both are views: they share
layers, and so weights, with the whole model, which stays as it is. What the upper part learns is therefore in the whole model at once,
under the same names, and saving or predicting with that one needs to know nothing of the cut.

The word table: a multilingual encoder has a row for each of 100,000 or more pieces, of which a few thousand comments use some thousand. The
others get no gradient, yet gradient, norm, optimizer and the exchange between workers go over all of them, every step. Here they stay
outside: all that training does to them is weight decay, and that is a factor, applied once at the end.

Shapes: V rows of the whole table, U of them in use, D hidden or embedding size, B rows, L tokens.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from polarity.errors import ConfigError
from polarity.model.heads import LAST_LAYERS
from polarity.model.multitask import MultitaskModel

_WORTH = 0.8
"""With a larger share of the rows in use the table stays as it is."""


class UsedRows(nn.Embedding):
    """The rows `used` (U,) of a table, still looked up by the whole table's ids; any other id is an error."""

    def __init__(self, table: nn.Embedding, used: Tensor) -> None:
        places = torch.full((table.num_embeddings,), -1, device=used.device)
        places[used] = torch.arange(len(used), device=used.device)
        padding = None if table.padding_idx is None else int(places[table.padding_idx])
        super().__init__(len(used), table.embedding_dim, padding, _weight=table.weight.detach()[used].clone())
        self.places_V = places  # no buffer: DDP would send it before every step

    def forward(self, input_ids_BL: Tensor) -> Tensor:
        return nn.functional.embedding(self.places_V[input_ids_BL], self.weight, self.padding_idx)


@dataclass(frozen=True)
class WholeTable:
    """What `use_rows` took out of the encoder."""

    encoder: Any
    table: nn.Embedding
    used: Tensor

    @torch.no_grad()
    def restore(self, decay: float) -> None:
        """Put the table back, with the trained rows in it; the others times `decay`, the product of the steps' weight decay."""
        self.table.weight.mul_(decay)
        self.table.weight[self.used] = self.encoder.get_input_embeddings().weight
        self.encoder.set_input_embeddings(self.table)


def use_rows(encoder: Any, ids: NDArray[np.int32]) -> WholeTable | None:
    """Reduce the encoder's word table to the rows of these ids and of padding; None, and nothing done, where that gains little."""
    table = encoder.get_input_embeddings()
    if type(table) is not nn.Embedding:  # another kind may compute more than a look-up
        return None
    padding = [] if table.padding_idx is None else [table.padding_idx]
    used = torch.from_numpy(np.unique(np.append(ids, padding)).astype(np.int64)).to(table.weight.device)
    if len(used) > _WORTH * table.num_embeddings:
        return None
    encoder.set_input_embeddings(UsedRows(table, used))
    return WholeTable(encoder, table, used)


# Model type: the module inside the encoder that holds `layer`, the list of layers.
_STACKS = {"bert": "encoder", "distilbert": "transformer", "rembert": "encoder", "roberta": "encoder", "xlm-roberta": "encoder"}


class SplitModel(NamedTuple):
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


def split_model(model: MultitaskModel, frozen: int) -> SplitModel:
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
    return SplitModel(lower, upper)


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
