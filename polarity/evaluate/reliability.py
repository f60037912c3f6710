"""How far probabilities can be trusted: calibration error, reliability diagrams, and risk against coverage.

A row's confidence is its largest probability; bins hold equally many rows (Nguyen and O'Connor 2015), so that none is nearly empty.
Shapes: N rows, K classes.
"""

from typing import Any

import numpy as np
from scipy.stats import binomtest

from polarity.evaluate.predictions import Codes, Floats

BINS = 15
COVERAGES = tuple(percent / 100 for percent in range(5, 101, 5))


def expected_calibration_error(probabilities: Floats, labels: Codes, bins: int = BINS) -> float:
    """ECE (Naeini et al. 2015), a fraction: the bins' mean gap between confidence and accuracy, weighted by rows.

    `probabilities` (N, K), `labels` (N,) class indices. On few rows it is above 0 even for perfect probabilities.
    """
    return float(sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in _bins(probabilities, labels, bins)) / len(labels))


def reliability(probabilities: Floats, labels: Codes, bins: int = BINS) -> list[dict[str, Any]]:
    """The bars of a reliability diagram: per bin mean confidence, accuracy with its 95 % interval (Wilson), and rows."""
    found = _bins(probabilities, labels, bins)
    for b in found:
        interval = binomtest(b.pop("hits"), b["rows"]).proportion_ci(0.95, "wilson")
        b["ci95"] = [float(interval.low), float(interval.high)]
    return found


def _bins(probabilities: Floats, labels: Codes, bins: int) -> list[dict[str, Any]]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return [
        {
            "confidence": float(confidence[rows].mean()),
            "accuracy": float(right[rows].mean()),
            "rows": len(rows),
            "hits": int(right[rows].sum()),
        }
        for rows in parts
    ]


def log_loss(probabilities: Floats, labels: Codes) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1.0)).mean())


def risk_coverage(probabilities: Floats, predicted: Codes, labels: Codes) -> list[dict[str, float]]:
    """If only the most confident rows are answered: per coverage (share answered) the risk (share of them wrong) and the threshold.

    The confidence is the predicted class's probability; a model that abstains below `threshold` answers about that share
    (El-Yaniv and Wiener 2010).
    """
    confidence = probabilities[np.arange(len(labels)), predicted]
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(predicted[order] != labels[order])
    kept = [max(1, round(coverage * len(labels))) for coverage in COVERAGES]
    return [
        {"coverage": coverage, "risk": float(errors[n - 1] / n), "threshold": float(confidence[order[n - 1]])}
        for coverage, n in zip(COVERAGES, kept, strict=True)
    ]
