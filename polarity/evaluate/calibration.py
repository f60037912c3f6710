"""Calibration: a temperature and class biases a task, fitted on validation predictions only and stored with the model.

The temperature minimises the negative log-likelihood (Guo et al. 2017) and changes no class. The biases maximise macro-F1 and change
the class only, not the probabilities. What they gain is measured by cross-fitting: fitted on four fifths of the rows, judged on the
last, for each fifth in turn. Biases are kept only where the 95 % interval of their gain excludes zero.

Shapes: N rows, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.artifacts import CALIBRATION, RunFolder
from polarity.errors import RunError
from polarity.evaluate.biases import fit_biases, gain_of
from polarity.evaluate.predictions import Codes, Floats, Labels, check_predictions, probability_column, task_codes
from polarity.evaluate.reliability import BINS, calibration_error, log_loss, reliability, risk_coverage

SMALLEST = 1e-7
FOLDS, REPEATS = 5, 5
MIN_ROWS, MIN_CLASS_ROWS = 50, 10
"""Fewer labelled rows, or rows of a class, and nothing (or no bias) is fitted: it would be noise."""
HOTTEST = 20.0


@dataclass(frozen=True)
class TaskCalibration:
    """`temperature` divides the logarithms of the probabilities; `biases` (K,), or None, are added to them to choose the class.

    `fitted` is false where there were too few rows to fit anything.
    """

    temperature: float = 1.0
    biases: Sequence[float] | None = None
    fitted: bool = True


def apply(probabilities: NDArray[np.floating], temperature: float, biases: Sequence[float] | None) -> tuple[Floats, Codes]:
    """Calibrated probabilities (N, K), softmax(log p / temperature), and predicted classes (N,), their argmax after the biases.

    The probabilities leave the biases out: these trade precision for recall, and probabilities that held them would be wrong again.
    """
    logs_NK = _logs(probabilities) / temperature
    exp_NK = np.exp(logs_NK - logs_NK.max(axis=1, keepdims=True))
    shares_NK: Floats = exp_NK / exp_NK.sum(axis=1, keepdims=True)
    chosen_NK = logs_NK if biases is None else logs_NK + np.asarray(biases, np.float64)
    return shares_NK, chosen_NK.argmax(axis=1)


def calibrate(predictions: pa.Table, labels: Labels, *, seed: int = 0) -> dict[str, Any]:
    """The content of calibration.json from a split's predictions table: {"method", "tasks": {T: {...}}}, plain JSON.

    Per task `temperature`, `biases` (null: none kept), and what a reader wants to know, cross-fitted: `ece_before` and `ece_after` with
    interval and noise floor under `calibration_error`, `nll_before` and `nll_after` with the interval of their difference, `bias_gain`,
    `reliability` before and after, `risk_coverage` after. Rows without a label of a task
    are left out of it; a task with too few rows keeps temperature 1 and says so in `note`. Raises what `check_predictions` raises.
    """
    check_predictions(predictions, labels)
    method = {
        "temperature": "minimal negative log-likelihood",
        "biases": "maximal macro-F1, kept where the 95 % interval of the cross-fitted gain excludes zero",
        "ece": f"{BINS} bins of equal mass over the largest probability",
        "folds": FOLDS,
        "repeats": REPEATS,
        "seed": seed,
    }
    return {"method": method, "tasks": {task: _calibrate_task(predictions, task, labels[task], seed) for task in labels}}


def _calibrate_task(predictions: pa.Table, task: str, classes: Sequence[str], seed: int) -> dict[str, Any]:
    label, predicted = task_codes(predictions, task, classes)
    known = label >= 0
    probabilities = probabilities_of(predictions, task, classes)[known]
    label, predicted = label[known], predicted[known]
    counts = np.bincount(label, minlength=len(classes))
    if len(label) < MIN_ROWS or (counts > 0).sum() < 2:
        note = f"{len(label)} labelled rows of {int((counts > 0).sum())} classes are too few to calibrate on: left as it is"
        return {"temperature": 1.0, "biases": None, "rows": len(label), "note": note}
    temperature = fit_temperature(probabilities, label)
    crossed, _ = next(cross_fit(probabilities, label, seed, with_biases=False, repeats=1))
    entry = {"temperature": temperature, "biases": None, "rows": len(label), **_before_and_after(probabilities, crossed, label)}
    chosen = (crossed, predicted)
    if counts.min() >= MIN_CLASS_ROWS:
        fits = list(cross_fit(probabilities, label, seed, with_biases=True, repeats=REPEATS))
        gain = gain_of(label, predicted, [by_bias for _, by_bias in fits], len(classes), seed)
        entry["bias_gain"] = gain
        if gain["kept"]:
            entry["biases"] = fit_biases(_logs(probabilities) / temperature, label)
            chosen = fits[0]
    else:
        entry["note"] = f"no class biases: a class has {int(counts.min())} rows, {MIN_CLASS_ROWS} are needed"
    return {**entry, "risk_coverage": risk_coverage(*chosen, label)}


def _before_and_after(before: Floats, after: Floats, label: Codes) -> dict[str, Any]:
    rows = np.arange(len(label))
    saved = np.log(np.clip(after[rows, label], 1e-12, 1.0)) - np.log(np.clip(before[rows, label], 1e-12, 1.0))
    reach = 1.96 * float(saved.std(ddof=1)) / len(label) ** 0.5
    return {
        **_errors(before, after, label),
        "nll_before": log_loss(before, label),
        "nll_after": log_loss(after, label),
        "nll_saved_ci95": [float(saved.mean()) - reach, float(saved.mean()) + reach],
        "reliability": {"before": reliability(before, label), "after": reliability(after, label)},
    }


def _errors(before: Floats, after: Floats, label: Codes) -> dict[str, Any]:
    errors = {"before": calibration_error(before, label), "after": calibration_error(after, label)}
    return {"ece_before": errors["before"]["ece"], "ece_after": errors["after"]["ece"], "calibration_error": errors}


def fit_temperature(probabilities: NDArray[np.floating], labels: Codes) -> float:
    """The temperature of least negative log-likelihood, from probabilities (N, K) and class indices (N,); at most 20, at least 1/20."""
    from scipy.optimize import minimize_scalar

    logs_NK = _logs(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = logs_NK / exp(log_temperature)
        top = scaled.max(axis=1)
        return float(np.mean(top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - scaled[np.arange(len(labels)), labels]))

    found = minimize_scalar(loss, bounds=(-log(HOTTEST), log(HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return exp(float(found.x))


def cross_fit(probabilities: Floats, labels: Codes, seed: int, *, with_biases: bool, repeats: int) -> Iterator[tuple[Floats, Codes]]:
    """Per repeat the calibrated probabilities (N, K) and classes (N,) of each row, fitted without its fold."""
    from sklearn.model_selection import StratifiedKFold

    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    for repeat in range(repeats):
        # With fewer rows of a class than folds, its rows cannot be in every fold; scikit-learn would warn of what is harmless here.
        strata = labels if rarest >= FOLDS else np.zeros_like(labels)
        calibrated, chosen = np.zeros(probabilities.shape), np.zeros(len(labels), np.int64)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repeat).split(probabilities, strata)
        for fitted, held_out in folds:
            temperature = fit_temperature(probabilities[fitted], labels[fitted])
            biases = fit_biases(_logs(probabilities[fitted]) / temperature, labels[fitted]) if with_biases else None
            calibrated[held_out], chosen[held_out] = apply(probabilities[held_out], temperature, biases)
        yield calibrated, chosen


def check_on(predictions: pa.Table, labels: Labels, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """What a fitted calibration does on rows that it never saw: {task: rows, ECE and macro-F1 before and after, with intervals}."""
    found = {}
    for task, classes in labels.items():
        label, predicted = task_codes(predictions, task, classes)
        known = label >= 0
        if not known.any():
            continue
        before = probabilities_of(predictions, task, classes)[known]
        after, biased = apply(before, tasks[task]["temperature"], tasks[task]["biases"])
        chosen = predicted[known] if tasks[task]["biases"] is None else biased
        change = gain_of(label[known], predicted[known], [chosen], len(classes), seed=0)
        found[task] = {
            "rows": int(known.sum()),
            **_errors(before, after, label[known]),
            "macro_f1_before": change["macro_f1_before"],
            "macro_f1_after": change["macro_f1_after"],
            "macro_f1_change_ci95": change["ci95"],
        }
    return found


def probabilities_of(predictions: pa.Table, task: str, classes: Sequence[str]) -> Floats:
    """A predictions table's probabilities of one task (N, K), float64."""
    columns = [predictions[probability_column(task, label)].to_numpy().astype(np.float64) for label in classes]
    return np.stack(columns, axis=1)


def _logs(probabilities: NDArray[np.floating]) -> Floats:
    return np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1.0))


def read_calibration(folder: RunFolder, labels: Labels) -> dict[str, TaskCalibration]:
    """A run's model/calibration.json. Raises RunError where it is damaged or does not fit the model's tasks and classes."""
    tasks = folder.read_json(CALIBRATION).get("tasks")
    place = f"{folder.uri}/{CALIBRATION}"
    if not isinstance(tasks, dict):
        raise RunError(f"{place}: has no `tasks`; calibrate the run again, or use --raw")
    unknown = sorted(set(tasks) - set(labels))
    if unknown:
        raise RunError(f"{place}: is of another model (it has the task {unknown[0]!r}); calibrate the run again, or use --raw")
    return {task: _read_task(entry, len(labels[task]), f"{place}: the task {task!r}") for task, entry in tasks.items()}


def _read_task(entry: Any, classes: int, place: str) -> TaskCalibration:
    content: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    temperature, biases = content.get("temperature"), content.get("biases")
    if temperature is None or not _is_number(temperature) or temperature <= 0:
        raise RunError(f"{place} has the temperature {temperature!r}, which must be a number above 0; calibrate again, or use --raw")
    if biases is not None and not (isinstance(biases, list) and len(biases) == classes and all(map(_is_number, biases))):
        raise RunError(f"{place} must have null or {classes} numbers as biases, one a class; calibrate again, or use --raw")
    fitted = biases is not None or temperature != 1.0
    return TaskCalibration(float(temperature), None if biases is None else [float(b) for b in biases], fitted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
