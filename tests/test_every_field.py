"""Every field of the configuration does something: each one is flipped, and the run, its data or its placement must differ.

A new field fails `test_every_field_is_flipped` until it has an entry here. Where a field's values are a closed list, all are flipped.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from polarity.artifacts import CONFIG, HISTORY, PREDICTIONS, RunFolder
from polarity.config import Config
from polarity.data.split import load_splits
from polarity.evaluate import build_predictions
from polarity.workflows.train import judge
from tests import observe
from tests.observe import configured, prepared, trained
from tests.tiny import tiny_encoder
from tests.train.runs import encoder_folder


@dataclass(frozen=True)
class Flip:
    """`values` of a field (written as for --set) that must all be observed differently, under the settings `given`."""

    values: tuple[str, ...]
    given: tuple[str, ...] = ()
    observe: Callable[[Config], Any] = trained
    refused: frozenset[str] = field(default_factory=frozenset)
    """The values that must be refused; the others must not be."""
    either: frozenset[str] = field(default_factory=frozenset)
    """Choices that stand for one of the others, as the hardware says."""


ROWS = ("data.source={rows}",)


def data(*values: str, given: tuple[str, ...] = ROWS, refused: frozenset[str] = frozenset()) -> Flip:
    return Flip(values, given, prepared, refused)


POOLED = ("model.pooling=mean",)
OWN = ("data.train={rows}", "data.validation={more}")
FLIPS: dict[str, Flip] = {
    "data.source": data("{rows}", "{more}", given=("data.order=title_first",)),
    "data.train": data("{rows}", "{third}", given=OWN),
    "data.validation": data("{more}", "{third}", given=OWN),
    "data.test": data("null", "{third}", given=OWN),
    "data.title_column": data("Title", "Headline", "null"),
    "data.comment_column": data("Comment", "Text"),
    "data.id_column": data("row_id", "code", "null"),
    "data.tasks": data("{}", "{topic: {column: Topic, labels: [a, b]}}"),
    "data.tasks.*.column": data("Final Sentiment", "Gold"),
    "data.tasks.*.annotators": data("[]", "[Final Sentiment, Gold]"),
    "data.tasks.*.counts": data("[]", "[n1, n2, n3]", given=ROWS),
    "data.tasks.*.soft": data("false", "true", given=(*ROWS, "data.tasks.sentiment.annotators=[Final Sentiment, Gold]")),
    "data.tasks.*.labels": data("[negative, neutral, positive]", "[positive, neutral, negative]"),
    "data.bad_rows": data("error", "drop", given=("data.source={bad}",), refused=frozenset({"error"})),
    "data.missing_labels": data("[nan]", "[unsure]", given=("data.source={unsure}",), refused=frozenset({"[nan]"})),
    "data.duplicates": data("drop_from_train", "allow", "error", given=("data.source={leak}",), refused=frozenset({"error"})),
    "data.order": data("title_first", "comment_first"),
    "data.max_length": data("224", "40"),
    "data.max_comment": data("null", "32", "36"),
    "data.max_title": data("null", "0", "1"),
    "data.shards": Flip(("never", "always"), (*ROWS, "data.shard_dir={folder}"), observe.shard_folders, either=frozenset({"auto"})),
    "data.shard_dir": Flip(("{folder}", "{folder}/other"), (*ROWS, "data.shards=always"), observe.shard_folders),
    "data.split.kind": data("plan", "joint", "group", "column"),
    "data.split.seed": data("42", "43"),
    "data.split.validation": data("0.15", "0.3"),
    "data.split.test": data("0.15", "0.3", "0"),
    "data.split.stratify": data("sentiment", "polarization"),
    "data.split.folds": data("0", "3", "4", given=(*ROWS, "data.split.kind=joint")),
    "data.split.fold": data("0", "1", "2", given=(*ROWS, "data.split.kind=joint", "data.split.folds=3")),
    "data.split.column": data("split", "part", given=(*ROWS, "data.split.kind=column")),
    "data.oversample.alpha": Flip(("0", "0.5", "1"), ("data.oversample.boosts=null",)),
    "data.oversample.max_multiplier": Flip(("1", "4")),
    "data.oversample.boosts": Flip(("null", "{sentiment: {neutral: 2.0}}")),
    "data.oversample.stratified": Flip(("false", "true")),
    "data.oversample.size": Flip(("grow", "keep")),
    "model.encoder": data("{encoder}", "{other_encoder}"),
    "model.revision": data("null", "tagged", given=(*ROWS, "model.encoder=some/encoder")),
    "model.dropout": Flip(("0.1", "0.2")),
    "model.pooling": Flip(("last4_mean", "attention", "cls", "mean")),
    "model.concat_cls": Flip(("false", "true")),
    "model.concat_mean": Flip(("false", "true")),
    "model.frozen_layers": Flip(("0", "1", "2"), POOLED),
    "model.head.layers": Flip(("0", "1", "2")),
    "model.head.hidden_size": Flip(("8", "12")),
    "model.head.intermediate_size": Flip(("null", "6")),
    "model.head.residual": Flip(("false", "true")),
    "model.multi_sample.samples": Flip(("0", "2", "3")),
    "model.multi_sample.inference": Flip(("'off'", "mean", "vote"), ("model.dropout=0.7", "optim.lr=0.01")),
    "model.multi_sample.inference_samples": Flip(("3", "4"), ("model.multi_sample.inference=mean",)),
    "loss.task_weights": Flip(("{sentiment: 1.0}", "{sentiment: 0.0}", "{sentiment: 2.0}")),
    "loss.class_weights.multipliers": Flip(("{sentiment: {neutral: 1.0}}", "{sentiment: {neutral: 1.8}}")),
    "loss.class_weights.strength": Flip(("0", "0.5", "1")),
    "loss.class_weights.max_weight": Flip(("0.9", "6")),
    "loss.class_weights.basis": Flip(("raw", "resampled")),
    "loss.focal_gamma": Flip(("{sentiment: 0}", "{sentiment: 1}", "{sentiment: 2}")),
    "loss.adaptive_gamma": Flip(("false", "true")),
    "loss.label_smoothing": Flip(("{sentiment: 0}", "{sentiment: 0.1}")),
    "loss.adaptive_smoothing": Flip(("false", "true")),
    "loss.r_drop_alpha": Flip(("0.4", "0.6")),
    "loss.r_drop_warmup_epochs": Flip(("0", "1", "2")),
    "loss.mixup_alpha": Flip(("0", "0.2", "0.4")),
    "loss.logit_adjustment": Flip(("0", "1")),
    "optim.lr": Flip(("1e-3", "2e-3")),
    "optim.lr_floor": Flip(("0", "2e-5")),
    "optim.schedule": Flip(("linear", "cosine", "cosine_restarts")),
    "optim.cycles": Flip(("2", "3"), ("optim.schedule=cosine_restarts",)),
    "optim.warmup_ratio": Flip(("0", "0.5")),
    "optim.layer_decay": Flip(("0.95", "0.8")),
    "optim.head_lr_multiplier": Flip(("2", "3")),
    "optim.weight_decay": Flip(("0", "0.02")),
    "optim.max_grad_norm": Flip(("1", "0.01")),
    "optim.gradient_centralization": Flip(("false", "true")),
    "train.seed": Flip(("0", "1")),
    "train.epochs": Flip(("1", "2")),
    "train.max_steps": Flip(("null", "2")),
    "train.early_stopping_patience": Flip(("null", "1", "2"), ("train.epochs=4", "optim.lr=2e-7", "loss.r_drop_alpha=0")),
    "train.global_batch_size": Flip(("12", "18")),
    "train.micro_batch_size": Flip(("6", "4")),
    "train.keep": Flip(("best", "last"), ("train.epochs=4", "optim.lr=2e-2", "train.seed=2")),
    "train.average_epochs": Flip(("1", "2"), ("train.epochs=4", "optim.lr=2e-2", "train.seed=2")),
    "train.sort_pool": Flip(("0", "1", "32")),
    "train.eval_batch_size": Flip(("64", "8"), observe=observe.encoder_passes),
    "train.precision": Flip(("fp32", "bf16", "fp16"), ("train.epochs=1", "train.max_steps=1"), either=frozenset({"auto"})),
    "train.max_bad_steps": Flip(("1", "3"), observe=observe.bad_steps_survived),
    "train.deterministic": Flip(("false", "true"), observe=observe.refuses_what_cannot_be_repeated),
    "train.log_every": Flip(("1", "2"), observe=lambda config: len(observe.said_by(config))),
}
ELSEWHERE = {"train.resamples"}
TRACKING = {"tracking.tensorboard", "tracking.mlflow", "tracking.mlflow_experiment", "tracking.wandb"}
"""Flipped in tests/train/test_trackers.py."""
CLUSTER = {"cluster.workers", "cluster.gpu", "cluster.cpus_per_worker", "cluster.max_failures", "cluster.start_timeout_s"}
"""Flipped in tests/tune/test_runner_gpu.py."""
FAULTS = {"cluster.max_workers", "cluster.stall_minutes", "cluster.checkpoint_minutes", "cluster.grace_s"}
"""Flipped in tests/train/test_faults_fields.py; the last two in tests/test_cli_train.py."""


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """{dotted path: type} of every field; `*` stands for an entry of a mapping of sections."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        inner = get_args(kind)[1] if get_origin(kind) is dict else kind
        section = isinstance(inner, type) and issubclass(inner, BaseModel)
        if not section or inner is not kind:
            found[f"{prefix}{name}"] = kind
        if section:
            found.update(leaves(inner, f"{prefix}{name}{'.' if inner is kind else '.*.'}"))
    return found


LEAVES = leaves(Config)


def test_every_field_is_flipped() -> None:
    assert set(FLIPS) | ELSEWHERE | CLUSTER | FAULTS | TRACKING == set(LEAVES)


def test_every_choice_of_a_closed_list_is_flipped() -> None:
    for path, flip in FLIPS.items():
        choices = ("false", "true") if LEAVES[path] is bool else get_args(LEAVES[path]) if get_origin(LEAVES[path]) is Literal else ()
        assert set(choices) <= {*(value.strip("'") for value in flip.values), *flip.either}, path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders that settings name."""
    folder = tmp_path_factory.mktemp("flips")
    written = {
        "rows": observe.write_rows(folder / "rows.csv"),
        "more": observe.write_rows(folder / "more.csv", 100, seed=1),
        "third": observe.write_rows(folder / "third.csv", 90, seed=2),
        "bad": observe.write_rows(folder / "bad.csv", bad=True),
        "unsure": observe.write_rows(folder / "unsure.csv", unsure=True),
        "leak": observe.write_rows(folder / "leak.csv", leak=True),
        "encoder": encoder_folder(),
        "folder": folder / "shards",
        "other_encoder": tiny_encoder(folder / "other", "bert", hidden=16, seed=1),
    }
    return {name: str(path) for name, path in written.items()}


@pytest.fixture
def hub(places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache with two commits of one encoder: its newest, and a tagged one."""
    import huggingface_hub.constants

    repository = tmp_path / "models--some--encoder"
    for ref, commit, source in (("main", "a" * 40, "encoder"), ("tagged", "b" * 40, "other_encoder")):
        shutil.copytree(places[source], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


def filled(text: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    return text


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("path", FLIPS)
def test_field_does_something(path: str, places: dict[str, str]) -> None:
    flip = FLIPS[path]
    found = {}
    for value in flip.values:
        settings = [filled(text, places) for text in (*flip.given, f"{path.replace('*', 'sentiment')}={value}")]
        found[value] = flip.observe(configured(*settings))
    refused = {value: seen[1] for value, seen in found.items() if isinstance(seen, tuple) and seen[0] == "refused"}
    assert set(refused) == flip.refused, refused
    values = list(found)
    same = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :] if found[a] == found[b]]
    assert not same, f"{path}: these make no difference"


def test_revision_of_a_folder_is_refused(places: dict[str, str]) -> None:
    kind, message = prepared(configured(f"data.source={places['rows']}", f"model.encoder={places['encoder']}", "model.revision=main"))[:2]
    assert kind == "refused" and "revisions are for hub names" in message


def test_resamples_are_those_behind_the_intervals(places: dict[str, str], tmp_path: Path) -> None:
    def interval(name: str, resamples: int) -> list[float]:
        config = configured(f"data.source={places['rows']}", f"train.resamples={resamples}")
        splits, folder = load_splits(config.data, lambda _: None), RunFolder.create(tmp_path / name)
        rows = splits.validation.num_rows
        rng = np.random.default_rng(0)
        scores = {task: rng.dirichlet(np.ones(3), rows).astype(np.float32) for task in config.labels}
        folder.write_parquet(PREDICTIONS, build_predictions("validation", splits.validation, scores, config.labels, None))
        folder.write_parquet(HISTORY, _history())
        folder.write_text(CONFIG, yaml.safe_dump(config.model_dump(mode="json")))
        judged = judge(config, folder, type(splits)(splits.train, splits.validation, None, splits.leaks, 0), lambda _: None)
        return list(judged["validation"]["overall"]["ci95"])

    assert interval("few", 100) != interval("many", 400)


def _history() -> Any:
    import pyarrow as pa

    epoch = {"kind": "epoch", "epoch": 1, "step": 1, "loss": 1.0, "classification_loss": 1.0, "seconds": 1.0, "bad_steps": 0}
    return pa.Table.from_pylist([{**epoch, "validation_overall": 0.5}])
