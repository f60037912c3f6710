"""The multi-task model: five encoder families train, save and load bit for bit; what does not fit is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from polarity.config import Config
from polarity.errors import EncoderError, RunError
from polarity.model.inference import score, vote
from polarity.model.multitask import Mix, MultitaskModel, load_model
from tests.tiny import FAMILIES, tiny_encoder

LABELS = Config().labels
MODEL = Config.model_validate({"model": {"head": {"hidden_size": 16, "layers": 1}}}).model


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_encoder(tmp_path_factory.mktemp(family), family, hidden=16, layers=2) for family in FAMILIES}


def build(folder: Path, seed: int = 0, **settings: Any) -> MultitaskModel:
    return MultitaskModel.from_encoder(folder, type(MODEL).model_validate(MODEL.model_dump() | settings), LABELS, seed=seed)


def inputs(model: MultitaskModel, rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.encoder.config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids[0, 5:] = model.encoder.config.pad_token_id
    return {"input_ids": ids, "attention_mask": mask}


def total(logits: dict[str, Tensor]) -> Tensor:
    return sum((x.square().mean() for x in logits.values()), start=torch.zeros(()))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_saves_and_loads(family: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    model = build(encoders[family], pooling="attention", concat_cls=True, concat_mean=True)
    batch = inputs(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    total(model.train()(**batch)).backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None]
    assert not lacking  # DDP would wait for them for ever
    optimizer.step()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.startswith("encoder."))
    model.eval().save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(x, again(**batch)[task]) for task, x in model(**batch).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_keeps_its_pretrained_weights(family: str, encoders: dict[str, Path]) -> None:
    stored, model = load_file(encoders[family] / "model.safetensors"), build(encoders[family])
    used = {name: t for name, t in model.encoder.state_dict().items() if name in stored}
    assert len(used) == len(model.encoder.state_dict())
    assert all(torch.equal(t, stored[name]) for name, t in used.items())


def test_heads_come_from_the_seed(encoders: dict[str, Path]) -> None:
    one, same, other = (build(encoders["bert"], seed=s) for s in (0, 0, 1))
    name = "heads.sentiment.out.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert one.state_dict()["heads.sentiment.blocks.0.up.weight"].std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("pooling", ["last4_mean", "attention", "cls", "mean"])
def test_padding_and_batching_change_no_logit(pooling: str, encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], pooling=pooling).eval()
    batch = inputs(model)
    short = {name: t[:1, :5] for name, t in batch.items()}
    for task, x in model(**batch).items():
        torch.testing.assert_close(model(**short)[task][0, 0], x[0, 0], atol=1e-6, rtol=1e-5)


def count_passes(model: MultitaskModel) -> list[int]:
    calls: list[int] = []
    model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("mode", ["off", "mean", "vote"])
def test_samples_cost_one_pass_of_the_encoder(mode: str, encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"])
    calls = count_passes(model)
    trained = model.train()(**inputs(model), samples=3)
    assert trained["sentiment"].shape == (3, 4, 3) and not torch.equal(trained["sentiment"][0], trained["sentiment"][1])
    assert len(calls) == 1
    score(model.eval(), inputs(model), mode)
    assert len(calls) == 2


@pytest.mark.parametrize("mode", ["mean", "vote"])
def test_sampled_scores_do_not_depend_on_batching_or_padding(mode: str, encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], dropout=0.5).eval()
    batch = inputs(model)
    together = score(model, batch, mode)
    for row in range(4):
        length = int(batch["attention_mask"][row].sum())
        alone = score(model, {name: t[row : row + 1, :length] for name, t in batch.items()}, mode)
        for task, scores in alone.items():
            torch.testing.assert_close(scores.probabilities[0], together[task].probabilities[row], atol=1e-6, rtol=1e-5)
            assert scores.predicted[0] == together[task].predicted[row]


def test_vote_ties_go_to_the_larger_mean() -> None:
    samples = torch.tensor([[[0.6, 0.4, 0.0]], [[0.1, 0.9, 0.0]], [[0.0, 0.3, 0.7]]])
    assert vote(samples).tolist() == [1]  # a vote each; means 0.23, 0.53, 0.23
    majority = torch.tensor([[[0.4, 0.3, 0.3]], [[0.4, 0.3, 0.3]], [[0.0, 1.0, 0.0]]])
    assert vote(majority).tolist() == [0]  # although class 1 has the larger mean
    assert vote(samples[:, :, :2]).tolist() == [1]


def test_mixup_of_pooled_rows(encoders: dict[str, Path]) -> None:
    model = build(encoders["bert"], head={"layers": 0}, dropout=0.0).eval()
    batch, turn = inputs(model), torch.tensor([2, 0, 3, 1])
    plain, mixed = model(**batch), model(**batch, mix=Mix(0.3, turn))
    for task, x in plain.items():  # without blocks the head is linear: mixing pooled rows mixes logits
        torch.testing.assert_close(mixed[task], 0.3 * x + 0.7 * x[:, turn], atol=1e-6, rtol=1e-5)


def test_an_encoder_that_is_random_in_part_is_refused(encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoders["bert"], tmp_path / "bert"))
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if "layer.1.attention" in n)
    save_file({n: t for n, t in weights.items() if n != name}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"layer\.1\.attention.* missing"):
        build(folder)


def edit(folder: Path, change: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    if change == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return
    if change == "missing":
        del weights["heads.sentiment.out.bias"]
    if change == "additional":
        weights["heads.sentiment.out.other"] = torch.zeros(2)
    if change == "reshaped":
        weights["heads.sentiment.out.bias"] = torch.zeros(7)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("change", ["truncated", "missing", "additional", "reshaped"])
def test_weights_that_do_not_fit_are_refused(change: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    build(encoders["bert"]).save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", change)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_model(tmp_path / "model")


def test_damaged_or_foreign_config_is_refused(encoders: dict[str, Path], tmp_path: Path) -> None:
    build(encoders["bert"]).save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    text = config.read_text()
    config.write_text(text[: len(text) // 2])
    with pytest.raises(RunError, match=r"config\.json"):
        load_model(tmp_path / "model")
    config.write_text(json.dumps(json.loads(text) | {"model_type": "bert"}))
    with pytest.raises(RunError, match="not a polarity model"):
        load_model(tmp_path / "model")
    config.unlink()
    with pytest.raises(RunError, match=r"no config\.json"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("change", ["truncated", "reshaped"])
def test_damaged_encoder_is_refused(change: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoders["bert"], tmp_path / "bert"))
    file = folder / "model.safetensors"
    if change == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        weights = load_file(file)
        save_file(weights | {"embeddings.LayerNorm.bias": torch.zeros(7)}, file, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="damaged" if change == "truncated" else r"LayerNorm\.bias"):
        build(folder)
