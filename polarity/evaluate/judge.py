"""From predictions to metrics.json: each split's scores with intervals, slices, the floors on the same rows, and the verdict.

The verdict on the plan's success metrics is `met`, `missed by x`, or `within noise` where the interval contains the target. The plan's
targets hold for its own two tasks and classes only; stability and the floors are judged for any task.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import hypot, isfinite
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa

from polarity.errors import DataError
from polarity.evaluate import results
from polarity.evaluate.intervals import ResampledScores, Unit, no_verdict, paired_difference, scores_of, unit_of
from polarity.evaluate.metrics import accuracy, class_scores, confusions
from polarity.evaluate.predictions import Labels, check_predictions, of_split
from polarity.evaluate.slices import slices

PLAN_CLASSES = {"sentiment": ("negative", "neutral", "positive"), "polarization": ("non_polarized", "objective", "partisan")}
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


def build_metrics(
    predictions: pa.Table,
    floors: Mapping[str, Mapping[str, pa.Table]],
    labels: Labels,
    *,
    resamples: int,
    by_title: bool | Mapping[str, bool],
    decided: Mapping[str, Sequence[str]] | None = None,
    stability: Stability | None = None,
    out_of_fold: bool = False,
    seed: int = 0,
) -> results.Metrics:
    """The whole of metrics.json: {"schema_version", "validation", "test" where there is one}, as `metrics_schema` says.

    `predictions` holds all splits; `floors[split][name]` a baseline's predictions on the same rows; `by_title` says,
    for all or split by split, whether titles are the unit of intervals; `decided` what each split's rows decided of the model; `stability`
    is None where nothing was trained; `out_of_fold`: the validation rows are all labelled rows, each scored by models that had not seen
    it. Raises DataError where a floor's rows differ.
    """
    check_predictions(predictions, labels)
    metrics: results.Metrics = {"schema_version": results.SCHEMA_VERSION}
    for name in results.PART_NAMES:
        rows = of_split(predictions, name)
        if not rows.num_rows:
            continue
        titles = by_title if isinstance(by_title, bool) else by_title.get(name, False)
        chose = (decided or {}).get(name, ())
        how: _How = {"resamples": resamples, "seed": seed, "by_title": titles, "decided": chose}
        judged = evaluate_split(rows, labels, **how)
        beside = {floor: _floor(rows, table, labels, how) for floor, table in floors.get(name, {}).items()}
        part = cast(results.PartResult, {**judged, "floors": beside})
        metrics[name] = cast(results.PartResult, {**part, "verdict": verdict(part, stability)})
        if out_of_fold and name == "validation":
            metrics[name]["out_of_fold"] = True
    if len(metrics) == 1:
        raise DataError(f"predictions hold no row of the splits {' or '.join(results.PART_NAMES)}: nothing to judge")
    if "validation" in metrics and metrics["validation"].get("decided") and "test" in metrics:
        metrics["optimism"] = optimism(metrics["validation"]["overall"], metrics["test"]["overall"])
    return metrics


def optimism(chosen_on: results.Overall, clean: results.Overall) -> results.Optimism:
    """The score on rows that chose the model less that on rows which did not, with the interval of two independent samples' difference.

    From the two intervals alone, by the method of variance estimates recovery (Zou and Donner 2008).
    """
    (low, high), (clean_low, clean_high) = chosen_on["ci95"], clean["ci95"]
    score, clean_score = chosen_on["macro_f1"], clean["macro_f1"]
    difference = score - clean_score
    below, above = hypot(score - low, clean_high - clean_score), hypot(high - score, clean_score - clean_low)
    return {"difference": difference, "ci95": [max(difference - below, -1.0), min(difference + above, 1.0)]}


def evaluate_split(
    predictions: pa.Table,
    labels: Labels,
    *,
    resamples: int,
    seed: int = 0,
    by_title: bool,
    decided: Sequence[str] = (),
    with_slices: bool = True,
) -> results.JudgedRows:
    """One part's object of metrics.json without floors and verdict; `predictions` holds that split only.

    `by_title`: titles are the unit of intervals (`polarity.data.seen.titles_apart`). `decided`: what of the model these rows decided, such
    as "the epoch"; then there is no verdict on them. Scores are fractions; `overall` is the mean of the tasks' macro-F1. Rows
    without a label of a task are left out of that task.
    Raises DataError for a table that `check_predictions` refuses and for a task without labelled rows.
    """
    check_predictions(predictions, labels)
    unit = unit_of(predictions, by_title)
    point, spread = scores_of(predictions, labels, unit, resamples=resamples, seed=seed)
    tasks = _tasks(predictions, labels, unit, spread)
    split: results.JudgedRows = {
        "rows": predictions.num_rows,
        "decided": list(decided),
        "no_verdict": no_verdict(decided, unit),
        "intervals": _describe(unit, resamples, seed),
        "overall": {"macro_f1": float(point.overall[0]), "ci95": unit.interval(float(point.overall[0]), spread.overall)},
        "tasks": tasks,
    }
    if with_slices:
        return cast(results.JudgedRows, {**split, "slices": slices(predictions, labels, resamples=resamples, seed=seed)})
    return split


def _tasks(predictions: pa.Table, labels: Labels, unit: Unit, spread: ResampledScores) -> dict[str, results.TaskResult]:
    found: dict[str, results.TaskResult] = {}
    for task, confusion in confusions(predictions, labels).items():
        scores = class_scores(confusion)
        occurs = np.flatnonzero(scores.support > 0)
        weakest = int(occurs[scores.f1[occurs].argmin()])
        macro_f1 = float(scores.f1[occurs].mean())
        absent = [label for label, support in zip(labels[task], scores.support, strict=True) if not support]
        found[task] = {
            "macro_f1": macro_f1,
            "ci95": unit.interval(macro_f1, spread.macro[task]),
            "accuracy": float(accuracy(confusion)),
            "labelled": int(confusion.sum()),
            "weakest_class": {
                "label": labels[task][weakest],
                "f1": float(scores.f1[weakest]),
                "ci95": unit.smallest_interval(scores.f1[occurs], spread.f1[task][:, occurs]),
            },
            "per_class": {
                label: {
                    "precision": float(scores.precision[k]),
                    "recall": float(scores.recall[k]),
                    "f1": float(scores.f1[k]),
                    "ci95": unit.interval(float(scores.f1[k]), spread.f1[task][:, k]),
                    "support": int(scores.support[k]),
                }
                for k, label in enumerate(labels[task])
            },
            "confusion": confusion.tolist(),
        }
        if absent:
            found[task]["absent_classes"] = absent
    return found


class _How(TypedDict):
    resamples: int
    seed: int
    by_title: bool
    decided: Sequence[str]


def _floor(rows: pa.Table, floor: pa.Table, labels: Labels, how: _How) -> results.FloorResult:
    plain: _How = {**how, "decided": ()}
    judged = evaluate_split(floor, labels, with_slices=False, **plain)
    return {
        "rows": judged["rows"],
        "intervals": judged["intervals"],
        "overall": judged["overall"],
        "tasks": judged["tasks"],
        "difference": paired_difference(rows, floor, labels, **how),
    }


def _describe(unit: Unit, resamples: int, seed: int) -> results.Intervals:
    described: results.Intervals = {
        "method": results.BOOTSTRAP if unit.degrees is None else results.JACKKNIFE,
        "unit": unit.name,
        "units": unit.count,
        "degrees": unit.degrees,
        "resamples": resamples,
        "seed": seed,
    }
    return described if unit.note is None else {**described, "note": unit.note}


def verdict(split: results.JudgedRows, stability: Stability | None) -> results.Verdict:
    """Lists of {metric, target, value, ci95, verdict} under minimum, stretch, stability and floors, and the `baseline` comparison.

    `split` is what `evaluate_split` returns, with the `floors` that `build_metrics` adds. `stability` is None where nothing was
    trained. A floor is `met` only where the paired interval of model - floor lies above zero.
    There is no verdict but on rows that decided nothing and, where titles are the unit, on enough of them (`no_verdict` of the split).
    """
    scores, withheld = _scores(split), split.get("no_verdict")
    floors = cast(Mapping[str, results.FloorResult], split.get("floors", {}))  # a judged part has them, its bare scores have not
    return {
        "minimum": [_judge(name, target, *scores[name], withheld) for name, target in TARGETS["minimum"].items() if name in scores],
        "stretch": [_judge(name, target, *scores[name], withheld) for name, target in TARGETS["stretch"].items() if name in scores],
        "stability": judge_stability(stability) if stability is not None else [],
        "floors": [_judge_floor(name, floor, split) for name, floor in floors.items()],
        "baseline": [_against_baseline(name, target, *scores[name], withheld) for name, target in BASELINE.items() if name in scores],
    }


def judge_stability(stability: Stability) -> list[results.StabilityJudgement]:
    """No non-finite step, and an epoch-mean training loss that falls with every epoch up to the best one."""
    bad = stability["non_finite_steps"]
    steps = _stable("non-finite steps", 0, bad, "met" if bad == 0 else f"missed by {bad}")
    return [steps, _judge_losses(stability["epoch_losses"][: stability["best_epoch"]])]


def _judge_losses(losses: Sequence[float]) -> results.StabilityJudgement:
    name = "largest change of the training loss, epoch to epoch"
    if not all(isfinite(loss) for loss in losses):
        return _stable(name, 0.0, None, "missed by inf")
    if len(losses) < 2:  # nothing to fall yet: neither a success nor a failure
        return _stable(name, 0.0, None, "within noise")
    change = max(after - before for before, after in pairwise(losses))
    return _stable(name, 0.0, change, "met" if change < 0 else f"missed by {change:.3f}")


def _scores(split: results.JudgedRows) -> dict[str, tuple[float, list[float]]]:
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


def _judge(name: str, target: float, value: float, ci95: list[float], withheld: str | None) -> results.TargetJudgement:
    words = withheld or _beside(target, ci95, "met", f"missed by {target - value:.3f}")
    return {"metric": name, "target": target, "value": value, "ci95": ci95, "verdict": words}


def _beside(target: float, ci95: list[float], above: str, below: str) -> str:
    low, high = ci95
    return above if low > target else below if high < target else "within noise"


def _judge_floor(name: str, floor: results.FloorResult, split: results.JudgedRows) -> results.FloorJudgement:
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


def _against_baseline(name: str, baseline: float, value: float, ci95: list[float], withheld: str | None) -> results.BaselineJudgement:
    """Other rows or not paired: `above by x` and `below by x` describe, they do not claim a gain."""
    words = withheld or _beside(baseline, ci95, f"above by {value - baseline:.3f}", f"below by {baseline - value:.3f}")
    return {"metric": name, "baseline": baseline, "value": value, "ci95": ci95, "verdict": words}


def _stable(metric: str, target: float, value: float | None, words: str) -> results.StabilityJudgement:
    return {"metric": metric, "target": target, "value": value, "ci95": None, "verdict": words}
