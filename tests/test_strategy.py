"""Each point changes exactly the settings that the plan lists, alone and together."""

import itertools

import pytest

from polarity.config import Config, DataConfig, LossConfig, TaskConfig
from polarity.errors import ConfigError
from polarity.resolve import leaves, resolve
from polarity.strategy import ALL_POINTS, PHASES, POINTS, TIERS, apply_points, points_of_tiers, points_on

BASELINE = resolve(preset="baseline").config

MULTIPLIERS = "loss.class_weights.multipliers"
EXPECTED: dict[int, dict[str, object]] = {
    1: {
        f"{MULTIPLIERS}.sentiment.negative": 1.1,
        f"{MULTIPLIERS}.sentiment.neutral": 1.8,
        f"{MULTIPLIERS}.sentiment.positive": 1.3,
        f"{MULTIPLIERS}.polarization.non_polarized": 1.2,
        f"{MULTIPLIERS}.polarization.objective": 2.5,
        f"{MULTIPLIERS}.polarization.partisan": 0.95,
        "loss.class_weights.max_weight": 10.0,
    },
    2: {
        "data.oversample.alpha": 0.7,
        "data.oversample.max_multiplier": 8.0,
        "data.oversample.boosts.polarization.objective": 6.0,
        "data.oversample.boosts.sentiment.neutral": 2.5,
        "data.oversample.stratified": True,
    },
    3: {"train.epochs": 12, "train.early_stopping_patience": 6, "optim.schedule": "cosine", "optim.lr_floor": 1e-7},
    4: {"model.head.hidden_size": 768, "model.head.layers": 3, "model.head.intermediate_size": 1024, "model.head.residual": True},
    5: {"model.pooling": "attention", "model.concat_cls": True, "model.concat_mean": True},
    6: {"loss.focal_gamma.sentiment": 2.0, "loss.focal_gamma.polarization": 2.5, "loss.adaptive_gamma": True},
    7: {
        "loss.r_drop_alpha": 0.6,
        "loss.r_drop_warmup_epochs": 2,
        "loss.mixup_alpha": 0.2,
        "loss.adaptive_smoothing": True,
        "optim.weight_decay": 0.03,
    },
    8: {"model.multi_sample.samples": 3, "model.multi_sample.inference": "vote"},
    9: {"optim.lr": 2.5e-5, "optim.warmup_ratio": 0.2, "optim.schedule": "cosine_restarts"},
    10: {
        "train.micro_batch_size": 16,
        "train.global_batch_size": 48,
        "optim.max_grad_norm": 0.5,
        "optim.gradient_centralization": True,
    },
}


def changes(before: Config, after: Config) -> dict[str, object]:
    old, new = leaves(before.model_dump()), leaves(after.model_dump())
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


@pytest.mark.parametrize("number", ALL_POINTS)
def test_a_point_changes_exactly_what_the_plan_lists(number: int) -> None:
    after = POINTS[number].apply(BASELINE)
    assert changes(BASELINE, after) == EXPECTED[number]
    assert set(leaves(BASELINE.model_dump())) <= set(leaves(after.model_dump()))
    assert POINTS[number].apply(after) == after


def test_points_commute_but_for_three_and_nine() -> None:
    for a, b in itertools.combinations(ALL_POINTS, 2):
        one, other = POINTS[b].apply(POINTS[a].apply(BASELINE)), POINTS[a].apply(POINTS[b].apply(BASELINE))
        assert (one == other) == ((a, b) != (3, 9)), (a, b)


def test_nine_replaces_the_schedule_of_three_and_keeps_its_floor() -> None:
    optim = apply_points(BASELINE, [9, 3]).optim
    assert (optim.schedule, optim.lr_floor, optim.cycles) == ("cosine_restarts", 1e-7, 2)


def test_all_ten_together_are_the_union_and_leave_no_other_change() -> None:
    union = {key: value for number in ALL_POINTS for key, value in EXPECTED[number].items()}
    assert changes(BASELINE, apply_points(BASELINE, ALL_POINTS)) == union


@pytest.mark.parametrize("number", ALL_POINTS)
def test_every_subset_without_one_is_valid(number: int) -> None:
    without = apply_points(BASELINE, set(ALL_POINTS) - {number})
    for key, value in EXPECTED[number].items():
        if key != "optim.schedule":
            assert leaves(without.model_dump()).get(key) != value


def test_every_combination_is_valid() -> None:
    """All 1,024: each holds its points' values, and nothing of a point that is off."""
    for size in range(len(ALL_POINTS) + 1):
        for chosen in itertools.combinations(ALL_POINTS, size):
            union = {key: value for number in chosen for key, value in EXPECTED[number].items()}
            assert changes(BASELINE, apply_points(BASELINE, chosen)) == union, chosen


def test_other_tasks_take_what_concerns_them() -> None:
    tasks = {"sentiment": TaskConfig(column="S", labels=["negative", "positive"]), "topic": TaskConfig(column="T", labels=["a", "b"])}
    config = Config(data=DataConfig(tasks=tasks), loss=LossConfig(focal_gamma={"topic": 3.0}))
    after = apply_points(config, ALL_POINTS)
    assert after.loss.class_weights.multipliers == {"sentiment": {"negative": 1.1, "positive": 1.3}}
    assert after.loss.focal_gamma == {"topic": 3.0, "sentiment": 2.0}
    assert after.data.oversample.boosts == {}
    # Point 7 needs a smoothing to adapt: the plan's, where none is set.
    assert after.loss.label_smoothing == {"sentiment": 0.08}


def test_a_users_smoothing_stays() -> None:
    config = Config(loss=LossConfig(label_smoothing={"sentiment": 0.2}))
    assert POINTS[7].apply(config).loss.label_smoothing == {"sentiment": 0.2, "polarization": 0.05}


def test_unknown_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match="no point 11: points are 1 to 10"):
        apply_points(BASELINE, [11])
    with pytest.raises(ConfigError, match="no tier 5: tiers are 1 to 4"):
        points_of_tiers([5])


def test_tiers_hold_every_point_once_and_the_claims_do_not_add_up() -> None:
    assert points_of_tiers(TIERS) == ALL_POINTS
    assert all(POINTS[number].tier == tier.number for tier in TIERS.values() for number in tier.points)
    assert [sum(point.claim[end] for point in POINTS.values()) for end in (0, 1)] == [16, 25]
    assert [sum(tier.claim[end] for tier in TIERS.values()) for end in (0, 1)] == [14, 21]


def test_the_ladder_only_grows() -> None:
    for lower, higher in itertools.pairwise(PHASES):
        assert set(lower.points) < set(higher.points)
    assert PHASES[-1].points == ALL_POINTS


@pytest.mark.parametrize("points", [(), (1,), (3,), (9,), (3, 9), (2, 5, 8), tuple(range(1, 11))])
def test_points_on_finds_what_was_switched_on(points: tuple[int, ...]) -> None:
    assert points_on(apply_points(resolve("baseline").config, points)) == points


@pytest.mark.parametrize(
    "sets", [["optim.lr=1e-9"], ["optim.lr=1e-3", "optim.lr_floor=1e-4"], ["cluster.workers=4", "train.global_batch_size=48"]]
)
def test_settings_that_contradict_a_point_are_none_of_its(sets: list[str]) -> None:
    """lr below point 3's floor, a floor above point 9's peak, more workers than point 10 has micro-batches: valid, and no point is on."""
    assert points_on(resolve("baseline", sets=sets).config) == ()


def test_a_point_with_one_value_changed_is_not_on() -> None:
    config = resolve("baseline", points=[1, 6], sets=["loss.adaptive_gamma=false"]).config
    assert points_on(config) == (1,)
