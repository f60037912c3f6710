"""Linear models that read a frozen encoder's sentence vectors: cheap, and strong where rows are few.

`DenseModel` reads the vectors alone. `FusedModel` reads a comment's words, characters and vector, with weights for all titles and weights
of each title's own: a word against one side is a word for another, so a feature weighs w + w_t under the title t (feature augmentation,
Daumé 2007), and the penalty keeps w_t small where the title's rows do not ask for it. It is fitted in the dual: two rows are as alike as
their features are, and twice so under one title, and logistic regression on the Cholesky factor of these likenesses is the same model,
whatever the number of features.

Shapes: N rows, V terms, D vector features, T titles with weights of their own, P pairs of a title and a term, K classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from polarity.arrays import Codes, Floats
from polarity.baselines.floors import TextFeatures, fit_features, read_features, write_features
from polarity.errors import RunError, Say
from polarity.evaluate.metrics import softmax
from polarity.evaluate.predictions import Labels

FILE = "dense.safetensors"
DENSE_STRENGTH = 6.8
"""C x N, the weight of all rows together against the L2 penalty: on 6,776 real rows C = 0.001 was best of 0.0003 to 0.01."""
MAX_ITERATIONS = 500
DENSE_TOLERANCE = 1e-3

Features = NDArray[np.floating]


@dataclass(frozen=True)
class DenseModel:
    """Standardised features times `coefficients[task]` (K, D) plus `intercepts[task]` (K,); -inf for a class without a training row."""

    mean_D: Floats
    scale_D: Floats
    coefficients: dict[str, Floats]
    intercepts: dict[str, Floats]

    def probabilities(self, features_ND: Features) -> dict[str, Floats]:
        """Per task (N, K) in class order."""
        standard_ND = (features_ND - self.mean_D) / self.scale_D
        return {task: softmax(standard_ND @ weights_KD.T + self.intercepts[task]) for task, weights_KD in self.coefficients.items()}

    def save(self, folder: Path) -> None:
        """Write dense.safetensors into an existing folder."""
        numbers = {"mean": self.mean_D, "scale": self.scale_D}
        numbers |= {f"coef/{task}": weights for task, weights in self.coefficients.items()}
        numbers |= {f"intercept/{task}": values for task, values in self.intercepts.items()}
        save_file({name: np.ascontiguousarray(values, np.float64) for name, values in numbers.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "DenseModel":
        """What `save` wrote. Raises RunError where the file is missing or damaged."""
        try:
            numbers = load_file(folder / FILE)
            coefficients = {name.removeprefix("coef/"): values for name, values in numbers.items() if name.startswith("coef/")}
            intercepts = {task: numbers[f"intercept/{task}"] for task in coefficients}
            model = cls(numbers["mean"], numbers["scale"], coefficients, intercepts)
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(f"{folder / FILE}: cannot be read ({error}); copy the run again") from error
        for task, weights in coefficients.items():
            if weights.shape != (len(intercepts[task]), len(model.mean_D)) or model.mean_D.shape != model.scale_D.shape:
                raise RunError(f"{folder / FILE}: the numbers of {task} do not fit one another; copy the run again")
        return model


def fit_dense(features_ND: Features, codes: dict[str, Codes], labels: Labels) -> DenseModel:
    """Balanced multinomial logistic regression of each task on the rows that carry its label (codes (N,), -1 where missing)."""
    mean_D, scale_D = mean_and_scale(features_ND)
    standard_ND = (features_ND - mean_D) / scale_D
    coefficients, intercepts = {}, {}
    for task, classes in labels.items():
        known = codes[task] >= 0
        strength = DENSE_STRENGTH / max(1, int(known.sum()))
        found = fit_classes(standard_ND[known], codes[task][known], len(classes), strength, DENSE_TOLERANCE)
        coefficients[task], intercepts[task] = found
    return DenseModel(mean_D, scale_D, coefficients, intercepts)


def mean_and_scale(features_ND: Features) -> tuple[Floats, Floats]:
    """Mean and standard deviation (D,) by which features are standardised; 1 for a feature that does not vary."""
    scale_D = features_ND.std(axis=0, dtype=np.float64)
    return features_ND.mean(axis=0, dtype=np.float64), np.where(scale_D > 1e-8, scale_D, 1.0)


def fit_classes(features_ND: Features, codes: Codes, classes: int, strength: float, tolerance: float) -> tuple[Floats, Floats]:
    """Balanced logistic regression with `strength` as C: coefficients (K, D) and intercepts (K,), -inf for a class without a row."""
    coefficients, intercepts = np.zeros((classes, features_ND.shape[1])), np.full(classes, -np.inf)
    present = np.unique(codes)
    if len(present) < 2:  # one class only: it is certain
        intercepts[present] = 0.0
        return coefficients, intercepts
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS, tol=tolerance)
    model.fit(features_ND, codes)
    if len(present) == 2:  # scikit-learn keeps one row of weights, the second class's log-odds
        coefficients[present[1]], intercepts[present] = model.coef_[0], [0.0, model.intercept_[0]]
    else:
        coefficients[present], intercepts[present] = model.coef_, model.intercept_
    return coefficients, intercepts


SETTINGS, NUMBERS = "fused.json", "fused.safetensors"
MOST_ROWS = 10_000
"""Training rows at most: their likenesses take 400 MB four times over. More are sampled, and said to be."""
FEWEST_OF_TITLE = 10
"""Training rows from which on a title has weights of its own."""
STRENGTH = 1.0
"""scikit-learn's C."""
TEXT_SHARES = {"comment": 0.5, "title": 0.3}
VECTOR_SHARE = 0.6
"""What each kind of terms, and the vector, add to a row's likeness to itself."""
JITTER = 1e-3
ROWS_AT_ONCE = 1_000
TOLERANCE = 0.03
"""Times 1 / N, the part of one row in the mean gradient: where the fit may stop."""

Numbers = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FusedModel:
    """`numbers` are the weights by name: `text/TASK` (V, K) and `vector/TASK` (D, K) for all titles, `intercept/TASK` (K,); for the titles
    with weights of their own `starts` (T + 1,) and `terms` (P,), `own-text/TASK` (P, K) and `own-vector/TASK` (T, D, K); `mean` and `scale`
    (D,) of the vectors."""

    tasks: list[str]
    texts: TextFeatures
    titles: list[str]
    numbers: Numbers

    def probabilities(self, comments: pa.Table, vectors_ND: Features) -> dict[str, Floats]:
        """Per task (N, K) in class order; 0 for a class without a training row."""
        terms, vectors = _terms(self.texts, comments), _scaled(vectors_ND, self.numbers["mean"], self.numbers["scale"])
        found = {task: self._shared(task, terms, vectors) for task in self.tasks}
        for title, rows in _rows_by_title(comments, self.titles):
            pairs = slice(*self.numbers["starts"][title : title + 2])
            own_terms = terms[rows][:, self.numbers["terms"][pairs]]
            for task, logits_NK in found.items():
                logits_NK[rows] += own_terms @ self.numbers[f"own-text/{task}"][pairs]
                logits_NK[rows] += vectors[rows] @ self.numbers[f"own-vector/{task}"][title]
        return {task: softmax(logits_NK) for task, logits_NK in found.items()}

    def _shared(self, task: str, terms: csr_matrix, vectors_ND: Features) -> Floats:
        logits: Floats = terms @ self.numbers[f"text/{task}"] + vectors_ND @ self.numbers[f"vector/{task}"]
        return logits.astype(np.float64) + self.numbers[f"intercept/{task}"]

    def save(self, folder: Path) -> None:
        """Write the two files into an existing folder."""
        features, idf = write_features(self.texts)
        content = {"tasks": self.tasks, "titles": self.titles, "features": features}
        (folder / SETTINGS).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file({name: np.ascontiguousarray(values) for name, values in (self.numbers | idf).items()}, folder / NUMBERS)

    @classmethod
    def load(cls, folder: Path) -> "FusedModel":
        """What `save` wrote. Raises RunError where a file is missing or damaged, or they do not fit one another."""
        try:
            content = json.loads((folder / SETTINGS).read_text("utf-8"))
            numbers: Numbers = load_file(folder / NUMBERS)
            model = cls(content["tasks"], read_features(content["features"], numbers), content["titles"], numbers)
            model._check()
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{folder}: {SETTINGS} and {NUMBERS} cannot be read together ({error}); copy the run again") from error
        return model

    def _check(self) -> None:
        terms, width, pairs = sum(len(v.idf_) for _, v in self.texts), len(self.numbers["mean"]), len(self.numbers["terms"])
        for task in self.tasks:
            classes = len(self.numbers[f"intercept/{task}"])
            shapes: dict[str, tuple[int, ...]] = {"text": (terms, classes), "vector": (width, classes), "own-text": (pairs, classes)}
            shapes |= {"own-vector": (len(self.titles), width, classes)}
            for name, shape in shapes.items():
                if self.numbers[f"{name}/{task}"].shape != shape:
                    raise ValueError(f"{name}/{task} is of shape {self.numbers[f'{name}/{task}'].shape}, expected {shape}")


def fit_fused(comments: pa.Table, vectors_ND: Features, codes: dict[str, Codes], labels: Labels, *, say: Say) -> FusedModel:
    """Fit on the rows of a comments table, their sentence vectors and codes ((N,), -1 where missing); a sample of `MOST_ROWS` of more."""
    if comments.num_rows > MOST_ROWS:
        say(f"fused model: fitted on a random sample of {MOST_ROWS:,} of the {comments.num_rows:,} training rows")
        drawn = np.sort(np.random.default_rng(0).choice(comments.num_rows, MOST_ROWS, replace=False))
        comments, vectors_ND, codes = comments.take(pa.array(drawn)), vectors_ND[drawn], {task: code[drawn] for task, code in codes.items()}
    texts = fit_features(comments, say)
    numbers: Numbers = dict(zip(("mean", "scale"), mean_and_scale(vectors_ND), strict=True))
    terms, vectors = _terms(texts, comments), _scaled(vectors_ND, numbers["mean"], numbers["scale"])
    distinct, counts = np.unique(comments["title"].to_numpy().astype(str), return_counts=True)
    titles = [str(title) for title, count in zip(distinct, counts, strict=True) if count >= FEWEST_OF_TITLE and title.strip()]
    rows_of = [rows for _, rows in _rows_by_title(comments, titles)]
    factor_NN = _factor(terms, vectors, rows_of)
    terms_of = [np.unique(terms[rows].indices) for rows in rows_of]
    numbers["starts"] = np.cumsum([0, *map(len, terms_of)], dtype=np.int64)
    numbers["terms"] = np.concatenate([np.zeros(0, np.int64), *terms_of]).astype(np.int64)
    for task, classes in labels.items():
        known = codes[task] >= 0
        tolerance = TOLERANCE / len(known)
        weights_KN, numbers[f"intercept/{task}"] = fit_classes(factor_NN[known], codes[task][known], len(classes), STRENGTH, tolerance)
        dual_NK = solve_triangular(factor_NN, weights_KN.T.astype(np.float32), lower=True, trans="T", check_finite=False)
        numbers[f"text/{task}"], numbers[f"vector/{task}"] = terms.T @ dual_NK, vectors.T @ dual_NK
        own = [terms[rows][:, used].T @ dual_NK[rows] for rows, used in zip(rows_of, terms_of, strict=True)]
        numbers[f"own-text/{task}"] = np.concatenate([np.zeros((0, len(classes)), np.float32), *own])
        numbers[f"own-vector/{task}"] = np.reshape(
            [vectors[rows].T @ dual_NK[rows] for rows in rows_of], (len(titles), vectors.shape[1], len(classes))
        ).astype(np.float32)
    return FusedModel(list(labels), texts, titles, numbers)


def _factor(terms: csr_matrix, vectors_ND: NDArray[np.float32], rows_of: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """The lower Cholesky factor (N, N) of the rows' likenesses."""
    likeness_NN = vectors_ND @ vectors_ND.T
    for at in range(0, len(likeness_NN), ROWS_AT_ONCE):
        likeness_NN[at : at + ROWS_AT_ONCE] += (terms[at : at + ROWS_AT_ONCE] @ terms.T).toarray()
    for rows in rows_of:
        likeness_NN[np.ix_(rows, rows)] *= 2
    diagonal = np.diag_indices(len(likeness_NN))
    likeness_NN[diagonal] += JITTER * likeness_NN[diagonal].mean() + np.finfo(np.float32).tiny
    factor: NDArray[np.float32] = cholesky(likeness_NN, lower=True, overwrite_a=True, check_finite=False)
    return factor


def _terms(texts: TextFeatures, comments: pa.Table) -> csr_matrix:
    """(N, V) float32, each kind of terms scaled to its share."""
    blocks = [np.sqrt(TEXT_SHARES[column]) * fitted.transform(comments[column].to_pylist()) for column, fitted in texts]
    return csr_matrix(hstack(blocks, dtype=np.float32)) if blocks else csr_matrix((comments.num_rows, 0), dtype=np.float32)


def _scaled(vectors_ND: Features, mean_D: Floats, scale_D: Floats) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = ((vectors_ND - mean_D) / scale_D * np.sqrt(VECTOR_SHARE / vectors_ND.shape[1])).astype(np.float32)
    return scaled


def _rows_by_title(comments: pa.Table, titles: list[str]) -> list[tuple[int, NDArray[np.int64]]]:
    """(number of the title, its rows) for each of the titles that is there."""
    asked = comments["title"].cast(pa.large_string())
    numbers_N = pc.fill_null(pc.index_in(asked, value_set=pa.array(titles, pa.large_string())), len(titles)).to_numpy()
    order_N = np.argsort(numbers_N, kind="stable")
    bounds = np.searchsorted(numbers_N[order_N], np.arange(len(titles) + 1))
    return [(number, order_N[bounds[number] : bounds[number + 1]]) for number in range(len(titles)) if bounds[number] < bounds[number + 1]]
