"""The score at equal compute: what each arm had reached by the time the cheapest arm was done."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from polarity.errors import RunError

Unit = Literal["seconds", "epochs"]
_TOLERANCE = 1e-9


def equal_compute(trials: Sequence[Mapping[str, Any]], unit: Unit = "seconds") -> dict[str, Any]:
    """{unit, budget, cheapest, arms: [{arm, seeds, score, full_score}]} from study.json's trials; only finished ones count.

    The budget is the mean over seeds of what the cheapest arm used. `score` is the mean over seeds of the best inner-validation score
    within it, None where an arm has no score by then in some seed; `full_score` the same without a limit. Seconds of an epoch are
    its `seconds` in the curve (since the trial's start of training), else the trial's training seconds shared out evenly over its epochs.
    Of exploration and confirmation the later stage is taken where it has finished trials. Raises RunError for a trial without a curve.
    """
    finished = [trial for trial in trials if trial["status"] == "finished"]
    confirmed = [trial for trial in finished if trial.get("stage") == "confirm"]
    by_arm: dict[str, list[list[tuple[float, float]]]] = {}
    for trial in confirmed or finished:
        by_arm.setdefault(trial["arm"], []).append(_used_and_score(trial, unit))
    if not by_arm:
        return {"unit": unit, "budget": None, "cheapest": None, "arms": []}
    costs = {arm: float(np.mean([curve[-1][0] for curve in curves])) for arm, curves in by_arm.items()}
    cheapest = min(costs, key=lambda arm: costs[arm])
    arms = [
        {"arm": arm, "seeds": len(curves), "score": _within(curves, costs[cheapest]), "full_score": _within(curves, float("inf"))}
        for arm, curves in by_arm.items()
    ]
    # A seed of the cheapest arm may take a little longer than its mean: within its own budget it is whole.
    for entry in arms:
        if entry["arm"] == cheapest:
            entry["score"] = entry["full_score"]
    return {"unit": unit, "budget": costs[cheapest], "cheapest": cheapest, "arms": arms}


def _used_and_score(trial: Mapping[str, Any], unit: Unit) -> list[tuple[float, float]]:
    curve = trial["curve"]
    if not curve:
        raise RunError(f"trial {trial['id']}: is finished but has no curve")
    if unit == "epochs":
        return [(float(point["epoch"]), float(point["overall"])) for point in curve]
    if all("seconds" in point for point in curve):
        return [(float(point["seconds"]), float(point["overall"])) for point in curve]
    per_epoch = float(trial["train_seconds"]) / float(curve[-1]["epoch"])
    return [(float(point["epoch"]) * per_epoch, float(point["overall"])) for point in curve]


def _within(curves: Sequence[Sequence[tuple[float, float]]], budget: float) -> float | None:
    best = [max((score for used, score in curve if used <= budget * (1 + _TOLERANCE)), default=None) for curve in curves]
    known = [score for score in best if score is not None]
    return float(np.mean(known)) if len(known) == len(curves) else None
