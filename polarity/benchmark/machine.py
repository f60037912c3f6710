"""The machine's own limit, measured: the rate of its matrix products, and what share of it a model's arithmetic uses."""

import platform
import statistics
import time

import torch
from transformers import PreTrainedConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def peak_flops(precision: str, device: torch.device, *, size: int | None = None, repeats: int = 7) -> float:
    """Floating-point operations a second of a square matrix product in this number format, the median of `repeats` runs."""
    n = size or (8192 if device.type == "cuda" else 2048)
    left, right = (torch.randn(n, n, device=device).to(_DTYPES[precision]) for _ in range(2))
    rates = []
    for _ in range(repeats + 2):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        rates.append(2 * n**3 / (time.perf_counter() - started))
    return statistics.median(rates[2:])  # the first ones choose a kernel and warm up


def flops_per_row(config: PreTrainedConfig, length: int, *, training: bool = True) -> float:
    """Multiplications and additions for a row of `length` tokens in the encoder's layers (embedding look-ups and heads are left out).

    2 operations for each weight and token, 4 L^2 d for attention's two products a layer; backward costs twice forward (Kaplan et al. 2020).
    """
    d = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or config.hidden_dim)
    layers = int(config.num_hidden_layers)
    forward = layers * (2 * length * (4 * d * d + 2 * d * inner) + 4 * length * length * d)
    return float(forward * (3 if training else 1))


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
