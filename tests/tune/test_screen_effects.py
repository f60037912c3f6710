"""A screen's linear model against formulas worked by hand, and simulated screens with planted effects and interactions."""

import math

import numpy as np
import pytest
from planted import LABELS, ScreenWorld, World

from polarity.errors import DataError
from polarity.evaluate.metrics import confusion_matrix, macro_f1
from polarity.study import EFFECTS_SCHEMA
from polarity.tune.designs import plan_screen
from polarity.tune.screen_effects import ScreenEffects, fit_screen, linear_effects
from polarity.tune.statistics import SeedRows
from polarity.tune.variance import detectable_effect, judge_rows

POINTS = plan_screen("points")
TIERS = plan_screen("tiers")
THREE = {"point-1": 0.0195, "point-4": 0.0195, "point-7": 0.0195}
"""About 2 points of overall macro-F1 each."""


def overall(found: ScreenEffects) -> dict[str, dict[str, float]]:
    return {row["arm"]: row for row in found.table.to_pylist() if row["metric"] == "overall"}


@pytest.fixture(scope="module")
def seeds() -> list[SeedRows]:
    return ScreenWorld(TIERS, {"tier-1": 0.05}, rows=300).seeds(2, np.random.default_rng(0))


def fit(seeds: list[SeedRows]) -> ScreenEffects:
    return fit_screen(seeds, 300, TIERS, LABELS, {("baseline", 0): 4.0, ("all", 1): 10.0})


def test_an_effect_is_the_mean_with_it_on_less_the_mean_with_it_off(seeds: list[SeedRows]) -> None:
    found = fit(seeds)
    assert found.table.schema == EFFECTS_SCHEMA and found.table.num_rows == 4 * 9
    score = {
        (name, rows.seed): np.mean([macro_f1(confusion_matrix(*codes, 3)) for codes in tasks.values()])
        for rows in seeds
        for name, tasks in rows.codes.items()
    }
    for j, (name, row) in enumerate(overall(found).items()):
        on = [value for (run, _), value in score.items() if TIERS.runs[run][j] > 0]
        off = [value for (run, _), value in score.items() if TIERS.runs[run][j] < 0]
        assert (name, row["difference"]) == (TIERS.names[j], pytest.approx(np.mean(on) - np.mean(off)))
        assert (row["score"], row["reference_score"]) == (pytest.approx(np.mean(on)), pytest.approx(np.mean(off)))
        assert (row["seeds"], row["seconds"], row["reference_seconds"], row["stage"]) == (2, 10.0, 4.0, "screen")
        assert row["low"] < row["difference"] < row["high"]
    by_hand = linear_effects(list(score), list(score.values()), TIERS)
    np.testing.assert_allclose(by_hand, [row["difference"] for row in overall(found).values()])


def test_the_noise_is_that_between_seeds_of_a_run_and_the_rows_part_is_freed_of_it(seeds: list[SeedRows]) -> None:
    """Two-way analysis of variance by hand: runs by seeds, of the scores and of each row's influence."""
    found = fit(seeds)
    judged = [[judge_rows(rows.codes[run], [3, 3]) for run in TIERS.runs] for rows in seeds]
    score_SR = np.array([[one.scores_M[0] for one in of_seed] for of_seed in judged])
    rest_SR = score_SR - score_SR.mean(axis=0) - score_SR.mean(axis=1, keepdims=True) + score_SR.mean()
    assert found.error_df == 15 and found.error_from == "replicates"
    assert found.seed_sd == pytest.approx(math.sqrt((rest_SR**2).sum() / 15))
    psi_SRN = math.sqrt(300 / 299) * np.array([[one.influence_NM[:, 0] for one in of_seed] for of_seed in judged])
    rest_SRN = psi_SRN - psi_SRN.mean(axis=0) - psi_SRN.mean(axis=1, keepdims=True) + psi_SRN.mean(axis=(0, 1))
    effect_FN = TIERS.signs_RF.T @ psi_SRN.mean(axis=0) / 8
    v_F = (effect_FN**2).sum(axis=1) - 4 / 32 * (rest_SRN**2).sum() / 15
    assert found.row_sd == pytest.approx(math.sqrt(np.maximum(v_F, 0).mean()))


def test_an_additive_effect_shows_in_no_interaction_and_a_planted_interaction_does() -> None:
    world = ScreenWorld(POINTS, {"point-2": 0.03}, {("point-5", "point-9"): 0.08}, rows=600)
    found = world.study(2, np.random.default_rng(4))
    assert len(found.interactions) == 45 and found.aliased == {}
    assert found.interactions[0].factors == ("point-5", "point-9") and (found.interactions[0].low or 0) > 0
    assert len(found.interactions[0].aliases) == 28 and found.interactions[0].aliases["point-1 x point-2"] == pytest.approx(1 / 3, abs=0.7)
    assert [entry.name for entry in found.contrasts] == [*POINTS.names, "unused column 11"]


def test_a_single_seed_takes_its_noise_from_the_linear_model() -> None:
    world = ScreenWorld(POINTS, THREE, rows=400)
    found = world.study(1, np.random.default_rng(1))
    assert (found.error_from, found.error_df) == ("linear model", 13) and found.detectable is not None
    assert all(row["low"] < row["high"] for row in overall(found).values())


@pytest.mark.parametrize(("begun", "source", "df"), [(8, "linear model", 20), (9, "replicates", 8)])
def test_a_second_seed_that_has_only_begun_is_no_measure_of_the_spread(begun: int, source: str, df: int) -> None:
    world = ScreenWorld(POINTS, THREE, rows=400)
    first, second = world.seeds(2, np.random.default_rng(1))
    part = SeedRows(second.seed, dict(list(second.codes.items())[:begun]), second.units)
    found = fit_screen([first, part], world.rows, POINTS, LABELS, {})
    assert (found.error_from, found.error_df) == (source, df)


def test_missing_trials_cost_precision_and_too_many_of_them_the_effects(seeds: list[SeedRows]) -> None:
    fewer = [SeedRows(0, {run: codes for run, codes in seeds[0].codes.items() if run != "run-05"}, None), seeds[1]]
    whole, part = overall(fit(seeds)), overall(fit(fewer))
    for name, row in part.items():
        assert row["difference"] == pytest.approx(whole[name]["difference"], abs=0.02)
    four = [SeedRows(0, {run: seeds[0].codes[run] for run in list(TIERS.runs)[:4]}, None)]
    with pytest.raises(DataError, match="the 4 runs that are done cannot tell the effects of tier-1"):
        fit(four)


def test_many_rows_are_judged_in_parts_to_the_same_numbers(seeds: list[SeedRows], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(seeds)
    monkeypatch.setattr("polarity.tune.screen_effects._PART", 64)
    for a, b in zip(whole.table.to_pylist(), fit(seeds).table.to_pylist(), strict=True):
        assert (b["low"], b["p"]) == (pytest.approx(a["low"]), pytest.approx(a["p"]))


@pytest.mark.slow
@pytest.mark.parametrize("interactions", [{}, {("point-2", "point-3"): 0.04, ("point-1", "point-9"): -0.03}])
def test_screens_find_what_was_planted_and_nothing_else(interactions: dict[tuple[str, str], float]) -> None:
    """24 runs, 3 seeds, a trial's spread of 1.5 points, +2 points planted on three of ten: as forecast, with interactions or without."""
    world, studies = ScreenWorld(POINTS, THREE, interactions, accuracy_sd=0.0335), 60
    truth = world.truth()
    found = [world.study(3, np.random.default_rng([number, 9])) for number in range(studies)]
    rows = [overall(one) for one in found]
    covered = [row["low"] <= truth[name] <= row["high"] for of_study in rows for name, row in of_study.items()]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    spread = math.sqrt(float(np.mean([(one.seed_sd or 0) ** 2 for one in found])))
    assert spread == pytest.approx(0.015, rel=0.07)
    if interactions:
        return  # half of an interaction stands in its factors' own effects
    hits = [of_study[name]["verdict"] == "helps" for of_study in rows for name in THREE]
    wrong = [any(row["verdict"] != "no evidence" for name, row in of_study.items() if name not in THREE) for of_study in rows]
    assert np.mean(hits) >= 0.8 and np.mean(wrong) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.slow
def test_for_the_same_trials_a_screens_intervals_are_at_most_six_tenths_as_wide_as_those_of_only() -> None:
    """66 trials: eleven arms over six seeds, against 24 runs over three seeds less six trials' worth; both at a trial's spread of 1.5."""
    screen = ScreenWorld(POINTS, THREE, accuracy_sd=0.0335)
    only = World(dict.fromkeys(POINTS.names, 0.0), rows=1495, accuracy_sd=0.0335)
    widths = []
    for number in range(12):
        rng = np.random.default_rng([number, 3])
        tables = screen.study(3, rng).table, only.study(6, rng).table
        widths.append([np.mean([row["high"] - row["low"] for row in table.to_pylist() if row["metric"] == "overall"]) for table in tables])
    of_screen, of_only = np.mean(widths, axis=0)
    assert of_screen * math.sqrt(72 / 66) <= 0.6 * of_only


@pytest.mark.slow
def test_an_effect_of_the_forecast_size_is_found_as_often_as_forecast() -> None:
    world = ScreenWorld(POINTS, {}, rows=600)
    spread = [world.study(2, np.random.default_rng([number, 2])) for number in range(10)]
    seed_sd, row_sd = (math.sqrt(float(np.mean([(getattr(one, name) or 0) ** 2 for one in spread]))) for name in ("seed_sd", "row_sd"))
    size = detectable_effect(2 * seed_sd / math.sqrt(48), row_sd, 10, 23.0)
    planted = ScreenWorld(POINTS, dict.fromkeys(POINTS.names[:1], size / 1.03), rows=600)
    assert planted.truth()["point-1"] == pytest.approx(size, rel=0.05)
    found = [overall(planted.study(2, np.random.default_rng([number, 8])))["point-1"]["verdict"] for number in range(120)]
    assert np.mean(np.array(found) == "helps") == pytest.approx(0.8, abs=0.11)
