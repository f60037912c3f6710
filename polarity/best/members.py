"""The members that are fitted in minutes: the title's prior, the linear model, logistic regression on a frozen encoder's sentence vectors,
and words, characters and sentence vectors fused in one model.

Each gives out-of-fold probabilities of every labelled row, and a model fitted on all rows. Shapes: N rows, K classes, D features.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from polarity.artifacts import RunFolder
from polarity.baselines.linear import LinearFloor, fit_linear
from polarity.baselines.majority import TitlePrior, fit_title_prior, label_codes
from polarity.baselines.vectors import DenseModel, Features, FusedModel, fit_dense, fit_fused
from polarity.best.ceiling import Fit, Scores
from polarity.best.rows import Folds
from polarity.errors import RunError, Say
from polarity.evaluate.predictions import Floats, Labels
from polarity.predict.scorers import Probabilities

Scoring = Callable[[pa.Table], dict[str, Floats]]


def out_of_fold(comments: pa.Table, folds: Folds, labels: Labels, fit: Callable[[pa.Table], Scoring]) -> dict[str, Floats]:
    """{task: (N, K)}: each row scored by what `fit` made of the other folds' rows."""
    found = {task: np.zeros((comments.num_rows, len(classes))) for task, classes in labels.items()}
    for fold, split in enumerate(folds.splits):
        scores = fit(split.train)(split.validation)
        for task in labels:
            found[task][folds.number == fold] = scores[task]
    return found


def title_member(comments: pa.Table, folds: Folds, labels: Labels) -> tuple[dict[str, Floats], TitlePrior]:
    """The prior of each title, cross-fitted as the others are."""
    return out_of_fold(comments, folds, labels, lambda train: fit_title_prior(train, labels).probabilities), fit_title_prior(
        comments, labels
    )


def linear_member(comments: pa.Table, folds: Folds, labels: Labels, say: Say) -> tuple[dict[str, Floats], LinearFloor]:
    """Words and characters of the comment, words of the title."""

    def fit(train: pa.Table) -> Scoring:
        return fit_linear(train, labels, say=lambda _: None).probabilities

    return out_of_fold(comments, folds, labels, fit), fit_linear(comments, labels, say=say)


def frozen_member(comments: pa.Table, folds: Folds, labels: Labels, features_ND: Features) -> tuple[dict[str, Floats], DenseModel]:
    """Logistic regression on the encoder's sentence vectors (N, D), which are computed once for all folds."""
    codes = {task: label_codes(comments, task) for task in labels}

    def fit(rows: NDArray[np.int64]) -> Scores:
        model = fit_dense(features_ND[rows], {task: code[rows] for task, code in codes.items()}, labels)
        return lambda scored: model.probabilities(features_ND[scored])

    return _by_places(comments, folds, labels, fit), fit_dense(features_ND, codes, labels)


def fused_member(comments: pa.Table, folds: Folds, labels: Labels, features_ND: Features, say: Say) -> tuple[dict[str, Floats], FusedModel]:
    """Words, characters and sentence vectors (N, D) in one linear model, with weights of each title's own."""
    codes = {task: label_codes(comments, task) for task in labels}

    def fit(rows: NDArray[np.int64]) -> Scores:
        train = comments.take(pa.array(rows))
        model = fit_fused(train, features_ND[rows], {task: code[rows] for task, code in codes.items()}, labels, say=lambda _: None)
        return lambda scored: model.probabilities(comments.take(pa.array(scored)), features_ND[scored])

    return _by_places(comments, folds, labels, fit), fit_fused(comments, features_ND, codes, labels, say=say)


def _by_places(comments: pa.Table, folds: Folds, labels: Labels, fit: Fit) -> dict[str, Floats]:
    """`out_of_fold` for what is fitted on places in the labelled table."""
    ids = comments["row_id"].combine_chunks()
    found = {task: np.zeros((comments.num_rows, len(classes))) for task, classes in labels.items()}
    for fold, split in enumerate(folds.splits):
        rows = pc.index_in(split.train["row_id"].combine_chunks(), value_set=ids).to_numpy().astype(np.int64)
        scored = np.flatnonzero(folds.number == fold)
        for task, chances in fit(rows)(scored).items():
            found[task][scored] = chances
    return found


def refits(comments: pa.Table, labels: Labels, features_ND: Features | None) -> list[Fit]:
    """The cheap members, made to be fitted on any of the rows: the linear model and, where there are sentence vectors, theirs."""
    codes = {task: label_codes(comments, task) for task in labels}

    def fit_words(rows: NDArray[np.int64]) -> Scores:
        model = fit_linear(comments.take(pa.array(rows)), labels, say=lambda _: None)
        return lambda scored: model.probabilities(comments.take(pa.array(scored)))

    if features_ND is None:
        return [fit_words]
    vectors_ND = features_ND

    def fit_vectors(rows: NDArray[np.int64]) -> Scores:
        model = fit_dense(vectors_ND[rows], {task: code[rows] for task, code in codes.items()}, labels)
        return lambda scored: model.probabilities(vectors_ND[scored])

    return [fit_words, fit_vectors]


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
