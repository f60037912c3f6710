"""A run that was stopped and resumed ends with the bits of an uninterrupted one; damaged or foreign checkpoints are refused."""

from pathlib import Path

import pytest
import torch

from polarity.config import Config
from polarity.errors import RunError
from polarity.train.loop import Result, run_training
from polarity.train.world import World
from tests.train.runs import Heard, all_ten, configured, fresh_model, tables, timeless

SIZES = {"global_batch_size": 16, "micro_batch_size": 8, "epochs": 4, "early_stopping_patience": 2}


def run(config: Config, folder: Path, resume: Path | None = None) -> Result:
    folder.mkdir()
    return run_training(config, tables(config), fresh_model(config), Heard(folder=folder), world=World(), resume=resume)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [1, 2])
def test_resumed_run_is_bit_identical(stopped_after: int, tmp_path: Path) -> None:
    config = all_ten(train=SIZES)
    whole = run(config, tmp_path / "whole")
    again = run(config, tmp_path / "again", resume=tmp_path / "whole" / f"epoch_{stopped_after:04d}")
    assert all(torch.equal(t, again.model.state_dict()[name]) for name, t in whole.model.state_dict().items())
    assert timeless(whole.state.history) == timeless(again.state.history)
    assert whole.state.gammas == again.state.gammas and whole.state.best_epoch == again.state.best_epoch


def test_rerun_is_bit_identical(tmp_path: Path) -> None:
    config = configured((6, 7, 8), train=SIZES | {"epochs": 2})
    one, two = run(config, tmp_path / "one"), run(config, tmp_path / "two")
    assert all(torch.equal(t, two.model.state_dict()[name]) for name, t in one.model.state_dict().items())


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run(configured(train=SIZES | {"epochs": 1}), tmp_path / "one")
    other = configured(train=SIZES | {"epochs": 1}, optim={"lr": 1e-3})
    with pytest.raises(RunError, match="another configuration"):
        run(other, tmp_path / "two", resume=tmp_path / "one" / "epoch_0001")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_truncated_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    config = configured(train=SIZES | {"epochs": 1})
    run(config, tmp_path / "one")
    file = tmp_path / "one" / "epoch_0001" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RunError, match=r"epoch_0001.*damaged"):
        run(config, tmp_path / "two", resume=file.parent)


def test_run_cut_inside_an_epoch_cannot_go_on(tmp_path: Path) -> None:
    """Its checkpoint lacks the epoch's other rows: going on would lose them in silence."""
    run(configured(train=SIZES | {"max_steps": 3}), tmp_path / "one")
    with pytest.raises(RunError, match="cut inside epoch 1"):
        run(configured(train=SIZES), tmp_path / "two", resume=tmp_path / "one" / "epoch_0001")
