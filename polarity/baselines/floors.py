"""The floors that every result stands beside, fitted on training rows only: majority, title only, linear.

The linear floor is TF-IDF of the comment's words and characters and of the title's words, balanced logistic regression. The recipe is
STRATEGY.md's "Known facts": 64.2 % macro-F1 on the plan's test rows, in seconds. A neural model that does not beat it has not earned its
cost.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from polarity.arrays import Codes, Floats
from polarity.artifacts import release_mapped_pages
from polarity.errors import DataError, RunError, Say
from polarity.evaluate.predictions import MISSING, Labels, build_predictions


def floors(train: pa.Table, held_out: Mapping[str, pa.Table], labels: Labels, *, say: Say) -> dict[str, dict[str, pa.Table]]:
    """{split: {"majority", "title", "linear": predictions}} for comments tables, each fitted on `train` alone.

    The title floor is left out where no training row has a title. Raises DataError where a task has no labelled training row.
    """
    linear = fit_linear(train, labels, say=say)
    title = fit_title_prior(train, labels) if pc.any(pc.not_equal(train["title"], "")).as_py() else None
    found: dict[str, dict[str, pa.Table]] = {}
    for split, comments in held_out.items():
        probabilities = {"majority": majority(train, comments, labels)}
        if title is not None:
            probabilities["title"] = title.probabilities(comments)
        probabilities["linear"] = linear.probabilities(comments)
        found[split] = {name: build_predictions(split, comments, probs, labels) for name, probs in probabilities.items()}
    return found


def majority(train: pa.Table, held_out: pa.Table, labels: Labels) -> dict[str, Floats]:
    """Per task the training shares of the classes, repeated for each held-out row: (N, K)."""
    return {
        task: np.tile(class_shares(label_codes(train, task), len(classes), task), (held_out.num_rows, 1))
        for task, classes in labels.items()
    }


def label_codes(comments: pa.Table, task: str) -> Codes:
    """Class indices (N,) of a comments table, -1 where the label is missing."""
    codes: Codes = pc.fill_null(comments[task], MISSING).to_numpy().astype(np.int64)
    return codes


def class_shares(codes: Codes, classes: int, task: str) -> Floats:
    """Share of each class (K,) among the labelled rows; raises DataError where none is labelled."""
    counts = np.bincount(codes[codes >= 0], minlength=classes)
    if not counts.sum():
        raise DataError(f"no training row has a label of task {task!r}: there is nothing to fit a baseline on")
    shares: Floats = counts / counts.sum()
    return shares


SMOOTHING_ROWS = 1.0
TITLE_FILE = "title.json"


@dataclass(frozen=True)
class TitlePrior:
    """The training titles, and per task their class probabilities (T + 1, K); the last row is for a title that training never saw."""

    titles: list[str]
    shares: dict[str, Floats]

    def probabilities(self, comments: pa.Table) -> dict[str, Floats]:
        """Per task (N, K) of a table's rows, by their `title`."""
        known = pa.array(self.titles, pa.large_string())
        asked = comments["title"].cast(pa.large_string())
        rows = pc.fill_null(pc.index_in(asked, value_set=known), len(self.titles)).to_numpy()
        return {task: shares[rows] for task, shares in self.shares.items()}

    def save(self, folder: Path) -> None:
        """Write title.json into an existing folder."""
        content = {"titles": self.titles, "shares": {task: shares.tolist() for task, shares in self.shares.items()}}
        (folder / TITLE_FILE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TitlePrior":
        """What `save` wrote. Raises RunError where the file is missing or damaged."""
        try:
            content = json.loads((folder / TITLE_FILE).read_text("utf-8"))
            shares = {task: np.asarray(rows, np.float64) for task, rows in content["shares"].items()}
            titles = [str(title) for title in content["titles"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{folder / TITLE_FILE}: cannot be read ({error}); copy the run again") from error
        if any(rows.ndim != 2 or len(rows) != len(titles) + 1 for rows in shares.values()):
            raise RunError(f"{folder / TITLE_FILE}: its shares do not fit its titles; copy the run again")
        return cls(titles, shares)


def fit_title_prior(train: pa.Table, labels: Labels) -> TitlePrior:
    """Per task (n_tc + prior_c) / (n_t + 1) of each title t, and the prior for a title unseen in training."""
    titles = pc.unique(train["title"])
    rows = pc.index_in(train["title"], value_set=titles).to_numpy()
    found: dict[str, Floats] = {}
    for task, classes in labels.items():
        codes = label_codes(train, task)
        prior = class_shares(codes, len(classes), task)
        known = codes >= 0
        counts = np.zeros((len(titles) + 1, len(classes)))  # the last row is for unseen titles
        np.add.at(counts, (rows[known], codes[known]), 1.0)
        found[task] = (counts + SMOOTHING_ROWS * prior) / (counts.sum(axis=1, keepdims=True) + SMOOTHING_ROWS)
    return TitlePrior([str(title) for title in titles.to_pylist()], found)


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


def fit_linear(train: pa.Table, labels: Labels, *, say: Say) -> LinearFloor:
    """Fit the features on all training comments (a sample of `MOST_ROWS`, where there are more), and each task's classifier on the rows
    of them that carry its label.

    On few rows a `min_df` that leaves no term is lowered to 1, and a text without any term is left out; both are said through
    `say`. Raises DataError where a task has no labelled row or no text holds a term.
    """
    if train.num_rows > MOST_ROWS:
        say(f"linear baseline: fitted on a random sample of {MOST_ROWS:,} of the {train.num_rows:,} training rows")
        train = draw_rows(train, np.sort(np.random.default_rng(0).choice(train.num_rows, MOST_ROWS, replace=False)))
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


def draw_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """The rows at these ascending positions, batch by batch: `Table.take` would first copy all texts into one piece, and of mapped files
    everything near a drawn row would stay in memory."""
    parts, start = [], 0
    for batch in table.to_batches():
        first, last = np.searchsorted(rows, [start, start + batch.num_rows])
        parts.append(batch.take(pa.array(rows[first:last] - start)))
        start += batch.num_rows
        release_mapped_pages()
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
    classifier = _new_classifier()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(terms[known], codes[known])
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        say(f"linear baseline: {task} did not converge in {MAX_ITERATIONS} iterations; its scores may be a little low")
    return classifier


def _new_classifier() -> LogisticRegression:
    return LogisticRegression(C=INVERSE_REGULARISATION, class_weight="balanced", max_iter=MAX_ITERATIONS)


def _terms(features: TextFeatures, comments: pa.Table) -> csr_matrix:
    return csr_matrix(hstack([vectorizer.transform(comments[column].to_pylist()) for column, vectorizer in features]))


SETTINGS, NUMBERS = "linear.json", "linear.safetensors"
SCHEMA_VERSION = 1

Numbers = dict[str, Floats]


class VectorizerSettings(TypedDict):
    """A fitted vectorizer but for its numbers: the column that it reads, how text becomes terms, and the terms in order."""

    column: str
    analyzer: str
    ngram_range: Sequence[int]
    min_df: int
    sublinear_tf: bool
    terms: list[str]


class LinearSettings(TypedDict):
    """linear.json; `classes` are the indices of the classes that a task's classifier saw, null where it has none."""

    schema_version: int
    labels: dict[str, list[str]]
    features: list[VectorizerSettings]
    classes: dict[str, list[int] | None]


def save_linear(folder: Path, floor: LinearFloor, labels: Labels) -> None:
    """Write linear.json (settings and terms) and linear.safetensors (numbers) into the existing `folder`; `labels` are {task: classes}.

    The files hold data only, no pickle, and numbers in float64: a loaded floor gives the probabilities of the fitted one to the last bit.
    """
    features, numbers = write_features(floor.features)
    numbers |= {f"share/{task}": np.ascontiguousarray(shares) for task, shares in floor.shares.items()}
    classes: dict[str, list[int] | None] = {}
    for task, classifier in floor.classifiers.items():
        classes[task] = None if classifier is None else [int(index) for index in classifier.classes_]
        if classifier is not None:
            numbers[f"coef/{task}"] = np.ascontiguousarray(classifier.coef_, dtype=np.float64)
            numbers[f"intercept/{task}"] = np.ascontiguousarray(classifier.intercept_, dtype=np.float64)
    content: LinearSettings = {
        "schema_version": SCHEMA_VERSION,
        "labels": {task: list(names) for task, names in labels.items()},
        "features": features,
        "classes": classes,
    }
    (folder / SETTINGS).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(numbers, folder / NUMBERS)


def load_linear(folder: Path) -> tuple[LinearFloor, dict[str, list[str]]]:
    """The floor and its labels. Raises RunError naming the file that is missing, damaged, of another version, or does not fit the other."""
    settings = _read_settings(folder / SETTINGS)
    try:
        numbers: Numbers = load_file(folder / NUMBERS)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder / NUMBERS}: cannot be read ({error}); make the ensemble again") from error
    try:
        features = read_features(settings["features"], numbers)
        labels = {task: [str(name) for name in names] for task, names in settings["labels"].items()}
        width = sum(len(vectorizer.idf_) for _, vectorizer in features)
        classifiers = {task: _classifier(task, settings["classes"][task], numbers, width) for task in labels}
        shares = {task: _of_shape(numbers[f"share/{task}"], (len(names),), f"share/{task}") for task, names in labels.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder}: {SETTINGS} and {NUMBERS} do not fit one another ({error}); make the ensemble again") from error
    return LinearFloor(features, classifiers, shares), labels


def write_features(features: TextFeatures) -> tuple[list[VectorizerSettings], Numbers]:
    """Settings and terms of vectorizers for a JSON file, and their numbers, which are named by place."""
    settings: list[VectorizerSettings] = []
    numbers: Numbers = {}
    for index, (column, vectorizer) in enumerate(features):
        settings.append(
            {
                "column": column,
                "analyzer": vectorizer.analyzer,
                "ngram_range": vectorizer.ngram_range,
                "min_df": vectorizer.min_df,
                "sublinear_tf": vectorizer.sublinear_tf,
                "terms": [str(term) for term in vectorizer.get_feature_names_out()],
            }
        )
        numbers[f"idf/{index}"] = np.ascontiguousarray(vectorizer.idf_, dtype=np.float64)
    return settings, numbers


def read_features(settings: list[VectorizerSettings], numbers: Numbers) -> TextFeatures:
    """What `write_features` wrote. Raises KeyError, TypeError or ValueError where the two do not fit one another."""
    return [(spec["column"], _vectorizer(spec, numbers[f"idf/{index}"])) for index, spec in enumerate(settings)]


def _read_settings(path: Path) -> LinearSettings:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); make the ensemble again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(f"{path}: has schema version {version}, this polarity reads {SCHEMA_VERSION}: use the version that wrote it")
    return cast(LinearSettings, content)


def _vectorizer(spec: VectorizerSettings, idf: Floats) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(
        analyzer=spec["analyzer"], ngram_range=tuple(spec["ngram_range"]), min_df=spec["min_df"], sublinear_tf=spec["sublinear_tf"],
        vocabulary={term: index for index, term in enumerate(spec["terms"])},
    )  # fmt: skip
    vectorizer.idf_ = _of_shape(idf, (len(spec["terms"]),), "idf")
    return vectorizer


def _classifier(task: str, classes: list[int] | None, numbers: Numbers, width: int) -> LogisticRegression | None:
    if classes is None:
        return None
    rows = 1 if len(classes) == 2 else len(classes)  # two classes share one row of weights
    classifier = _new_classifier()
    classifier.classes_ = np.asarray(classes, dtype=np.int64)
    classifier.coef_ = _of_shape(numbers[f"coef/{task}"], (rows, width), f"coef/{task}")
    classifier.intercept_ = _of_shape(numbers[f"intercept/{task}"], (rows,), f"intercept/{task}")
    classifier.n_features_in_ = width
    return classifier


def _of_shape(values: Floats, shape: tuple[int, ...], name: str) -> Floats:
    if values.shape != shape or values.dtype != np.float64:
        raise ValueError(f"{name} is {values.dtype} of shape {values.shape}, expected float64 of shape {shape}")
    return values
