"""Checkpoints are written while the training goes on, hold the state of their own moment, and no error of theirs is lost."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
import torch.distributed as dist

from polarity.artifacts import CHECKPOINTS, Fill, RunFolder
from polarity.config import Config
from polarity.errors import RunError
from polarity.train.checkpoints import Background, Checkpoint, load_checkpoint, verify
from polarity.train.control import Control, Events, HistoryRow, Requests
from polarity.train.loop import Result, run_training
from polarity.train.world import World
from tests.train.runs import Heard, all_ten, configured, fresh_model, on_ranks, saved, tables, timeless

PATIENCE_S = 60.0
SIZES = {"global_batch_size": 16, "micro_batch_size": 8, "epochs": 3, "early_stopping_patience": None, "log_every": 1}


def run(config: Config, events: Events, control: Control | None = None) -> Result:
    world = World.current(torch.device("cpu"), control)
    return run_training(config, tables(config), fresh_model(config), events, world=world)


class Slow(Heard):
    """Events whose writing of a checkpoint ends only after a later step.

    `until`: {checkpoint: the field of a step's record, and from which value on}.
    """

    def __init__(self, folder: Path, until: dict[str, tuple[str, int]]) -> None:
        super().__init__(folder=folder)
        self.until = until
        self.stepped = {name: threading.Event() for name in until}
        self.overtaken: dict[str, bool] = {}

    def save(self, name: str, write: Fill) -> None:
        if name in self.until:
            self.overtaken[name] = self.stepped[name].wait(PATIENCE_S)
        super().save(name, write)

    def record(self, row: HistoryRow) -> None:
        for name, (field, least) in self.until.items():
            if row["kind"] == "step" and int(row[field] or 0) >= least:
                self.stepped[name].set()


class SaveAfter(Control):
    """Requests a checkpoint after one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._at = step

    def requests(self, *, first: bool) -> Requests:
        return Requests(0.0, float(first and self.step + 1 == self._at), 0.0)


class Failing(Heard):
    """Events that cannot write one of the checkpoints, and fail at a row where they are told to."""

    def __init__(self, name: str, record: Callable[[HistoryRow], None] = lambda row: None) -> None:
        super().__init__(record=record)
        self.name = name

    def save(self, name: str, write: Fill) -> None:
        if name == self.name:
            raise RunError("no room for the checkpoint")


class Into(Heard):
    """Checkpoints go into a run folder, or whatever `save` does with them."""

    def __init__(self, save: Callable[[str, Fill], None], record: Callable[[HistoryRow], None] = lambda row: None) -> None:
        super().__init__(record=record)
        self._save = save

    def save(self, name: str, write: Fill) -> None:
        self._save(name, write)


def values(found: Checkpoint) -> dict[str, Any]:
    """All that is in a checkpoint, times of the clock left out."""
    history = timeless(found.state.history)
    running = {k: v for k, v in found.state.running.items() if k != "seconds"}
    state = {k: v for k, v in vars(found.state).items() if k not in ("history", "running")}
    return {**vars(found), "state": state, "history": history, "running": running}


def assert_same(one: Any, other: Any) -> None:
    """Bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other) and one.dtype == other.dtype
    elif isinstance(one, dict | list):
        assert len(one) == len(other)
        assert not isinstance(one, dict) or one.keys() == other.keys()
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key])
    else:
        assert one == other


def at_once(self: Background, work: Callable[[], None]) -> None:
    work()


def test_training_goes_on_meanwhile_and_does_not_show_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ten points, after an epoch and inside one; against checkpoints for which the training stood still."""
    config = all_ten(train=SIZES)
    for kind in ("slow", "still"):
        (tmp_path / kind).mkdir()
    later = {"epoch_0000_step_00000002": ("step", 3), "epoch_0001": ("epoch", 2), "epoch_0002": ("epoch", 3)}
    slow = Slow(tmp_path / "slow", later)
    result = run(config, slow, SaveAfter(2))
    assert slow.overtaken == dict.fromkeys(later, True) and slow.epochs == [1.0, 2.0, 3.0]
    monkeypatch.setattr(Background, "start", at_once)
    still = run(config, Heard(folder=tmp_path / "still"), control=SaveAfter(2))
    assert_same(result.model.state_dict(), still.model.state_dict())
    names = {path.name for path in (tmp_path / "slow").iterdir()}
    assert names == {path.name for path in (tmp_path / "still").iterdir()} == {*later, "epoch_0003"}
    for name in names:
        one, other = (values(load_checkpoint(tmp_path / kind / name)) for kind in ("slow", "still"))
        assert_same(one, other)
        files = [sorted(path.name for path in (tmp_path / kind / name).iterdir()) for kind in ("slow", "still")]
        assert files[0] == files[1]


def test_a_failure_is_raised_when_the_next_one_is_due() -> None:
    report = Failing("epoch_0001")
    with pytest.raises(RunError, match=r"^no room for the checkpoint$"):
        run(configured(train=SIZES), report)
    assert report.epochs == [1.0]


def test_a_failure_is_raised_at_the_end() -> None:
    report = Failing("epoch_0003")
    with pytest.raises(RunError, match=r"^no room for the checkpoint$"):
        run(configured(train=SIZES), report)
    assert report.epochs == [1.0, 2.0, 3.0]


def test_a_stop_promises_no_checkpoint_that_failed() -> None:
    control = Control()
    control.request_stop("SIGTERM")
    with pytest.raises(RunError, match=r"^no room for the checkpoint$"):
        run(configured(train=SIZES), Failing("epoch_0000_step_00000001"), control=control)


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    (tmp_path / "run" / CHECKPOINTS).write_text("a file, where a folder should be")
    with pytest.raises(RunError, match="cannot write here"):
        run(configured(train=SIZES | {"epochs": 1}), Into(partial(saved, folder)))


def breaking(error: Exception, before: Callable[[], None]) -> Callable[[HistoryRow], None]:
    def record(record: HistoryRow) -> None:
        if record["epoch"] == 2:
            before()
            raise error

    return record


def test_an_exception_in_the_loop_waits_for_the_checkpoint(tmp_path: Path) -> None:
    folder, broken = RunFolder.create(tmp_path / "run"), threading.Event()

    def save(name: str, write: Fill) -> None:
        assert broken.wait(PATIENCE_S)
        saved(folder, name, write)

    with pytest.raises(ZeroDivisionError, match=r"^broken$"):
        run(configured(train=SIZES), Into(save, breaking(ZeroDivisionError("broken"), broken.set)))
    assert [path.name for path in (tmp_path / "run" / CHECKPOINTS).iterdir()] == ["epoch_0001"]
    verify(tmp_path / "run" / CHECKPOINTS / "epoch_0001")


def test_neither_of_two_errors_hides_the_other() -> None:
    with pytest.raises(RunError, match=r"^stopped; and .*: no room for the checkpoint$"):
        run(configured(train=SIZES), Failing("epoch_0001", breaking(RunError("stopped"), lambda: None)))
    with pytest.raises(ZeroDivisionError) as caught:
        run(configured(train=SIZES), Failing("epoch_0001", breaking(ZeroDivisionError("broken"), lambda: None)))
    assert any("no room for the checkpoint" in note for note in caught.value.__notes__)


def test_what_is_no_fault_of_the_machine_is_raised_as_it_is() -> None:
    def save(name: str, write: Fill) -> None:
        raise TypeError("a defect")

    with pytest.raises(TypeError, match="a defect"):
        run(configured(train=SIZES), Into(save))


def on_both(config: Config) -> list[str]:
    """How the run ended, on every worker."""
    try:
        run(config, Failing("epoch_0002"))
    except RunError as error:
        said = str(error)
    else:
        said = "not at all"
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, said)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, 3])
def test_two_workers_agree_on_a_failure(epochs: int, tmp_path: Path) -> None:
    """When the next one is due, and at the end."""
    found = on_ranks(2, tmp_path / "ranks", on_both, configured(train=SIZES | {"epochs": epochs}))
    assert found == ["no room for the checkpoint"] * 2


def wait_for(event: threading.Event) -> None:
    event.wait(PATIENCE_S)


def test_a_wait_that_is_broken_off_is_not_begun_again() -> None:
    """As by a second Ctrl-C, or the end of the grace after a SIGTERM, where the storage never answers."""
    never = threading.Event()

    def late(number: int, frame: FrameType | None) -> None:
        raise RunError("late")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(RunError, match=r"^late$"), Background(World()) as background:
            background.start(partial(wait_for, never))
            background.wait()
        assert not never.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)
        never.set()


def filled(text: str) -> Fill:
    def fill(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return fill


def test_what_a_killed_worker_left_is_cleared_away(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for number in (1, 2, 3):
        (tmp_path / "run" / CHECKPOINTS / f".epoch_{number:04d}.x1" / "new").mkdir(parents=True)
        saved(folder, f"epoch_{number:04d}", filled(str(number)))
    assert folder.list(CHECKPOINTS) == ["epoch_0002", "epoch_0003"]


def test_a_writing_that_breaks_off_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    saved(folder, "epoch_0001", filled("1"))

    def refused(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="the disk is full"):
        saved(folder, "epoch_0002", refused)
    assert RunFolder.at(tmp_path / "run").list(CHECKPOINTS) == ["epoch_0001"]


def test_remote_storage_is_filled_by_way_of_a_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "bucket" / "run").mkdir(parents=True)
    remote = RunFolder("bucket", pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem()), "run")
    for number in (1, 2, 3):
        saved(remote, f"epoch_{number:04d}", filled(str(number)))
    assert remote.list(CHECKPOINTS) == ["epoch_0002", "epoch_0003"] and remote.read_bytes(f"{CHECKPOINTS}/epoch_0003/weights") == b"3"
