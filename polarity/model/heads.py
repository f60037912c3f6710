"""From the states of a row's tokens to logits: pooling makes one vector, shared by the tasks, and each task has a head.

In training, dropout draws from torch's generator, which the loop seeds for every micro-batch. In prediction with multi-sample dropout the
masks must not depend on how rows were batched, so each bit is a hash of (row, sample, place, column): `RowNoise`.

Shapes: B rows, L tokens, D hidden size, P pooled size (D, 2D or 3D), K classes.
"""

import torch
from torch import Tensor, nn

LAST_LAYERS = 4
"""Layers that `last4_mean` averages, where the encoder has so many."""


def masked_mean(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over each row's real tokens, in float32."""
    mask_BL1 = mask_BL.unsqueeze(-1).to(torch.float32)
    return (hidden_BLD.float() * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1.0)


class AttentionPooling(nn.Module):
    """Masked softmax of v^T tanh(W h) over the tokens (Lin et al. 2017, "A structured self-attentive sentence embedding")."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        scores_BL = self.score(torch.tanh(self.project(hidden_BLD))).squeeze(-1).float()
        weights_BL = scores_BL.masked_fill(mask_BL == 0, float("-inf")).softmax(-1)
        pooled_BD: Tensor = (weights_BL.unsqueeze(-1) * hidden_BLD.float()).sum(1)
        return pooled_BD


class Pooling(nn.Module):
    """One of `last4_mean`, `attention`, `cls`, `mean`, and what is concatenated to it: base, then CLS, then mean."""

    def __init__(
        self, kind: str, hidden_size: int, *, concat_cls: bool, concat_mean: bool, layers: int = LAST_LAYERS,
        cls_place: str = "first",
    ) -> None:  # fmt: skip
        """`layers` is how many the encoder has: one of fewer than four averages those it has, not its embeddings too.

        `cls_place`: `cls` is the first token, or, where the encoder is causal, the last one, which alone has seen the whole row.
        """
        super().__init__()
        self.averaged = min(LAST_LAYERS, layers)
        self.cls_place = cls_place
        self.kind, self.concat_cls, self.concat_mean = kind, concat_cls, concat_mean
        self.output_size = hidden_size * (1 + concat_cls + concat_mean)
        self.attention = AttentionPooling(hidden_size) if kind == "attention" else None

    @property
    def needs_all_layers(self) -> bool:
        """Whether the encoder must return every layer's states, not the last one's alone."""
        return self.kind == "last4_mean"

    def forward(self, layers: tuple[Tensor, ...], mask_BL: Tensor) -> Tensor:
        """Pool `layers`, the encoder's states in order (only the last is needed unless `needs_all_layers`), to (B, P) float32."""
        last_BLD = layers[-1]
        parts = [self._base(layers, mask_BL)]
        if self.concat_cls:
            parts.append(self._cls(last_BLD, mask_BL))
        if self.concat_mean:
            parts.append(masked_mean(last_BLD, mask_BL))
        return torch.cat(parts, dim=-1)

    def _base(self, layers: tuple[Tensor, ...], mask_BL: Tensor) -> Tensor:
        if self.attention is not None:
            pooled: Tensor = self.attention(layers[-1], mask_BL)
            return pooled
        if self.kind == "last4_mean":
            return masked_mean(torch.stack(layers[-self.averaged :]).float().mean(0), mask_BL)
        if self.kind == "cls":
            return self._cls(layers[-1], mask_BL)
        return masked_mean(layers[-1], mask_BL)

    def _cls(self, last_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The state (B, D) of each row's first or last real token, in float32."""
        if self.cls_place == "first":
            return last_BLD[:, 0].float()
        places_B = (mask_BL.sum(1) - 1).clamp(min=0)
        return last_BLD[torch.arange(last_BLD.shape[0], device=last_BLD.device), places_B].float()


# splitmix64 (Steele, Lea & Flood 2014), as signed 64-bit integers because torch has no unsigned multiplication.
_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """splitmix64's output function on int64 tensors of any shape, wrapping like unsigned integers."""
    x = x + _signed(_GOLDEN)
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX2)
    return x ^ _shift_right(x, 31)


def row_keys(input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
    """One int64 key (B,) a row from its real tokens and their places, the same for any padding to the right."""
    places_L = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
    mixed_BL = mix64(mix64(input_ids_BL.long()) + places_L)
    return mix64((mixed_BL * attention_mask_BL.long()).sum(1))


class RowNoise:
    """Masks for the rows of one batch and one sample; every call of `keep` is a new place in the model, in order."""

    def __init__(self, keys_B: Tensor, sample: int) -> None:
        self._keys_B = mix64(keys_B + sample)
        self._place = 0

    def keep(self, width: int, p: float) -> Tensor:
        """A (B, width) float mask: 0 with probability `p`, else 1 / (1 - p)."""
        self._place += 1
        columns_W = torch.arange(width, device=self._keys_B.device)
        bits_BW = mix64(mix64(self._keys_B + _signed(self._place * _GOLDEN)).unsqueeze(1) + columns_W)
        uniform_BW = _shift_right(bits_BW, 40).float() / float(1 << 24)
        return (uniform_BW >= p).float() / (1.0 - p)


class NoisyDropout(nn.Module):
    """Dropout that draws from torch's generator in training, and from `noise` where prediction asks for samples."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_NH: Tensor, noise: RowNoise | None) -> Tensor:
        if noise is not None and self.p:
            return x_NH * noise.keep(x_NH.shape[-1], self.p).to(x_NH.dtype)
        return nn.functional.dropout(x_NH, self.p, self.training)


class HeadBlock(nn.Module):
    """LayerNorm, Linear, GELU, dropout, and a Linear back from the intermediate size where there is one."""

    def __init__(self, width: int, hidden: int, intermediate: int | None, dropout: float, residual: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, intermediate or hidden)
        self.dropout = NoisyDropout(dropout)
        self.down = nn.Linear(intermediate, hidden) if intermediate else None
        self.skip = nn.Linear(width, hidden, bias=False) if residual and width != hidden else None
        self.residual = residual

    def forward(self, x_NH: Tensor, noise: RowNoise | None) -> Tensor:
        out: Tensor = self.dropout(nn.functional.gelu(self.up(self.norm(x_NH))), noise)
        if self.down is not None:
            out = self.down(out)
        if not self.residual:
            return out
        return out + (x_NH if self.skip is None else self.skip(x_NH))


class Head(nn.Module):
    """`layers` blocks, then a linear layer to the logits; without blocks, dropout on the pooled vector and the linear layer."""

    def __init__(
        self, width: int, classes: int, *, layers: int, hidden: int, intermediate: int | None, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.dropout = NoisyDropout(0.0 if layers else dropout)
        widths = [width] + [hidden] * layers
        self.blocks = nn.ModuleList(HeadBlock(w, hidden, intermediate, dropout, residual) for w in widths[:-1])
        self.out = nn.Linear(widths[-1], classes)

    def forward(self, pooled_NP: Tensor, noise: RowNoise | None = None) -> Tensor:
        """Logits (N, K) in float32."""
        x_NH = self.dropout(pooled_NP, noise)
        for block in self.blocks:
            x_NH = block(x_NH, noise)
        logits_NK: Tensor = self.out(x_NH)
        return logits_NK.to(torch.float32)
