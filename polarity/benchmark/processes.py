"""Times of a command's own lines: when each line that matters appears after the start of its process."""

import subprocess
import time
from collections.abc import Callable

from polarity.errors import PolarityError


def seconds_to(command: list[str], marks: list[str]) -> list[float]:
    """Seconds from the start of a process until a line with each mark appears, in order; waits for its end.

    Raises PolarityError with the last lines where a mark never comes.
    """
    waiting = iter(marks)
    mark = next(waiting, None)
    reached: list[float] = []

    def see(seconds: float, line: str) -> None:
        nonlocal mark
        if mark is not None and mark in line:
            reached.append(seconds)
            mark = next(waiting, None)

    last = watch_lines(command, see)
    if mark is not None:
        raise PolarityError(f"no line with {mark!r} came from {' '.join(command[:5])} ...:\n{''.join(last)}")
    return reached


def watch_lines(command: list[str], see: Callable[[float, str], None]) -> list[str]:
    """Run a process to its end; `see` gets each line of its output with the seconds since the start. Returns its last lines."""
    started = time.perf_counter()
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-9:], line]
            see(time.perf_counter() - started, line)
    return lines
