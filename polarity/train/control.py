"""What a training is asked for, and who talks to it: events, the one channel out, and control, the one channel in.

A `Job` is everything that a worker needs. Out: lines for people, rows of the history for trackers, scores of epochs, checkpoints to keep.
In: requests to save or to stop, and with them a sign of life of every step. The loop knows no signals, threads or clusters. Once a step it
asks what is requested, and the workers act on the sum of their answers, so that all of them save at the same step. Light to import: a
driver has no use for torch.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple

import pyarrow as pa

from polarity.artifacts import CHECKPOINTS, Fill, RunFolder
from polarity.config import Config
from polarity.data.batch import Shards
from polarity.data.ledger import TaskStatistics
from polarity.encoders import EncoderFiles
from polarity.quiet import MARK

Listener = Callable[[Mapping[str, float]], None]
"""Called with each epoch's metrics."""


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs. `parts` are tokenized tables by name, or the shards that hold them; `run_dir` is reachable
    from every worker.

    `encoder` is what the driver resolved and checked: a worker takes these files and no other, see `same_encoder`.
    `pad_id`: of the tokenizer, which takes a worker a second to load and is needed for the tokens alone.
    `keep_model`: whether the model itself is written and the run tracked; a study's trials are judged by their predictions, and their
    models would fill the disk, their curves (thousands of files in a study of 180 trials) every tracker: study.json has them.
    """

    config: Config
    parts: Mapping[str, pa.Table | Shards]
    statistics: dict[str, TaskStatistics]
    run_dir: str
    encoder: EncoderFiles
    pad_id: int = field(kw_only=True)
    keep_model: bool = True

    def tables(self) -> dict[str, pa.Table]:
        """The parts as tables; shards are mapped."""
        return {name: part if isinstance(part, pa.Table) else part.table() for name, part in self.parts.items()}


def checkpoint_names(folder: RunFolder) -> list[str]:
    """The run's checkpoints, oldest first."""
    return [name for name in folder.list(CHECKPOINTS) if re.fullmatch(r"epoch_\d+(_step_\d+)?", name)]


HistoryRow = Mapping[str, float | str | None]
"""A row of the history: `kind` is "step" or "epoch"."""


def number_of(row: HistoryRow, name: str) -> float:
    """A number of the history's row."""
    value = row[name]
    assert isinstance(value, int | float)
    return float(value)


class Events:
    """What a training tells whoever started it; each method does nothing unless it is overridden."""

    def say(self, line: str) -> None:
        """On every worker: a line for people. Whoever wants the first worker's alone leaves out the others'."""

    def record(self, row: HistoryRow) -> None:
        """On the first worker, every `train.log_every` steps and after each epoch: the history's row, and what only a watcher needs:
        `rows_per_s`, `padded_tokens_per_s`, `padded_share`, `epochs_left` (a fraction), `validation_seconds`, and F1 of each class."""

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """On every worker, after each epoch; what it raises, a PolarityError, ends the training."""

    def save(self, name: str, write: Fill) -> None:
        """On the first worker, in a thread beside the training: keep the checkpoint `name`, whose files `write` writes."""


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


FIRST_STEP = 3.0
"""Until the first step a worker may be silent so many times longer: libraries load, a model compiles, workers find each other."""
STALLED = 75
"""Exit status of a worker that ended itself because nothing moved (EX_TEMPFAIL: try again)."""
PREEMPTION_POLL_S = 2.0
"""Seconds between two questions about a preemption, which all workers ask together."""


def seconds(minutes: float | None) -> float | None:
    """Minutes as seconds; None stays None."""
    return None if minutes is None else minutes * 60.0


class Requests(NamedTuple):
    """What is requested after a step, 1 or 0; summed over the workers, how many of them request it."""

    stop: float
    save: float
    ask_preemption: float


class Control:
    """Of one worker.

    `save_every_s`: seconds between checkpoints inside an epoch; None: none but those that are requested. `preemption` tells in words which
    nodes are about to go. `keeps_epoch` says, after an epoch, whether to write a checkpoint of it.
    """

    def __init__(
        self,
        save_every_s: float | None = None,
        preemption: Callable[[], str | None] | None = None,
        keeps_epoch: Callable[[], bool] = lambda: True,
    ) -> None:
        self._save_every_s, self._preemption, self.keeps_epoch = save_every_s, preemption, keeps_epoch
        self.last_heartbeat = self._saved = self._asked = time.monotonic()
        self.step, self.stepped = 0, False
        self._stop = threading.Event()
        self._reason = ""
        self._known: str | None = None

    def heartbeat(self, step: int | None = None) -> None:
        """Something was done: a batch of features or validation, or the step of this number."""
        self.last_heartbeat = time.monotonic()
        if step is not None:
            self.step, self.stepped = step, True

    def request_stop(self, reason: str) -> None:
        """From any thread or signal handler: save after this step, and end."""
        self._reason = self._reason or reason
        self._stop.set()

    @property
    def reason(self) -> str:
        """Why this worker was asked to stop; empty where another one was."""
        return self._reason

    def requests(self, *, first: bool) -> Requests:
        """What is requested of this worker; only the first worker's clock counts."""
        now = time.monotonic()
        save = first and self._save_every_s is not None and now - self._saved >= self._save_every_s
        ask = first and self._preemption is not None and now - self._asked >= PREEMPTION_POLL_S
        return Requests(float(self._stop.is_set()), float(save), float(ask))

    def new_preemption(self) -> str | None:
        """What is new of a preemption, in words; called on every worker or on none, for they agree on the answer."""
        self._asked = time.monotonic()
        found = None if self._preemption is None else self._preemption()
        new = found if found != self._known else None
        self._known = found
        return new

    def saved(self) -> None:
        """A checkpoint was begun: the next one is due so long after this moment, whose state it holds."""
        self._saved = time.monotonic()
        self.heartbeat()


def end_process(line: str) -> None:
    """In a worker: say why on standard error and end at once, whatever the other threads wait for."""
    print(f"{MARK}{line}", file=sys.stderr, flush=True)
    os._exit(STALLED)


@contextmanager
def watchdog(control: Control, limit_s: float | None, end: Callable[[str], None] = end_process) -> Iterator[None]:
    """While the block runs, a thread calls `end` once no heartbeat has come for `limit_s` seconds; None: never."""
    done = threading.Event()
    control.heartbeat()

    def watch() -> None:
        while limit_s is not None and not done.wait(min(5.0, limit_s / 10)):
            allowed = limit_s * (1.0 if control.stepped else FIRST_STEP)
            silent = time.monotonic() - control.last_heartbeat
            if silent > allowed:
                end(f"no step for {silent / 60:.1f} minutes at step {control.step} (cluster.stall_minutes): restarting the workers")
                return

    thread = threading.Thread(target=watch, name="polarity-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def on_sigterm(ask: Callable[[], None], grace_s: float, late: Callable[[], BaseException]) -> Iterator[None]:
    """While the block runs, SIGTERM calls `ask`; `grace_s` seconds after it the block is broken off by what `late` makes.

    Only the main thread hears signals; in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hurry(number: int, frame: FrameType | None) -> None:
        raise late()

    def hear(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, hurry)
        signal.setitimer(signal.ITIMER_REAL, grace_s)
        ask()

    before = signal.signal(signal.SIGTERM, hear), signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGALRM, before[1])
