"""Layers, their precedence, the source of each value, and errors that say where a value came from."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from polarity.config import Config
from polarity.errors import ConfigError
from polarity.resolve import RETIRED, dump_config, leaves, parse_config, preset_names, render, resolve
from polarity.strategy import ALL_POINTS, apply_points
from polarity.yaml_text import parse_yaml, scalar


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, "utf-8")
    return path


def test_the_last_layer_wins_and_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "optim: {lr: 2.0e-5, warmup_ratio: 0.3, weight_decay: 0.1}\ntrain:\n  epochs: 4\n")
    resolved = resolve(file=file, points=[9], options={"train.epochs": (7, "--epochs")}, sets=["optim.lr=3e-5", "optim.lr=4e-5"])
    config, sources = resolved.config, resolved.sources
    assert (config.optim.lr, sources["optim.lr"]) == (4e-5, "--set")
    assert (config.train.epochs, sources["train.epochs"]) == (7, "--epochs")
    assert (config.optim.warmup_ratio, sources["optim.warmup_ratio"]) == (0.2, "point 9")
    assert (config.optim.weight_decay, sources["optim.weight_decay"]) == (0.1, f"file {file}")
    assert (config.optim.layer_decay, sources["optim.layer_decay"]) == (0.95, "preset baseline")
    assert sources["train.seed"] == "default"


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid_and_every_leaf_has_a_source(preset: str) -> None:
    resolved = resolve(preset=preset)
    assert sorted(resolved.sources) == sorted(leaves(resolved.config.model_dump()))


@pytest.mark.parametrize("preset", preset_names())
def test_render_reads_back_as_the_same_configuration(preset: str) -> None:
    resolved = resolve(preset=preset, sets=["loss.focal_gamma=null", 'data.title_column="a # b: c"', "data.comment_column='día\n\nx'"])
    for text in (render(resolved), dump_config(resolved.config)):
        assert Config.model_validate(yaml.safe_load(text)) == resolved.config
        assert parse_config(text, "config.yaml") == resolved.config
    for line in render(resolved).splitlines():
        assert line.endswith(":") or "  # " in line


def test_a_configuration_of_an_older_release_keeps_its_tasks_and_has_defaults_for_what_is_new() -> None:
    task = "{column: topic, labels: [economy, health]}"
    saved = resolve(preset="small", sets=["data.tasks.sentiment=null", "data.tasks.polarization=null", f"data.tasks.topic={task}"]).config
    older = yaml.safe_load(dump_config(saved))
    del older["tracking"], older["train"]["keep"], older["cluster"]["stall_minutes"]
    assert parse_config(yaml.safe_dump(older), "config.yaml") == saved


@pytest.mark.parametrize("key", RETIRED)
def test_a_setting_that_is_gone_is_read_where_it_has_the_value_of_all_and_is_nobodys_to_set(key: str, tmp_path: Path) -> None:
    saved = resolve(preset="small").config
    *sections, leaf = key.split(".")
    older: dict[str, Any] = yaml.safe_load(dump_config(saved))
    place = reduce(lambda tree, section: tree[section], sections, older)
    place[leaf] = RETIRED[key]
    assert parse_config(yaml.safe_dump(older), "run/config.yaml") == saved
    own = write(tmp_path, yaml.safe_dump(older))
    for layer in ({"file": own}, {"sets": [f"{key}={RETIRED[key]}"]}):
        with pytest.raises(ConfigError, match=f"^{key}: is no longer a setting.*leave it out"):
            resolve(**layer)  # type: ignore[arg-type]
    place[leaf] = "another"
    with pytest.raises(ConfigError, match=f"^run/config.yaml, {key}: 'another' is from an older release.*use the release that wrote this"):
        parse_config(yaml.safe_dump(older), "run/config.yaml")


def test_a_whole_saved_configuration_stands_alone(tmp_path: Path) -> None:
    saved = resolve(preset="small", sets=["data.tasks.sentiment=null", "loss.focal_gamma=null"])
    again = resolve(preset="strategy", file=write(tmp_path, render(saved)))
    assert again.config == saved.config
    assert set(again.sources.values()) == {f"file {tmp_path / 'my.yaml'}"}


def test_strategy_is_baseline_with_all_ten() -> None:
    baseline = resolve(preset="baseline").config
    assert resolve(preset="strategy").config == apply_points(baseline, ALL_POINTS)
    assert resolve(points=list(ALL_POINTS)).config == resolve(tiers=[1, 2, 3, 4]).config == resolve(preset="strategy").config


def test_without_starts_from_all_ten() -> None:
    expected = apply_points(resolve().config, set(ALL_POINTS) - {8})
    assert resolve(without=[8]).config == expected == resolve(preset="strategy", without=[8]).config
    assert resolve(points=[1, 2], tiers=[4], without=[2]).config == apply_points(resolve().config, [1, 9, 10])


def test_a_file_is_stronger_than_the_strategy_preset_and_weaker_than_points(tmp_path: Path) -> None:
    file = write(tmp_path, "optim: {lr: 9.0e-6}")
    assert resolve(preset="strategy", file=file).config.optim.lr == 9e-6
    assert resolve(file=file, points=[9]).config.optim.lr == 2.5e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "basline"}, "no preset 'basline'; did you mean 'baseline'"),
        ({"preset": "strategy", "points": [1]}, "already has all ten"),
        ({"points": [1], "without": [2]}, "does nothing"),
        ({"points": [0]}, "no point 0"),
        ({"sets": ["optim.learning_rate=1e-5"]}, r"optim.learning_rate: unknown setting \(from --set\); did you mean 'lr'\?"),
        ({"sets": ["lr=1e-5"]}, "did you mean 'optim.lr'"),
        ({"sets": ["optimm.lr=1e-5"]}, "did you mean 'optim'"),
        ({"sets": ["data.tasks.sentiment.lables=[a, b]"]}, "data.tasks.sentiment.lables: unknown setting .* did you mean 'labels'"),
        ({"sets": ["optim=3"]}, "optim: got 3 .*is a section"),
        ({"sets": ["lr"]}, "write KEY=VALUE"),
        ({"sets": ["optim.lr=[1"]}, "--set optim.lr, line 1"),
        ({"options": {"train.epochs": ("x", "--epochs")}}, r"train.epochs: got 'x', should be a whole number \(from --epochs\)"),
        ({"sets": ["train.epochs=true"]}, "train.epochs: got True, should be a whole number"),
        ({"sets": ["train.epochs=0"]}, "train.epochs: got 0, should be greater than or equal to 1"),
        ({"sets": ["data.order=random"]}, "data.order: got 'random', should be 'title_first' or 'comment_first'"),
        ({"sets": ["data.tasks.sentiment.labels=[yes, no]"]}, "put quotes around it"),
        ({"sets": ["data.tasks.topic.labels=[a, b]"]}, "data.tasks.topic.column: is missing"),
        ({"sets": ["data.tasks=null"]}, "data.tasks"),
        (
            {"sets": ["train.global_batch_size=20"]},
            r"must be a multiple .*train.global_batch_size from --set; train.micro_batch_size from preset baseline",
        ),
        ({"sets": ["loss.focal_gamma.sentimet=1.0"]}, "loss.focal_gamma.sentimet: no such task"),
    ],
)
def test_errors_say_key_value_and_source(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(**arguments)


@pytest.mark.parametrize("garbage", ["3", "[a]", "{sentiment: [1]}", "{sentiment: {negative: [x]}}", "text", "{polarization: null}"])
@pytest.mark.parametrize("path", ["data.tasks", "data.split.stratify", "data.oversample.boosts", "loss.focal_gamma", "loss.class_weights"])
def test_garbage_below_stronger_layers_is_named_and_does_not_crash(path: str, garbage: str, tmp_path: Path) -> None:
    *sections, leaf = path.split(".")
    file = write(tmp_path, "{" + "".join(f"{key}: {{" for key in sections) + f"{leaf}: {garbage}" + "}" * len(sections) + "}")
    try:
        resolve(file=file, points=list(ALL_POINTS), sets=["data.tasks.sentiment=null", "data.tasks.topic={column: T, labels: [a, b]}"])
    except ConfigError as error:
        assert path in str(error) or "data.tasks" in str(error)


def test_all_wrong_values_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(sets=["optim.lr=-1", "train.epochs=x"])
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 1\n  lr: 2\n", r"my.yaml, line 3: the key 'lr' stands twice \(first in line 2\)"),
        ("optim: {lr: 1\ntrain: 2\n", "my.yaml, line 2"),
        ("- a\n- b\n", "must be a mapping"),
        ("optim:\n\tlr: 1\n", "my.yaml, line 2"),
        ("1: 2\n", "line 1: the key 1 is not text"),
        ("data: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("a: &x {b: *x}\n", "line 1"),
        ("optim: {lr: 1, momentum: 2}\n", r"optim.momentum: unknown setting \(from file .*my.yaml\)"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(file=write(tmp_path, text))


def test_files_that_are_none(tmp_path: Path) -> None:
    write(tmp_path, "{}")
    with pytest.raises(ConfigError, match=r"no such configuration file; did you mean 'my.yaml'"):
        resolve(file=tmp_path / "mi.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        resolve(file=tmp_path)
    (tmp_path / "latin.yaml").write_bytes("model: {encoder: ñ}".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        resolve(file=tmp_path / "latin.yaml")


def test_an_empty_file_or_section_says_nothing(tmp_path: Path) -> None:
    assert resolve(file=write(tmp_path, "")).config == resolve(file=write(tmp_path, "optim:\n# lr: 1\n")).config == resolve().config


def test_floats_without_a_point_are_numbers() -> None:
    assert resolve(sets=["optim.lr=1e-5"]).config.optim.lr == 1e-5
    assert parse_yaml("[1e5, -2E-3, .5e1, 1.e2]", "x") == [1e5, -2e-3, 5.0, 100.0]
    assert parse_yaml("[e5, 1e, v1e5, 0x1e5]", "x") == ["e5", "1e", "v1e5", 0x1E5]


def test_null_removes_a_task_and_what_weaker_layers_said_about_it(tmp_path: Path) -> None:
    resolved = resolve(file=write(tmp_path, "data: {tasks: {sentiment: null}}"), points=[1, 6])
    config = resolved.config
    assert list(config.data.tasks) == ["polarization"]
    assert all(set(mapping) <= {"polarization"} for mapping in config.per_task().values())
    assert config.loss.focal_gamma == {"polarization": 2.5}
    assert (config.data.split.stratify, resolved.sources["data.split.stratify"]) == ("polarization", f"file {tmp_path / 'my.yaml'}")


def test_a_stronger_layer_that_names_a_removed_task_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"loss.focal_gamma.sentiment: no such task"):
        resolve(sets=["data.tasks.sentiment=null", "loss.focal_gamma.sentiment=1.0"])
    with pytest.raises(ConfigError, match=r"data.split.stratify names the task 'sentiment'"):
        resolve(sets=["data.tasks.sentiment=null", "data.split.stratify=sentiment"])


def test_changed_labels_drop_the_classes_that_are_gone() -> None:
    config = resolve(sets=["data.tasks.sentiment.labels=[negative, positive]"]).config
    assert config.loss.class_weights.multipliers["sentiment"] == {"negative": 1.2, "positive": 1.15}
    assert config.loss.focal_gamma["sentiment"] == 1.0
    assert "objective" in config.data.oversample.boosts["polarization"]


def test_other_tasks_need_only_configuration(tmp_path: Path) -> None:
    text = "data:\n  tasks:\n    sentiment: null\n    polarization: null\n    topic: {column: Topic, labels: [a, b, c, d]}\n"
    resolved = resolve(file=write(tmp_path, text), points=list(ALL_POINTS))
    assert resolved.config.labels == {"topic": ["a", "b", "c", "d"]}
    assert sorted(resolved.sources) == sorted(leaves(resolved.config.model_dump()))


def test_own_files_replace_a_presets_source_and_the_other_way_round(tmp_path: Path) -> None:
    own = resolve(preset="quickstart", options={"data.train": ("a.csv", "--train"), "data.validation": ("b.csv", "--validation")})
    assert (own.config.data.source, own.sources["data.source"]) == (None, "--train")
    file = write(tmp_path, "data: {train: a.csv, validation: b.csv}")
    assert resolve(file=file, options={"data.source": ("c.csv", "--data")}).config.data.train is None
    with pytest.raises(ConfigError, match="not both"):
        resolve(options={"data.source": ("c.csv", "--data"), "data.train": ("a.csv", "--train"), "data.validation": ("b.csv", "--v")})


def test_a_split_beside_own_files_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    own = {"data.train": ("a.csv", "--train"), "data.validation": ("b.csv", "--validation")}
    with pytest.raises(ConfigError, match=r"data\.split\.kind: does nothing beside data\.train"):
        resolve(options=own, sets=["data.split.kind=group"])
    file = write(tmp_path, "data: {split: {kind: group}}")  # a file may be for other calls too
    assert resolve(file=file, options=own, sets=["data.split.seed=7"]).config.data.split.seed == 7


def test_points_do_not_need_a_configuration_that_is_whole_yet(tmp_path: Path) -> None:
    file = write(tmp_path, "data: {train: a.csv}")
    assert resolve(file=file, points=[1], options={"data.validation": ("b.csv", "--validation")}).config.data.validation == "b.csv"


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")), st.lists, max_leaves=4))
@settings(max_examples=150, deadline=None)
def test_a_leaf_is_one_line_and_reads_back(value: object) -> None:
    text = scalar(value)
    assert len(text.splitlines()) == 1
    assert parse_yaml(f"x: {text}  # source", "x") == {"x": value}


@pytest.mark.parametrize("blank", ["\xa0", "\u3000", "\x85", "\u2028", "\u2029", "\ufeff", "\t", "\r", "\n"])
def test_unusual_blanks_and_line_breaks_are_kept(blank: str) -> None:
    for value in (blank, f"a{blank}", f"{blank}a", ["a", f"b{blank}"]):
        text = scalar(value)
        assert len(text.splitlines()) == 1
        assert parse_yaml(f"x: {text}  # source", "x") == {"x": value}
