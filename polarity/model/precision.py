"""Number formats: which one this hardware computes fast, and autocast."""

import statistics
import time
from contextlib import AbstractContextManager, nullcontext

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bf16 than in float32.

    A processor's flags do not tell: on one with avx512_bf16 the bf16 product took twice as long as the float32 one, on another
    with the same flag a third. So on CPUs that have the instructions a product of each is timed, for some hundredths of a second.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    return _product_seconds(torch.bfloat16) < 0.8 * _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(768, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one chooses a kernel


def precision_here(precision: str, device: torch.device) -> str:
    """`bf16`, `fp16` or `fp32` for the configured `precision`; `auto` is what this device computes fast."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a forward pass: weights stay float32, matrix products run in the short format."""
    if precision == "fp32":
        return nullcontext()
    context: AbstractContextManager[object] = torch.autocast(device.type, dtype=_DTYPES[precision])
    return context
