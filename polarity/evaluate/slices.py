"""Scores of parts of a split: each title with enough rows, each task within the classes of the other tasks, and each language.

A slice seldom holds every class, so its macro-F1 is the mean over the classes that have a labelled row in it, as everywhere:
compare slices with each other, not with the headline, which is of more classes.

The language of a comment (tagalog, cebuano, english, mixed or other) needs the extra `languages` (pycld2, which works offline).
pycld2 was chosen by measurement: on 60 sentences of our own in one language it named 59 rightly, fastText's lid.176 50, py3langid and
lingua 40 (they do not know Cebuano). Mixed is what has at least a tenth of its four-word windows on each side of English against
Tagalog or Cebuano: 17 of 20 mixed sentences were found, 2 of 60 others taken for mixed. (The window was chosen on these same
sentences, among about 20 settings, so that figure flatters it; they are clean text, and real comments are not.) Tagalog mixed
with Cebuano counts as the larger of both. Short comments are the hardest: of the first two words of those sentences it named 45 of 60.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Floats
from polarity.errors import DataError
from polarity.evaluate.metrics import accuracy, class_scores, confusion_matrix
from polarity.evaluate.predictions import Labels, label_column, task_codes, title_codes
from polarity.evaluate.results import ClassSlice, Language, LanguageSlice, Slices, SliceScore, TitleSlice

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


def shorten(title: str) -> str:
    """The title in one line of at most TITLE_WIDTH characters, cut with an ellipsis."""
    line = " ".join(title.split())
    return line if len(line) <= TITLE_WIDTH else line[: TITLE_WIDTH - 1].rstrip() + "…"


def _by_title(predictions: pa.Table, labels: Labels, resamples: int, seed: int, min_rows: int, max_titles: int) -> list[TitleSlice]:
    codes, titles = title_codes(predictions)
    counts = np.bincount(codes, minlength=len(titles))
    largest = [int(t) for t in np.argsort(-counts, kind="stable")[:max_titles] if counts[t] >= min_rows]
    found: list[TitleSlice] = []
    for title in largest:
        rows = predictions.filter(pa.array(codes == title))
        tasks = _score_tasks(rows, labels, [resamples, seed, title])
        found.append({"title": shorten(titles[title]), "rows": rows.num_rows, "tasks": tasks})
    return found


def _score_tasks(rows: pa.Table, labels: Labels, draw: list[int]) -> dict[str, SliceScore]:
    """The scores of the tasks that have a labelled row on a slice; `draw` as in `score_slice`."""
    scored = {task: score_slice(rows, task, classes, draw) for task, classes in labels.items()}
    return {task: score for task, score in scored.items() if score is not None}


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


LANGUAGES: tuple[Language, ...] = get_args(Language)
WINDOW = 4
MIXED_SHARE = 0.1
MOST_CHARACTERS = 2000
"""What follows in a longer comment is not looked at."""

_CODES = {"tl": "tagalog", "fil": "tagalog", "ceb": "cebuano", "en": "english"}
# pycld2 refuses whole texts for these; links and names of accounts are in no language.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]|https?://\S+|@\w+")


def can_tell_languages() -> bool:
    """Whether the extra `languages` is installed."""
    return find_spec("pycld2") is not None


def languages(comments: Sequence[str]) -> list[str]:
    """Each comment's language, one of LANGUAGES. Raises DataError without the extra `languages`."""
    if not can_tell_languages():
        raise DataError("telling languages apart needs a package more: pip install 'polarity[languages]'")
    return [_language(comment) for comment in comments]


def _language(comment: str) -> str:
    words = _UNREADABLE.sub(" ", comment[:MOST_CHARACTERS]).split()
    windows = [" ".join(words[i : i + WINDOW]) for i in range(max(1, len(words) - WINDOW + 1))]
    found = Counter(map(_detect, windows))
    english, philippine = found["english"], found["tagalog"] + found["cebuano"]
    mixed = min(english, philippine) >= max(1.0, MIXED_SHARE * (english + philippine))
    return "mixed" if mixed else _detect.__wrapped__(" ".join(words))  # a whole text is long, and seldom seen again


@lru_cache(maxsize=100_000)
def _detect(text: str) -> str:
    import pycld2

    try:
        _, _, details = pycld2.detect(text, bestEffort=True, isPlainText=True)
    except pycld2.error:  # a character that it does not take
        return "other"
    return _CODES.get(details[0][1], "other")


def language_slices(
    predictions: pa.Table, comments: Sequence[str], labels: Labels, *, resamples: int, seed: int = 0
) -> list[LanguageSlice]:
    """Per language with at least MIN_ROWS rows its rows and each task's scores, as slices by title have them, the largest first.

    `comments` are the texts of the predictions' rows, in their order.
    """
    found = np.asarray(languages(comments))
    slices: list[LanguageSlice] = []
    for number, language in enumerate(LANGUAGES):
        rows = predictions.filter(pa.array(found == language))
        if rows.num_rows >= MIN_ROWS:
            tasks = _score_tasks(rows, labels, [resamples, seed, number])
            slices.append({"language": language, "rows": rows.num_rows, "tasks": tasks})
    return sorted(slices, key=lambda each: -each["rows"])
