"""Each word's part in a decision, by leaving it out: what the classifier says of the comment without the word.

Occlusion (Zeiler and Fergus 2014; for text Li, Monroe and Jurafsky 2016) takes nothing but predictions, so it works for a model, an
ensemble and a stack alike, where gradients do not reach a linear member. It costs one prediction a word. Words that say the same
thing twice share their part: without one of them the other still stands.

Shapes: N comments, K classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polarity.evaluate.predictions import Floats
from polarity.predict.classifier import Classifier

MOST_SPANS = 120
"""Parts that a comment is cut into at most; in longer ones neighbouring words are left out together."""
SMALLEST = 1e-6
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class WordPart:
    """A span of the comment (`start` to `end`, in characters), its text, and its part in log-odds of the predicted class.

    Above zero: the comment is for the class because of the span. Below: in spite of it.
    """

    text: str
    start: int
    end: int
    part: float


@dataclass(frozen=True, repr=False)
class Explanation:
    """One task's decision on one comment: the class, its probability, the words by falling part, and the title's part."""

    label: str
    confidence: float
    words: list[WordPart]
    title: float | None
    """The part of the whole title; None where there was none."""

    def top(self, count: int) -> list[WordPart]:
        """The words that speak most for the class, at most `count` of them."""
        return [word for word in self.words[:count] if word.part > 0]

    def __repr__(self) -> str:
        return f"<{self.label} ({self.confidence:.2f}): {top_words(self) or 'no word speaks for it'}>"


def top_words(found: Explanation, count: int = 5) -> str:
    """The words that speak most for the class with their parts, as one text: `grabe (+1.42), bulok (+0.80)`."""
    return ", ".join(f"{word.text} ({word.part:+.2f})" for word in found.top(count))


def explain(classifier: Classifier, texts: Sequence[str], titles: Sequence[str] | None = None) -> list[dict[str, Explanation]]:
    """For each comment {task: explanation}. Raises DataError for what `Classifier.predict` refuses.

    A word's part is log-odds(class | comment) - log-odds(class | comment without the word); probabilities are those of `predict`.
    """
    posts = [""] * len(texts) if titles is None else list(titles)
    whole = classifier.predict_table(texts, posts)
    spans = [_spans(text) for text in texts]
    variants = [_without(text, start, end) for text, cut in zip(texts, spans, strict=True) for start, end in cut]
    of_title = [post for post, cut in zip(posts, spans, strict=True) for _ in cut]
    untitled = [row for row, post in enumerate(posts) if post.strip()]
    table = pa.table(
        {
            "title": pa.array([*of_title, *("" for _ in untitled)], pa.large_string()),
            "comment": pa.array([*variants, *(texts[row] for row in untitled)], pa.large_string()),
        }
    )
    scores = classifier.score(table)
    found: list[dict[str, Explanation]] = [{} for _ in texts]
    for task, classes in classifier.labels.items():
        chosen = [classes.index(label) for label in whole[task].to_pylist()]
        before = np.column_stack([whole[f"{task}_p_{label}"].to_numpy() for label in classes]).astype(np.float64)
        after = scores[task].probabilities.astype(np.float64)
        first, last = 0, len(variants)
        for row, cut in enumerate(spans):
            own = float(_log_odds(before[row : row + 1], chosen[row])[0])
            parts = own - _log_odds(after[first : first + len(cut)], chosen[row])
            words = [WordPart(texts[row][s:e], s, e, float(part)) for (s, e), part in zip(cut, parts, strict=True)]
            title = None
            if posts[row].strip():
                title = own - float(_log_odds(after[last : last + 1], chosen[row])[0])
                last += 1
            ordered = sorted(words, key=lambda word: -word.part)
            found[row][task] = Explanation(classes[chosen[row]], float(before[row, chosen[row]]), ordered, title)
            first += len(cut)
    return found


def _spans(text: str) -> list[tuple[int, int]]:
    """The words of a text as (start, end), neighbours together where there are more than MOST_SPANS."""
    words = [match.span() for match in _WORD.finditer(text)]
    step = -(-len(words) // MOST_SPANS) or 1
    return [(words[at][0], words[min(at + step, len(words)) - 1][1]) for at in range(0, len(words), step)]


def _without(text: str, start: int, end: int) -> str:
    """The text without the span, and without the space behind it."""
    left = text[:start] + text[end:].lstrip() if start == 0 or text[start - 1].isspace() else text[:start] + text[end:]
    return left.strip()


def _log_odds(probabilities_NK: Floats, chosen: int) -> Floats:
    chance = np.clip(probabilities_NK[:, chosen], SMALLEST, 1 - SMALLEST)
    odds: Floats = np.log(chance) - np.log1p(-chance)
    return odds
