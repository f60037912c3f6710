from typing import Any

import pytest
from judged import PLAN, judged

from polarity.evaluate import Stability, evaluate_split, verdict
from polarity.evaluate.judge import judge_stability


def split(f1: float, half_width: float = 0.01) -> dict[str, Any]:
    """A split in which every score is `f1` with the same interval."""
    ci95 = [f1 - half_width, f1 + half_width]
    tasks = {
        task: {
            "macro_f1": f1,
            "ci95": ci95,
            "weakest_class": {"label": classes[0], "f1": f1, "ci95": ci95},
            "per_class": {label: {"f1": f1, "ci95": ci95} for label in classes},
        }
        for task, classes in PLAN.items()
    }
    return {"overall": {"macro_f1": f1, "ci95": ci95}, "tasks": tasks}


def words(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["metric"]: entry["verdict"] for entry in entries}


def test_the_plans_targets_are_those_of_its_table() -> None:
    judged_split = verdict(split(0.719), None)
    assert words(judged_split["minimum"]) == {
        "overall": "missed by 0.031",
        "sentiment": "missed by 0.031",
        "polarization": "missed by 0.031",
        "sentiment, weakest class": "met",
        "polarization, weakest class": "met",
    }
    assert words(judged_split["stretch"]) == {
        "overall": "missed by 0.056",
        "sentiment": "missed by 0.061",
        "polarization": "missed by 0.051",
        "sentiment, weakest class": "met",
        "polarization, weakest class": "met",
    }


@pytest.mark.parametrize("value", [0.745, 0.75, 0.755])
def test_an_interval_that_holds_the_target_is_noise_on_either_side(value: float) -> None:
    assert words(verdict(split(value), None)["minimum"])["overall"] == "within noise"


def test_the_baseline_comparison() -> None:
    found = {entry["metric"]: entry for entry in verdict(split(0.61), None)["baseline"]}
    assert len(found) == 9
    assert found["overall"]["baseline"] == 0.607
    assert found["overall"]["verdict"] == "within noise"
    assert found["polarization, objective"]["verdict"] == "above by 0.206"
    assert found["sentiment, negative"]["verdict"] == "below by 0.123"


def test_targets_hold_for_the_plans_tasks_and_classes_only() -> None:
    other = {"sentiment": ["bad", "good"], "topic": ["a", "b"]}
    found = verdict(evaluate_split(judged(50, labels=other), other, resamples=100, by_title=False), None)
    assert found["minimum"] == found["stretch"] == found["baseline"] == []
    third = {**PLAN, "topic": ["a", "b"]}
    found = verdict(evaluate_split(judged(90, labels=third), third, resamples=100, by_title=False), None)
    assert list(words(found["minimum"])) == ["sentiment", "polarization", "sentiment, weakest class", "polarization, weakest class"]


@pytest.mark.parametrize(
    ("stability", "expected"),
    [
        ({"non_finite_steps": 0, "epoch_losses": [3.0, 2.0, 1.0], "best_epoch": 3}, ["met", "met"]),
        ({"non_finite_steps": 0, "epoch_losses": [3.0, 2.0, 2.5], "best_epoch": 2}, ["met", "met"]),
        ({"non_finite_steps": 2, "epoch_losses": [3.0, 2.0, 2.5], "best_epoch": 3}, ["missed by 2", "missed by 0.500"]),
        ({"non_finite_steps": 0, "epoch_losses": [3.0, 2.0], "best_epoch": 1}, ["met", "within noise"]),
        ({"non_finite_steps": 1, "epoch_losses": [3.0, float("nan")], "best_epoch": 2}, ["missed by 1", "missed by inf"]),
    ],
)
def test_stability(stability: Stability, expected: list[str]) -> None:
    assert [entry["verdict"] for entry in judge_stability(stability)] == expected


@pytest.mark.parametrize(("called", "expected"), [("gain", "met"), ("loss", "missed by 0.020"), ("within noise", "within noise")])
def test_a_floor_is_met_only_by_a_paired_gain(called: str, expected: str) -> None:
    whole = split(0.6)
    difference = {"difference": -0.02 if called == "loss" else 0.02, "ci95": [0.0, 0.0], "verdict": called}
    whole["floors"] = {"linear": {"overall": {"macro_f1": 0.58}, "difference": {"overall": difference}}}
    assert words(verdict(whole, None)["floors"]) == {"overall above the linear floor": expected}
