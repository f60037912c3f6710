"""Frozen lower layers: lower part and upper part together are the whole model, which learns what the upper part learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polarity.config import Config, OptimConfig
from polarity.errors import ConfigError
from polarity.model.frozen import given_states, split_model
from polarity.model.inference import score
from polarity.model.multitask import MultitaskModel, load_model
from polarity.optim import parameter_groups
from tests.tiny import FAMILIES, tiny_encoder

LABELS = Config().labels
MODEL = Config.model_validate({"model": {"head": {"hidden_size": 16, "layers": 1}}}).model
LAYERS = 4
POOLINGS = ("last4_mean", "attention", "cls", "mean")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_encoder(tmp_path_factory.mktemp(family), family, hidden=16, layers=LAYERS) for family in FAMILIES}


def build(folder: Path, **settings: Any) -> MultitaskModel:
    return MultitaskModel.from_encoder(folder, type(MODEL).model_validate(MODEL.model_dump() | settings), LABELS, seed=0)


def inputs(model: MultitaskModel, rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.encoder.config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids[0, 5:] = model.encoder.config.pad_token_id
    return {"input_ids": ids, "attention_mask": mask}


def states(lower: Any, batch: dict[str, Tensor]) -> Tensor:
    """As the loop keeps them: nothing on padding."""
    with torch.no_grad():
        return torch.as_tensor(lower.eval()(**batch).last_hidden_state) * batch["attention_mask"].unsqueeze(-1)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_parts_are_the_whole(family: str, pooling: str, encoders: dict[str, Path]) -> None:
    model = build(encoders[family], pooling=pooling, concat_cls=True, concat_mean=True).eval()
    batch = inputs(model)
    for frozen in range(1, LAYERS - 2 if pooling == "last4_mean" else LAYERS + 1):
        lower, upper = split_model(model, frozen)
        with given_states(upper, states(lower, batch)):
            found = upper(**batch)
        whole = model(**batch)  # after the views, and not hurt by them
        for task, logits in whole.items():
            torch.testing.assert_close(found[task], logits, atol=1e-5, rtol=1e-5, msg=f"{frozen} frozen layers")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_upper_part_learns_and_the_whole_model_with_it(family: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    model = build(encoders[family], pooling="mean")
    batch, before = inputs(model), {name: t.clone() for name, t in model.state_dict().items()}
    lower, upper = split_model(model, 2)
    names = [name for name, _ in upper.named_parameters()]
    assert set(names) == {n for n in before if not n.startswith("encoder.") or ".layer.2." in n or ".layer.3." in n}
    optimizer = torch.optim.SGD(upper.parameters(), lr=1.0)
    with given_states(upper.train(), states(lower, batch)):
        sum((x.square().mean() for x in upper(**batch).values()), start=torch.zeros(())).backward()
    assert all(p.grad is not None for p in upper.parameters()) and all(p.grad is None for p in lower.parameters())
    optimizer.step()
    model.eval().save_pretrained(tmp_path / "model")
    saved = load_model(tmp_path / "model").state_dict()
    assert set(saved) == set(before)
    assert {name for name, t in saved.items() if torch.equal(t, before[name])} == set(before) - set(names)


def test_all_frozen_leaves_pooling_and_heads(encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], pooling="attention")
    upper = split_model(model, LAYERS).upper
    assert all(not name.startswith("encoder.") for name, _ in upper.named_parameters())
    assert any(name.startswith("pooling.") for name, _ in upper.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates_count_from_the_top(family: str, encoders: dict[str, Path]) -> None:
    model, config = build(encoders[family], pooling="mean"), OptimConfig(layer_decay=0.5)

    def rates(part: MultitaskModel) -> dict[str, float]:
        return {n: group["lr_multiplier"] for group in parameter_groups(part, config) for n in group["names"]}

    whole, upper = rates(model), rates(split_model(model, 2).upper)
    assert upper == {name: whole[name] for name in upper}
    assert {m for name, m in upper.items() if name.startswith("encoder.")} == {1.0, 0.5}


@pytest.mark.parametrize("mode", ["off", "mean", "vote"])
def test_sampled_scores_are_the_wholes(mode: str, encoders: dict[str, Path]) -> None:
    """The masks hang on the row's tokens, which the upper part is still told."""
    model = build(encoders["bert"], pooling="mean", dropout=0.5).eval()
    batch = inputs(model)
    lower, upper = split_model(model, 1)
    with given_states(upper, states(lower, batch)):
        found = score(upper, batch, mode)
    for task, scores in score(model, batch, mode).items():
        torch.testing.assert_close(found[task].probabilities, scores.probabilities, atol=1e-6, rtol=1e-5)


def test_the_upper_part_alone_is_refused(encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], pooling="mean")
    lower, upper = split_model(model, 1)
    batch = inputs(model)
    given = states(lower, batch)
    with given_states(upper, given):
        pass
    with pytest.raises(RuntimeError, match="without the states"):
        upper(**batch)
    with given_states(upper, given), pytest.raises(RuntimeError, match="without the states"):
        upper(**{name: t[:, :4] for name, t in batch.items()})


@pytest.mark.parametrize(
    ("frozen", "pooling", "message"),
    [
        (5, "mean", r"model\.frozen_layers is 5, but the encoder has 4 layers: give at most 4"),
        (2, "last4_mean", r"model\.frozen_layers is 2, but model\.pooling last4_mean .*give at most 1"),
    ],
)
def test_too_many_are_refused(frozen: int, pooling: str, message: str, encoders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=message):
        split_model(build(encoders["bert"], pooling=pooling), frozen)


def test_an_encoder_of_another_kind_is_refused(encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], pooling="mean")
    model.encoder.config.model_type = "albert"
    with pytest.raises(ConfigError, match=r"'albert' encoder cannot be cut.*model\.frozen_layers=0"):
        split_model(model, 1)
