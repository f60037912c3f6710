"""How much each member of an ensemble counts: equally, unless validation rows that chose nothing show that fitted weights are better.

Fitted weights minimise the class-balanced negative log-likelihood of the members' pooled probabilities, which is convex in the
weights (logarithmic opinion pool, Heskes 1998). Shapes: M members, N rows, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from polarity.errors import RunError
from polarity.evaluate import build_predictions, paired_difference
from polarity.evaluate.calibration import probabilities_of
from polarity.evaluate.predictions import Codes, Floats, Labels, title_codes
from polarity.predict.scorers import SMALLEST, combine

FOLDS = 5
DECIMALS = 3

Probabilities = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Weighting:
    """`weights` one a member, and `choice`, the record of how they were chosen."""

    weights: list[float]
    choice: dict[str, Any]


def member_probabilities(predictions: pa.Table, labels: Labels) -> dict[str, Floats]:
    """{task: (N, K)} of a predictions table."""
    return {task: probabilities_of(predictions, task, list(classes)) for task, classes in labels.items()}


def pool(members: Sequence[Probabilities], weights: Sequence[float], labels: Labels) -> dict[str, NDArray[np.float32]]:
    """The ensemble's probabilities of each task (N, K) from its members'."""
    return {task: combine([member[task] for member in members], weights).probabilities for task in labels}


def choose_weights(members: Sequence[Probabilities], comments: pa.Table, labels: Labels, *, by_title: bool, resamples: int) -> Weighting:
    """Fitted weights where, cross-fitted on the validation rows `comments`, their gain in macro-F1 over equal ones excludes zero.

    Else equal weights. `by_title` keeps a title's rows in one fold and resamples titles. Raises RunError for fewer rows than folds.
    """
    equal = [1.0 / len(members)] * len(members)
    codes = {task: comments[task].fill_null(-1).to_numpy().astype(np.int64) for task in labels}
    crossed: dict[str, NDArray[np.float32]] = {
        task: np.zeros((comments.num_rows, len(names)), np.float32) for task, names in labels.items()
    }
    for fitted, held_out in _folds(comments, by_title):
        weights = fit_weights([_rows(member, fitted) for member in members], {task: c[fitted] for task, c in codes.items()})
        for task, probabilities in pool([_rows(member, held_out) for member in members], weights, labels).items():
            crossed[task][held_out] = probabilities
    by_fitted = build_predictions("validation", comments, crossed, labels)
    by_equal = build_predictions("validation", comments, pool(members, equal, labels), labels)
    difference = paired_difference(by_fitted, by_equal, labels, resamples=resamples, by_title=by_title)["overall"]
    choice = {"chosen": "equal", "folds": FOLDS, "fitted_minus_equal_cross_fitted": difference}
    if difference["verdict"] != "gain":
        return Weighting(equal, choice)
    return Weighting(fit_weights(members, codes), {**choice, "chosen": "fitted"})


def fit_weights(members: Sequence[Probabilities], labels: Mapping[str, Codes]) -> list[float]:
    """Weights of at least 0 that sum to 1 and minimise the mean over tasks of the class-balanced negative log-likelihood.

    `labels[task]` are class indices (N,), -1 where missing.
    """
    from scipy.optimize import minimize

    count = len(members)
    tasks = [_task_terms([member[task] for member in members], codes) for task, codes in labels.items() if (codes >= 0).any()]

    def loss(weights_M: Floats) -> tuple[float, Floats]:
        total, slope_M = 0.0, np.zeros(count)
        for logs_MNK, codes, shares_N in tasks:
            pooled_NK = np.tensordot(weights_M, logs_MNK, axes=1)
            top_N = pooled_NK.max(axis=1)
            exp_NK = np.exp(pooled_NK - top_N[:, None])
            rows = np.arange(len(codes))
            total += float(shares_N @ (top_N + np.log(exp_NK.sum(axis=1)) - pooled_NK[rows, codes]))
            expected_MN = (logs_MNK * (exp_NK / exp_NK.sum(axis=1, keepdims=True))).sum(axis=2)
            slope_M += (expected_MN - logs_MNK[:, rows, codes]) @ shares_N
        return total / len(tasks), slope_M / len(tasks)

    start = np.full(count, 1.0 / count)
    sums_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(count)}
    found = minimize(loss, start, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * count, constraints=[sums_to_one])
    if not found.success:
        raise RunError(f"no weights could be fitted ({found.message}); use --weights equal")
    return [float(weight) for weight in np.round(np.clip(found.x, 0.0, 1.0), DECIMALS)]


def _task_terms(probabilities: Sequence[NDArray[np.floating]], codes: Codes) -> tuple[Floats, Codes, Floats]:
    """Logarithms (M, N, K), class indices (N,) and balanced shares (N,) that sum to 1, of the labelled rows."""
    known = codes >= 0
    logs_MNK = np.log(np.clip(np.stack([p[known] for p in probabilities]).astype(np.float64), SMALLEST, 1.0))
    labelled = codes[known]
    weight_N = 1.0 / np.bincount(labelled)[labelled]
    return logs_MNK, labelled, weight_N / weight_N.sum()


def _folds(comments: pa.Table, by_title: bool) -> list[tuple[Codes, Codes]]:
    from sklearn.model_selection import GroupKFold, KFold

    rows, groups = comments.num_rows, title_codes(comments)[0] if by_title else None
    if rows < FOLDS or (groups is not None and len(np.unique(groups)) < FOLDS):
        what = f"{rows} validation rows" if groups is None else f"validation rows of {len(np.unique(groups))} titles"
        raise RunError(f"{what} are too few to choose weights on ({FOLDS} folds): use --weights equal")
    splitter: Any = KFold(FOLDS, shuffle=True, random_state=0) if groups is None else GroupKFold(FOLDS)
    return list(splitter.split(np.zeros(rows), groups=groups))


def _rows(member: Probabilities, rows: Codes) -> dict[str, NDArray[np.floating]]:
    return {task: probabilities[rows] for task, probabilities in member.items()}


Weights = dict[str, Tensor]


def average(members: Sequence[Callable[[], Weights]]) -> Weights:
    """The mean of the members' floating-point tensors, summed in float64; other tensors are the first member's.

    Each member is a function that reads its weights, so that two sets are in memory at most.
    """
    total: dict[str, Tensor] = {}
    kinds: Weights = {}
    for number, read in enumerate(members):
        for name, tensor in read().items():
            if number == 0:
                kinds[name] = tensor
                total[name] = tensor.double() if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                total[name] += tensor.double()
    return {name: (sum_ / len(members)).to(kinds[name].dtype) if kinds[name].is_floating_point() else sum_ for name, sum_ in total.items()}


def greedy(scores: Sequence[float], score_of: Callable[[list[int]], float]) -> tuple[list[int], list[dict[str, float | int | bool]]]:
    """The members (positions in `scores`) of the greedy soup, and what was tried in order.

    From the best single score down, a member is added where `score_of` the members so far with it is not below their score without it.
    """
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    kept, best = [order[0]], scores[order[0]]
    tried: list[dict[str, float | int | bool]] = [{"member": order[0], "score": best, "kept": True}]
    for position in order[1:]:
        found = score_of([*kept, position])
        better = found >= best
        tried.append({"member": position, "score": found, "kept": better})
        if better:
            kept, best = [*kept, position], found
    return kept, tried


def completed(part: Weights, whole: Weights, table: str, used: Tensor) -> Weights:
    """A checkpoint's weights as a whole model's: what training left out of it comes from the run's own model, `whole`.

    That is frozen layers, and in the word table `table` the rows that are not in `used` (see `polarity.model.frozen`), of which
    `whole` has what weight decay left at the run's best epoch.
    """
    found = {**whole, **part}
    rows = part.get(table)
    if rows is not None and rows.shape[0] == len(used) < whole[table].shape[0]:
        found[table] = whole[table].clone()
        found[table][used] = rows
    return found
