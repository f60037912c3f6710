"""What the libraries do beside their work: their own lines, which stay off the screen, and imports that take seconds. Light itself.

A run says what this package says, and nothing else. `hush` is for the command line, before anything slow is imported: environment
variables, so that Ray's workers have them too. `train/cluster.py`, which starts or joins Ray, shows of all that its processes print the
lines that begin with MARK, which are ours, and what matters. With --verbose (or POLARITY_VERBOSE=1) everything is shown as the libraries
print it; Ray's log files have it in any case.
"""

import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

VERBOSE = "POLARITY_VERBOSE"
MARK = "\x1e"
"""The record separator of ASCII, which no terminal shows: a line of a Ray worker that begins with it is ours."""

_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # "Loading weights" too
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of what a later release will do
}
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "transformers", "datasets", "huggingface_hub", "torch")
_MATTERS = re.compile(
    r"out of memory|OutOfMemory|memory pressure|No space left|disk is over|CUDA error|Segmentation fault|core dumped", re.IGNORECASE
)


def verbose() -> bool:
    """Whether the user asked for the libraries' own lines."""
    return os.environ.get(VERBOSE, "0") not in ("", "0")


def hush() -> None:
    """Call this at the start of the command line. What the user has set in the environment stays."""
    if verbose():
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    hush_loggers()


def hush_loggers() -> None:
    """Let no logger of the libraries speak; what fails is raised, and told by us."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def own_line(line: str) -> str | None:
    """What the driver shows of a worker's line, or None for nothing."""
    if line.startswith(MARK):
        return line.removeprefix(MARK)
    return line if _MATTERS.search(line) else None


@contextmanager
def importing() -> Iterator[None]:
    """Around slow imports: the garbage collector rests, for it would go through a million new objects again and again, a fifth of the time.

    Afterwards it is on or off as before, and leaves alone what is there by then.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
