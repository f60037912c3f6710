"""The arms of each design against the plan, and an arm's configuration against the precedence of settings."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from polarity.config import Config
from polarity.errors import ConfigError
from polarity.resolve import resolve
from polarity.strategy import ALL_POINTS, PHASES, TIERS, points_on
from polarity.study import Arm
from polarity.tune.designs import Base, Design, Level, arm_config, arm_configs, design_arms, needed_for, read_custom

DESIGNS: list[Design] = ["ladder", "only", "without"]
LEVELS: list[Level] = ["tiers", "points"]


def custom(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "arms.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("design", DESIGNS)
def test_each_arm_is_compared_with_an_arm_before_it(design: Design, level: Level) -> None:
    arms = design_arms(design, level)
    seen: set[str] = set()
    for arm in arms:
        assert re.fullmatch(r"[a-z0-9-]+", arm.name) and arm.name not in seen
        assert arm.reference in seen if seen else arm.reference is None
        assert (arm.claim is None) == (arm.reference is None)
        seen.add(arm.name)


def test_the_ladder_is_the_plans_phases() -> None:
    arms = design_arms("ladder")
    assert [arm.points for arm in arms] == [phase.points for phase in PHASES]
    assert [arm.reference for arm in arms] == [None, *(arm.name for arm in arms[:-1])]
    assert [arm.claim for arm in arms[1:]] == [(0.08, 0.10), (0.03, 0.05), (0.02, 0.04), (0.02, 0.03)]


def test_the_ladder_by_points_adds_one_at_a_time() -> None:
    arms = design_arms("ladder", "points")
    assert [arm.points for arm in arms] == [ALL_POINTS[:n] for n in range(11)]
    assert (arms[1].name, arms[-1].name) == ("up-to-1", "all")


def test_only_adds_one_and_without_removes_one() -> None:
    only, without = design_arms("only"), design_arms("without")
    assert [arm.points for arm in only] == [(), *(tier.points for tier in TIERS.values())]
    for arm, tier in zip(without[1:], TIERS.values(), strict=True):
        assert set(arm.points) | set(tier.points) == set(ALL_POINTS) and not set(arm.points) & set(tier.points)
        assert arm.claim == (-tier.claim[1] / 100, -tier.claim[0] / 100)
    assert len(design_arms("only", "points")) == len(design_arms("without", "points")) == 11


@pytest.mark.parametrize("design", DESIGNS)
def test_every_arm_resolves_with_exactly_its_points_on(design: Design) -> None:
    for arm in design_arms(design, "points"):
        assert points_on(arm_config(Base(), arm)) == arm.points


def test_a_users_setting_beats_the_points_and_the_arms_own_beats_the_user() -> None:
    base = Base(options={"train.epochs": (2, "--epochs")}, sets=("optim.lr=3e-5", "loss.focal_gamma.sentiment=0.5"))
    config = arm_config(base, Arm("a", (3, 6, 9), {"optim.lr": 1e-5, "train.precision": "fp32"}))
    assert (config.train.epochs, config.optim.lr, config.train.precision) == (2, 1e-5, "fp32")
    assert config.loss.focal_gamma == {"sentiment": 0.5, "polarization": 2.5}
    assert config.optim.schedule == "cosine_restarts"


def test_the_reference_arm_is_the_configuration_without_points() -> None:
    assert arm_config(Base(preset="small"), Arm("baseline")) == resolve("small").config


def test_an_arms_error_names_it() -> None:
    with pytest.raises(ConfigError, match=r"arm focal: .*optim\.lrr"):
        arm_config(Base(), Arm("focal", (), {"optim.lrr": 1}))
    with pytest.raises(ConfigError, match=r"arm point-6: .*strategy"):
        arm_config(Base(preset="strategy"), Arm("point-6", (6,)))


def test_arms_of_one_configuration_are_refused() -> None:
    assert len(arm_configs(Base(), design_arms("only", "points"))) == 11
    with pytest.raises(ConfigError, match="baseline and point-4 come to the same"):
        settings = ("model.head.hidden_size=384", "model.head.layers=2", "model.head.intermediate_size=null", "model.head.residual=false")
        arm_configs(Base(sets=settings), [Arm("baseline"), Arm("point-4", (4,), reference="baseline")])


def test_a_custom_study(tmp_path: Path) -> None:
    text = """
- name: baseline
- name: focal
  points: [6]
- name: tier-1-mild
  tiers: [1]
  set: {loss.class_weights.strength: 0.5, optim.lr: 1e-5}
- name: both
  tiers: [1]
  points: [6]
  reference: focal
"""
    arms = design_arms("custom", custom=custom(tmp_path, text))
    assert arms == [
        Arm("baseline"),
        Arm("focal", (6,), {}, "baseline", (0.01, 0.02)),
        Arm("tier-1-mild", (1, 2, 3), {"loss.class_weights.strength": 0.5, "optim.lr": 1e-5}, "baseline"),
        Arm("both", (1, 2, 3, 6), {}, "focal", (0.08, 0.10)),
    ]
    assert arm_config(Base(), arms[2]).optim.lr == 1e-5
    assert TypeAdapter(list[Arm]).validate_json(TypeAdapter(list[Arm]).dump_json(arms)) == arms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "list of at least two arms"),
        ("- name: a", "list of at least two arms"),
        ("- name: a\n- name: a", "arm 2: the name 'a' stands twice"),
        ("- name: a\n- name: B c", "arm 2: name must be"),
        ("- name: a\n- nam: b", "arm 2: unknown key 'nam'; did you mean 'name'"),
        ("- name: a\n- name: b\n  points: [11]", "there is no point 11"),
        ("- name: a\n- name: b\n  points: 3", r"arm 2 \(b\): points must be a list"),
        ("- name: a\n- name: b\n  set: [1]", r"arm 2 \(b\): set must be a mapping"),
        ("- name: a\n- name: b\n  reference: c", r"arm 2 \(b\): its reference 'c' is no arm above it"),
        ("- name: a\n  reference: b\n- name: b", "the first arm is the study's reference"),
        ("- name: a\n- b", "arm 2: must be a mapping"),
        ("- name: [", "line"),
    ],
)
def test_a_wrong_custom_study_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_custom(custom(tmp_path, text))


def test_designs_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ladder'"):
        design_arms("lader")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a YAML file"):
        design_arms("custom")
    with pytest.raises(ConfigError, match="takes no file"):
        design_arms("only", custom=Path("x.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_custom(Path("nowhere.yaml"))


def test_confirmation_takes_references_along() -> None:
    arms = design_arms("ladder")
    assert needed_for(arms, ["plus-6-7"]) == ["baseline", "plus-4-5", "plus-6-7"]
    assert needed_for(design_arms("only"), []) == ["baseline"]
    with pytest.raises(ConfigError, match="no arm"):
        needed_for(arms, ["tier-9"])


def test_the_base_of_a_study_may_have_other_tasks() -> None:
    base = Base(sets=("data.tasks={topic: {column: Topic, labels: [a, b]}, sentiment: null, polarization: null}",))
    configs = arm_configs(base, design_arms("only"))
    assert all(isinstance(config, Config) and list(config.labels) == ["topic"] for config in configs.values())
