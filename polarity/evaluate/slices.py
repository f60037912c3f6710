"""Scores of parts of a split: each title with enough rows, and each task within the classes of the other tasks.

A slice seldom holds every class, so its macro-F1 is the mean over the classes that have a labelled row in it, as everywhere:
compare slices with each other, not with the headline, which is of more classes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.evaluate.metrics import accuracy, class_scores, confusion_matrix
from polarity.evaluate.predictions import Floats, Labels, label_column, task_codes, title_codes
from polarity.evaluate.results import ClassSlice, Slices, SliceScore, TitleSlice

MIN_ROWS = 30
MAX_TITLES = 100
TITLE_WIDTH = 60


def slices(
    predictions: pa.Table, labels: Labels, *, resamples: int, seed: int = 0, min_rows: int = MIN_ROWS, max_titles: int = MAX_TITLES
) -> Slices:
    """{"title": [...], "within": [...]}, each slice with its rows and per task macro-F1, interval (rows resampled) and accuracy.

    `title` lists the `max_titles` most frequent titles of at least `min_rows` rows, by size; `within` lists each task on the rows
    of each class of each other task.
    """
    return {
        "title": _by_title(predictions, labels, resamples, seed, min_rows, max_titles),
        "within": _within_classes(predictions, labels, resamples, seed),
    }


def shorten(title: str, width: int = TITLE_WIDTH) -> str:
    """The title in one line of at most `width` characters, cut with an ellipsis."""
    line = " ".join(title.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _by_title(predictions: pa.Table, labels: Labels, resamples: int, seed: int, min_rows: int, max_titles: int) -> list[TitleSlice]:
    codes, titles = title_codes(predictions)
    counts = np.bincount(codes, minlength=len(titles))
    largest = [int(t) for t in np.argsort(-counts, kind="stable")[:max_titles] if counts[t] >= min_rows]
    found: list[TitleSlice] = []
    for title in largest:
        rows = predictions.filter(pa.array(codes == title))
        tasks = {task: score_slice(rows, task, classes, [resamples, seed, title]) for task, classes in labels.items()}
        found.append(
            {
                "title": shorten(titles[title]),
                "rows": rows.num_rows,
                "tasks": {task: score for task, score in tasks.items() if score is not None},
            }
        )
    return found


def _within_classes(predictions: pa.Table, labels: Labels, resamples: int, seed: int) -> list[ClassSlice]:
    found: list[ClassSlice] = []
    for task, classes in labels.items():
        for other, other_classes in labels.items():
            for label in other_classes if other != task else ():
                rows = predictions.filter(pc.fill_null(pc.equal(predictions[label_column(other)], label), False))
                score = score_slice(rows, task, classes, [resamples, seed, len(found)])
                if score is not None:
                    found.append({"task": task, "within": {other: label}, **score})
    return found


def score_slice(rows: pa.Table, task: str, classes: Sequence[str], draw: list[int]) -> SliceScore | None:
    """Score of one task on a slice, None where no row is labelled; `draw` is the number of resamples and the seeds."""
    confusion = confusion_matrix(*task_codes(rows, task, classes), len(classes))
    labelled = int(confusion.sum())
    if not labelled:
        return None
    occurs: NDArray[np.bool_] = confusion.sum(axis=1) > 0
    resamples, *seed = draw
    drawn = np.random.default_rng(seed).multinomial(labelled, confusion.ravel() / labelled, size=resamples)
    spread: Floats = class_scores(drawn.reshape(-1, *confusion.shape)).f1[:, occurs].mean(axis=1)
    low, high = np.percentile(spread, [2.5, 97.5])
    return {
        "labelled": labelled,
        "macro_f1": float(class_scores(confusion).f1[occurs].mean()),
        "ci95": [float(low), float(high)],
        "accuracy": float(accuracy(confusion)),
    }
