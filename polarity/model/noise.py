"""Dropout masks for prediction that depend on a row's tokens and nothing else.

In training, dropout draws from torch's generator, which the loop seeds for every micro-batch. In prediction with multi-sample dropout the
masks must not depend on how rows were batched, so each bit is a hash of (row, sample, place, column).
"""

import torch
from torch import Tensor

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
