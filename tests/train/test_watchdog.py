"""Control of a training: who is silent for too long is ended, and a SIGTERM stops it, but its grace ends."""

import os
import signal
import threading
import time

import pytest

from polarity.errors import RunError
from polarity.train.control import FIRST_STEP, Control, on_sigterm, watchdog


def test_silence_ends_the_worker_and_beats_keep_it() -> None:
    control, said = Control(), list[str]()
    with watchdog(control, 0.5, said.append):
        for step in range(1, 8):
            time.sleep(0.1)
            control.heartbeat(step)
        assert not said
        time.sleep(0.9)
    (line,) = said
    assert "at step 7" in line and "restarting" in line


def test_the_first_step_may_take_longer() -> None:
    control, said = Control(), list[str]()
    with watchdog(control, 0.4, said.append):
        time.sleep(0.8)
        assert not said
        time.sleep(0.4 * FIRST_STEP)
    assert len(said) == 1 and "at step 0" in said[0]


def test_without_a_limit_nothing_is_watched() -> None:
    with watchdog(Control(), None, lambda line: pytest.fail(line)):
        time.sleep(0.2)


def test_requests() -> None:
    control = Control(save_every_s=0.0, preemption=lambda: "soon")
    assert control.requests(first=True) == (0.0, 1.0, 0.0) and control.requests(first=False) == (0.0, 0.0, 0.0)
    control.request_stop("SIGTERM")
    control.request_stop("another")
    assert control.requests(first=False) == (1.0, 0.0, 0.0) and control.reason == "SIGTERM"
    assert control.new_preemption() == "soon" and control.new_preemption() is None  # told once
    assert Control().requests(first=True) == (0.0, 0.0, 0.0)


def test_sigterm_is_heeded_and_its_grace_ends() -> None:
    asked = threading.Event()
    before = signal.getsignal(signal.SIGTERM)
    with on_sigterm(asked.set, 30.0, lambda: RunError("late")):
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(1.0)
    assert signal.getsignal(signal.SIGTERM) == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    with pytest.raises(RunError, match="late"), on_sigterm(asked.set, 0.2, lambda: RunError("late")):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
