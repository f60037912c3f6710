"""How a request to stop reaches the workers of a group: from the driver through an actor, from a node that goes as a signal."""

import os
import signal
import sys
import threading
from asyncio import Event
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.torch import TorchConfig

from polarity.errors import RunError
from polarity.quiet import MARK
from polarity.train.control import Control

TERMINATED = 143
"""Exit status of a process that SIGTERM ended."""
_heard, _training = threading.Event(), threading.Event()


@ray.remote(num_cpus=0)
class StopDesk:
    """Where the driver leaves the request to stop and the first worker waits for it."""

    def __init__(self) -> None:
        self._asked, self._reason = Event(), ""

    async def stop(self, reason: str) -> None:
        """The driver: save and end."""
        self._reason = reason
        self._asked.set()

    async def wait(self) -> str:
        """The first worker: the reason, once there is one."""
        await self._asked.wait()
        return self._reason


def listen_for_stop(desk: Any, control: Control, *, first: bool) -> None:
    """On the first worker, pass the driver's request on whenever it comes."""

    def wait() -> None:
        try:
            control.request_stop(ray.get(desk.wait.remote()))
        except RayError:  # the driver has ended, and its desk with it
            return

    if first:
        threading.Thread(target=wait, name="polarity-stop", daemon=True).start()


@contextmanager
def stop_on_sigterm(control: Control, grace_s: float) -> Iterator[None]:
    """While the block runs, this worker's SIGTERM is a request to stop; where it was heard, the process ends after the checkpoint, and
    after `grace_s` seconds at the latest. So Ray sees a dead worker, and starts the group again from that checkpoint.
    """
    done = threading.Event()

    def pass_on() -> None:
        while not done.is_set():
            if _heard.wait(0.2):
                control.request_stop("SIGTERM to a worker")
                if not done.wait(grace_s):
                    os._exit(TERMINATED)
                return

    _training.set()
    threading.Thread(target=pass_on, name="polarity-sigterm", daemon=True).start()
    try:
        yield
    except RunError as error:
        if _heard.is_set():
            print(f"{MARK}{error}; this worker ends", file=sys.stderr, flush=True)
            os._exit(TERMINATED)
        raise
    finally:
        _training.clear()
        done.set()


def install_handler() -> None:
    """In a worker's main thread: the first SIGTERM of a training is noted, any other ends the process at once."""

    def note(number: int, frame: Any) -> None:
        if _heard.is_set() or not _training.is_set():
            os._exit(TERMINATED)
        _heard.set()

    _heard.clear()
    signal.signal(signal.SIGTERM, note)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray does not export torch's backend
    """Torch's process group, and our handler of SIGTERM: the training itself runs in a thread, which cannot set one."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(install_handler)


@dataclass
class _Config(TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def torch_config(stall_s: float | None) -> TorchConfig:
    """The process group's settings. Its own timeout comes after the watchdog's, which knows what the worker was doing."""
    return _Config() if stall_s is None else _Config(timeout_s=int(2 * stall_s) + 60)
