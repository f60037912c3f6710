"""Cheap dropout masks on a CPU.

Torch draws a mask with one Bernoulli number an element, on one thread. On a small encoder that is a fifth of a training step, most of it
for the attention's weights. Here 64 random bits make four elements' numbers, so the probability of dropping is rounded to 1/65536 (0.1
becomes 0.100006), and the kept values are scaled by what was rounded to. The masks come from torch's generator and differ from torch's own.

Shapes: B rows, H heads, L tokens, D size of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

ATTENTION = "polarity_cpu"
_LEVELS = 1 << 16


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:
        noise = dropout_noise(values, p)
        ctx.save_for_backward(noise)
        return values * noise

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (noise,) = ctx.saved_tensors
        return gradients[0] * noise, None


def dropout_noise(values: Tensor, p: float) -> Tensor:
    """What dropout multiplies with, shaped as `values` and in their number format: 0 with probability `p`, else what keeps the mean."""
    dropped = min(max(round(p * _LEVELS), 0), _LEVELS)
    if dropped == _LEVELS:
        return torch.zeros_like(values)
    count = values.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[:count]
    noise = torch.empty_like(values, memory_format=torch.contiguous_format)
    torch.ge(bits.view(values.shape), dropped - _LEVELS // 2, out=noise)  # straight into numbers: no pass of its own for the cast
    return noise.mul_(_LEVELS / (_LEVELS - dropped))


def _dropped(values: Tensor, p: float) -> Tensor:
    """Dropout of a CPU tensor in training mode."""
    found: Tensor = _Dropout.apply(values, p) if p > 0 else values  # type: ignore[no-untyped-call]
    return found


class CheapDropout(nn.Dropout):
    """`nn.Dropout` with cheap masks; elsewhere than on a CPU, and in evaluation mode, it is its parent."""

    def forward(self, input: Tensor) -> Tensor:
        """Dropout of `input`, any shape."""
        return _dropped(input, self.p) if self.training and input.device.type == "cpu" else super().forward(input)


def attention(
    module: nn.Module, query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' sdpa attention; where it has dropout on a CPU, which torch's fused one lacks, its products with a cheap mask.

    `attention_mask` is boolean, (B, 1, L, L), True where a token is seen, or None. Returns (B, L, H, D).
    """
    if not dropout or query_BHLD.device.type != "cpu" or not _is_plain(module, more):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_BHLD, key_BHLD, value_BHLD, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    scores = (query_BHLD * (scaling or query_BHLD.shape[-1] ** -0.5)) @ key_BHLD.transpose(2, 3)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = _dropped(scores.softmax(-1), dropout)
    return (weights.to(value_BHLD.dtype) @ value_BHLD).transpose(1, 2), None


def _is_plain(module: nn.Module, more: dict[str, Any]) -> bool:
    """Whether an attention is nothing but the two products: no causal order, no shared keys, no bias that comes as an argument."""
    causal = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return not causal and not hasattr(module, "num_key_value_groups") and more.get("position_bias") is None


def use_cheap_dropout(encoder: PreTrainedModel) -> None:
    """Give the encoder's dropout layers, and its attention where that is torch's sdpa, cheap masks. Its weights and names stay."""
    for module in encoder.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CheapDropout(child.p))
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(ATTENTION)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
