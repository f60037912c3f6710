"""A run that was stopped on two workers and goes on with one, and the other way round, ends with the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.train.loop import run_training
from polarity.train.world import World
from tests.train.runs import Heard, all_ten, fresh_model, on_ranks, tables

STOPPED_AFTER, EPOCHS = 2, 4


def config(workers: int) -> Config:
    sizes = {"epochs": EPOCHS, "early_stopping_patience": None, "global_batch_size": 16, "micro_batch_size": 4}
    return all_ten(train=sizes, cluster={"workers": workers})


def run(folder: Path, resume: Path | None) -> dict[str, Any]:
    world = World.current(torch.device("cpu"))
    folder.mkdir(exist_ok=True)
    chosen = config(world.size)
    result = run_training(chosen, tables(chosen, 40), fresh_model(chosen), Heard(folder=folder), world=world, resume=resume)
    steps = [row for row in result.state.history if row["kind"] == "step"]
    return {
        "numbers": [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in steps],
        "probabilities": result.predictions["validation"].probabilities,
        "gammas": {task: state.gammas + state.factors for task, state in result.state.gammas.items()},
        "best": (result.state.best_epoch, result.state.best_score),
        "epochs": result.state.epoch,
    }


def whole_and_resumed(whole: Path, resumed: Path, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return run(whole, None), run(resumed, checkpoint)


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["epochs"] == other["epochs"] == EPOCHS
    np.testing.assert_allclose(other["numbers"], one["numbers"], rtol=1e-3)
    for task in one["gammas"]:
        np.testing.assert_allclose(other["gammas"][task], one["gammas"][task], rtol=1e-3)
        np.testing.assert_allclose(other["probabilities"][task], one["probabilities"][task], atol=1e-4)
    assert other["best"] == pytest.approx(one["best"], abs=0.02)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    """All ten points, so that adaptive gamma, R-Drop's ramp, restarts and the best epoch so far must all be carried over."""
    stopped = f"epoch_{STOPPED_AFTER:04d}"
    one = run(tmp_path / "one", None)
    two, one_to_two = on_ranks(2, tmp_path / "ranks", whole_and_resumed, tmp_path / "two", tmp_path / "a", tmp_path / "one" / stopped)
    two_to_one = run(tmp_path / "b", tmp_path / "two" / stopped)
    assert_close(one, two)
    assert_close(one, one_to_two)
    assert_close(one, two_to_one)
    before = STOPPED_AFTER * len(one["numbers"]) // EPOCHS
    assert two_to_one["numbers"][: before - 1] == two["numbers"][: before - 1]  # what the checkpoint says of the past, to the bit
    assert not (tmp_path / "b" / "epoch_0001").exists()  # it did go on, and not begin anew
