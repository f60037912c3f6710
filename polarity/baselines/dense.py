"""Logistic regression on dense features, such as a frozen encoder's sentence vectors: cheap, and strong where rows are few.

Shapes: N rows, D features, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from polarity.errors import RunError
from polarity.evaluate.metrics import softmax
from polarity.evaluate.predictions import Codes, Floats, Labels

FILE = "dense.safetensors"
STRENGTH = 6.8
"""C x N, the weight of all rows together against the L2 penalty: on 6,776 real rows C = 0.001 was best of 0.0003 to 0.01."""
MAX_ITERATIONS = 500
TOLERANCE = 1e-3

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
        strength = STRENGTH / max(1, int(known.sum()))
        coefficients[task], intercepts[task] = fit_classes(standard_ND[known], codes[task][known], len(classes), strength, TOLERANCE)
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
