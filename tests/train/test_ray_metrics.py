"""What a run's Ray metrics say: against the history's row, scikit-learn and the ledger. The endpoint itself is in tests/cluster."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import AutoConfig, PreTrainedConfig

from polarity.data.batch import epoch_rows
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer, resolve_encoder
from polarity.model.flops import flops_per_row, peak_flops
from polarity.train.checkpoints import Checkpoint, TrainState, save_checkpoint
from polarity.train.control import Job
from polarity.train.driver import _train_run
from polarity.train.progress import Utilisation
from polarity.train.ray_metrics import COUNTERS, GAUGES, _stood_at, oversampling_ratio, run_tags, samples
from polarity.train.validate import PartScores, class_f1_key, class_f1_scores
from polarity.train.world import World
from tests.tiny import tiny_comments
from tests.train.runs import configured, encoder_folder, tables

LABELS = {"mood": ["bad", "good"], "topic": ["a", "b"]}
STEP = {
    "kind": "step", "epoch": 1, "step": 20, "loss": 0.5, "lr": 1e-4, "grad_norm": 2.0, "loss_mood": 0.2, "loss_topic": 0.3,
    "rows_per_s": 5.0, "tokens_per_s": 50.0, "padded_tokens_per_s": 60.0, "padded_share": 0.1, "epochs_left": 1.5, "mfu": 0.5,
}  # fmt: skip
EPOCH = {
    "kind": "epoch", "epoch": 1, "step": 40, "loss": 0.4, "classification_loss": 0.4, "seconds": 3.0, "bad_steps": 0, "epochs_left": 1.0,
    "validation_overall": 0.6, "validation_mood": 0.5, "validation_topic": 0.7, "validation_seconds": 1.0, class_f1_key("mood", "bad"): 0.1,
    class_f1_key("mood", "good"): 0.9,
}  # fmt: skip


def shown(record: dict[str, object]) -> dict[tuple[str, ...], float]:
    return {(name, *tags.values()): value for name, tags, value in samples(record, LABELS)}  # type: ignore[arg-type]


def test_a_step_and_an_epoch_set_each_what_they_know() -> None:
    assert shown(STEP) == {
        ("epoch",): 1, ("epochs_left",): 1.5, ("step",): 20, ("loss",): 0.5, ("learning_rate",): 1e-4, ("gradient_norm",): 2.0,
        ("rows_per_second",): 5.0, ("tokens_per_second",): 50.0, ("padded_ratio",): 0.1, ("task_loss", "mood"): 0.2,
        ("task_loss", "topic"): 0.3, ("mfu_ratio",): 0.5,
    }  # fmt: skip
    assert shown(EPOCH) == {
        ("epoch",): 1, ("epochs_left",): 1.0, ("step",): 40, ("epoch_loss",): 0.4, ("epoch_seconds",): 3.0, ("validation_seconds",): 1.0,
        ("validation_macro_f1",): 0.6, ("validation_task_macro_f1", "mood"): 0.5, ("validation_task_macro_f1", "topic"): 0.7,
        ("validation_class_f1", "mood", "bad"): 0.1, ("validation_class_f1", "mood", "good"): 0.9,
    }  # fmt: skip


def test_what_is_not_known_is_left_out() -> None:
    assert ("epoch_loss",) not in shown({**EPOCH, "loss": None})  # every step of the epoch was skipped
    assert shown({**STEP, "consistency_mood": 0.1})[("consistency_loss", "mood")] == 0.1
    assert ("mfu_ratio",) not in shown({**STEP, "mfu": None})


def test_names_follow_prometheus() -> None:
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) and not name.endswith("_total") for name in GAUGES)
    assert all(name.endswith("_total") for name in COUNTERS)
    assert all(text.endswith(".") for text in [*COUNTERS.values(), *(gauge.help for gauge in GAUGES.values())])


def test_f1_of_a_class_is_scikit_learns() -> None:
    config = configured()
    part = tables(config).validation
    rng = np.random.default_rng(0)
    predicted = {task: rng.integers(0, len(names), len(part)) for task, names in config.labels.items()}
    scores = class_f1_scores(PartScores({}, predicted), part, config.labels)
    for task, names in config.labels.items():
        known = part.labels[task] >= 0
        theirs = f1_score(part.labels[task][known], predicted[task][known], labels=range(len(names)), average=None, zero_division=0)
        assert [scores[class_f1_key(task, name)] for name in names] == pytest.approx(theirs)


def job(points: tuple[int, ...] = (), **changes: dict[str, object]) -> Job:
    config = configured(points, **changes, model={"encoder": str(encoder_folder())})  # type: ignore[arg-type]
    train = tokenize(tiny_comments(90, seed=0), load_tokenizer(encoder_folder()), config.data)
    return Job(config, {"train": train}, {}, "s3://bucket/runs/first/", resolve_encoder(config.model.encoder), pad_id=0)


def test_tags_are_those_of_the_run() -> None:
    given = job((2,))
    assert run_tags(given) == {"run": "first", "study": "", "arm": "", "seed": str(given.config.train.seed)}


def utilisation(layers: int, said: list[str], encoder: PreTrainedConfig | None = None, workers: int = 1) -> Utilisation:
    config = configured()
    encoder = encoder or AutoConfig.from_pretrained(encoder_folder())
    return Utilisation(encoder, tables(config).train, layers, "fp32", replace(World(), size=workers), said.append)


def test_mfu_is_the_arithmetic_of_the_real_tokens_over_the_workers_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 100 tokens a second of these rows' mean, forward and backward, over a peak of a million operations."""
    monkeypatch.setattr("polarity.train.progress._peak", lambda precision, device: 1e6)
    said, lengths = list[str](), tables(configured()).train.lengths
    encoder = AutoConfig.from_pretrained(encoder_folder())
    flops = sum(flops_per_row(encoder, int(n)) for n in lengths) / lengths.sum()
    assert utilisation(2, said).of(100.0, passes=1) == pytest.approx(100.0 * flops / 1e6)
    assert utilisation(2, said).of(100.0, passes=2) == pytest.approx(200.0 * flops / 1e6)  # R-Drop reads every row twice
    assert utilisation(1, said).of(100.0, passes=1) == pytest.approx(50.0 * flops / 1e6)  # a frozen layer is not computed
    assert utilisation(2, said, workers=4).of(100.0, passes=1) == pytest.approx(25.0 * flops / 1e6)
    assert not said


def test_an_encoder_whose_arithmetic_is_not_known_has_no_mfu_and_one_line_says_why() -> None:
    class Strange(PreTrainedConfig):
        model_type = "strange"

    said = list[str]()
    unknown = utilisation(2, said, Strange())
    assert unknown.of(100.0, passes=1) is None and unknown.of(100.0, passes=1) is None
    assert len(said) == 1 and "MFU is not shown" in said[0] and "strange" in said[0]


@pytest.mark.parametrize(
    ("storage", "place", "name"),
    [
        ("/data/runs/first", "/data/runs", "first/checkpoints"),
        ("s3://bucket/runs/first/?region=eu", "s3://bucket/runs?region=eu", "first/checkpoints"),
        ("s3://bucket", "s3://bucket", "checkpoints"),
        ("file:///first", "file:///first", "checkpoints"),
        ("/first", "/first", "checkpoints"),
    ],
)
def test_ray_trains_own_run_is_called_by_the_runs_name(storage: str, place: str, name: str) -> None:
    assert _train_run(storage) == (place, name)


def test_counters_begin_where_the_checkpoint_stood(tmp_path: Path) -> None:
    assert _stood_at(None) == (0, 0)
    save_checkpoint(tmp_path, Checkpoint(TrainState(step=7, bad_steps=2), {"w": torch.zeros(1)}, None, {}, {}))
    assert _stood_at(tmp_path) == (7, 2)


@pytest.mark.parametrize("points", [(), (2,)])
def test_the_oversampling_rate_is_that_of_the_rows_that_are_drawn(points: tuple[int, ...]) -> None:
    given = job(points)
    config, rows = given.config, tables(given.config, rows=90).train
    drawn = [len(epoch_rows(rows, config, epoch)) / 90 for epoch in range(30)]  # row by row, an epoch is right on average only
    assert oversampling_ratio(given.parts["train"], config) == pytest.approx(np.mean(drawn), rel=0.01)


def test_measuring_the_machine_draws_no_random_numbers() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    peak_flops("fp32", torch.device("cpu"), size=64, repeats=1)
    assert torch.equal(torch.rand(3), expected)
