"""Judging predictions: metrics, intervals, slices, floors, verdict. Reads predictions tables and nothing else."""

from polarity.evaluate.intervals import paired_difference
from polarity.evaluate.judge import Stability, build_metrics, evaluate_split, verdict
from polarity.evaluate.predictions import build_predictions, check_predictions, label_column, prediction_column, probability_column
from polarity.evaluate.render import render_metrics
from polarity.evaluate.results import Metrics, PartResult, metrics_schema

__all__ = [
    "Metrics",
    "PartResult",
    "Stability",
    "build_metrics",
    "build_predictions",
    "check_predictions",
    "evaluate_split",
    "label_column",
    "metrics_schema",
    "paired_difference",
    "prediction_column",
    "probability_column",
    "render_metrics",
    "verdict",
]
