"""A run that was stopped inside an epoch, at any batch, ends with the bits of an undisturbed one; a damaged checkpoint is passed over."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarity.artifacts import CHECKPOINTS, Fill, RunFolder
from polarity.config import Config
from polarity.errors import RunError
from polarity.train.checkpoints import load_checkpoint, seal, verify
from polarity.train.control import Control, Requests, checkpoint_names
from polarity.train.loop import Result, run_training
from polarity.train.worker import newest_checkpoint
from polarity.train.world import World
from tests.train.runs import Heard, all_ten, configured, fresh_model, on_ranks, saved, tables, timeless

SIZES = {"global_batch_size": 16, "micro_batch_size": 8, "epochs": 2, "early_stopping_patience": None}


class StopAt(Control):
    """Asks to stop after a step, as a signal would."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self._at = step

    def requests(self, *, first: bool) -> Requests:
        if self._at is not None and self.step + 1 == self._at:  # asked within the step, before its end
            self.request_stop("SIGTERM")
        return super().requests(first=first)


def copied(source: Path) -> Fill:
    """Fills a folder with what is in another one."""
    return partial(shutil.copytree, source, dirs_exist_ok=True)


def run(config: Config, folder: Path, resume: Path | None = None, stop_at: int | None = None) -> Result:
    folder.mkdir(exist_ok=True)
    second = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 1
    control = StopAt(stop_at if second else None)  # of two workers the second alone hears the signal
    if resume is not None:
        control.step = load_checkpoint(resume).state.step
    world = World.current(torch.device("cpu"), control)
    return run_training(config, tables(config), fresh_model(config), Heard(folder=folder), world=world, resume=resume)


def numbers(result: Result) -> dict[str, Any]:
    return {
        "history": timeless(result.state.history),
        "weights": {name: t.numpy() for name, t in result.model.state_dict().items()},
        "gammas": result.state.gammas,
        "best": (result.state.best_epoch, result.state.best_score),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["history"] == other["history"] and one["gammas"] == other["gammas"] and one["best"] == other["best"]
    for name, weights in one["weights"].items():
        np.testing.assert_array_equal(other["weights"][name], weights, err_msg=name)


def stopped_and_resumed(config: Config, folder: Path, step: int) -> dict[str, Any]:
    with pytest.raises(RunError, match=rf"SIGTERM: stopped after step {step} .*--resume"):
        run(config, folder, stop_at=step)
    (name,) = [path.name for path in folder.iterdir() if path.name.endswith(f"_step_{step:08d}")]
    return numbers(run(config, folder, resume=folder / name))


@pytest.mark.slow
def test_a_stop_at_any_batch_changes_no_bit(tmp_path: Path) -> None:
    """The first batch, one inside, the last of an epoch, and one of the last epoch; all ten points, adaptive gamma among them."""
    config = all_ten(train=SIZES)
    whole = run(config, tmp_path / "whole")
    steps = sum(row["kind"] == "step" for row in whole.state.history)
    per_epoch = next(row["step"] for row in whole.state.history if row["kind"] == "epoch")
    for step in (1, per_epoch, steps - 1):
        assert_same(numbers(whole), stopped_and_resumed(config, tmp_path / f"stopped-{step}", step))


def on_two(config: Config, folder: Path) -> dict[str, Any]:
    whole = numbers(run(config, folder / "whole"))
    return {"whole": whole, "resumed": stopped_and_resumed(config, folder / "stopped", 6)}


@pytest.mark.slow
def test_a_stop_of_one_of_two_workers_stops_both(tmp_path: Path) -> None:
    config = all_ten(train=SIZES)
    (tmp_path / "runs").mkdir()
    found = on_ranks(2, tmp_path / "ranks", on_two, config, tmp_path / "runs")
    assert_same(found["whole"], found["resumed"])


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    """They are written without metrics, for no epoch has ended, and change nothing."""
    config = configured(train=SIZES | {"epochs": 1})
    folder, events = RunFolder.create(tmp_path / "run"), Heard(folder=tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    world = World(control=Control(save_every_s=0.0))
    often = run_training(config, tables(config), fresh_model(config), events, world=world)
    assert_same(numbers(run(config, tmp_path / "plain")), numbers(often))
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert events.epochs == [1.0]
    assert names[0] == "epoch_0000_step_00000001" and names[-1] == "epoch_0001"
    for name in names:
        saved(folder, name, copied(tmp_path / "kept" / name))
    assert checkpoint_names(folder) == names[-2:]
    assert load_checkpoint(tmp_path / "kept" / names[0]).best is None


def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path: Path) -> None:
    config = configured(train=SIZES | {"epochs": 2})
    run(config, tmp_path / "kept")
    folder, said = RunFolder.create(tmp_path / "run"), list[str]()
    for name in ("epoch_0001", "epoch_0002"):
        saved(folder, name, copied(tmp_path / "kept" / name))
    newest = tmp_path / "run" / CHECKPOINTS / "epoch_0002" / "model.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-100] + b"\0" + content[-99:])  # of the same size
    found = newest_checkpoint(folder, tmp_path / "target", said.append)
    assert found is not None and found.name == "epoch_0001"
    (line,) = said
    assert "epoch_0002" in line and "model.safetensors" in line and "going back" in line
    (tmp_path / "run" / CHECKPOINTS / "epoch_0001" / "checksums.json").unlink()
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        newest_checkpoint(folder, tmp_path / "target", said.append)
    seal(newest.parent)
    verify(newest.parent)
