"""Screening designs: orthogonal, with the aliases that the literature gives, and each factor with one meaning in every run."""

import json
from pathlib import Path

import numpy as np
import pytest

from polarity.config import Config
from polarity.errors import ConfigError
from polarity.resolve import leaves
from polarity.strategy import ALL_POINTS, apply_points
from polarity.study import Arm
from polarity.tune.designs import (
    Base,
    arm_config,
    best_combination,
    estimable_interactions,
    everything_on,
    factor_changes,
    main_aliases,
    plan_screen,
    put_together,
    screening_matrix,
    shared_settings,
    unused_columns,
)
from polarity.tune.terminal import shared_notes


def configure(arm: Arm) -> Config:
    return arm_config(Base("baseline"), arm)


@pytest.mark.parametrize(("factors", "runs"), [(2, 4), (4, 16), (5, 12), (10, 12), (10, 24), (11, 24)])
def test_the_columns_are_balanced_and_orthogonal(factors: int, runs: int) -> None:
    signs_RF = screening_matrix(factors, runs)
    assert signs_RF.shape == (runs, factors) and (signs_RF[0] == -1).all()
    np.testing.assert_array_equal(signs_RF.sum(axis=0), 0)
    np.testing.assert_array_equal(signs_RF.T @ signs_RF, runs * np.eye(factors))
    assert len(np.unique(signs_RF, axis=0)) == runs


def test_twelve_runs_alias_each_effect_with_a_third_of_every_interaction_of_two_others() -> None:
    """Plackett and Burman's 12 runs (Hamada and Wu 1992): +-1/3 of each of the C(9, 2) interactions without the factor, none with it."""
    for j, aliases in enumerate(main_aliases(screening_matrix(10, 12))):
        assert len(aliases) == 36 and all(j not in pair for pair in aliases)
        assert {round(abs(value), 6) for value in aliases.values()} == {round(1 / 3, 6)}
    assert estimable_interactions(screening_matrix(10, 12)) == []


def test_the_foldover_frees_the_effects_and_leaves_interactions_aliased_with_each_other() -> None:
    signs_RF = screening_matrix(10, 24)
    np.testing.assert_array_equal(np.unique(signs_RF, axis=0), np.unique(-signs_RF, axis=0))
    assert main_aliases(signs_RF) == [{}] * 10
    found = estimable_interactions(signs_RF)
    assert len(found) == 45
    for interaction in found:  # C(8, 2) pairs share no factor with it
        assert len(interaction.aliases) == 28
        assert all(
            set(pair).isdisjoint(interaction.pair) and abs(value) == pytest.approx(1 / 3) for pair, value in interaction.aliases.items()
        )


def test_the_full_factorial_of_the_tiers_aliases_nothing() -> None:
    screen = plan_screen("tiers")
    assert len(screen.runs) == 16 and next(iter(screen.runs)) == "baseline" and list(screen.runs)[-1] == "all"
    assert main_aliases(screen.signs_RF) == [{}] * 4
    assert [interaction.aliases for interaction in estimable_interactions(screen.signs_RF)] == [{}] * 6


@pytest.mark.parametrize("runs", [12, 24])
def test_unused_columns_are_clear_of_all_effects(runs: int) -> None:
    columns = unused_columns(screening_matrix(10, runs))
    assert list(columns) == ["unused column 11"]
    np.testing.assert_array_equal(screening_matrix(10, runs).T @ columns["unused column 11"], 0)


def test_runs_hold_the_points_that_their_signs_say() -> None:
    screen = plan_screen("points")
    arms = screen.arms()
    assert [len(arms), arms[0].points, arms[-1].points] == [24, (), ALL_POINTS] and arms[-1].name == "all"
    for arm, signs in zip(arms, screen.signs_RF, strict=True):
        assert arm.points == tuple(n for n, sign in zip(ALL_POINTS, signs, strict=True) if sign > 0) and arm.reference is None
    best = best_combination(screen, [0.01, -0.01, 0.0, *[-1.0] * 6, 0.002])
    assert (best.points, best.reference, best.claim) == ((1, 10), "baseline", (0.045, 0.07))
    assert everything_on(screen).points == ALL_POINTS


def test_points_that_share_a_setting_mean_the_same_in_every_run() -> None:
    """Points 3 and 9 both set the schedule: 9's holds where both are on, in whatever run, as `apply_points` has it."""
    screen = plan_screen("points")
    changes = factor_changes(screen, configure)
    (shared,) = shared_settings(changes)
    assert (shared.setting, dict(shared.alone), shared.together) == (
        "optim.schedule",
        {"point-3": "cosine", "point-9": "cosine_restarts"},
        "cosine_restarts",
    )
    said = "cosine with point-3 alone, cosine_restarts with point-9 alone; cosine_restarts with point-3 and point-9 on."
    assert shared_notes([shared]) == [f"Shared setting optim.schedule: {said}"]
    for arm in screen.arms():
        off = configure(Arm("baseline"))
        assert put_together(off, [changes[f"point-{n}"] for n in arm.points]) == apply_points(off, arm.points)


def test_a_factor_that_changes_nothing_is_refused() -> None:
    """--set of all that point 10 sets, at the baseline's values."""
    base, new = leaves(configure(Arm("baseline")).model_dump()), leaves(configure(Arm("ten", (10,))).model_dump())
    sets = tuple(f"{key}={json.dumps(base[key])}" for key, value in new.items() if value != base[key])
    with pytest.raises(ConfigError, match=r"^point-10 changes nothing alone: a --set"):
        factor_changes(plan_screen("points"), lambda arm: arm_config(Base("baseline", sets=sets), arm))


def test_a_file_of_factors(tmp_path: Path) -> None:
    file = tmp_path / "factors.yaml"
    file.write_text("- {name: base, points: [1]}\n- {name: focal, points: [6]}\n- {name: slow, set: {optim.lr: 1.0e-6}}\n")
    screen = plan_screen("points", None, file)
    assert {arm.name: (arm.points, dict(arm.sets)) for arm in screen.arms()} == {
        "baseline": ((1,), {}),
        "run-02": ((1,), {"optim.lr": 1e-6}),
        "run-03": ((1, 6), {}),
        "all": ((1, 6), {"optim.lr": 1e-6}),
    }
    for text, words in (
        ("- {name: base}\n- {name: a, set: {optim.lr: 1.0}}\n- {name: b, set: {optim.lr: 2.0}}\n", "a and b both set optim.lr"),
        ("- {name: base, points: [1]}\n- {name: a, points: [1]}\n- {name: b, points: [2]}\n", "the factor a switches nothing on"),
        ("- {name: base}\n- {name: a, points: [1]}\n- {name: b, points: [2], reference: a}\n", "leave out the reference of b"),
        ("- {name: base}\n- {name: a, points: [1]}\n", "takes 2 to 11 factors, got 1"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            plan_screen("points", None, file)
    with pytest.raises(ConfigError, match=r"--runs 16: a screen of 10 factors has 12 or 24 runs"):
        plan_screen("points", 16)
