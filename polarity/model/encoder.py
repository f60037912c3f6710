"""A text encoder of any family: loaded, or built from its configuration, and examined by running it, not by looking its name up.

Some tiny forward passes tell what a family's name would have to tell: whether padding moves the states, whether a token sees those after
it, how many positions there are, in which order the layers run, and which weights take no part.

Shapes: B rows, L tokens, D hidden size.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from polarity.config import DataConfig
from polarity.errors import ConfigError, EncoderError, first_line

# Parts that encoders carry for other purposes and that pooling and heads replace here.
_UNUSED_PARTS = ("pooler.", "cls.", "lm_head.", "vocab_", "classifier.", "predictions.")
_PROBE = 8  # tokens
_MOVED = 1e-5
"""A share of the largest state: padding that moves a state by more is mixed into the rows; rounding moves it by 1e-6."""


class Nature(NamedTuple):
    """What an encoder was found to be.

    `layers_above`: {parameter's name inside the encoder: how many layers run after the last one that it takes part in}; what runs before
    the first layer has the number of layers, and what runs after the last one (a final norm) has 0, as that layer has.
    """

    causal: bool
    layers_above: dict[str, int]


def text_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """What encodes texts in a model: of an encoder-decoder (T5, BART) its encoder alone, without a pooler and without LayerDrop.

    LayerDrop leaves out whole layers at random; workers would wait for gradients that never come.
    """
    encoder: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # never used here; a parameter without a gradient would stop DDP
    for module in encoder.modules():
        if getattr(module, "layerdrop", 0):
            module.layerdrop = 0.0
    return cast("PreTrainedModel", encoder)


def empty_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The text encoder of a configuration, its weights still to be filled."""
    return text_encoder(AutoModel.from_config(config, dtype=torch.float32))


def load_encoder(folder: Path) -> PreTrainedModel:
    """The text encoder of a folder with its pretrained weights, float32.

    Raises `EncoderError` when the folder's weights do not fill the encoder: an encoder that is random in part would train, badly and in
    silence.
    """
    try:
        model, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise EncoderError(f"{folder}: the weights are damaged or incomplete ({error}); fetch the encoder again") from error
    unused = (*_UNUSED_PARTS, "decoder.") if model.config.is_encoder_decoder else _UNUSED_PARTS
    lacking = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    wrong = sorted(str(key) for key in info["mismatched_keys"])
    if lacking or wrong:
        raise EncoderError(f"{folder}: the weights do not fit config.json: {', '.join((lacking + wrong)[:5])} missing or of another shape")
    if not hasattr(model.config, "hidden_size"):
        raise EncoderError(f"{folder}: a {model.config.model_type!r} model has no hidden_size: it is no text encoder")
    return text_encoder(model)


def examine(encoder: PreTrainedModel, name: str) -> Nature:
    """Run an encoder on some tokens and see; `name` is what errors call it.

    Raises `EncoderError`: it cannot take tokens with an attention mask, gives no state a token, or mixes padding into a row's states.
    """
    family = encoder.config.model_type
    calls: list[nn.Module] = []
    with _evaluating(encoder), torch.no_grad():
        try:
            ids_1L = probe_ids(encoder, _PROBE)
        except (NotImplementedError, AttributeError) as error:
            raise EncoderError(f"encoder {name}: a {family!r} model has no table of tokens: choose an encoder of another family") from error
        changed_1L = ids_1L.clone()
        changed_1L[0, 1] = ids_1L[0, 0]  # the first token's neighbour, which it sees in a narrow window too
        hooks = [module.register_forward_pre_hook(lambda module, _: calls.append(module)) for module in encoder.modules()]
        try:
            states_1LD = _states(encoder, ids_1L, name)
        finally:
            for hook in hooks:
                hook.remove()
        other_1LD = _states(encoder, changed_1L, name)
        padding = getattr(encoder.config, "pad_token_id", None)
        filler_1L = torch.full_like(ids_1L, padding) if padding is not None and padding >= 0 else ids_1L
        padded_1LD = _states(encoder, torch.cat([ids_1L, filler_1L], 1), name, real=_PROBE)[:, :_PROBE]
    if (padded_1LD - states_1LD).abs().max() > _MOVED * states_1LD.abs().max():
        raise EncoderError(
            f"encoder {name}: a {family!r} model mixes padding into the states of real tokens, so that a comment's scores would hang on "
            "the comments beside it: choose an encoder of another family"
        )
    return Nature(torch.equal(states_1LD[:, 0], other_1LD[:, 0]), _layers_above(encoder, calls))


def probe_ids(encoder: PreTrainedModel, length: int) -> Tensor:
    """(1, length) token ids that the encoder has, different ones, none of them its padding id."""
    rows, padding = int(cast("Any", encoder.get_input_embeddings()).weight.shape[0]), getattr(encoder.config, "pad_token_id", None)
    usable = [token for token in range(max(0, rows - length - 1), rows) if token != padding]
    return torch.tensor([[usable[place % len(usable)] for place in range(length)]], device=encoder.device)


def _states(encoder: PreTrainedModel, ids_1L: Tensor, name: str, real: int | None = None) -> Tensor:
    """The last states (1, L, D); the first `real` tokens, by default all, are no padding."""
    mask_1L = torch.ones_like(ids_1L)
    mask_1L[:, ids_1L.shape[1] if real is None else real :] = 0
    family = encoder.config.model_type
    try:
        states: Tensor | None = encoder(input_ids=ids_1L, attention_mask=mask_1L).last_hidden_state
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, KeyError, NotImplementedError) as error:
        raise EncoderError(
            f"encoder {name}: a {family!r} model does not encode padded rows of tokens as it stands ({first_line(error)}): choose an "
            "encoder of another family"
        ) from error
    if states is None or states.shape != (*ids_1L.shape, encoder.config.hidden_size):
        raise EncoderError(f"encoder {name}: a {family!r} model does not give a state a token: choose an encoder of another family")
    return states.float()


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    training = encoder.training
    encoder.train(False)
    try:
        yield
    finally:
        encoder.train(training)


def _layers_above(encoder: nn.Module, calls: Iterable[nn.Module]) -> dict[str, int]:
    """See `Nature`; `calls` are the encoder's modules in the order in which they ran.

    A layer is what runs at one place of the outermost lists of modules: one block (BERT), the same block over again (ALBERT), or those at
    the same place of several lists (XLM keeps attentions, norms and inner layers apart).
    """
    places = dict(_blocks(encoder))
    layer, place, in_layer = -1, None, set[nn.Module]()
    last: dict[nn.Module, int] = {}
    for module in calls:
        if module in places:
            if layer < 0 or places[module] != place or module in in_layer:
                layer, place, in_layer = layer + 1, places[module], set()
            in_layer.add(module)
        last[module] = layer
    if layer < 0:  # SqueezeBERT runs its layers without calling them
        numbers = {place: number for number, place in enumerate(sorted(set(places.values())))}
        last.update((inner, numbers[place]) for block, place in places.items() for inner in block.modules())
        layer = len(numbers) - 1
    modules = dict(encoder.named_modules())
    found = {}
    for name, _ in encoder.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and modules[owner] not in last:  # used by the module around it, without a call
            owner = owner.rpartition(".")[0]
        found[name] = layer - last.get(modules[owner], -1)
    return found


def _blocks(module: nn.Module) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """The modules of the outermost lists, each with its place; lists of lists (Funnel) give longer places."""

    def listed(blocks: nn.ModuleList, place: tuple[int, ...]) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        for number, block in enumerate(blocks):
            if isinstance(block, nn.ModuleList):
                yield from listed(block, (*place, number))
            else:
                yield block, (*place, number)

    for child in module.children():
        yield from listed(child, ()) if isinstance(child, nn.ModuleList) else _blocks(child)


def freeze_unused(module: nn.Module, result: Tensor) -> None:
    """Take the gradient from parameters that `result`, computed with gradients, does not hang on: DDP would wait for them for ever.

    LUKE's entities and Longformer's global attention are such. Their weights stay and are saved.
    """
    used: set[Tensor] = set()
    seen: set[Any] = set()
    ahead: list[Any] = [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            used.add(node.variable)
        ahead.extend(following for following, _ in node.next_functions)
    for parameter in module.parameters():
        if parameter not in used:
            parameter.requires_grad_(False)


class _Embedded(Exception):
    """The first layer was reached: the embeddings have taken the row."""


def check_length(data: DataConfig, folder: Path) -> None:
    """Raise ConfigError where `data.max_length` is more than the positions of the folder's encoder.

    Families without a fixed number of positions pass. Some lose the first positions to padding; how many is measured, on the encoder
    itself, where `data.max_length` comes so near to the number in config.json that it matters.
    """
    config = AutoConfig.from_pretrained(folder)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return
    lost = int(getattr(config, "pad_token_id", None) or 0) + 1  # no family loses more
    if data.max_length <= positions - lost:
        return
    usable = usable_positions(load_encoder(folder), positions)
    if data.max_length > usable:
        raise ConfigError(
            f"data.max_length is {data.max_length}, but the encoder has {usable} positions: set data.max_length to at most {usable}"
        )


@torch.no_grad()
def usable_positions(encoder: PreTrainedModel, most: int) -> int:
    """The largest number of tokens up to `most` that the encoder's embeddings take, by bisection; its layers are not run."""

    def stop(*_: Any) -> None:
        raise _Embedded

    def fits(length: int) -> bool:
        try:
            encoder(input_ids=probe_ids(encoder, length), attention_mask=torch.ones(1, length, dtype=torch.long, device=encoder.device))
        except _Embedded:
            return True
        except (IndexError, RuntimeError, ValueError):
            return False
        return True

    hooks = [block.register_forward_pre_hook(stop) for block, _ in _blocks(encoder)]
    try:
        with _evaluating(encoder):
            low, high = 0, most + 1
            if fits(most):
                return most
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle) else (low, middle)
    finally:
        for hook in hooks:
            hook.remove()
    return low
