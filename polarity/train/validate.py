"""Evaluation during training: each worker scores its part of the batches, and every row is counted once, by its place in the table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polarity.data.batch import Corpus, evaluation_batches
from polarity.evaluate.metrics import class_scores, confusion_matrix, macro_f1
from polarity.model.inference import score_corpus
from polarity.model.multitask import MultitaskModel
from polarity.train.world import World


@dataclass(frozen=True)
class PartScores:
    """{task: (N, K) float32 probabilities} and {task: (N,) predicted classes}, in the table's row order."""

    probabilities: dict[str, NDArray[np.float32]]
    predicted: dict[str, NDArray[np.int64]]


def predict(model: MultitaskModel, corpus: Corpus, world: World, *, batch_size: int, precision: str) -> PartScores:
    """Score every row of the corpus over all workers; the result is whole, and the same, on every one of them."""
    training = model.training
    model.train(False)
    parts = []
    own = evaluation_batches(corpus.lengths, batch_size)[world.rank :: world.size]
    for part in score_corpus(model, corpus, own, world.device, precision):
        world.control.heartbeat()
        parts.append(part)
    model.train(training)
    gathered = [part for worker in world.gather(parts) for part in worker]
    rows = np.concatenate([part[0] for part in gathered])
    if not np.array_equal(np.sort(rows), np.arange(len(corpus))):
        raise RuntimeError("evaluation did not see every row exactly once")
    place = np.argsort(rows)
    whole = {t: [np.concatenate([part[1][t][i] for part in gathered])[place] for i in (0, 1)] for t in corpus.labels}
    return PartScores({t: pair[0] for t, pair in whole.items()}, {t: pair[1] for t, pair in whole.items()})


def macro_f1_scores(predictions: PartScores, corpus: Corpus, labels: dict[str, list[str]]) -> dict[str, float]:
    """{task: macro-F1} over the labelled rows, and `overall`, the tasks' mean."""
    scores = {}
    for task, classes in labels.items():
        scores[task] = float(macro_f1(confusion_matrix(corpus.labels[task].astype(np.int64), predictions.predicted[task], len(classes))))
    return {**scores, "overall": float(np.mean(list(scores.values())))}


def class_f1_key(task: str, name: str) -> str:
    """The key of a class's F1 among what a watcher is shown."""
    return f"f1/{task}/{name}"


def class_f1_scores(predictions: PartScores, corpus: Corpus, labels: dict[str, list[str]]) -> dict[str, float]:
    """{`class_f1_key`: F1} of every class over the labelled rows; 0 for a class that is neither there nor predicted."""
    scores = {}
    for task, classes in labels.items():
        f1 = class_scores(confusion_matrix(corpus.labels[task].astype(np.int64), predictions.predicted[task], len(classes))).f1
        scores.update({class_f1_key(task, name): float(value) for name, value in zip(classes, f1, strict=True)})
    return scores
