"""The linear floor in files that hold data only: `linear.json` (settings and terms) and `linear.safetensors` (numbers). No pickle.

Numbers are kept in float64, so that a loaded floor gives the probabilities of the fitted one to the last bit.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from polarity.baselines.linear import LinearFloor, TextFeatures, new_classifier
from polarity.errors import RunError
from polarity.evaluate.predictions import Floats, Labels

SETTINGS, NUMBERS = "linear.json", "linear.safetensors"
SCHEMA_VERSION = 1
_KEPT = ("analyzer", "ngram_range", "min_df", "sublinear_tf")

Numbers = dict[str, Floats]


def save_linear(folder: Path, floor: LinearFloor, labels: Labels) -> None:
    """Write the two files into the existing `folder`; `labels` are {task: classes in order}."""
    features, numbers = write_features(floor.features)
    numbers |= {f"share/{task}": np.ascontiguousarray(shares) for task, shares in floor.shares.items()}
    classes: dict[str, list[int] | None] = {}
    for task, classifier in floor.classifiers.items():
        classes[task] = None if classifier is None else [int(index) for index in classifier.classes_]
        if classifier is not None:
            numbers[f"coef/{task}"] = np.ascontiguousarray(classifier.coef_, dtype=np.float64)
            numbers[f"intercept/{task}"] = np.ascontiguousarray(classifier.intercept_, dtype=np.float64)
    content = {
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


def write_features(features: TextFeatures) -> tuple[list[dict[str, Any]], Numbers]:
    """Settings and terms of vectorizers for a JSON file, and their numbers, which are named by place."""
    settings: list[dict[str, Any]] = []
    numbers: Numbers = {}
    for index, (column, vectorizer) in enumerate(features):
        kept = {name: vectorizer.get_params()[name] for name in _KEPT}
        settings.append({"column": column, **kept, "terms": [str(term) for term in vectorizer.get_feature_names_out()]})
        numbers[f"idf/{index}"] = np.ascontiguousarray(vectorizer.idf_, dtype=np.float64)
    return settings, numbers


def read_features(settings: list[dict[str, Any]], numbers: Numbers) -> TextFeatures:
    """What `write_features` wrote. Raises KeyError, TypeError or ValueError where the two do not fit one another."""
    return [(spec["column"], _vectorizer(spec, numbers[f"idf/{index}"])) for index, spec in enumerate(settings)]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); make the ensemble again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(f"{path}: has schema version {version}, this polarity reads {SCHEMA_VERSION}: use the version that wrote it")
    return dict(content)


def _vectorizer(spec: dict[str, Any], idf: Floats) -> TfidfVectorizer:
    settings = {name: tuple(spec[name]) if name == "ngram_range" else spec[name] for name in _KEPT}
    vectorizer = TfidfVectorizer(**settings, vocabulary={term: index for index, term in enumerate(spec["terms"])})
    vectorizer.idf_ = _of_shape(idf, (len(spec["terms"]),), "idf")
    return vectorizer


def _classifier(task: str, classes: list[int] | None, numbers: Numbers, width: int) -> LogisticRegression | None:
    if classes is None:
        return None
    rows = 1 if len(classes) == 2 else len(classes)  # two classes share one row of weights
    classifier = new_classifier()
    classifier.classes_ = np.asarray(classes, dtype=np.int64)
    classifier.coef_ = _of_shape(numbers[f"coef/{task}"], (rows, width), f"coef/{task}")
    classifier.intercept_ = _of_shape(numbers[f"intercept/{task}"], (rows,), f"intercept/{task}")
    classifier.n_features_in_ = width
    return classifier


def _of_shape(values: Floats, shape: tuple[int, ...], name: str) -> Floats:
    if values.shape != shape or values.dtype != np.float64:
        raise ValueError(f"{name} is {values.dtype} of shape {values.shape}, expected float64 of shape {shape}")
    return values
