"""Arithmetic of a model and of its machine: operations in a row, and the rate of matrix products that the machine reaches.

Their quotient is the model FLOPs utilisation, MFU (Chowdhery et al. 2022, appendix B): the operations that training needs for the rows it
took in a second, over those that the machine could have done; padding, and what is computed twice to save memory, count as lost.
"""

import json
import statistics
import time
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedConfig

from polarity.errors import first_line
from polarity.model.encoder import empty_encoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_COUNTED = (8, 16, 24)
"""Lengths at which a row is counted; a parabola through them gives the others."""


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
        wait(device)
        started = time.perf_counter()
        left @ right
        wait(device)
        rates.append(2 * n**3 / (time.perf_counter() - started))
    return statistics.median(rates[2:])  # the first ones choose a kernel and warm up


def flops_per_row(config: PreTrainedConfig, length: int, *, training: bool = True, layers: int | None = None) -> float:
    """Multiplications and additions for a row of `length` tokens in the encoder (heads are left out).

    torch counts them, once a configuration, on an encoder without numbers (the meta device), so that every family has its real shapes. For
    one that cannot run so, 2 for each weight of its matrices and token, and 4 L^2 d a layer for attention's two products. Backward costs
    twice forward (Kaplan et al. 2020). `layers`: how many take part, where it is not all of them.
    Raises ValueError, with the reason, where no encoder can be built of the configuration: no number is made up.
    """
    forward = np.polynomial.polynomial.polyval(length, _parabola(config.model_type, config.to_json_string(use_diff=False)))
    share = 1.0 if layers is None else layers / int(config.num_hidden_layers)
    return float(forward * share * (3 if training else 1))


@cache
def _parabola(family: str, settings: str) -> tuple[float, ...]:
    """Operations of a forward pass as a polynomial in the length, lowest power first."""
    config = AutoConfig.for_model(family, **{name: value for name, value in json.loads(settings).items() if name != "model_type"})
    config._attn_implementation = "eager"
    try:
        with torch.device("meta"):
            encoder = empty_encoder(config).train(False)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the operations of a {family!r} encoder cannot be counted: {first_line(error)}") from error
    try:
        counts = [_count(encoder, length) for length in _COUNTED]
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError):  # it looks at numbers, or has fewer positions
        tables = {id(p) for m in encoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        weights = sum(p.numel() for p in encoder.parameters() if p.ndim > 1 and id(p) not in tables)
        return 0.0, 2.0 * weights, 4.0 * config.num_hidden_layers * config.hidden_size
    return tuple(float(x) for x in np.polynomial.polynomial.polyfit(_COUNTED, counts, 2))


@torch.no_grad()
def _count(encoder: nn.Module, length: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        encoder(input_ids=torch.ones(1, length, dtype=torch.long))
    return int(counter.get_total_flops())


def training_flops(config: PreTrainedConfig, lengths: NDArray[np.integer], *, layers: int | None = None) -> float:
    """Operations of a forward and backward pass over rows of these lengths (N,). Raises ValueError with why they are not known."""
    try:
        found, rows = np.unique(lengths, return_counts=True)
        each = [flops_per_row(config, int(length), layers=layers) for length in found]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the arithmetic of a {config.model_type!r} encoder is not known ({error})") from error
    return float(np.dot(each, rows))


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
