"""The members that are fitted in minutes: the title's prior, the linear model, logistic regression on a frozen encoder's sentence vectors,
and words, characters and sentence vectors fused in one model.

Each gives out-of-fold probabilities of every labelled row, and a model fitted on all rows. Shapes: N rows, K classes, D features.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from polarity.arrays import Floats
from polarity.artifacts import RunFolder
from polarity.baselines.floors import LinearFloor, TitlePrior, fit_linear, fit_title_prior, label_codes
from polarity.baselines.vectors import DenseModel, Features, FusedModel, fit_dense, fit_fused
from polarity.best.ceiling import Fit, ScoreRows
from polarity.best.rows import Folds
from polarity.errors import RunError, Say
from polarity.evaluate.predictions import Labels
from polarity.predict.scorers import Probabilities

Scoring = Callable[[pa.Table], dict[str, Floats]]


def out_of_fold(comments: pa.Table, folds: Folds, labels: Labels, fit: Callable[[pa.Table], Scoring]) -> dict[str, Floats]:
    """{task: (N, K)}: each row scored by what `fit` made of the other folds' rows."""
    return _by_places(comments, folds, labels, _on_places(comments, fit))


def _by_places(comments: pa.Table, folds: Folds, labels: Labels, fit: Fit) -> dict[str, Floats]:
    """`out_of_fold` for what is fitted on places in the labelled table."""
    found = {task: np.zeros((comments.num_rows, len(classes))) for task, classes in labels.items()}
    for rows, scored in folds.places(comments):
        for task, chances in fit(rows)(scored).items():
            found[task][scored] = chances
    return found


def _on_places(comments: pa.Table, fit: Callable[[pa.Table], Scoring]) -> Fit:
    """What is fitted on tables, fitted on places in the labelled table."""

    def on(rows: NDArray[np.int64]) -> ScoreRows:
        scoring = fit(comments.take(pa.array(rows)))
        return lambda scored: scoring(comments.take(pa.array(scored)))

    return on


def _words(labels: Labels) -> Callable[[pa.Table], Scoring]:
    return lambda train: fit_linear(train, labels, say=lambda _: None).probabilities


def _vectors(comments: pa.Table, labels: Labels, features_ND: Features) -> Fit:
    codes = {task: label_codes(comments, task) for task in labels}

    def fit(rows: NDArray[np.int64]) -> ScoreRows:
        model = fit_dense(features_ND[rows], {task: code[rows] for task, code in codes.items()}, labels)
        return lambda scored: model.probabilities(features_ND[scored])

    return fit


def title_member(comments: pa.Table, folds: Folds, labels: Labels) -> tuple[dict[str, Floats], TitlePrior]:
    """The prior of each title, cross-fitted as the others are."""
    found = out_of_fold(comments, folds, labels, lambda train: fit_title_prior(train, labels).probabilities)
    return found, fit_title_prior(comments, labels)


def linear_member(comments: pa.Table, folds: Folds, labels: Labels, say: Say) -> tuple[dict[str, Floats], LinearFloor]:
    """Words and characters of the comment, words of the title."""
    return out_of_fold(comments, folds, labels, _words(labels)), fit_linear(comments, labels, say=say)


def frozen_member(comments: pa.Table, folds: Folds, labels: Labels, features_ND: Features) -> tuple[dict[str, Floats], DenseModel]:
    """Logistic regression on the encoder's sentence vectors (N, D), which are computed once for all folds."""
    found = _by_places(comments, folds, labels, _vectors(comments, labels, features_ND))
    return found, fit_dense(features_ND, {task: label_codes(comments, task) for task in labels}, labels)


def fused_member(comments: pa.Table, folds: Folds, labels: Labels, features_ND: Features, say: Say) -> tuple[dict[str, Floats], FusedModel]:
    """Words, characters and sentence vectors (N, D) in one linear model, with weights of each title's own."""
    codes = {task: label_codes(comments, task) for task in labels}

    def fit(rows: NDArray[np.int64]) -> ScoreRows:
        train = comments.take(pa.array(rows))
        model = fit_fused(train, features_ND[rows], {task: code[rows] for task, code in codes.items()}, labels, say=lambda _: None)
        return lambda scored: model.probabilities(comments.take(pa.array(scored)), features_ND[scored])

    return _by_places(comments, folds, labels, fit), fit_fused(comments, features_ND, codes, labels, say=say)


def refits(comments: pa.Table, labels: Labels, features_ND: Features | None) -> list[Fit]:
    """The cheap members, made to be fitted on any of the rows: the linear model and, where there are sentence vectors, theirs."""
    words = _on_places(comments, _words(labels))
    return [words] if features_ND is None else [words, _vectors(comments, labels, features_ND)]


def save_features(folder: RunFolder, name: str, features_ND: Features) -> None:
    """Keep sentence vectors until the run is finished."""
    folder.write_bytes(name, save({"features": np.ascontiguousarray(features_ND, np.float32)}))


def load_features(folder: RunFolder, name: str) -> NDArray[np.float32]:
    """What `save_features` kept. Raises RunError where it is damaged."""
    try:
        found: NDArray[np.float32] = load(folder.read_bytes(name))["features"]
    except (SafetensorError, KeyError) as error:
        raise RunError(f"{folder.uri}/{name}: damaged ({error}); delete it and go on with --resume") from error
    return found


def save_probabilities(folder: RunFolder, name: str, found: Probabilities) -> None:
    """Keep a member's out-of-fold probabilities, whole or not at all; that the file is there says that the member is done."""
    folder.write_bytes(name, save({task: np.ascontiguousarray(chances, np.float64) for task, chances in found.items()}))


def load_probabilities(folder: RunFolder, name: str, labels: Labels, rows: int) -> dict[str, NDArray[np.float64]]:
    """What `save_probabilities` kept. Raises RunError where it is damaged or of other rows."""
    try:
        found: dict[str, NDArray[np.float64]] = load(folder.read_bytes(name))
    except SafetensorError as error:
        raise RunError(f"{folder.uri}/{name}: damaged ({error}); delete it and go on with --resume") from error
    for task, classes in labels.items():
        if task not in found or found[task].shape != (rows, len(classes)):
            raise RunError(f"{folder.uri}/{name}: is of other rows or tasks; delete it and go on with --resume")
    return {task: found[task] for task in labels}
