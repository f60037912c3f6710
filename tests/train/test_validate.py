"""Evaluation while training: every row once, in the table's order, for any number of workers and any batch size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from polarity.config import Config
from polarity.train.validate import PartScores, macro_f1_scores, predict
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, on_ranks, tables


def predicted(config: Config, batch_size: int) -> PartScores:
    world = World.current(torch.device("cpu"))
    return predict(fresh_model(config), tables(config).validation, world, batch_size=batch_size, precision="fp32")


def assert_same(one: PartScores, other: PartScores) -> None:
    for task, p in one.probabilities.items():
        np.testing.assert_allclose(other.probabilities[task], p, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(other.predicted[task], one.predicted[task])


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter_with_sampled_dropout(batch_size: int) -> None:
    config = configured((8,))
    assert_same(predicted(config, 16), predicted(config, batch_size))


@pytest.mark.slow
def test_four_workers_score_as_one(tmp_path: Path) -> None:
    """Forty rows in batches of 32: two workers have none."""
    config = configured((8,))
    assert_same(predicted(config, 7), on_ranks(4, tmp_path / "ranks", predicted, config, 32))


def test_scoring_leaves_the_models_mode_alone() -> None:
    config = configured()
    for mode in (True, False):
        model = fresh_model(config).train(mode)
        predict(model, tables(config).validation, World(), batch_size=16, precision="fp32")
        assert model.training is mode


def test_macro_f1_is_scikit_learns_over_labelled_rows() -> None:
    config = configured()
    part, found = tables(config).validation, predicted(config, 16)
    scores = macro_f1_scores(found, part, config.labels)
    for task, classes in config.labels.items():
        known = part.labels[task] >= 0
        every = list(range(len(classes)))
        expected = f1_score(part.labels[task][known], found.predicted[task][known], labels=every, average="macro", zero_division=0)
        assert scores[task] == pytest.approx(expected)
    assert scores["overall"] == pytest.approx((scores["sentiment"] + scores["polarization"]) / 2)
