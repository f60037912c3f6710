"""Using a trained run: scores, labels and probabilities of new comments."""

from polarity.predict.classifier import Classifier, load_classifier, prediction_columns
from polarity.predict.scorers import Scores

__all__ = ["Classifier", "Scores", "load_classifier", "prediction_columns"]
