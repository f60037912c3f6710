"""Rungs, decisions and the replay, beside Ray's own ASHA on the same curves."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from polarity.study import Asha, TrialRecord
from polarity.tune.conductor import plan_asha, replay, score_at, stops_at


@pytest.mark.parametrize(
    ("epochs", "warmups", "rungs"),
    [
        ([6, 12], [0.1, 0.2], [1 / 3, 2 / 3]),  # 1/6 lies before the warm-up's end
        ([3, 12], [0.1], [1 / 3, 2 / 3]),
        ([4], [0.1], [0.25, 0.5]),
        ([6], [0.6], [2 / 3]),
        ([5, 12], [0.1], [0.2, 0.4, 0.8]),  # no common places: each arm is judged at its next epoch
        ([1], [0.1], [0.2, 0.4, 0.8]),
        ([2, 4], [0.5], [0.5]),
    ],
)
def test_rungs_lie_after_every_warm_up_and_where_arms_end_an_epoch(epochs: list[int], warmups: list[float], rungs: list[float]) -> None:
    found = plan_asha(epochs, warmups).rungs
    assert found == pytest.approx(rungs)
    assert all(rung >= max(warmups) for rung in found)


def test_score_at_a_rung_is_the_best_until_it() -> None:
    curve = [(0.25, 0.5), (0.5, 0.4), (0.75, 0.6)]
    assert score_at(curve, 0.25, ended=False) == 0.5
    assert score_at(curve, 0.5, ended=False) == 0.5  # a dip, as after a warm restart, is not held against it
    assert score_at(curve, 0.9, ended=False) is None
    assert score_at(curve, 0.9, ended=True) == 0.6  # early stopping ended it: that is its score
    assert score_at([(0.3329, 0.7)], 1 / 3, ended=False) == 0.7  # epochs differ by a few steps


def test_the_first_at_a_rung_goes_on_and_the_worse_one_stops() -> None:
    asha = Asha((0.25, 0.5))
    assert stops_at([(0.25, 0.1)], [], asha) is None
    assert stops_at([(0.25, 0.1)], [([(0.25, 0.2)], False)], asha) == 0.25
    assert stops_at([(0.25, 0.2)], [([(0.25, 0.2)], False)], asha) is None
    assert stops_at([(0.2, 0.1)], [([(0.25, 0.2)], False)], asha) is None  # not there yet
    assert stops_at([(0.25, 0.3), (0.4, 0.0)], [([(0.25, 0.9)], False)], asha) is None  # passed that rung before
    assert stops_at([(1.0, 0.1)], [([(0.25, 0.9)], False)], asha) is None  # nothing left to save


def test_in_an_ablation_an_arm_ahead_of_its_reference_goes_on() -> None:
    own, reference, others = [(0.5, 0.6)], ([(0.5, 0.5)], True), [([(0.5, 0.5)], True), ([(0.5, 0.9)], True)]
    assert stops_at(own, others, Asha((0.5,)), reference) == 0.5  # a search wants the best: 0.6 is below the middle, 0.7
    assert stops_at(own, others, Asha((0.5,), keep_ahead=True), reference) is None
    assert stops_at([(0.5, 0.4)], others, Asha((0.5,), keep_ahead=True), reference) == 0.5


def test_arms_of_six_and_twelve_epochs_are_judged_at_the_same_share() -> None:
    asha = plan_asha([6, 12], [0.2])
    long = [(epoch / 12, 0.1 * epoch) for epoch in range(1, 13)]
    short = [(epoch / 6, 0.19 * epoch) for epoch in range(1, 7)]
    assert stops_at(long[:3], [(short, True)], asha) is None
    assert stops_at(long[:4], [(short, True)], asha) is None  # 0.4 at its third against 0.38, not against what six epochs reach
    assert stops_at(long[:8], [(short, True)], asha) is None


def _rays_decisions(curves: list[list[float]]) -> list[int]:
    """Epochs that Ray's scheduler lets each trial run, one after the other."""
    ray_asha = AsyncHyperBandScheduler(time_attr="percent", metric="score", mode="max", max_t=100, grace_period=25, reduction_factor=2)
    lengths = []
    for number, curve in enumerate(curves):
        trial: Any = SimpleNamespace(trial_id=str(number))
        ray_asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        for epoch, score in enumerate(curve, 1):
            result = {"percent": 100 * epoch // len(curve), "score": score}
            if ray_asha.on_trial_result(None, trial, result) == "STOP":  # type: ignore[arg-type]
                break
        lengths.append(epoch)
    return lengths


@pytest.mark.parametrize("seed", range(20))
def test_decisions_are_those_of_rays_asha(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = [np.maximum.accumulate(rng.random(int(rng.choice([4, 8])))).tolist() for _ in range(12)]
    asha, seen, lengths = Asha((0.25, 0.5)), [], []
    for scores in curves:
        curve = [(epoch / len(scores), score) for epoch, score in enumerate(scores, 1)]
        length = next((n for n in range(1, len(curve) + 1) if stops_at(curve[:n], seen, asha) is not None), len(curve))
        seen.append((curve[:length], length == len(curve)))
        lengths.append(length)
    assert lengths == _rays_decisions(curves)
    assert len(set(lengths)) > 1


def _trial(arm: str, seed: int, scores: list[float]) -> TrialRecord:
    points = [{"progress": epoch / len(scores), "epoch": epoch, "overall": score} for epoch, score in enumerate(scores, 1)]
    return TrialRecord(f"{arm}-{seed}", arm, seed, "confirm", curve=points)


def test_replay_counts_what_is_saved_and_whether_the_best_arm_is_lost() -> None:
    early, late = [0.5, 0.6, 0.6, 0.6], [0.4, 0.5, 0.7, 0.9]  # the late one is best, and behind at the first rung
    trials = [_trial(arm, seed, scores) for seed in (0, 1) for arm, scores in (("base", early), ("late", late), ("low", [0.1] * 4))]
    trials[4].curve[0]["overall"] = 0.55  # in the second seed the late one is ahead in time
    found = replay(trials, {"base": None, "late": "base", "low": "base"}, {"base": 0.6, "late": 0.9, "low": 0.1}, Asha((0.25,)))
    assert found.epochs_full == 24
    assert found.epochs_with_asha == 4 + 1 + 1 + 4 + 4 + 1
    assert found.arms_stopped_in_every_seed == "low"
    assert (found.best_arm, found.seeds_in_which_the_best_arm_was_stopped) == ("late", 1)
    assert found.stopped_trials == 3
