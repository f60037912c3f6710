"""The loop's promises on one worker: golden losses, bad steps, early stopping, limits, and number formats."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.errors import RunError
from polarity.train.loop import Result, run_training
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, tables

GOLDEN = Path(__file__).with_name("golden_losses.json")
ALL = tuple(range(1, 11))


def run(config: Config, poison: bool = False) -> Result:
    model = fresh_model(config)
    if poison:
        with torch.no_grad():
            model.encoder.embeddings.word_embeddings.weight[5:] = float("inf")
    return run_training(config, tables(config), model, world=World())


def losses(result: Result) -> list[float]:
    return [row["loss"] for row in result.state.history if row["kind"] == "step"]


@pytest.mark.parametrize("masks", ["torch", "cheap"])
@pytest.mark.parametrize(("name", "points"), [("baseline", ()), ("all ten points", ALL)])
def test_golden_losses(name: str, points: tuple[int, ...], masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that claims to leave the numerics alone must reproduce these; POLARITY_REWRITE_GOLDEN=1 writes them anew.

    Those with torch's dropout masks, which a GPU has, are from before there were cheap ones.
    """
    if masks == "torch":
        monkeypatch.setattr("polarity.train.reduce.use_cheap_dropout", lambda encoder: None)
    found = losses(run(configured(points, train={"max_steps": 6})))
    name = name if masks == "torch" else f"{name}, cheap masks"
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("POLARITY_REWRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1) + "\n")
        golden[name] = found
    np.testing.assert_allclose(found, golden[name], rtol=1e-5)


def test_non_finite_steps_stop_the_run_and_name_the_rows() -> None:
    with pytest.raises(RunError, match=r"after 2 non-finite steps.*row ids .*train\.precision"):
        run(configured(train={"max_bad_steps": 2}), poison=True)


def test_early_stopping_returns_the_best_epoch() -> None:
    result = run(configured(train={"epochs": 8, "early_stopping_patience": 1}, optim={"lr": 1e-9}))
    scores = [row["validation_overall"] for row in result.state.history if row["kind"] == "epoch"]
    assert len(scores) < 8
    assert scores[result.state.best_epoch] == max(scores) == result.state.best_score


def test_step_limit() -> None:
    assert len(losses(run(configured(train={"max_steps": 3})))) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_formats_train(precision: str) -> None:
    result = run(configured(train={"precision": precision, "max_steps": 4}))
    reference = run(configured(train={"max_steps": 4}))
    np.testing.assert_allclose(losses(result), losses(reference), rtol=0.05)


def test_training_learns() -> None:
    result = run(configured(train={"epochs": 6}, optim={"lr": 3e-3}))
    means = [row["classification_loss"] for row in result.state.history if row["kind"] == "epoch"]
    assert means[-1] < 0.8 * means[0]
