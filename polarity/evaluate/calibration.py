"""Calibration: a temperature and class biases a task, fitted on validation predictions only and stored with the model.

The temperature minimises the negative log-likelihood (Guo et al. 2017) and changes no class. The biases maximise macro-F1 and change
the class only, not the probabilities. What they gain is measured by cross-fitting: fitted on four fifths of the rows, judged on the
last, for each fifth in turn. Biases are kept only where the 95 % interval of their gain excludes zero.

First how far probabilities can be trusted: calibration error, reliability diagrams, and risk against coverage. A row's confidence is its
largest probability; bins hold equally many rows (Nguyen and O'Connor 2015), so that none is nearly empty.

Shapes: N rows, K classes, C cells, R resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import NormalDist  # scipy.stats takes a second to import
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.artifacts import CALIBRATION, RunFolder
from polarity.errors import RunError
from polarity.evaluate.intervals import interval, joint_cells
from polarity.evaluate.metrics import confusion_matrix, macro_f1, softmax
from polarity.evaluate.predictions import Labels, check_predictions, probability_column, task_codes

BINS = 15
RESAMPLES = 1000
COVERAGES = tuple(percent / 100 for percent in range(5, 101, 5))


class CalibrationError(TypedDict):
    """An expected calibration error with what chance alone would show on as many rows."""

    ece: float
    ci95: list[float]
    noise: float
    noise95: float
    evidence: bool


class Bin(TypedDict):
    """A bar of a reliability diagram; `ci95` is of the accuracy (Wilson)."""

    confidence: float
    accuracy: float
    rows: int
    ci95: list[float]


class Answered(TypedDict):
    """If only the most confident rows are answered: which share, which share of these is wrong, and from which confidence on."""

    coverage: float
    risk: float
    threshold: float


class MeasuredGain(TypedDict):
    """What class biases change in macro-F1, see `gain_of`; `gain` and its interval are null where they are not kept."""

    macro_f1_before: float
    macro_f1_after: float
    cross_fitted: float
    standard_error: float
    ci95: list[float]
    kept: bool
    gain: float | None
    gain_ci95: list[float] | None


Side = Literal["before", "after"]
"""Without and with calibration."""


class Errors(TypedDict):
    """Calibration error before and after, alone and with interval and noise."""

    ece_before: float
    ece_after: float
    calibration_error: dict[Side, CalibrationError]


class FittedTask(TypedDict):
    """A task of calibration.json. What follows `rows` is cross-fitted, and not there where too few rows were left to fit anything."""

    temperature: float
    biases: list[float] | None
    rows: int
    ece_before: NotRequired[float]
    ece_after: NotRequired[float]
    calibration_error: NotRequired[dict[Side, CalibrationError]]
    nll_before: NotRequired[float]
    nll_after: NotRequired[float]
    nll_saved_ci95: NotRequired[list[float]]
    reliability: NotRequired[dict[Side, list[Bin]]]
    bias_gain: NotRequired[MeasuredGain]
    risk_coverage: NotRequired[list[Answered]]
    note: NotRequired[str]


class TestedTask(Errors):
    """What a calibration does on rows that it never saw."""

    rows: int
    macro_f1_before: float
    macro_f1_after: float
    macro_f1_change_ci95: list[float]


class Calibration(TypedDict):
    """calibration.json: the split and number of rows that it was fitted on, how, and what came of it by task."""

    fitted_on: dict[str, str | int]
    method: dict[str, str | int]
    tasks: dict[str, FittedTask]
    test: NotRequired[dict[str, TestedTask]]


def calibration_error(probabilities: Floats, labels: Codes, bins: int = BINS, seed: int = 0) -> CalibrationError:
    """The calibration error of rows (N, K) and labels (N,), with a 95 % interval and its noise floor; fractions.

    `noise` and `noise95` are the mean and the 95th percentile that probabilities without any error would show on these rows: labels are
    drawn from the confidences themselves. `evidence` is whether the error exceeds the latter. The interval is of the bins' true mean gap,
    by inversion of a test: it holds the multiples of the observed gaps under which the observed error is neither in the lowest nor in the
    highest percent. (A bootstrap cannot give it: resampled errors lie even further above the truth than the observed one. In simulations
    with 150, 445 and 1,495 rows this interval covered the true gap in 91 to 98 % of cases, the percentile bootstrap in 0 to 89 %.)
    """
    rng = np.random.default_rng(seed)
    confidence_B, hits_B, rows_B = (np.array(column, np.float64) for column in zip(*_bins(probabilities, labels, bins), strict=True))
    share_B = rows_B / rows_B.sum()
    gaps_B = confidence_B - hits_B / rows_B
    observed = float(share_B @ np.abs(gaps_B))
    # The hits of a bin are a sum of draws of nearly equal chance: binomial at the bin's mean confidence.
    drawn_RB = rng.binomial(rows_B.astype(np.int64), np.clip(confidence_B, 0, 1), size=(RESAMPLES, len(rows_B))) / rows_B
    by_chance_R = np.abs(confidence_B - drawn_RB) @ share_B
    accuracy_B = (hits_B + 2) / (rows_B + 4)  # Agresti and Coull 1998: a bin without errors still has a variance
    noise_RB = rng.standard_normal((RESAMPLES, len(rows_B))) * np.sqrt(accuracy_B * (1 - accuracy_B) / rows_B)
    factors = np.linspace(0.0, 2.0, 81)
    limits = np.array([np.percentile(np.abs(f * gaps_B + noise_RB) @ share_B, [1, 99]) for f in factors])
    noise95 = float(np.percentile(by_chance_R, 95))
    evidence = observed > noise95
    fits = (limits[:, 0] <= observed) & (observed <= limits[:, 1])
    fits[0] = not evidence  # no error at all is within the interval exactly where chance explains what is seen
    held = factors[fits] * observed
    ci95 = [float(held.min()), float(held.max())] if held.size else [0.0, observed]
    return {"ece": observed, "ci95": ci95, "noise": float(by_chance_R.mean()), "noise95": noise95, "evidence": evidence}


def reliability(probabilities: Floats, labels: Codes, bins: int = BINS) -> list[Bin]:
    """The bars of a reliability diagram: per bin mean confidence, accuracy with its 95 % interval (Wilson), and rows."""
    from scipy.stats import binomtest  # takes a second, which who predicts need not wait

    found: list[Bin] = []
    for confidence, hits, rows in _bins(probabilities, labels, bins):
        interval = binomtest(hits, rows).proportion_ci(0.95, "wilson")
        found.append({"confidence": confidence, "accuracy": hits / rows, "rows": rows, "ci95": [float(interval.low), float(interval.high)]})
    return found


def _bins(probabilities: Floats, labels: Codes, bins: int) -> list[tuple[float, int, int]]:
    """(mean confidence, rows whose class is right, rows) of each bin."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return [(float(confidence[rows].mean()), int(right[rows].sum()), len(rows)) for rows in parts]


def log_loss(probabilities: Floats, labels: Codes) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1.0)).mean())


def risk_coverage(probabilities: Floats, predicted: Codes, labels: Codes) -> list[Answered]:
    """If only the most confident rows are answered: per coverage (share answered) the risk (share of them wrong) and the threshold.

    The confidence is the predicted class's probability; a model that abstains below `threshold` answers about that share
    (El-Yaniv and Wiener 2010).
    """
    confidence = probabilities[np.arange(len(labels)), predicted]
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(predicted[order] != labels[order])
    kept = [max(1, round(coverage * len(labels))) for coverage in COVERAGES]
    return [
        {"coverage": coverage, "risk": float(errors[n - 1] / n), "threshold": float(confidence[order[n - 1]])}
        for coverage, n in zip(COVERAGES, kept, strict=True)
    ]


ROUNDS = 10
LARGEST = 3.0
"""Bound of a bias: odds moved by a factor of 20."""
KEPT_ERRORS = 1.96
"""Biases are kept where the cross-fitted gain exceeds so many of its standard errors: its 95 % interval excludes zero."""
BOUND = 0.005
"""The part of the 5 % that bounds a kept gain by the plain interval of the estimate."""


def fit_biases(logs_NK: Floats, labels: Codes) -> list[float]:
    """Biases (K,), mean 0, that maximise macro-F1 on rows of log-probabilities (N, K): coordinate ascent, each coordinate exactly.

    Among equally good values the one nearest to no bias is taken.
    """
    biases = np.zeros(logs_NK.shape[1])
    best = float(macro_f1(confusion_matrix(labels, logs_NK.argmax(axis=1), len(biases))))
    for _ in range(ROUNDS):
        before = best
        for k in range(len(biases)):
            biases[k], best = _best_bias(logs_NK + np.where(np.arange(len(biases)) == k, 0.0, biases), labels, k, float(biases[k]), best)
        if best <= before:
            break
    centred: list[float] = (biases - biases.mean()).tolist()
    return centred


def _best_bias(others_NK: Floats, labels: Codes, k: int, current: float, best: float) -> tuple[float, float]:
    """The best bias of class k while the others' are in `others_NK`, and its macro-F1; the current one where none is better.

    Row i goes to k where the bias exceeds its threshold, so between two neighbouring thresholds nothing changes: a sweep over the
    sorted thresholds, moving one row at a time, sees every macro-F1 that there is.
    """
    classes = others_NK.shape[1]
    rivals_NK = others_NK.copy()
    rivals_NK[:, k] = -np.inf
    rival = rivals_NK.argmax(axis=1)
    thresholds = rivals_NK[np.arange(len(labels)), rival] - others_NK[:, k]
    order = np.argsort(thresholds, kind="stable")
    sorted_ = thresholds[order]
    start = confusion_matrix(labels, rival, classes)  # no row goes to k
    moves = np.zeros((len(labels) + 1, classes, classes), np.int64)
    at, label = np.arange(1, len(labels) + 1), labels[order]
    moves[at, label, rival[order]] -= 1
    moves[at, label, k] += 1
    scores = macro_f1(start + np.cumsum(moves, axis=0))
    edges = np.concatenate([[-np.inf], sorted_, [np.inf]])
    middles = np.clip((np.clip(edges[:-1], -LARGEST, LARGEST) + np.clip(edges[1:], -LARGEST, LARGEST)) / 2, -LARGEST, LARGEST)
    real = (edges[:-1] < middles) & (middles < edges[1:])  # ties have no room between them
    if not real.any() or scores[real].max() <= best + 1e-12:
        return current, best
    candidates = np.flatnonzero(real & (scores >= scores[real].max() - 1e-12))
    chosen = candidates[np.abs(middles[candidates]).argmin()]
    return float(middles[chosen]), float(scores[chosen])


def gain_of(labels: Codes, before: Codes, after: list[Codes], classes: int, seed: int) -> MeasuredGain:
    """Macro-F1 of `after` (one (N,) array a repeat, averaged) less that of `before`: `cross_fitted`, its standard error and 95 % interval.

    `kept` only if the interval excludes zero. A gain is looked at only where it was kept, so a kept one is stated as what it is worth
    given that it had to be large to be kept: `gain` and `gain_ci95` (see `after_selection`). Where it was not kept they are null.
    """
    ids, first = joint_cells([labels, before, *after])
    counts_C = np.bincount(ids, minlength=len(first)).astype(np.float64)
    shares_C = counts_C / len(labels)
    drawn_RC = np.random.default_rng(seed).multinomial(len(labels), shares_C, size=RESAMPLES).astype(np.float64)

    def score(counts: Floats, predicted: Codes) -> Floats:
        to_confusion = np.zeros((len(first), classes * classes))
        to_confusion[np.arange(len(first)), labels[first] * classes + predicted[first]] = 1
        return macro_f1((counts @ to_confusion).reshape(-1, classes, classes))

    point_before, point_after = (np.mean([score(counts_C[None], p)[0] for p in some]) for some in ([before], after))
    spread = np.mean([score(drawn_RC, predicted) for predicted in after], axis=0) - score(drawn_RC, before)
    observed, error = float(point_after - point_before), float(spread.std())
    kept = error > 0 and observed > KEPT_ERRORS * error
    gain, gain_ci95 = after_selection(observed, error) if kept else (None, None)
    return {
        "macro_f1_before": float(point_before),
        "macro_f1_after": float(point_after),
        "cross_fitted": observed,
        "standard_error": error,
        "ci95": interval(spread),
        "kept": kept,
        "gain": gain,
        "gain_ci95": gain_ci95,
    }


def after_selection(observed: float, error: float) -> tuple[float, list[float]]:
    """The gain behind an estimate that is reported only because it exceeded KEPT_ERRORS standard errors, with its 95 % interval.

    The estimate is normal around the true gain and cut off below the threshold. The value returned is the true gain under which the
    observed estimate would be the median of what is left, so it is as often too high as too low; the limits likewise. Just above the
    threshold that alone would allow any negative gain, so the gain is also held within the plain 99.5 % interval of the estimate: the
    hybrid inference on winners of Andrews, Kitagawa and McCloskey (2024). Raises ValueError where the estimate is not above the threshold.
    """
    if observed <= KEPT_ERRORS * error:
        raise ValueError(f"an estimate of {observed} with standard error {error} does not exceed {KEPT_ERRORS} of them")
    from scipy.optimize import brentq

    below = NormalDist().cdf
    z, reach = observed / error, NormalDist().inv_cdf(1 - BOUND / 2)

    def share_above(mean: float) -> float:
        """P(estimate > z) among the estimates that are above the threshold and within reach of the mean: rises with the mean."""
        low, high = below(max(KEPT_ERRORS - mean, -reach)), below(reach)
        return (high - below(z - mean)) / (high - low)

    def mean_of(share: float) -> float:
        return error * float(brentq(lambda mean: share_above(mean) - share, z - reach + 1e-9, z + reach - 1e-9))

    tail = (0.05 - BOUND) / (1 - BOUND) / 2
    return mean_of(0.5), [mean_of(tail), mean_of(1 - tail)]


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
    chosen_NK = logs_NK if biases is None else logs_NK + np.asarray(biases, np.float64)
    return softmax(logs_NK), chosen_NK.argmax(axis=1)


def calibrate(predictions: pa.Table, labels: Labels, split: str = "validation", *, seed: int = 0) -> Calibration:
    """The content of calibration.json from the predictions table of a split.

    Per task `temperature`, `biases` (null: none kept), and what a reader wants to know, cross-fitted: `ece_before` and `ece_after` with
    interval and noise floor under `calibration_error`, `nll_before` and `nll_after` with the interval of their difference, `bias_gain`,
    `reliability` before and after, `risk_coverage` after. Rows without a label of a task
    are left out of it; a task with too few rows keeps temperature 1 and says so in `note`. Raises what `check_predictions` raises.
    """
    check_predictions(predictions, labels)
    method: dict[str, str | int] = {
        "temperature": "minimal negative log-likelihood",
        "biases": "maximal macro-F1, kept where the 95 % interval of the cross-fitted gain excludes zero",
        "ece": f"{BINS} bins of equal mass over the largest probability",
        "folds": FOLDS,
        "repeats": REPEATS,
        "seed": seed,
    }
    tasks = {task: _calibrate_task(predictions, task, labels[task], seed) for task in labels}
    return {"fitted_on": {"split": split, "rows": predictions.num_rows}, "method": method, "tasks": tasks}


def _calibrate_task(predictions: pa.Table, task: str, classes: Sequence[str], seed: int) -> FittedTask:
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
    entry = _before_and_after(temperature, probabilities, crossed, label)
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
    entry["risk_coverage"] = risk_coverage(*chosen, label)
    return entry


def _before_and_after(temperature: float, before: Floats, after: Floats, label: Codes) -> FittedTask:
    """A task's entry with what the cross-fitted temperature changes."""
    rows = np.arange(len(label))
    saved = np.log(np.clip(after[rows, label], 1e-12, 1.0)) - np.log(np.clip(before[rows, label], 1e-12, 1.0))
    reach = 1.96 * float(saved.std(ddof=1)) / len(label) ** 0.5
    errors = _errors(before, after, label)
    return {
        "temperature": temperature,
        "biases": None,
        "rows": len(label),
        "ece_before": errors["ece_before"],
        "ece_after": errors["ece_after"],
        "calibration_error": errors["calibration_error"],
        "nll_before": log_loss(before, label),
        "nll_after": log_loss(after, label),
        "nll_saved_ci95": [float(saved.mean()) - reach, float(saved.mean()) + reach],
        "reliability": {"before": reliability(before, label), "after": reliability(after, label)},
    }


def _errors(before: Floats, after: Floats, label: Codes) -> Errors:
    errors: dict[Side, CalibrationError] = {"before": calibration_error(before, label), "after": calibration_error(after, label)}
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


def check_on(predictions: pa.Table, labels: Labels, tasks: Mapping[str, FittedTask]) -> dict[str, TestedTask]:
    """What a fitted calibration does on rows that it never saw: {task: rows, ECE and macro-F1 before and after, with intervals}."""
    found: dict[str, TestedTask] = {}
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
    content = entry if isinstance(entry, dict) else {}
    temperature, biases = content.get("temperature"), content.get("biases")
    if temperature is None or not _is_number(temperature) or temperature <= 0:
        raise RunError(f"{place} has the temperature {temperature!r}, which must be a number above 0; calibrate again, or use --raw")
    if biases is not None and not (isinstance(biases, list) and len(biases) == classes and all(map(_is_number, biases))):
        raise RunError(f"{place} must have null or {classes} numbers as biases, one a class; calibrate again, or use --raw")
    fitted = biases is not None or temperature != 1.0
    return TaskCalibration(float(temperature), None if biases is None else [float(b) for b in biases], fitted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
