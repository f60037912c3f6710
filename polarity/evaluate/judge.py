"""From predictions to metrics.json: each split's scores with intervals, slices, the floors on the same rows, and the verdict."""

from collections.abc import Mapping, Sequence
from math import hypot
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa

from polarity.errors import DataError
from polarity.evaluate.intervals import ResampledScores, Unit, no_verdict, paired_difference, scores_of, unit_of
from polarity.evaluate.metrics import accuracy, class_scores, confusions
from polarity.evaluate.predictions import Labels, check_predictions, of_split
from polarity.evaluate.results import (
    BOOTSTRAP,
    JACKKNIFE,
    PART_NAMES,
    SCHEMA_VERSION,
    FloorResult,
    Intervals,
    JudgedRows,
    Metrics,
    Optimism,
    Overall,
    PartResult,
    TaskResult,
)
from polarity.evaluate.slices import slices
from polarity.evaluate.targets import Stability, verdict


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
) -> Metrics:
    """The whole of metrics.json: {"schema_version", "validation", "test" where there is one}, as `metrics_schema` says.

    `predictions` holds all splits; `floors[split][name]` a baseline's predictions on the same rows; `by_title` says,
    for all or split by split, whether titles are the unit of intervals; `decided` what each split's rows decided of the model; `stability`
    is None where nothing was trained; `out_of_fold`: the validation rows are all labelled rows, each scored by models that had not seen
    it. Raises DataError where a floor's rows differ.
    """
    check_predictions(predictions, labels)
    metrics: Metrics = {"schema_version": SCHEMA_VERSION}
    for name in PART_NAMES:
        rows = of_split(predictions, name)
        if not rows.num_rows:
            continue
        titles = by_title if isinstance(by_title, bool) else by_title.get(name, False)
        chose = (decided or {}).get(name, ())
        how: _How = {"resamples": resamples, "seed": seed, "by_title": titles, "decided": chose}
        judged = evaluate_split(rows, labels, **how)
        beside = {floor: _judge_floor(rows, table, labels, how) for floor, table in floors.get(name, {}).items()}
        part = cast(PartResult, {**judged, "floors": beside})
        metrics[name] = cast(PartResult, {**part, "verdict": verdict(part, stability)})
        if out_of_fold and name == "validation":
            metrics[name]["out_of_fold"] = True
    if len(metrics) == 1:
        raise DataError(f"predictions hold no row of the splits {' or '.join(PART_NAMES)}: nothing to judge")
    if "validation" in metrics and metrics["validation"].get("decided") and "test" in metrics:
        metrics["optimism"] = optimism(metrics["validation"]["overall"], metrics["test"]["overall"])
    return metrics


def optimism(chosen_on: Overall, clean: Overall) -> Optimism:
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
) -> JudgedRows:
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
    split: JudgedRows = {
        "rows": predictions.num_rows,
        "decided": list(decided),
        "no_verdict": no_verdict(decided, unit),
        "intervals": _describe(unit, resamples, seed),
        "overall": {"macro_f1": float(point.overall[0]), "ci95": unit.interval(float(point.overall[0]), spread.overall)},
        "tasks": tasks,
    }
    if with_slices:
        return cast(JudgedRows, {**split, "slices": slices(predictions, labels, resamples=resamples, seed=seed)})
    return split


def _tasks(predictions: pa.Table, labels: Labels, unit: Unit, spread: ResampledScores) -> dict[str, TaskResult]:
    found: dict[str, TaskResult] = {}
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


def _judge_floor(rows: pa.Table, floor: pa.Table, labels: Labels, how: _How) -> FloorResult:
    plain: _How = {**how, "decided": ()}
    judged = evaluate_split(floor, labels, with_slices=False, **plain)
    return {
        "rows": judged["rows"],
        "intervals": judged["intervals"],
        "overall": judged["overall"],
        "tasks": judged["tasks"],
        "difference": paired_difference(rows, floor, labels, **how),
    }


def _describe(unit: Unit, resamples: int, seed: int) -> Intervals:
    described: Intervals = {
        "method": BOOTSTRAP if unit.degrees is None else JACKKNIFE,
        "unit": unit.name,
        "units": unit.count,
        "degrees": unit.degrees,
        "resamples": resamples,
        "seed": seed,
    }
    return described if unit.note is None else {**described, "note": unit.note}
