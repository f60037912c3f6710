"""A planted truth through a whole study, many times: exploration under ASHA, confirmation over fresh seeds, statistics.

The trainable is a cheap one whose effects are known (`planted.py`): its learning curves climb to the arm's score on inner rows, with noise
of its own at every epoch; a confirmed trial is judged on other rows. Ray is left out, for it decides nothing: the conductor does. What has
to hold: ASHA's choice of arms, which favours whoever was lucky, must show neither in the intervals nor in the verdicts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from planted import LABELS, World

from polarity.artifacts import RunFolder
from polarity.study import Asha, Study
from polarity.tune.conductor import Budget, Conductor, plan_asha, trials_of
from polarity.tune.statistics import SeedRows, compare
from polarity.tune.variance import judge_rows
from tests.tune.studies import record

pytestmark = pytest.mark.slow

EFFECTS = {"good": 0.03, "bad": -0.03, "null1": 0.0, "null2": 0.0}
NULLS = ("null1", "null2")
WORLD, INNER = World(EFFECTS), World(EFFECTS, rows=300)
EPOCHS = {"baseline": 6, "good": 12, "bad": 6, "null1": 6, "null2": 12}
STUDIES, SEEDS, BUMPS = 400, 3, 0.015


class InMemory(Study):
    """A record that is not written."""

    def save(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Course:
    """What one study came to: per confirmed arm its verdict, whether the truth is inside, and the difference found; who was confirmed."""

    verdicts: dict[str, str]
    covered: dict[str, bool]
    differences: dict[str, float]
    explored: dict[str, float]
    """Differences on the inner rows of the first exploring seed, of the arms that live."""
    epochs: int


def score(rows: SeedRows, arm: str) -> float:
    return float(judge_rows(rows.codes[arm], [3, 3]).scores_M[0])


def curve(final: float, epochs: int, rng: np.random.Generator) -> list[float]:
    """A climb to the final score, as training's: fast at first, and unsteady."""
    progress = np.arange(1, epochs + 1) / epochs
    climbing = final * (1 - 0.6 * np.exp(-4 * progress)) / (1 - 0.6 * np.exp(-4.0))
    return [float(value) for value in climbing + np.append(rng.normal(0, BUMPS, epochs - 1), 0.0)]


def course(folder: Path, number: int, truth: dict[str, float], asha: Asha, explore: int = 1) -> Course:
    """One study from its first trial to its verdicts."""
    rng = np.random.default_rng([number, 5])
    arms, exploring, confirm = WORLD.arms(), list(range(explore)), list(range(explore, explore + SEEDS))
    study = InMemory.create(
        RunFolder.create(folder), record(arms, trials_of("explore", list(EPOCHS), exploring, EPOCHS), exploring, confirm)
    )
    conductor = Conductor(study, EPOCHS, asha, 1, Budget(), lambda study, trial, event: None)
    inner, effect_rows = INNER.seeds(explore, rng), WORLD.seeds(SEEDS, rng)
    while name := conductor.next():
        trial = study.trial(name)
        scores = curve(score(inner[trial.seed], trial.arm), trial.planned, rng) if trial.stage == "explore" else []
        for epoch, value in enumerate(scores, 1):
            if not conductor.report(name, epoch / trial.planned, {"epoch": epoch, "seconds": 1.0, "validation_overall": value}):
                break
        else:
            conductor.finish(name)
    done = {(trial.arm, trial.seed) for trial in study.of("confirm", "finished")}
    kept = [
        SeedRows(seed, {arm: codes for arm, codes in rows.codes.items() if (arm, seed) in done}, rows.units)
        for seed, rows in zip(confirm, effect_rows, strict=True)
    ]
    found = {r["arm"]: r for r in compare(kept, WORLD.rows, arms, LABELS, {}).table.to_pylist() if r["metric"] == "overall"}
    return Course(
        {arm: row["verdict"] for arm, row in found.items()},
        {arm: row["low"] <= truth[arm] <= row["high"] for arm, row in found.items()},
        {arm: row["difference"] - truth[arm] for arm, row in found.items()},
        {arm: score(inner[0], arm) - score(inner[0], "baseline") - truth[arm] for arm in found},
        sum(trial.epochs for trial in study.of("explore")),
    )


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> list[Course]:
    folder, truth = tmp_path_factory.mktemp("courses"), WORLD.truth()
    asha = plan_asha(EPOCHS.values(), [0.1], keep_ahead=True)
    return [course(folder / str(number), number, truth, asha) for number in range(STUDIES)]


def test_asha_chooses_and_saves(courses: list[Course]) -> None:
    """Else the other tests would be about nothing: it stops the bad one mostly, arms without effect by chance, the good one seldom."""
    confirmed = {arm: sum(arm in found.verdicts for found in courses) / STUDIES for arm in EFFECTS}
    assert confirmed["bad"] < 0.35 and confirmed["good"] > 0.7
    assert all(0.2 < confirmed[arm] < 0.8 for arm in NULLS)
    assert np.mean([found.epochs for found in courses]) < 0.9 * sum(EPOCHS.values())


def test_a_second_exploring_seed_loses_fewer_real_effects(courses: list[Course], tmp_path: Path) -> None:
    """What is kept in either seed is confirmed: dearer, and surer."""
    truth, asha, studies = WORLD.truth(), plan_asha(EPOCHS.values(), [0.1], keep_ahead=True), 150
    twice = [course(tmp_path / str(number), number, truth, asha, explore=2) for number in range(studies)]
    kept, before = (sum("good" in found.verdicts for found in some) / len(some) for some in (twice, courses))
    assert kept > 0.88 > before
    assert sum(found.epochs for found in twice) / studies > 1.5 * sum(found.epochs for found in courses) / STUDIES


def test_the_luck_by_which_an_arm_was_kept_is_not_in_its_effect(courses: list[Course]) -> None:
    """On the rows and the seed that chose, what lives looks better than it is; on those that are confirmed it does not."""
    chosen = [found.explored[arm] for found in courses for arm in NULLS if arm in found.explored]
    judged = [found.differences[arm] for found in courses for arm in NULLS if arm in found.differences]
    error = np.std(judged) / np.sqrt(len(judged))
    assert np.mean(chosen) > 0.008
    assert abs(np.mean(judged)) < 3 * error and 3 * error < 0.004


def test_intervals_cover_and_verdicts_err_as_stated(courses: list[Course]) -> None:
    covered = [inside for found in courses for inside in found.covered.values()]
    assert 0.925 <= np.mean(covered) <= 0.975
    wrong = [any(found.verdicts.get(arm, "no evidence") != "no evidence" for arm in NULLS) for found in courses]
    assert np.mean(wrong) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / STUDIES)
    good = [found.verdicts["good"] for found in courses if "good" in found.verdicts]
    assert np.mean(np.array(good) == "helps") > 0.55 and "hurts" not in good
