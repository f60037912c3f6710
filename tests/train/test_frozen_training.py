"""Training above frozen layers: the same numbers as with the whole model, for any number of workers, and after a resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarity.config import Config
from polarity.data.batch import Corpus, global_batches
from polarity.errors import RunError
from polarity.model.frozen import split_model
from polarity.model.multitask import MultitaskModel, load_model
from polarity.train.loop import Result, Tables, Training, run_training
from polarity.train.reduce import LARGE_GB, weights_digest, with_features
from polarity.train.validate import predict
from polarity.train.world import World
from tests.train.runs import Heard, configured, fresh_model, on_ranks, stepper, tables

SIZES = {"global_batch_size": 12, "micro_batch_size": 3, "sort_pool": 2, "epochs": 2, "early_stopping_patience": None}
MEAN = {"pooling": "mean", "head": {"layers": 0}}


def frozen(layers: int, points: tuple[int, ...] = (), **train: Any) -> Config:
    """Points change the pooling, so it is set after them."""
    return configured(points, model=MEAN | {"frozen_layers": layers}, train=SIZES | train)


def run(config: Config, folder: Path | None = None, resume: Path | None = None, world: World | None = None) -> Result:
    events = Heard(folder=folder)
    if folder:
        folder.mkdir()
    parts = tables(config)
    parts = Tables(parts.train, parts.validation, parts.validation, parts.statistics)
    return run_training(config, parts, fresh_model(config), events, world=world or World(), resume=resume)


def losses(result: Result) -> list[float]:
    return [row["loss"] for row in result.state.history if row["kind"] == "step"]


def without_dropout(model: MultitaskModel) -> MultitaskModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_gradient_is_the_whole_models(layers: int) -> None:
    """Without dropout, a step above the features has the gradient that the whole model's step has in the same layers."""
    config = configured(model=MEAN | {"dropout": 0.0}, train=SIZES)
    parts, model, world = tables(config), without_dropout(fresh_model(config)), World()
    lower, upper = split_model(model, layers)
    train = with_features(lower, weights_digest(lower), [parts.train], world, batch_size=7, precision="fp32", say=lambda _: None)[0]
    rows = global_batches(parts.train, config, 0)[0]
    found = []
    for corpus, part in ((parts.train, model), (train, upper)):
        stepper(config, Tables(corpus, parts.validation, None, parts.statistics), part.train(), world).gradient(rows, 0, 0.5)
        found.append({name: p.grad.clone() for name, p in upper.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert set(found[0]) == set(found[1]) and max(float(g.abs().max()) for g in found[0].values()) > 1e-4
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_features_do_not_depend_on_the_batches() -> None:
    config = frozen(1)
    lower = split_model(fresh_model(config), 1).lower
    digest, corpora = weights_digest(lower), [tables(config).train]
    one, other = (
        with_features(lower, digest, corpora, World(), batch_size=size, precision="fp32", say=lambda _: None)[0] for size in (5, 64)
    )
    assert one.features is not None and one.features.shape == (one.offsets[-1], 16)
    np.testing.assert_allclose(other.features, one.features, atol=1e-5)
    batch = one.collate(np.array([2, 0]))
    assert batch.features is not None
    assert batch.features.shape == (*batch.input_ids.shape, 16)
    assert not batch.features[batch.attention_mask == 0].any()
    np.testing.assert_array_equal(batch.features[0, : one.lengths[2]], one.features[one.offsets[2] : one.offsets[3]])


@pytest.mark.parametrize("layers", [1, 2])
def test_only_the_upper_part_is_trained_and_the_saved_model_is_whole(layers: int, tmp_path: Path) -> None:
    config = frozen(layers, (5, 6, 7, 8))
    before = fresh_model(config).state_dict()
    result = run(config)
    moved = {name for name, t in result.model.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {n for n in before if not n.startswith("encoder.") or any(f".layer.{i}." in n for i in range(layers, 2))}
    result.model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert set(again.state_dict()) == set(before)
    scores = predict(again, tables(config).validation, World(), batch_size=64, precision="fp32")
    for name in ("validation", "test"):
        for task, probabilities in result.predictions[name].probabilities.items():
            np.testing.assert_allclose(scores.probabilities[task], probabilities, atol=1e-6)
    best = [row["validation_overall"] for row in result.state.history if row["kind"] == "epoch"][result.state.best_epoch]
    assert best == result.state.best_score


def test_frozen_weights_are_in_no_optimizer() -> None:
    config = frozen(1)
    training = Training(config, tables(config), fresh_model(config), World())
    held = [p for group in training.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(list(training.model.parameters()))
    assert not any(".layer.0." in n or ".embeddings." in n for group in training.optimizer.param_groups for n in group["names"])


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_resumed_run_is_bit_identical(stopped_after: int, tmp_path: Path) -> None:
    config = frozen(1, tuple(range(4, 11)), epochs=3)
    whole = run(config, tmp_path / "whole")
    again = run(config, tmp_path / "again", resume=tmp_path / "whole" / f"epoch_{stopped_after:04d}")
    assert all(torch.equal(t, again.model.state_dict()[name]) for name, t in whole.model.state_dict().items())
    assert losses(whole) == losses(again)


def test_a_checkpoint_of_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    config, parts = frozen(1, epochs=1), tables(frozen(1))
    run(config, tmp_path / "one")
    model = fresh_model(config)
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[7] += 1e-3
    with pytest.raises(RunError, match="other encoder weights"):
        run_training(config, parts, model, world=World(), resume=tmp_path / "one" / "epoch_0001")


def test_features_are_computed_once_in_a_process_and_anew_where_anything_differs() -> None:
    config, said = frozen(1), list[str]()
    parts, model = tables(config), fresh_model(config)
    lower = split_model(model, 1).lower

    def found(corpus: Corpus, precision: str = "fp32") -> Corpus:
        return with_features(lower, weights_digest(lower), [corpus], World(), batch_size=64, precision=precision, say=said.append)[0]

    first, again = found(parts.train), found(parts.train)
    assert again.features is first.features and "kept" in said[-1]
    assert found(parts.train, "bf16").features is not first.features and "computed once" in said[-1]
    assert len(found(parts.validation)) == len(parts.validation) and "computed once" in said[-1]
    kept = found(parts.validation).features
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight += 1.0
    assert found(parts.validation).features is not kept and "computed once" in said[-1]


def test_test_rows_pass_the_frozen_layers_once_for_all_trainings_and_score_as_the_whole_model_does() -> None:
    """A study's trials share their effect rows: only the first one runs frozen layers, and no bit of a score depends on the short cut."""
    config, said = frozen(1), Heard()
    parts = tables(config)
    parts = Tables(parts.train, parts.validation, parts.train, parts.statistics)  # other rows than validation
    for _ in range(2):
        result = run_training(config, parts, fresh_model(config), said, world=World())
    assert ["computed once" in line for line in said.lines if "frozen layers" in line] == [True, False]
    for name, part in {"validation": parts.validation, "test": parts.train}.items():
        whole = predict(result.model, part, World(), batch_size=config.train.eval_batch_size, precision="fp32")
        for task, probabilities in result.predictions[name].probabilities.items():
            np.testing.assert_array_equal(probabilities, whole.probabilities[task])


def test_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config, said = frozen(1), list[str]()
    lower, corpora = split_model(fresh_model(config), 1).lower, [tables(config).train]
    for digest in ("one", "other"):
        with_features(lower, digest, corpora, World(), batch_size=64, precision="fp32", say=said.append)
        monkeypatch.setattr("polarity.train.reduce.LARGE_GB", LARGE_GB * 1e-6)
    assert "60 rows computed once" in said[0]
    assert "GB of memory on each worker" in said[1]


def trained(configs: list[Config]) -> list[dict[str, Any]]:
    """As in test_workers.py: losses, probabilities and score of whole runs, and the hash of what was frozen."""
    found = []
    for config in configs:
        result = run(config, world=World.current(torch.device("cpu")))
        probabilities = result.predictions["validation"].probabilities
        found.append(
            {
                "losses": losses(result),
                "probabilities": probabilities,
                "score": result.state.best_score,
                "frozen": weights_digest(split_model(result.model, 1).lower),
            }
        )
    return found


@pytest.mark.slow
def test_whole_runs_agree_on_one_and_two_workers(tmp_path: Path) -> None:
    """With all layers frozen there is nothing below pooling and heads that DDP could wait for."""
    configs = [frozen(1), frozen(2, (2, 5, 6, 7, 8))]
    for alone, together in zip(trained(configs), on_ranks(2, tmp_path / "ranks", trained, configs), strict=True):
        np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-3)
        for task, probabilities in alone["probabilities"].items():
            np.testing.assert_allclose(together["probabilities"][task], probabilities, atol=1e-3)
        assert together["score"] == pytest.approx(alone["score"], abs=0.02)
        assert together["frozen"] == alone["frozen"]
