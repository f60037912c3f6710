"""Weights averaged over the newest epochs: the mean of what single epochs leave, judged and kept, and nothing of it in the training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polarity.train.checkpoints import EpochAverage
from tests.train.runs import configured
from tests.train.test_resume import run

SIZES = {"global_batch_size": 16, "micro_batch_size": 8, "epochs": 4, "early_stopping_patience": None}
QUICK = {"lr": 1e-2}


def test_the_model_has_the_mean_while_it_is_judged() -> None:
    layer, average = torch.nn.Linear(1, 1, bias=False), EpochAverage(2)
    kept = []
    for value in (1.0, 2.0, 6.0):
        layer.weight.data.fill_(value)
        with average.of(layer) as weights:
            kept.append(layer.weight.item())
            assert torch.equal(weights["weight"], layer.weight)
        assert layer.weight.item() == value
    assert kept == [1.0, 1.5, 4.0]
    assert [float(weights["weight"]) for weights in average.for_the_next()] == [6.0]


def test_the_weights_are_put_back_where_judging_fails() -> None:
    layer, average = torch.nn.Linear(1, 1, bias=False), EpochAverage(2)
    layer.weight.data.fill_(1.0)
    with average.of(layer):
        pass
    layer.weight.data.fill_(3.0)
    with pytest.raises(KeyError), average.of(layer):
        raise KeyError
    assert layer.weight.item() == 3.0


def test_a_run_keeps_the_mean_of_its_epochs_and_trains_as_without(tmp_path: Path) -> None:
    single = run(configured(train=SIZES, optim=QUICK), tmp_path / "single")
    averaged = run(configured(train=SIZES | {"average_epochs": 3}, optim=QUICK), tmp_path / "averaged")
    steps = [[row for row in result.state.history if row["kind"] == "step"] for result in (single, averaged)]
    assert steps[0] == steps[1]
    best = averaged.state.best_epoch + 1
    assert best > 1  # else no mean would be seen
    window = range(max(1, best - 2), best + 1)
    parts = [load_file(tmp_path / "single" / f"epoch_{epoch:04d}" / "model.safetensors") for epoch in window]
    kept = load_file(tmp_path / "averaged" / "epoch_0004" / "best.safetensors")
    assert kept.keys() == parts[0].keys()
    for name, weight in kept.items():
        np.testing.assert_allclose(weight, np.mean([part[name].numpy() for part in parts], axis=0), rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_resumed_run_ends_with_the_bits_of_a_whole_one(stopped_after: int, tmp_path: Path) -> None:
    config = configured(train=SIZES | {"average_epochs": 3}, optim=QUICK)
    whole = run(config, tmp_path / "whole")
    again = run(config, tmp_path / "again", resume=tmp_path / "whole" / f"epoch_{stopped_after:04d}")
    assert all(torch.equal(t, again.model.state_dict()[name]) for name, t in whole.model.state_dict().items())
    assert whole.state.best_score == again.state.best_score
