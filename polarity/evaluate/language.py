"""The language of a comment: tagalog, cebuano, english, mixed or other. Needs the extra `languages` (pycld2, which works offline).

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
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from polarity.errors import DataError
from polarity.evaluate.predictions import Labels
from polarity.evaluate.results import Language, LanguageSlice
from polarity.evaluate.slices import MIN_ROWS, score_slice

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
    import pycld2

    return [_language(pycld2, comment) for comment in comments]


def _language(cld: ModuleType, comment: str) -> str:
    words = _UNREADABLE.sub(" ", comment[:MOST_CHARACTERS]).split()
    whole = _detect(cld, " ".join(words))
    windows = [" ".join(words[i : i + WINDOW]) for i in range(max(1, len(words) - WINDOW + 1))]
    found = Counter(_detect(cld, window) for window in windows)
    english, philippine = found["english"], found["tagalog"] + found["cebuano"]
    if min(english, philippine) >= max(1.0, MIXED_SHARE * (english + philippine)):
        return "mixed"
    return whole


def _detect(cld: ModuleType, text: str) -> str:
    return _cached(cld, text) if len(text) < 64 else _first(cld, text)


@lru_cache(maxsize=100_000)
def _cached(cld: ModuleType, text: str) -> str:
    return _first(cld, text)


def _first(cld: Any, text: str) -> str:
    try:
        _, _, details = cld.detect(text, bestEffort=True, isPlainText=True)
    except cld.error:  # a character that it does not take
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
        if rows.num_rows < MIN_ROWS:
            continue
        scored = {task: score_slice(rows, task, classes, [resamples, seed, number]) for task, classes in labels.items()}
        tasks = {task: score for task, score in scored.items() if score is not None}
        slices.append({"language": language, "rows": rows.num_rows, "tasks": tasks})
    return sorted(slices, key=lambda each: -each["rows"])
