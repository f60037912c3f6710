"""One training under watch: its driver as a process, what it prints, and how far it is."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polarity.errors import RunError

PATIENCE_S = 240.0
_STEP = re.compile(r"(?:pid=(\d+)[^)]*\) )?epoch \d+/\d+  step (\d+)/(\d+) ")


@dataclass(frozen=True)
class Seen:
    """A step's line: when it came, which process took the step, and the step."""

    when: float
    pid: int
    step: int


class Course:
    """A driver that was started and is read line by line; `command` is that of a shell."""

    def __init__(self, arguments: list[str], address: str | None, log: Path) -> None:
        # With the process of each line, which tells one group of workers from the next.
        environment = {**os.environ, "POLARITY_VERBOSE": "1", **({} if address is None else {"RAY_ADDRESS": address})}
        self.started = time.monotonic()
        self.lines: list[str] = []
        self.steps: list[Seen] = []
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "polarity", "train", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace",
        )  # fmt: skip
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.driver.stdout is not None
        with self._log.open("a") as log:
            for line in self.driver.stdout:
                log.write(f"{time.monotonic() - self.started:7.1f} {line}")
                log.flush()
                self.lines.append(line.rstrip("\n"))
                if match := _STEP.search(line):
                    self.steps.append(Seen(time.monotonic(), int(match[1] or self.driver.pid), int(match[2])))

    @property
    def step(self) -> int:
        """The last step that was told of."""
        return self.steps[-1].step if self.steps else 0

    def until_step(self, step: int) -> None:
        """Wait until a step was taken. Raises RunError where the run ends before, or takes too long."""
        self.until(lambda: self.step >= step, f"step {step}")

    def until(self, reached: Callable[[], object], what: str) -> None:
        """Wait for something to happen while the driver runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            if self.driver.poll() is not None:
                self._reader.join(5)
                if reached():
                    return
                raise RunError(f"the run ended with {self.driver.returncode} before {what}: {self.tail()}")
            if time.monotonic() > deadline:
                raise RunError(f"{what} was not reached in {PATIENCE_S:g} s: {self.tail()}")
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for the driver's end and return its status. Raises RunError where it takes too long."""
        try:
            status = self.driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            self.driver.kill()
            raise RunError(f"the run did not end in {PATIENCE_S:g} s: {self.tail()}") from error
        self._reader.join(5)
        return status

    def said(self, words: str) -> bool:
        """Whether a line has these words."""
        return any(words in line for line in self.lines)

    def groups(self) -> int:
        """How many groups of workers took steps, by the first worker's process."""
        return len({seen.pid for seen in self.steps})

    def regained(self, step: int, after: float, *, anew: bool) -> float | None:
        """Seconds from `after` until a step beyond `step` was taken, by another process where `anew`; None: never."""
        before = {seen.pid for seen in self.steps if seen.when <= after} if anew else set()
        beyond = (seen for seen in self.steps if seen.when > after and seen.step > step and seen.pid not in before)
        return next((seen.when - after for seen in beyond), None)

    def tail(self) -> str:
        """The last lines, for an error message."""
        return " | ".join(self.lines[-4:])
