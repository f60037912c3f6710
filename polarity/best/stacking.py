"""What combines the members: fitted on out-of-fold probabilities, judged by cross-fitting, the simpler rule where nothing is against it.

A row's combined score is always made by a rule that was fitted on the other folds' rows, biases included; the rule that is kept is
then fitted on all. So the score is of rows that chose neither weights nor biases. Shapes: M members, N rows, K classes, F folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.baselines.floors import label_codes
from polarity.best.record import BiasGain, Gain
from polarity.evaluate import build_predictions, paired_difference
from polarity.evaluate.calibration import fit_biases, gain_of
from polarity.evaluate.predictions import Labels
from polarity.predict.scorers import SMALLEST, Probabilities, fit_weights
from polarity.predict.stacked import LogisticRule, PoolRule, TaskStack, stack_features, stacked

Rule = Literal["mean", "pool", "greedy", "logistic"]
RULES: tuple[Rule, ...] = ("mean", "pool", "greedy", "logistic")
"""From the simplest on: fixed weights; one convex weight a member; the same chosen for macro-F1; D x K numbers a task.

With 200 real rows fitted weights were 1.7 points worse than equal ones, and 1.1 worse than the best member alone."""
FEWEST_TO_FIT = 400
"""Labelled rows; with fewer the members are combined by the mean, for what fitted rules seem to gain there is chance: with 50 real rows
they were chosen in three of six draws, and were up to six points worse than the best member."""
TITLE = "title"
"""The member that the mean leaves out where there is another: the others read the title, too, and it knows nothing of the comment."""
FROZEN, FUSED = "frozen-", "fused-"
"""What the names of these members begin with, before that of the encoder."""
PART_WEIGHT = 0.25
"""What the mean gives to members whose words or vectors a fused member reads as well; others weigh 1. Against the fused member alone, with
200 and 500 real rows (10 draws each): parts at a fourth -0.2 and -0.1 points, within noise; at 1 as the others -0.6 and -0.4, beyond it."""
GREEDY_STEPS = 20
LOGISTIC_C = 0.1
MIN_CLASS_ROWS = 10
"""Fewer rows of a class and no biases are fitted: they would be noise."""

Members = Mapping[str, Probabilities]


@dataclass(frozen=True)
class Judge:
    """The labelled rows with what judging needs: `fold` (N,) of each row, and whether titles are the unit of intervals."""

    comments: pa.Table
    labels: Labels
    fold: Codes
    by_title: bool
    resamples: int
    codes: dict[str, Codes]

    @classmethod
    def of(cls, comments: pa.Table, labels: Labels, fold: Codes, *, by_title: bool, resamples: int) -> "Judge":
        return cls(comments, labels, fold, by_title, resamples, {task: label_codes(comments, task) for task in labels})

    def predictions(self, crossed: "Crossed") -> pa.Table:
        """The predictions table of cross-fitted scores, as the split `validation`."""
        return build_predictions("validation", self.comments, crossed.probabilities, self.labels, crossed.predicted)

    def difference(self, first: "Crossed", second: "Crossed") -> Gain:
        """First less second, on the same rows."""
        tables = (self.predictions(first), self.predictions(second))
        found = paired_difference(*tables, self.labels, resamples=self.resamples, by_title=self.by_title)["overall"]
        return Gain(difference=found["difference"], ci95=(found["ci95"][0], found["ci95"][1]), verdict=found["verdict"])


@dataclass(frozen=True)
class Crossed:
    """Scores of every labelled row from rules that were fitted without its fold."""

    probabilities: dict[str, NDArray[np.float32]]
    predicted: dict[str, Codes]


def fit_rule(rule: Rule, members: Members, task: str, codes: Codes) -> PoolRule | LogisticRule:
    """The rule for one task on labelled rows; `codes` (N,) has no -1."""
    own = list(members.values())
    if rule == "mean" or len(np.unique(codes)) < 2:
        return PoolRule(weights=_mean_weights(list(members)))
    if rule == "pool":
        return PoolRule(weights=fit_weights([{task: member[task]} for member in own], {task: codes}))
    if rule == "greedy":
        return PoolRule(weights=_greedy([member[task] for member in own], codes))
    return _logistic(own, codes, own[0][task].shape[1])


def _mean_weights(names: list[str]) -> list[float]:
    fused = any(name.startswith(FUSED) for name in names)
    weights = [PART_WEIGHT if fused and name.startswith(("linear", FROZEN)) else float(name != TITLE or len(names) == 1) for name in names]
    return [weight / sum(weights) for weight in weights]


def _greedy(probabilities: Sequence[NDArray[np.floating]], codes: Codes) -> list[float]:
    """Members drawn with replacement, each time the one that helps macro-F1 most (Caruana et al. 2004); the best bag on the way."""
    from polarity.evaluate.metrics import confusion_matrix, macro_f1

    logs = [np.log(np.clip(p.astype(np.float64), SMALLEST, 1.0)) for p in probabilities]
    classes = logs[0].shape[1]
    total, counts = np.zeros_like(logs[0]), np.zeros(len(logs))
    best, kept = -1.0, counts
    for _ in range(GREEDY_STEPS):
        scores = [float(macro_f1(confusion_matrix(codes, (total + log).argmax(axis=1), classes))) for log in logs]
        chosen = int(np.argmax(scores))
        total, counts = total + logs[chosen], counts + np.eye(len(logs))[chosen]
        if scores[chosen] > best + 1e-12:
            best, kept = scores[chosen], counts
    weights: list[float] = (kept / kept.sum()).tolist()
    return weights


def _logistic(members: Sequence[Probabilities], codes: Codes, classes: int) -> LogisticRule:
    from sklearn.linear_model import LogisticRegression

    features_ND = stack_features(members)
    mean, scale = features_ND.mean(axis=0), features_ND.std(axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    fitted = LogisticRegression(C=LOGISTIC_C, max_iter=500).fit((features_ND - mean) / scale, codes)
    coefficients = np.zeros((classes, features_ND.shape[1]))
    intercepts = np.full(classes, np.log(SMALLEST))  # a class without a row
    if len(fitted.classes_) == 2:
        coefficients[fitted.classes_[1]], intercepts[fitted.classes_] = fitted.coef_[0], [0.0, fitted.intercept_[0]]
    else:
        coefficients[fitted.classes_], intercepts[fitted.classes_] = fitted.coef_, fitted.intercept_
    return LogisticRule(mean=mean.tolist(), scale=scale.tolist(), coefficients=coefficients.tolist(), intercepts=intercepts.tolist())


def fit_task(rule: Rule, members: Members, task: str, codes: Codes, *, with_biases: bool) -> TaskStack:
    """Rule and, if asked and the classes have rows enough, biases that maximise macro-F1 on the same rows; unlabelled rows are left out."""
    known = codes >= 0
    own = {name: _rows(member, known) for name, member in members.items()}
    combination = fit_rule(rule, own, task, codes[known])
    counts = np.bincount(codes[known], minlength=next(iter(members.values()))[task].shape[1])
    if not with_biases or counts.min() < MIN_CLASS_ROWS:
        return TaskStack(combination=combination)
    scores = stacked(list(own.values()), task, TaskStack(combination=combination))
    logs = np.log(np.clip(scores.probabilities.astype(np.float64), SMALLEST, 1.0))
    return TaskStack(combination=combination, biases=fit_biases(logs, codes[known]))


def cross_fit(rule: Rule, members: Members, judge: Judge, *, biased: Mapping[str, bool]) -> Crossed:
    """Every row scored by a rule that was fitted on the rows of the other folds; `biased[task]` says whether with biases."""
    probabilities: dict[str, NDArray[np.float32]] = {}
    predicted: dict[str, Codes] = {}
    for task, codes in judge.codes.items():
        probabilities[task] = np.zeros((len(codes), len(judge.labels[task])), np.float32)
        predicted[task] = np.zeros(len(codes), np.int64)
        for fold in np.unique(judge.fold):
            scored = judge.fold == fold
            how = fit_task(rule, _cut(members, ~scored), task, codes[~scored], with_biases=biased[task])
            scores = stacked(list(_cut(members, scored).values()), task, how)
            probabilities[task][scored], predicted[task][scored] = scores.probabilities, scores.predicted
    return Crossed(probabilities, predicted)


@dataclass(frozen=True)
class Choice:
    """The rule that is kept, its cross-fitted scores, and what decided: each rule's overall macro-F1, what the kept one gains on the
    simplest, and each task's gain by biases."""

    rule: Rule
    crossed: Crossed
    scores: dict[str, float]
    over_simplest: Gain | None
    biases: dict[str, BiasGain]


def choose_rule(members: Members, judge: Judge) -> Choice:
    """The simplest rule, unless another's paired gain over it excludes zero; the best of those that do. Biases by task likewise."""
    rules = RULES if judge.comments.num_rows >= FEWEST_TO_FIT else RULES[:1]
    found = {rule: _with_honest_biases(rule, members, judge) for rule in rules}
    scores = {rule: overall(crossed, judge) for rule, (crossed, _) in found.items()}
    kept: Rule = RULES[0]
    difference: Gain | None = None
    for rule in sorted(rules[1:], key=lambda name: -scores[name]):
        difference = judge.difference(found[rule][0], found[RULES[0]][0])
        if difference.verdict == "gain":
            kept = rule
            break
    crossed, biases = found[kept]
    return Choice(kept, crossed, {str(rule): score for rule, score in scores.items()}, difference, biases)


def _with_honest_biases(rule: Rule, members: Members, judge: Judge) -> tuple[Crossed, dict[str, BiasGain]]:
    """Cross-fitted scores with biases in the tasks where their cross-fitted gain excludes zero."""
    plain = cross_fit(rule, members, judge, biased=dict.fromkeys(judge.labels, False))
    biased = cross_fit(rule, members, judge, biased=dict.fromkeys(judge.labels, True))
    gains: dict[str, BiasGain] = {}
    for task, codes in judge.codes.items():
        known = codes >= 0
        if np.array_equal(plain.predicted[task], biased.predicted[task]):
            gains[task] = BiasGain(cross_fitted=0.0, ci95=(0.0, 0.0), kept=False)
            continue
        gain = gain_of(codes[known], plain.predicted[task][known], [biased.predicted[task][known]], len(judge.labels[task]), 0)
        gains[task] = BiasGain(cross_fitted=gain["cross_fitted"], ci95=(gain["ci95"][0], gain["ci95"][1]), kept=gain["kept"])
    predicted = {task: (biased if gains[task].kept else plain).predicted[task] for task in judge.labels}
    return Crossed(plain.probabilities, predicted), gains


def fit_stack(choice: Choice, members: Members, judge: Judge) -> dict[str, TaskStack]:
    """The kept rule, fitted on all labelled rows."""
    return {task: fit_task(choice.rule, members, task, codes, with_biases=choice.biases[task].kept) for task, codes in judge.codes.items()}


def member_alone(member: Probabilities, labels: Labels) -> Crossed:
    """A single member's own out-of-fold scores."""
    return Crossed({task: member[task].astype(np.float32) for task in labels}, {task: member[task].argmax(axis=1) for task in labels})


def overall(crossed: Crossed, judge: Judge) -> float:
    """Mean of the tasks' macro-F1 over their labelled rows."""
    from polarity.evaluate.metrics import confusion_matrix, macro_f1

    scores = []
    for task, codes in judge.codes.items():
        known = codes >= 0
        scores.append(float(macro_f1(confusion_matrix(codes[known], crossed.predicted[task][known], len(judge.labels[task])))))
    return float(np.mean(scores))


def drop_one(choice: Choice, members: Members, judge: Judge) -> dict[str, Gain]:
    """{member: the stack less the stack without it}, paired, the rule fitted anew each time; none where there is one member."""
    if len(members) < 2:
        return {}
    biased = {task: gain.kept for task, gain in choice.biases.items()}
    found = {}
    for name in members:
        rest = {other: member for other, member in members.items() if other != name}
        found[name] = judge.difference(choice.crossed, cross_fit(choice.rule, rest, judge, biased=biased))
    return found


def _cut(members: Members, rows: NDArray[np.bool_]) -> dict[str, dict[str, Floats]]:
    return {name: _rows(member, rows) for name, member in members.items()}


def _rows(member: Probabilities, rows: NDArray[np.bool_]) -> dict[str, Floats]:
    return {task: np.asarray(chances[rows], np.float64) for task, chances in member.items()}
