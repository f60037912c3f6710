"""The typed tree: its defaults are the plan's baseline, and contradictions are refused."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from torch import nn

from polarity.config import Config, DataConfig
from polarity.loss import r_drop_alpha
from polarity.resolve import resolve


def test_the_split_and_texts_are_the_plans() -> None:
    data = resolve(preset="baseline").config.data
    assert (data.split.seed, data.split.validation, data.split.test, data.split.stratify) == (42, 0.15, 0.15, "sentiment")
    assert (data.max_length, data.order, data.title_column, data.comment_column) == (224, "title_first", "Title", "Comment")
    assert data.tasks["sentiment"].column == "Final Sentiment"
    assert data.tasks["polarization"].labels == ["non_polarized", "objective", "partisan"]


def test_the_baseline_holds_the_plans_now_values() -> None:
    config = resolve(preset="baseline").config
    assert config.loss.task_weights == {"sentiment": 1.0, "polarization": 1.2}
    assert config.loss.class_weights.multipliers["sentiment"] == {"negative": 1.2, "neutral": 1.0, "positive": 1.15}
    assert config.loss.class_weights.multipliers["polarization"] == {"non_polarized": 1.0, "objective": 1.5, "partisan": 1.0}
    assert (config.train.epochs, config.train.global_batch_size, config.train.micro_batch_size) == (6, 36, 12)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.layer_decay) == (1.5e-5, 0.02, 0.95)
    assert (config.loss.r_drop_alpha, config.loss.r_drop_warmup_epochs) == (0.4, 1)


def _fields(model: type[BaseModel]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found.extend((f"{name}.{key}", below) for key, below in _fields(inner))
        else:
            found.append((name, info))
    return found


def test_every_field_says_what_it_trades() -> None:
    silent = [name for name, info in _fields(Config) if not info.description]
    assert silent == []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"data": {"source": "a.csv", "train": "b.csv"}}, "not both"),
        ({"data": {"train": "b.csv"}}, "needs both train and validation"),
        ({"data": {"max_comment": 31}}, "at least 32"),
        ({"data": {"split": {"validation": 0.6, "test": 0.5}}}, "must leave rows to train on"),
        ({"data": {"split": {"folds": 5}}}, "joint or group"),
        ({"data": {"split": {"kind": "group", "folds": 2}}}, "at least 3"),
        ({"data": {"split": {"stratify": "topic"}}}, "'topic'"),
        ({"data": {"title_column": "Comment"}}, "named twice"),
        ({"data": {"tasks": {"t": {"column": "T", "labels": ["a", " A "]}}}}, "the same but for spelling"),
        ({"optim": {"lr": 1e-5, "lr_floor": 1e-4}}, "above optim.lr"),
        ({"train": {"global_batch_size": 10, "micro_batch_size": 4}}, "multiple of"),
        ({"cluster": {"workers": 4}}, "more than the micro-batches"),
        ({"loss": {"focal_gamma": {"topic": 1.0}}}, "no such task"),
        ({"loss": {"class_weights": {"multipliers": {"sentiment": {"angry": 1.0}}}}}, "no such class"),
        ({"optim": {"lr": float("nan")}}, "finite number"),
        ({"optim": {"learning_rate": 1.0}}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(tree)


def _task(name: str) -> dict[str, Any]:
    return {"tasks": {name: {"column": "T", "labels": ["a", "b"]}}, "split": {"stratify": name}}


TABLES_OWN = ["row_id", "title", "comment", "split", "length", "input_ids", "token_type_ids", "multiplicity", "overall", "_source_row"]


@pytest.mark.parametrize("name", [*TABLES_OWN, *sorted(n for n in dir(nn.ModuleDict()) if n.isalpha() and n.islower())])
def test_names_that_are_taken_are_refused(name: str) -> None:
    """Columns of the tables that a run goes through, and what torch's ModuleDict will not take as a key."""
    with pytest.raises(ValidationError, match=f"the name '{name}' is taken"):
        DataConfig.model_validate(_task(name))
    assert DataConfig.model_validate(_task(f"{name.strip('_')}s_")).tasks


def test_r_drop_is_switched_off_by_its_alpha_alone() -> None:
    """A preset's warm-up stays behind and says nothing."""
    config = resolve("baseline", sets=["loss.r_drop_alpha=0"]).config
    assert config.loss.r_drop_warmup_epochs == 1
    assert [r_drop_alpha(config.loss, epoch, 0, [5] * 6) for epoch in range(6)] == [0.0] * 6


def test_a_configuration_is_fixed_once_built() -> None:
    with pytest.raises(ValidationError):
        Config().optim.lr = 1.0
