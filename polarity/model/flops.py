"""Arithmetic of a model and of its machine: operations in a row, and the rate of matrix products that the machine reaches.

Their quotient is the model FLOPs utilisation, MFU (Chowdhery et al. 2022, appendix B): the operations that training needs for the rows it
took in a second, over those that the machine could have done; padding, and what is computed twice to save memory, count as lost.
"""

import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def peak_flops(precision: str, device: torch.device, *, size: int | None = None, repeats: int = 7) -> float:
    """Floating-point operations a second of a square matrix product in this number format, the median of `repeats` runs.

    `size` is its side: 8192 on a GPU, 2048 on a CPU (some seconds there; 768 takes a tenth of one and reaches a little less). The caller's
    random numbers are left alone.
    """
    n = size or (8192 if device.type == "cuda" else 2048)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(n, n, device=device, generator=generator).to(_DTYPES[precision]) for _ in range(2))
    rates = []
    for _ in range(repeats + 2):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        rates.append(2 * n**3 / (time.perf_counter() - started))
    return statistics.median(rates[2:])  # the first ones choose a kernel and warm up


def flops_per_row(config: PreTrainedConfig, length: int, *, training: bool = True, layers: int | None = None) -> float:
    """Multiplications and additions for a row of `length` tokens in the encoder's layers (embedding look-ups and heads are left out).

    2 operations for each weight and token, 4 L^2 d for attention's two products a layer; backward costs twice forward (Kaplan et al. 2020).
    `layers`: how many take part, where it is not all of them.
    """
    d = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or config.hidden_dim)
    layers = int(config.num_hidden_layers) if layers is None else layers
    forward = layers * (2 * length * (4 * d * d + 2 * d * inner) + 4 * length * length * d)
    return float(forward * (3 if training else 1))


def training_flops(config: PreTrainedConfig, lengths: NDArray[np.int64], *, layers: int | None = None) -> tuple[float | None, str]:
    """Operations of a forward and backward pass over rows of these lengths (N,), or None and why they are not known: nothing is raised."""
    try:
        found, rows = np.unique(lengths, return_counts=True)
        each = [flops_per_row(config, int(length), layers=layers) for length in found]
    except (AttributeError, TypeError, ValueError) as error:
        return None, f"the arithmetic of a {config.model_type!r} encoder is not known ({error})"
    return float(np.dot(each, rows)), ""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
