"""The linear floor: TF-IDF of the comment's words and characters and of the title's words, balanced logistic regression.

The recipe is STRATEGY.md's "Known facts": 64.2 % macro-F1 on the plan's test rows, in seconds. A neural model that does not
beat it has not earned its cost.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from polarity.baselines.majority import class_shares, label_codes
from polarity.errors import DataError, Say
from polarity.evaluate.predictions import Codes, Floats, Labels

INVERSE_REGULARISATION = 3.0
MAX_ITERATIONS = 1000  # the plan's rows need about 80
MOST_ROWS = 50_000
"""Training rows that the floor is fitted on at most: one or two minutes, and 1.2 GB where all words are random. More are sampled, and said
to be: of 200,000 such rows the word pairs alone, each with its share of the optimizer's memory, took more than 4 GB."""
ROWS_AT_ONCE = 50_000
"""Rows whose terms are in memory together in prediction."""


@dataclass(frozen=True)
class _Block:
    """One kind of features: what it is called, the column it reads, how text becomes terms."""

    name: str
    column: str
    analyzer: str
    ngrams: tuple[int, int]
    min_df: int
    sublinear_tf: bool

    def vectorizer(self, min_df: int) -> TfidfVectorizer:
        return TfidfVectorizer(analyzer=self.analyzer, ngram_range=self.ngrams, min_df=min_df, sublinear_tf=self.sublinear_tf)


_BLOCKS = (
    _Block("words of the comment", "comment", "word", (1, 2), 2, True),
    _Block("characters of the comment", "comment", "char_wb", (2, 5), 3, True),
    _Block("words of the title", "title", "word", (1, 1), 1, False),
)


TextFeatures = list[tuple[str, TfidfVectorizer]]
"""Fitted vectorizers, each with the column that it reads."""


@dataclass(frozen=True)
class LinearFloor:
    """The fitted features and one classifier a task; `shares` is there for classes that a task never saw."""

    features: TextFeatures
    classifiers: dict[str, LogisticRegression | None]
    shares: dict[str, Floats]

    def probabilities(self, comments: pa.Table) -> dict[str, Floats]:
        """Per task (N, K) in class order; 0 for a class without a training row."""
        blocks = [self._probabilities(comments.slice(at, ROWS_AT_ONCE)) for at in range(0, max(comments.num_rows, 1), ROWS_AT_ONCE)]
        return {task: np.concatenate([block[task] for block in blocks]) for task in self.shares}

    def _probabilities(self, comments: pa.Table) -> dict[str, Floats]:
        terms = _terms(self.features, comments)
        result: dict[str, Floats] = {}
        for task, shares in self.shares.items():
            classifier = self.classifiers[task]
            probabilities = np.tile(shares, (comments.num_rows, 1))
            if classifier is not None:
                probabilities = np.zeros_like(probabilities)
                probabilities[:, classifier.classes_] = classifier.predict_proba(terms)
            result[task] = probabilities
        return result


def linear(train: pa.Table, held_out: pa.Table, labels: Labels, *, say: Say) -> dict[str, Floats]:
    """Fit on `train` and give each held-out row's probabilities, per task (N, K); see `fit_linear`."""
    return fit_linear(train, labels, say=say).probabilities(held_out)


def fit_linear(train: pa.Table, labels: Labels, *, say: Say) -> LinearFloor:
    """Fit the features on all training comments (a sample of `MOST_ROWS`, where there are more), and each task's classifier on the rows
    of them that carry its label.

    On few rows a `min_df` that leaves no term is lowered to 1, and a text without any term is left out; both are said through
    `say`. Raises DataError where a task has no labelled row or no text holds a term.
    """
    if train.num_rows > MOST_ROWS:
        say(f"linear baseline: fitted on a random sample of {MOST_ROWS:,} of the {train.num_rows:,} training rows")
        train = _rows(train, np.sort(np.random.default_rng(0).choice(train.num_rows, MOST_ROWS, replace=False)))
    features = fit_features(train, say)
    if not features:
        raise DataError("no training comment or title holds a word or character to build the linear baseline on")
    terms = _terms(features, train)
    classifiers: dict[str, LogisticRegression | None] = {}
    shares = {}
    for task, classes in labels.items():
        codes = label_codes(train, task)
        shares[task] = class_shares(codes, len(classes), task)
        classifiers[task] = _fit_task(terms, codes, task, say)
    return LinearFloor(features, classifiers, shares)


def _rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """The rows at these ascending positions, batch by batch: `Table.take` would first copy all texts into one piece."""
    parts, start = [], 0
    for batch in table.to_batches():
        first, last = np.searchsorted(rows, [start, start + batch.num_rows])
        parts.append(batch.take(pa.array(rows[first:last] - start)))
        start += batch.num_rows
    return pa.Table.from_batches(parts, schema=table.schema)


def fit_features(train: pa.Table, say: Say) -> TextFeatures:
    """Words and characters of the comments and words of the titles; those that no text holds are left out, and said to be."""
    return [(block.column, fitted) for block in _BLOCKS if (fitted := _fit_block(block, train, say)) is not None]


def _fit_block(block: _Block, train: pa.Table, say: Say) -> TfidfVectorizer | None:
    texts = train[block.column].to_pylist()
    fitted = _fit(block, texts, block.min_df)
    if fitted is None and block.min_df > 1:
        fitted = _fit(block, texts, 1)
        if fitted is not None:
            say(f"linear baseline: no {block.name} occur in {block.min_df} training rows; min_df is 1 instead of {block.min_df}")
    if fitted is None and (block.column != "title" or any(texts)):
        say(f"linear baseline: the training rows hold no {block.name}, left out")
    return fitted


def _fit(block: _Block, texts: list[str], min_df: int) -> TfidfVectorizer | None:
    """The fitted vectorizer, or None where no term is left: the one thing that scikit-learn's ValueError means here."""
    try:
        return block.vectorizer(min_df).fit(texts)
    except ValueError:
        return None


def _fit_task(terms: csr_matrix, codes: Codes, task: str, say: Say) -> LogisticRegression | None:
    known = np.flatnonzero(codes >= 0)
    if len(np.unique(codes[known])) < 2:
        say(f"linear baseline: the training rows hold one class of {task} only, which is predicted for every row")
        return None
    classifier = new_classifier()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(terms[known], codes[known])
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        say(f"linear baseline: {task} did not converge in {MAX_ITERATIONS} iterations; its scores may be a little low")
    return classifier


def new_classifier() -> LogisticRegression:
    """The recipe's logistic regression, not yet fitted."""
    return LogisticRegression(C=INVERSE_REGULARISATION, class_weight="balanced", max_iter=MAX_ITERATIONS)


def _terms(features: list[tuple[str, TfidfVectorizer]], comments: pa.Table) -> csr_matrix:
    return csr_matrix(hstack([vectorizer.transform(comments[column].to_pylist()) for column, vectorizer in features]))
