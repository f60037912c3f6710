"""Imports that take seconds: those of torch, transformers and what they bring along. Light itself."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
