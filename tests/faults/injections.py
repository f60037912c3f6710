"""The faults. Each is injected into a running training, and says what it did and how the run came out of it."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polarity.artifacts import CHECKPOINTS
from polarity.errors import RunError
from tests.faults.course import Course
from tests.faults.local import LocalCluster, send


@dataclass(frozen=True)
class Stage:
    """What a fault has to work with. `begin`: starts a driver, `resume` one that goes on with --resume; `run`: the run's folder."""

    cluster: LocalCluster
    begin: Callable[..., Course]
    resume: Callable[[], Course]
    run: Path
    draw: random.Random
    steps: int
    """Optimizer steps of the whole training."""

    def moment(self, *, late: float = 0.8) -> int:
        """A random step, not among the last, which end before a fault strikes."""
        return self.draw.randint(2, max(2, int(self.steps * late)))


@dataclass(frozen=True)
class Struck:
    """What happened: the step, how it came out, the restarts, and the seconds until the run was beyond that step again."""

    step: int
    outcome: str
    restarts: int
    recovery_s: float | None


def worker_killed(stage: Stage) -> Struck:
    """SIGKILL to one of the workers."""
    return _restarted(stage, lambda course: _signal_worker(stage, signal.SIGKILL))


def worker_terminated(stage: Stage) -> Struck:
    """SIGTERM to one of the workers: it saves a checkpoint after its step, and ends."""
    return _restarted(stage, lambda course: _signal_worker(stage, signal.SIGTERM), words="SIGTERM to a worker: stopped after step")


def worker_hung(stage: Stage) -> Struck:
    """SIGSTOP to one of the workers, which never goes on."""
    return _restarted(stage, lambda course: _signal_worker(stage, signal.SIGSTOP))


def only_worker_hung(stage: Stage) -> Struck:
    """SIGSTOP to the only worker: no other one misses it, so Ray's own controller must."""
    return _restarted(stage, lambda course: _signal_worker(stage, signal.SIGSTOP), workers="1")


def node_lost(stage: Stage) -> Struck:
    """The second node dies with its worker; another one joins."""

    def strike(course: Course) -> None:
        stage.cluster.lose()
        time.sleep(2.0)
        stage.cluster.add()

    return _restarted(stage, strike)


def node_preempted(stage: Stage) -> Struck:
    """The second node is announced to go in six seconds, and goes; another one joins."""

    def strike(course: Course) -> None:
        stage.cluster.drain(6.0)
        deadline = time.monotonic() + 6.0
        _slowed(stage, course, lambda: course.said("preemption: ") and time.monotonic() > deadline, "the word of a preemption")
        stage.cluster.lose()
        stage.cluster.add()

    return _restarted(stage, strike, words="saving a checkpoint at step", late=0.3)


def node_slow(stage: Stage) -> Struck:
    """The second node's worker stands still for two seconds, four times."""
    course = stage.begin()
    course.until_step(stage.moment(late=0.5))
    step, when = course.step, time.monotonic()
    for _ in range(4):
        for pid in stage.cluster.workers_of_second():
            send(pid, signal.SIGSTOP)
            time.sleep(2.0)
            send(pid, signal.SIGCONT)
        time.sleep(0.5)
    _expect(course, 0)
    if course.groups() > 1:
        raise RunError("the workers were restarted, though none was hung")
    return Struck(step, "went on, slower", 0, course.regained(step, when, anew=False))


def driver_killed(stage: Stage) -> Struck:
    """SIGKILL to the driver; then --resume."""
    course = stage.begin()
    course.until_step(stage.moment())
    step = course.step
    send(course.driver.pid, signal.SIGKILL)
    course.end()
    return _resumed(stage, step, "the driver's death ended the run")


def driver_terminated(stage: Stage) -> Struck:
    """SIGTERM to the driver, as of a job that is stopped; then --resume."""
    course = stage.begin()
    course.until_step(stage.moment(late=0.7))
    step = course.step
    send(course.driver.pid, signal.SIGTERM)
    _expect(course, 2, "SIGTERM: stopped after step", "--resume")
    if not any("_step_" in path.name for path in (stage.run / CHECKPOINTS).iterdir()):
        raise RunError("no checkpoint was left inside the epoch")
    return _resumed(stage, step, "stopped with a word and a checkpoint")


def checkpoint_truncated(stage: Stage) -> Struck:
    """The driver is killed, and the newest checkpoint loses the end of a file; then --resume."""
    course = stage.begin()
    course.until(lambda: len(_checkpoints(stage)) >= 2, "two checkpoints")
    course.until_step(course.step + 1)
    step = course.step
    send(course.driver.pid, signal.SIGKILL)
    course.end()
    file = stage.draw.choice(sorted(path for path in _checkpoints(stage)[-1].iterdir() if path.stat().st_size > 1))
    content = file.read_bytes()
    file.write_bytes(content[: stage.draw.randrange(len(content))])
    return _resumed(stage, step, f"{file.name} cut: the checkpoint before was taken", "going back to the one before")


def disk_full(stage: Stage) -> Struck:
    """The run's disk has no room left when a checkpoint is due; then there is room again, and --resume."""
    course = stage.begin()
    course.until_step(stage.moment(late=0.5))
    step, ballast = course.step, stage.run.parent / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass  # it is full, as it was to be
    try:
        _expect(course, 2, "the disk is full")
    finally:
        ballast.unlink()
    return _resumed(stage, step, "stopped with a word")


def storage_gone(stage: Stage) -> Struck:
    """The run's folder cannot be reached, as of a disk that was unmounted; then it is there again, and --resume."""
    course = stage.begin()
    course.until_step(stage.moment(late=0.5))
    step, away = course.step, stage.run.with_name("away")
    stage.run.rename(away)
    stage.run.symlink_to(stage.run.with_name("nowhere") / "at" / "all")
    try:
        _expect(course, 2, "cannot write here")
    finally:
        stage.run.unlink()
        away.rename(stage.run)
    return _resumed(stage, step, "stopped with a word")


def elastic(stage: Stage) -> Struck:
    """One to two workers: the second node dies and the group shrinks; another one joins and it grows."""
    course = stage.begin(workers="1", more=("--set", "cluster.max_workers=2"))
    course.until_step(stage.moment(late=0.3))
    step, when = course.step, time.monotonic()
    stage.cluster.lose()
    course.until(lambda: course.groups() == 2, "steps of a smaller group")
    alone = len(stage.cluster.workers())
    stage.cluster.add()
    _slowed(stage, course, lambda: course.groups() >= 3, "steps of a larger group")
    together = len(stage.cluster.workers())
    _expect(course, 0)
    if (alone, together) != (1, 2):
        raise RunError(f"the group had {alone} and then {together} worker(s), not 1 and then 2")
    return Struck(step, "2 workers, then 1, then 2", course.groups() - 1, course.regained(step, when, anew=True))


def _restarted(stage: Stage, strike: Callable[[Course], None], words: str = "", late: float = 0.8, workers: str = "2") -> Struck:
    """The fault strikes at a random step, and the run goes on by itself."""
    course = stage.begin(workers=workers)
    course.until_step(stage.moment(late=late))
    step, when = course.step, time.monotonic()
    strike(course)
    _expect(course, 0, words)
    if course.groups() < 2:
        raise RunError("the workers were not restarted: the fault struck nothing")
    return Struck(step, "restarted by itself", course.groups() - 1, course.regained(step, when, anew=True))


def _slowed(stage: Stage, course: Course, reached: Callable[[], bool], what: str) -> None:
    """Wait for something while the workers stand still most of the time: a small training would be over before."""

    def check() -> bool:
        if reached():
            return True
        pids = stage.cluster.workers()
        for sent, pause in ((signal.SIGSTOP, 0.5), (signal.SIGCONT, 0.2)):
            for pid in pids:
                send(pid, sent)
            time.sleep(pause)
        return reached()

    course.until(check, what)


def _resumed(stage: Stage, step: int, outcome: str, words: str = "") -> Struck:
    kept = bool(_checkpoints(stage))  # where the fault came before the first one, the run begins anew
    course = stage.resume()
    when = course.started
    _expect(course, 0, words, "resumed after epoch" if kept else "")
    return Struck(step, f"{outcome}; resumed", course.groups(), course.regained(step, when, anew=False))


def _expect(course: Course, status: int, *words: str) -> None:
    """Wait for the run's end; raises RunError where it ended otherwise, or did not say the words."""
    found = course.end()
    if found != status:
        raise RunError(f"the run ended with {found}, not {status}: {course.tail()}")
    for each in words:
        if not course.said(each):
            raise RunError(f"the run did not say {each!r}: {course.tail()}")
    if status and any("Traceback (most recent call last)" in line and "(TrainController" not in line for line in course.lines):
        raise RunError(f"the run ended with a traceback: {course.tail()}")


def _signal_worker(stage: Stage, what: signal.Signals) -> None:
    pids = stage.cluster.workers()
    if not pids or not send(stage.draw.choice(pids), what):
        raise RunError("there was no worker to send a signal to")


def _checkpoints(stage: Stage) -> list[Path]:
    folder = stage.run / CHECKPOINTS
    return sorted(path for path in folder.iterdir() if path.name.startswith("epoch_")) if folder.is_dir() else []


FAULTS: dict[str, Callable[[Stage], Struck]] = {
    "worker killed": worker_killed,
    "node lost": node_lost,
    "driver killed": driver_killed,
    "SIGTERM to the driver": driver_terminated,
    "SIGTERM to a worker": worker_terminated,
    "node preempted": node_preempted,
    "full disk": disk_full,
    "storage unreachable": storage_gone,
    "checkpoint truncated": checkpoint_truncated,
    "worker hung": worker_hung,
    "only worker hung": only_worker_hung,
    "slow node": node_slow,
    "elastic": elastic,
}
"""By the name in the table."""

ROUNDING = {"elastic": 1e-3, "only worker hung": 1e-3}
"""Most that the numbers may differ where the number of workers is not that of the undisturbed run: floats are added in another order.
Elsewhere they are equal."""
