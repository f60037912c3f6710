"""The verdict on the plan's success metrics: `met`, `missed by x`, or `within noise` where the interval contains the target.

The plan's targets hold for its own two tasks and classes only; stability and the floors are judged for any task.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import TypedDict, cast

from polarity.evaluate.results import (
    BaselineJudgement,
    FloorJudgement,
    FloorResult,
    JudgedRows,
    StabilityJudgement,
    TargetJudgement,
    Verdict,
)

PLAN_CLASSES = {
    "sentiment": ("negative", "neutral", "positive"),
    "polarization": ("non_polarized", "objective", "partisan"),
}
WEAKEST = "weakest class"
# STRATEGY.md, "Baseline and success": the task's macro-F1 (or overall), and the F1 of its weakest class.
TARGETS: dict[str, dict[str, float]] = {
    "minimum": {
        "overall": 0.75,
        "sentiment": 0.75,
        "polarization": 0.75,
        f"sentiment, {WEAKEST}": 0.68,
        f"polarization, {WEAKEST}": 0.68,
    },
    "stretch": {
        "overall": 0.775,
        "sentiment": 0.78,
        "polarization": 0.77,
        f"sentiment, {WEAKEST}": 0.70,
        f"polarization, {WEAKEST}": 0.70,
    },
}
# The plan's mBERT baseline on its test rows (n = 1495), published without intervals.
BASELINE: dict[str, float] = {
    "overall": 0.607,
    "sentiment": 0.617,
    "sentiment, negative": 0.733,
    "sentiment, neutral": 0.494,
    "sentiment, positive": 0.625,
    "polarization": 0.596,
    "polarization, non_polarized": 0.616,
    "polarization, objective": 0.404,
    "polarization, partisan": 0.767,
}


class Stability(TypedDict):
    """What the verdict needs of the training's history: epochs count from 1, losses are means over an epoch's steps."""

    non_finite_steps: int
    epoch_losses: list[float]
    best_epoch: int


def verdict(split: JudgedRows, stability: Stability | None) -> Verdict:
    """Lists of {metric, target, value, ci95, verdict} under minimum, stretch, stability and floors, and the `baseline` comparison.

    `split` is what `evaluate_split` returns, with the `floors` that `build_metrics` adds. `stability` is None where nothing was
    trained. A floor is `met` only where the paired interval of model - floor lies above zero.
    There is no verdict but on rows that decided nothing and, where titles are the unit, on enough of them (`no_verdict` of the split).
    """
    scores, withheld = _scores(split), split.get("no_verdict")
    floors = cast(Mapping[str, FloorResult], split.get("floors", {}))  # a judged part has them, its bare scores have not
    return {
        "minimum": [_judge(name, target, *scores[name], withheld) for name, target in TARGETS["minimum"].items() if name in scores],
        "stretch": [_judge(name, target, *scores[name], withheld) for name, target in TARGETS["stretch"].items() if name in scores],
        "stability": judge_stability(stability) if stability is not None else [],
        "floors": [_judge_floor(name, floor, split) for name, floor in floors.items()],
        "baseline": [_against_baseline(name, target, *scores[name], withheld) for name, target in BASELINE.items() if name in scores],
    }


def judge_stability(stability: Stability) -> list[StabilityJudgement]:
    """No non-finite step, and an epoch-mean training loss that falls with every epoch up to the best one."""
    bad = stability["non_finite_steps"]
    steps = _stable("non-finite steps", 0, bad, "met" if bad == 0 else f"missed by {bad}")
    return [steps, _judge_losses(stability["epoch_losses"][: stability["best_epoch"]])]


def _judge_losses(losses: Sequence[float]) -> StabilityJudgement:
    name = "largest change of the training loss, epoch to epoch"
    if not all(isfinite(loss) for loss in losses):
        return _stable(name, 0.0, None, "missed by inf")
    if len(losses) < 2:  # nothing to fall yet: neither a success nor a failure
        return _stable(name, 0.0, None, "within noise")
    change = max(after - before for before, after in pairwise(losses))
    return _stable(name, 0.0, change, "met" if change < 0 else f"missed by {change:.3f}")


def _scores(split: JudgedRows) -> dict[str, tuple[float, list[float]]]:
    """Score and interval by the names of TARGETS and BASELINE, for the plan's tasks among the split's."""
    found: dict[str, tuple[float, list[float]]] = {}
    tasks = split["tasks"]
    ours = [task for task, classes in PLAN_CLASSES.items() if task in tasks and set(tasks[task]["per_class"]) == set(classes)]
    if len(ours) == len(PLAN_CLASSES) == len(tasks):
        found["overall"] = (split["overall"]["macro_f1"], split["overall"]["ci95"])
    for task in ours:
        found[task] = (tasks[task]["macro_f1"], tasks[task]["ci95"])
        found[f"{task}, {WEAKEST}"] = (tasks[task]["weakest_class"]["f1"], tasks[task]["weakest_class"]["ci95"])
        for label, scores in tasks[task]["per_class"].items():
            found[f"{task}, {label}"] = (scores["f1"], scores["ci95"])
    return found


def _judge(name: str, target: float, value: float, ci95: list[float], withheld: str | None) -> TargetJudgement:
    low, high = ci95
    if withheld:
        words = withheld
    elif low > target:
        words = "met"
    elif high < target:
        words = f"missed by {target - value:.3f}"
    else:
        words = "within noise"
    return {"metric": name, "target": target, "value": value, "ci95": ci95, "verdict": words}


def _judge_floor(name: str, floor: FloorResult, split: JudgedRows) -> FloorJudgement:
    overall = floor["difference"]["overall"]
    words = {"gain": "met", "loss": f"missed by {-overall['difference']:.3f}"}.get(overall["verdict"], overall["verdict"])
    own = split["overall"]
    return {
        "metric": f"overall above the {name} floor",
        "floor": name,
        "target": floor["overall"]["macro_f1"],
        "value": own["macro_f1"],
        "ci95": own["ci95"],
        "difference": overall["difference"],
        "difference_ci95": overall["ci95"],
        "verdict": words,
    }


def _against_baseline(name: str, baseline: float, value: float, ci95: list[float], withheld: str | None) -> BaselineJudgement:
    """Other rows or not paired: `above by x` and `below by x` describe, they do not claim a gain."""
    low, high = ci95
    words = "within noise"
    if withheld:
        words = withheld
    elif low > baseline:
        words = f"above by {value - baseline:.3f}"
    elif high < baseline:
        words = f"below by {baseline - value:.3f}"
    return {"metric": name, "baseline": baseline, "value": value, "ci95": ci95, "verdict": words}


def _stable(metric: str, target: float, value: float | None, words: str) -> StabilityJudgement:
    return {"metric": metric, "target": target, "value": value, "ci95": None, "verdict": words}
