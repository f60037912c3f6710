"""A row that makes the loss infinite: its steps are skipped and counted, and no weight is ever spoilt."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import Corpus, global_batches
from polarity.errors import RunError
from polarity.model.multitask import MultitaskModel
from polarity.train.checkpoints import host_copy, load_checkpoint
from polarity.train.loop import Result, Tables, Training, bare, run_training
from polarity.train.world import World
from tests.train.runs import Heard, all_ten, configured, fresh_model, on_ranks, tables

TRAIN = {"epochs": 2, "global_batch_size": 6, "micro_batch_size": 3, "early_stopping_patience": None}


def rare_token(part: Corpus) -> tuple[int, set[int]]:
    """A token that few rows have, and these rows."""
    holders: dict[int, set[int]] = {}
    for row in range(len(part)):
        for token in part.tokens[row].tolist():
            holders.setdefault(token, set()).add(row)
    token = min(holders, key=lambda t: (len(holders[t]), t))
    return token, holders[token]


def poisoned(config: Config) -> tuple[Tables, MultitaskModel, set[int], int]:
    parts, model = tables(config), fresh_model(config)
    token, rows = rare_token(parts.train)
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[token] = float("inf")
    return parts, model, rows, token


def run(config: Config, parts: Tables, model: MultitaskModel, said: list[str]) -> Result:
    return run_training(config, parts, model, Heard(said), world=World())


def test_steps_with_the_row_are_skipped_and_counted() -> None:
    config = configured(train=TRAIN | {"max_bad_steps": 1000})
    parts, model, rows, token = poisoned(config)
    bad = [sum(bool(rows & set(b.tolist())) for b in global_batches(parts.train, config, epoch)) for epoch in (0, 1)]
    said: list[str] = []
    result = run(config, parts, model, said)
    epochs = [row["bad_steps"] for row in result.state.history if row["kind"] == "epoch"]
    assert epochs == np.cumsum(bad).tolist() and bad[0] > 0
    assert sum(line.startswith("skipped step") for line in said) == sum(bad)
    for name, weight in result.model.state_dict().items():
        if name.endswith("word_embeddings.weight"):
            weight = torch.cat([weight[:token], weight[token + 1 :]])
        assert weight.isfinite().all(), name
    finite = [row["loss"] for row in result.state.history if row["kind"] == "step" and np.isfinite(row["loss"])]
    assert len(finite) == sum(row["kind"] == "step" for row in result.state.history) - sum(bad)


def test_the_error_names_the_batchs_rows() -> None:
    config = configured(train=TRAIN | {"max_bad_steps": 1})
    parts, model, rows, _ = poisoned(config)
    with pytest.raises(RunError, match="max_bad_steps") as caught:
        run(config, parts, model, [])
    named = str(caught.value).split("row ids ")[1].split(".")[0].split(", ")
    batch = next(b for epoch in (0, 1) for b in global_batches(parts.train, config, epoch) if rows & set(b.tolist()))
    assert named == parts.train.index["row_id"].take(batch).to_pylist()


def test_an_absurd_learning_rate_stops_with_finite_weights() -> None:
    """Whatever happens, the weights that a step leaves behind are finite or the run ends with an error."""
    config = configured(train=TRAIN | {"max_bad_steps": 3}, optim={"lr": 1e6, "warmup_ratio": 0.0})
    model = fresh_model(config)
    try:
        model = run(config, tables(config), model, []).model
    except RunError as error:
        assert "non-finite" in str(error)
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


def infinite_norm(*_: object, **__: object) -> torch.Tensor:
    return torch.tensor(float("inf"))


def test_fp16_forgives_a_scale_that_is_too_large_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen halvings take the scale of 65536 to 1; steps that are infinite even then are bad ones."""
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", infinite_norm)
    real = torch.amp.GradScaler.unscale_

    def overflowing(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        real(scaler, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", overflowing)
    config = configured(train=TRAIN | {"precision": "fp16", "epochs": 6, "max_bad_steps": 2})
    with pytest.raises(RunError, match=r"step 18: .*train\.precision"):
        run(config, tables(config), fresh_model(config), [])


def spoiling(model: MultitaskModel, factor: list[float]) -> None:
    """Multiply all logits by `factor`'s number, on this worker."""
    model.register_forward_hook(lambda _, __, logits: {task: values * factor[0] for task, values in logits.items()})


def everything(training: Training) -> dict[str, Any]:
    """All state of a training but its record: the step's number, the count of bad steps and the history."""
    state = {k: v for k, v in asdict(training.state).items() if k not in ("step", "bad_steps", "history")}
    gammas = {task: asdict(objective.gamma) for task, objective in training.objectives.items()}
    found = {
        "weights": host_copy(bare(training.model).state_dict()),
        "gradients": [p.grad is None for p in training.model.parameters()],
        "optimizer": host_copy(training.optimizer.state_dict()["state"]),
        "scaler": training.stepper.scaler.state_dict(),
        "observed": {task: [s.clone() for s in seen] for task, seen in training.stepper.observed.items()},
        "statistics": host_copy(training.stepper.statistics),
        "epoch": (list(training.epoch.losses), list(training.epoch.classification)),
        "average": host_copy(training.average.recent),
    }
    return copy.deepcopy({**found, "state": state, "gammas": gammas})


def with_statistics(model: MultitaskModel) -> MultitaskModel:
    """The model whose encoder ends with a batch norm, which keeps running statistics."""
    norm = torch.nn.BatchNorm1d(model.encoder.config.hidden_size)
    model.encoder.encoder.layer[-1].output.LayerNorm = torch.nn.Sequential(
        model.encoder.encoder.layer[-1].output.LayerNorm, Transposed(), norm, Transposed()
    )
    names = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    model.layers_above |= dict.fromkeys(set(names) - set(model.layers_above), 0)  # the top layer's, under their new names
    return model


class Transposed(torch.nn.Module):
    def forward(self, states_BLD: torch.Tensor) -> torch.Tensor:
        return states_BLD.transpose(1, 2)


def around_a_failure(config: Config, factor: float, bad_rank: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Everything before, after a step that fails on one worker alone, and after the next, good step; and the failed step's outcome."""
    world, model, by = World.current(torch.device("cpu")), with_statistics(fresh_model(config)), [1.0]
    spoiling(model, by)
    training = Training(config, tables(config), model, world)
    batches = global_batches(training.train_rows, config, 0)
    training.step(batches[0], 0.5)
    before = everything(training)
    by[0] = factor if world.rank == bad_rank else 1.0
    bad = training.state.bad_steps
    training.step(batches[1], 0.5)
    after = everything(training)
    by[0] = 1.0
    outcome = "bad" if training.state.bad_steps > bad else "overflow"
    training.step(batches[2], 0.5)
    later = everything(training)
    assert all(np.isfinite(training.state.history[n]["loss"]) for n in (0, 2))
    world.assert_equal("what a failed step left", str((before["gammas"], outcome)))
    return before, after, later, outcome


def assert_same(one: Any, other: Any, name: str = "") -> None:
    """Bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), name
    elif isinstance(one, dict | list | tuple):
        assert len(one) == len(other), name
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key], f"{name}/{key}")
    else:
        assert one == other, name


FAILING = {"global_batch_size": 12, "micro_batch_size": 3, "max_bad_steps": 5}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_failed_step_leaves_no_trace_in_any_state(precision: str) -> None:
    """All ten points, weights averaged over epochs, and an encoder with running statistics; then the next step changes them all."""
    config = all_ten(train=FAILING | {"precision": precision, "average_epochs": 2})
    before, after, later, outcome = around_a_failure(config, float("nan"), 0)
    assert outcome == "bad"
    assert_same(before, after)
    assert before["statistics"] and all(before["observed"].values())
    for part in ("weights", "optimizer", "observed", "statistics", "epoch"):
        with pytest.raises(AssertionError):
            assert_same(after[part], later[part])


def test_a_step_whose_scale_overflows_leaves_the_smaller_scale_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is finite and the scaled gradient is not: fp16's own business, which changes its scale and nothing else."""
    config = all_ten(train=FAILING | {"precision": "fp16"})
    model = with_statistics(fresh_model(config))
    training = Training(config, tables(config), model, World())
    batches = global_batches(training.train_rows, config, 0)
    training.step(batches[0], 0.5)
    before = everything(training)
    weight = next(training.model.parameters())
    handle = weight.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    training.step(batches[1], 0.5)
    handle.remove()
    after = everything(training)
    assert training.state.bad_steps == 0 and after["scaler"]["scale"] == before["scaler"]["scale"] / 2
    del before["scaler"], after["scaler"]
    assert_same(before, after)


@pytest.mark.slow
def test_a_step_that_fails_on_one_of_two_workers_leaves_no_trace_on_either(tmp_path: Path) -> None:
    config = all_ten(train=FAILING | {"precision": "fp32"})
    before, after, _, outcome = on_ranks(2, tmp_path / "ranks", around_a_failure, config, float("inf"), 1)
    assert outcome == "bad"
    assert_same(before, after)


def test_gammas_and_checkpoints_stay_sound_after_a_failed_step(tmp_path: Path) -> None:
    """The case of a user: adaptive gamma, one bad step, and the run went on with exponents that were no numbers."""
    config = configured((6,), train=TRAIN | {"max_bad_steps": 1000})
    parts, model, rows, _ = poisoned(config)
    heard = Heard(folder=tmp_path)
    result = run_training(config, parts, model, heard, world=World())
    assert any(line.startswith("skipped step") for line in heard.lines) and rows
    for gamma in result.state.gammas.values():
        assert np.isfinite([*gamma.gammas, *gamma.factors]).all() and gamma.gammas != [gamma.gamma] * len(gamma.gammas)
    assert load_checkpoint(tmp_path / "epoch_0001").state.gammas.keys() == result.state.gammas.keys()
