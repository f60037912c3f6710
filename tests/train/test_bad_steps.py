"""A row that makes the loss infinite: its steps are skipped and counted, and no weight is ever spoilt."""

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import Corpus, global_batches
from polarity.errors import RunError
from polarity.model.multitask import MultitaskModel
from polarity.train.loop import Result, Tables, run_training
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, tables

TRAIN = {"epochs": 2, "global_batch_size": 6, "micro_batch_size": 3, "early_stopping_patience": None}


def rare_token(part: Corpus) -> tuple[int, set[int]]:
    """A token that few rows have, and these rows."""
    holders: dict[int, set[int]] = {}
    for row in range(len(part)):
        for token in part.tokens[part.offsets[row] : part.offsets[row + 1]].tolist():
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
    return run_training(config, parts, model, lambda *_: None, world=World(), say=said.append)


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
