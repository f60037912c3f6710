"""Where the ceiling is: a learning curve with its extrapolation, and how far the labels themselves can be trusted.

The curve is that of the members which are cheap enough to be fitted many times: the mean of their log-probabilities, out of fold, with
a half, a quarter, ... of each fold's training rows. It is extended by a power law (score = limit - a x rows ** -b; Hestness et al. 2017)
and by a bootstrap over rows or titles. Shapes: N rows, K classes, S sizes, R resamples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polarity.arrays import Codes, Floats
from polarity.best.record import TIMES_MORE, Ceiling, CurvePoint, LabelDoubt, Reach
from polarity.best.rows import Folds
from polarity.best.stacking import Crossed, Judge
from polarity.evaluate.metrics import macro_f1
from polarity.evaluate.predictions import Labels
from polarity.predict.scorers import SMALLEST, Probabilities

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the training rows that the curve is fitted on, beside all of them."""
DRAWS = {1 / 16: 4, 1 / 8: 3, 1 / 4: 2, 1 / 2: 1}
"""Small samples differ more: their score is the mean of several."""
FEWEST_ROWS = 200
"""Labelled rows; fewer give no curve."""
EXPONENTS = np.linspace(0.1, 1.0, 19)
"""Of the power law: published curves lie between 0.1 and 0.5; 1 is the fastest that makes sense."""

ScoreRows = Callable[[NDArray[np.int64]], Mapping[str, Floats]]
"""From rows (places in the labelled table) to their probabilities."""
Fit = Callable[[NDArray[np.int64]], ScoreRows]
"""From training rows to a model that scores rows."""


def curve_scores(
    judge: Judge, folds: Folds, fits: Sequence[Fit], whole: Sequence[Probabilities], *, resamples: int, seed: int = 0
) -> tuple[list[int], NDArray[np.float64]]:
    """Mean training rows of each size, and overall macro-F1 (1 + R, S): of the rows themselves first, then of R resamples.

    `fits` make the cheap members, `whole` are their out-of-fold probabilities with all training rows.
    """
    weights_RN = np.concatenate([np.ones((1, len(judge.fold))), _resamples(judge, resamples, seed)])
    training = list(folds.places(judge.comments))
    sizes, columns = [], []
    for fraction in FRACTIONS:
        scores = []
        for draw in range(DRAWS[fraction]):
            found = [_empty(judge) for _ in fits]
            for (rows, scored), drawn in zip(training, _drawn(judge, training, fraction, draw, seed), strict=True):
                for into, fit in zip(found, fits, strict=True):
                    for task, chances in fit(rows[drawn])(scored).items():
                        into[task][scored] = chances
            scores.append(_overall(mean_of_logs(found, judge.labels), judge, weights_RN))
        sizes.append(round(fraction * float(np.mean([len(rows) for rows, _ in training]))))
        columns.append(np.mean(scores, axis=0))
    sizes.append(round(float(np.mean([len(rows) for rows, _ in training]))))
    columns.append(_overall(mean_of_logs(whole, judge.labels), judge, weights_RN))
    return sizes, np.stack(columns, axis=1)


def extend(sizes: Sequence[int], scores_RS: NDArray[np.float64], rows: ArrayLike) -> NDArray[np.float64]:
    """The power law's scores (R, W) at W other numbers of rows, each resample's law fitted by least squares.

    The limit is at most 1, `a` is at least 0, and the exponent one of `EXPONENTS`; the newest, largest size is met exactly in level.
    """
    n_S, wanted_W = np.asarray(sizes, np.float64), np.asarray(rows, np.float64)
    best_R = np.full(len(scores_RS), np.inf)
    found_RW = np.zeros((len(scores_RS), len(wanted_W)))
    for b in EXPONENTS:
        x_S = n_S**-b
        centred_S = x_S - x_S.mean()
        slope_R = np.minimum(0.0, (scores_RS * centred_S).sum(axis=1) / (centred_S**2).sum())
        limit_R = np.minimum(1.0, scores_RS.mean(axis=1) - slope_R * x_S.mean())
        error_R = ((limit_R[:, None] + slope_R[:, None] * x_S - scores_RS) ** 2).sum(axis=1)
        better = error_R < best_R
        step_RW = slope_R[:, None] * (wanted_W**-b - n_S[-1] ** -b)
        found_RW[better] = np.minimum(1.0, scores_RS[:, -1:] + step_RW)[better]
        best_R[better] = error_R[better]
    return found_RW


def find_ceiling(sizes: list[int], scores_RS: NDArray[np.float64], stack: float, rows: int, target: float | None) -> Ceiling:
    """What more rows are expected to bring: the curve, its extension, and the rows at which the stack would come to a `target`.

    The stack is expected to keep its lead over the cheap members. `rows` is the number of labelled rows.
    """
    lead = stack - scores_RS[0, -1]
    grid = np.geomspace(1.0, max(TIMES_MORE), 65)
    extended_RG = extend(sizes, scores_RS, grid * sizes[-1]) + lead

    def reach(times: float) -> Reach:
        column = extended_RG[:, int(np.argmin(np.abs(grid - times)))]
        low, high = np.quantile(column[1:], [0.025, 0.975])
        return Reach(rows=round(times * rows), macro_f1=float(column[0]), ci95=(float(low), float(high)))

    enough = np.flatnonzero(extended_RG[0] >= (np.inf if target is None else target))
    curve = []
    for at, size in enumerate(sizes):
        low, high = np.quantile(scores_RS[1:, at], [0.025, 0.975])
        curve.append(CurvePoint(rows=size, macro_f1=float(scores_RS[0, at]), ci95=(float(low), float(high))))
    return Ceiling(
        curve=curve,
        reach=[reach(times) for times in TIMES_MORE],
        target=target,
        rows_for_target=round(float(grid[enough[0]]) * rows) if len(enough) else None,
    )


def label_doubts(members: Mapping[str, Probabilities], crossed: Crossed, suspects: Mapping[str, Codes], judge: Judge) -> list[LabelDoubt]:
    """Of each task: the share of labels that the stack contradicts with confidence, and the stack's macro-F1 if all of those were wrong
    and it were right there; and where a word-count model and an encoder, which share no features, agree, how often the label does not."""
    pair = _two_views(members)
    doubts = []
    for task, codes in judge.codes.items():
        known = codes >= 0
        classes = len(judge.labels[task])
        corrected = codes.copy()
        corrected[suspects[task]] = crossed.predicted[task][suspects[task]]
        agreed = contradicted = None
        if pair is not None:
            first, second = (members[name][task].argmax(axis=1) for name in pair)
            same = known & (first == second)
            agreed, contradicted = float(same.sum() / known.sum()), float((first != codes)[same].mean()) if same.any() else 0.0
        doubts.append(
            LabelDoubt(
                task=task,
                suspect=float(len(suspects[task]) / known.sum()),
                macro_f1=_score(codes, crossed.predicted[task], classes),
                macro_f1_if_wrong=_score(corrected, crossed.predicted[task], classes),
                views=pair,
                views_agree=agreed,
                label_differs=contradicted,
            )
        )
    return doubts


def mean_of_logs(members: Sequence[Probabilities], labels: Labels) -> dict[str, Floats]:
    """{task: (N, K)}: the mean of the members' log-probabilities, not normalised."""
    return {task: np.mean([np.log(np.clip(member[task], SMALLEST, 1.0)) for member in members], axis=0) for task in labels}


def _two_views(members: Mapping[str, Probabilities]) -> tuple[str, str] | None:
    """The linear model and the last encoder that was made, fine-tuned where one was."""
    others = [name for name in members if name not in ("title", "linear")]
    return ("linear", others[-1]) if "linear" in members and others else None


def _score(codes: Codes, predicted: Codes, classes: int) -> float:
    from polarity.evaluate.metrics import confusion_matrix

    return float(macro_f1(confusion_matrix(codes, predicted, classes)))


def _empty(judge: Judge) -> dict[str, Floats]:
    return {task: np.zeros((len(judge.fold), len(classes))) for task, classes in judge.labels.items()}


def _units(judge: Judge) -> NDArray[np.int64]:
    """(N,) number of each row's title where titles are the unit, else of the row."""
    if not judge.by_title:
        return np.arange(len(judge.fold))
    codes: NDArray[np.int64] = np.unique(judge.comments["title"].to_numpy().astype(str), return_inverse=True)[1]
    return codes


def _drawn(
    judge: Judge, training: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], fraction: float, draw: int, seed: int
) -> Iterator[NDArray[np.bool_]]:
    """Which of each fold's training rows are drawn: whole titles where titles are the unit, else equal shares of label combinations."""
    random = np.random.default_rng([seed, draw])
    order = random.permutation(len(judge.fold))
    units = _units(judge)
    strata = np.zeros(len(judge.fold), np.int64)
    for codes in judge.codes.values():
        strata = strata * (codes.max() + 2) + codes + 1
    for rows, _ in training:
        if judge.by_title:
            distinct = random.permutation(np.unique(units[rows]))
            counts = np.cumsum([(units[rows] == unit).sum() for unit in distinct])
            enough = int(np.searchsorted(counts, fraction * len(rows))) + 1
            yield np.isin(units[rows], distinct[:enough])
            continue
        kept = np.zeros(len(rows), np.bool_)
        for stratum in np.unique(strata[rows]):
            members = np.flatnonzero(strata[rows] == stratum)
            first = members[np.argsort(order[rows[members]])]
            kept[first[: max(1, round(fraction * len(members)))]] = True
        yield kept


def _resamples(judge: Judge, count: int, seed: int) -> NDArray[np.float64]:
    """How often each row is in each resample (R, N), rows or whole titles drawn with replacement."""
    units = _units(judge)
    number = int(units.max()) + 1
    random = np.random.default_rng([seed, 1])
    return np.stack([np.bincount(random.integers(number, size=number), minlength=number)[units] for _ in range(count)]).astype(np.float64)


def _overall(logs: Mapping[str, Floats], judge: Judge, weights_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the tasks' macro-F1 (R,) under each resample's weights."""
    scores = []
    for task, codes in judge.codes.items():
        classes, known = len(judge.labels[task]), codes >= 0
        cells = codes[known] * classes + logs[task][known].argmax(axis=1)
        hit_NC = np.eye(classes * classes)[cells]
        scores.append(macro_f1((weights_RN[:, known] @ hit_NC).reshape(-1, classes, classes)))
    mean: NDArray[np.float64] = np.mean(scores, axis=0)
    return mean
