"""From predictions to metrics.json: each split's scores with intervals, slices, the floors on the same rows, and the verdict."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polarity.errors import DataError
from polarity.evaluate.intervals import Scores, Unit, bootstrap, interval, paired_difference, smallest_interval, unit_of
from polarity.evaluate.metrics import accuracy, class_scores, confusions
from polarity.evaluate.predictions import Labels, check_predictions
from polarity.evaluate.slices import slices
from polarity.evaluate.targets import Stability, verdict

SCHEMA_VERSION = 1
JUDGED_SPLITS = ("validation", "test")  # training rows judge nothing


def build_metrics(
    predictions: pa.Table,
    floors: Mapping[str, Mapping[str, pa.Table]],
    labels: Labels,
    *,
    resamples: int,
    by_title: bool,
    stability: Stability | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of metrics.json: {"schema_version", "validation", "test" where there is one}, as `metrics_schema` says.

    `predictions` holds all splits; `floors[split][name]` a baseline's predictions on the same rows; `by_title` resamples titles,
    for a split grouped by title; `stability` is None where nothing was trained. Raises DataError where a floor's rows differ.
    """
    check_predictions(predictions, labels)
    metrics: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in JUDGED_SPLITS:
        rows = predictions.filter(pc.equal(predictions["split"], name))
        if not rows.num_rows:
            continue
        split = evaluate_split(rows, labels, resamples=resamples, seed=seed, by_title=by_title)
        split["floors"] = {
            floor: _judge_floor(rows, table, labels, resamples=resamples, seed=seed, by_title=by_title)
            for floor, table in floors.get(name, {}).items()
        }
        split["verdict"] = verdict(split, stability)
        metrics[name] = split
    if len(metrics) == 1:
        raise DataError(f"predictions hold no row of the splits {' or '.join(JUDGED_SPLITS)}: nothing to judge")
    return metrics


def evaluate_split(
    predictions: pa.Table, labels: Labels, *, resamples: int, seed: int = 0, by_title: bool, with_slices: bool = True
) -> dict[str, Any]:
    """One split's object of metrics.json without floors and verdict; `predictions` holds that split only.

    Scores are fractions; `overall` is the mean of the tasks' macro-F1. Rows without a label of a task are left out of that task.
    Raises DataError for a table that `check_predictions` refuses and for a task without labelled rows.
    """
    check_predictions(predictions, labels)
    unit = unit_of(predictions, by_title)
    spread = bootstrap(predictions, labels, unit, resamples=resamples, seed=seed)
    tasks = _tasks(predictions, labels, spread)
    split: dict[str, Any] = {
        "rows": predictions.num_rows,
        "intervals": _describe(unit, resamples, seed),
        "overall": {"macro_f1": sum(task["macro_f1"] for task in tasks.values()) / len(tasks), "ci95": interval(spread.overall)},
        "tasks": tasks,
    }
    if with_slices:
        split["slices"] = slices(predictions, labels, resamples=resamples, seed=seed)
    return split


def metrics_schema() -> dict[str, Any]:
    """The published JSON schema of metrics.json."""
    schema: dict[str, Any] = json.loads(files("polarity.evaluate").joinpath("metrics.schema.json").read_text(encoding="utf-8"))
    return schema


def _tasks(predictions: pa.Table, labels: Labels, spread: Scores) -> dict[str, Any]:
    found = {}
    for task, confusion in confusions(predictions, labels).items():
        scores = class_scores(confusion)
        weakest = int(scores.f1.argmin())
        found[task] = {
            "macro_f1": float(scores.f1.mean()),
            "ci95": interval(spread.macro[task]),
            "accuracy": float(accuracy(confusion)),
            "labelled": int(confusion.sum()),
            "weakest_class": {
                "label": labels[task][weakest],
                "f1": float(scores.f1[weakest]),
                "ci95": smallest_interval(scores.f1, spread.f1[task]),
            },
            "per_class": {
                label: {
                    "precision": float(scores.precision[k]),
                    "recall": float(scores.recall[k]),
                    "f1": float(scores.f1[k]),
                    "ci95": interval(spread.f1[task][:, k]),
                    "support": int(scores.support[k]),
                }
                for k, label in enumerate(labels[task])
            },
            "confusion": confusion.tolist(),
        }
    return found


def _judge_floor(rows: pa.Table, floor: pa.Table, labels: Labels, *, resamples: int, seed: int, by_title: bool) -> dict[str, Any]:
    judged = evaluate_split(floor, labels, resamples=resamples, seed=seed, by_title=by_title, with_slices=False)
    judged["difference"] = paired_difference(rows, floor, labels, resamples=resamples, seed=seed, by_title=by_title)
    return judged


def _describe(unit: Unit, resamples: int, seed: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "method": "percentile bootstrap",
        "unit": unit.name,
        "units": unit.count,
        "resamples": resamples,
        "seed": seed,
    }
    return described if unit.note is None else {**described, "note": unit.note}
