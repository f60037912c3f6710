"""A trained run as something that scores comments, and each word's part in a decision: what every command uses that takes a RUN.

A word's part is found by leaving it out (occlusion: Zeiler and Fergus 2014; for text Li, Monroe and Jurafsky 2016). That takes nothing but
predictions, so it works for a model, an ensemble and a stack alike, where gradients do not reach a linear member. It costs one prediction a
word. Words that say the same thing twice share their part: without one of them the other still stands.

Shapes: N rows, K classes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict  # pydantic, which serves predictions, takes no other before Python 3.12

from polarity.arrays import Floats
from polarity.artifacts import CALIBRATION, CONFIG
from polarity.config import DataConfig
from polarity.data.canonical import VISIBLE
from polarity.environment import TokenStatistics
from polarity.errors import DataError, RunError, nearest
from polarity.evaluate.calibration import TaskCalibration, apply, read_calibration
from polarity.evaluate.predictions import Labels, probability_column
from polarity.predict.output import PREFIX, prediction_schema
from polarity.predict.scorers import SMALLEST, ModelScorer, Scorer, Scores, load_ensemble
from polarity.predict.stacked import load_stack
from polarity.run import Run

if TYPE_CHECKING:
    import pandas as pd

Votes = Literal["off", "mean", "vote"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Prediction(TypedDict):
    """One task's prediction of one comment."""

    label: str
    confidence: float
    probabilities: dict[str, float]


class Classifier:
    """Scores comments with a trained run.

    `labels` is {task: classes in order}, `name` the run's, `calibrated` whether scores are; `comment_column` and `title_column` are the
    names of the run's own columns, by which `predict` finds the texts of a DataFrame.
    """

    def __init__(
        self,
        name: str,
        scorer: Scorer,
        calibration: Mapping[str, TaskCalibration] | None = None,
        *,
        comment_column: str = "Comment",
        title_column: str | None = "Title",
    ) -> None:
        self.name = name
        self.comment_column, self.title_column = comment_column, title_column
        self.labels: dict[str, list[str]] = scorer.labels
        self.calibrated = calibration is not None
        self._scorer, self._calibration = scorer, dict(calibration or {})

    def score(self, table: pa.Table) -> dict[str, Scores]:
        """{task: scores} of a comments table's rows, in their order; it needs the columns `title` and `comment`, without nulls.

        Calibrated, `probabilities` are those after the temperature, and `predicted` also heeds the class biases, so that it may
        differ from their argmax (as a vote over dropout samples may).
        """
        for name in ("title", "comment"):
            if name not in table.column_names:
                raise DataError(f"the table has no column {name!r} ({nearest(name, table.column_names)}); title may be '' in every row")
        if not table.num_rows:
            return {task: Scores(np.zeros((0, len(names)), np.float32), np.zeros(0, np.int64)) for task, names in self.labels.items()}
        return {task: self._calibrated(task, scores) for task, scores in self._scorer(table).items()}

    def _calibrated(self, task: str, scores: Scores) -> Scores:
        fitted = self._calibration.get(task)
        if fitted is None:
            return scores
        probabilities, predicted = apply(scores.probabilities, fitted.temperature, fitted.biases)
        # A temperature moves no argmax, and must not undo a vote.
        return Scores(probabilities.astype(np.float32), scores.predicted if fitted.biases is None else predicted)

    def token_statistics(self, table: pa.Table) -> TokenStatistics | None:
        """Lengths and unknown tokens of a comments table's rows, as `polarity.evaluate.drift` compares them."""
        return self._scorer.token_statistics(table)

    def predict(self, texts: "Sequence[str] | pd.Series[str] | pd.DataFrame", titles: Sequence[str] | None = None) -> "pd.DataFrame":
        """A DataFrame with, for each task T, its class `T`, `T_p_CLASS` of every class, and `T_confidence`, one row a text.

        `texts` are comments, and `titles` the posts that they answer, one a text. A Series keeps its index. A DataFrame must have the
        run's comment column, and its title column where the run reads titles (`""` stands in where it is not there); it is returned
        whole with the predictions behind it, which begin with `predicted_` where it has a column of such a name.
        Raises DataError for a text that is not one or is blank, for another number of titles, and for a missing column.
        """
        import pandas as pd

        if isinstance(texts, pd.DataFrame):
            return self._predict_frame(texts, titles)
        found: pd.DataFrame = self.predict_table(list(texts), None if titles is None else list(titles)).to_pandas()
        return found.set_index(texts.index) if isinstance(texts, pd.Series) else found

    def _predict_frame(self, frame: "pd.DataFrame", titles: Sequence[str] | None) -> "pd.DataFrame":
        import pandas as pd

        if self.comment_column not in frame.columns:
            hint = nearest(self.comment_column, [str(name) for name in frame.columns])
            raise DataError(
                f"the DataFrame has no column {self.comment_column!r} ({hint}), which the run reads comments from: rename yours"
            )
        if titles is None and self.title_column in frame.columns:
            titles = frame[self.title_column].fillna("").tolist()
        found: pd.DataFrame = self.predict_table(frame[self.comment_column].tolist(), titles).to_pandas().drop(columns="comment")
        taken = set(found.columns) & {str(name) for name in frame.columns}
        if taken:
            found = found.add_prefix(PREFIX)
        return pd.concat([frame, found.set_index(frame.index)], axis=1)

    def predict_table(self, texts: Sequence[str], titles: Sequence[str] | None = None) -> pa.Table:
        """As `predict`, of lists of texts and titles, as an Arrow table of `comment` and the predictions."""
        comments = _texts(texts, "texts")
        blank = pc.invert(pc.match_substring_regex(comments, VISIBLE))
        if pc.any(blank).as_py():
            raise DataError(f"text {pc.index(blank, True).as_py()} (counted from 0) holds nothing to classify: leave blank texts out")
        if titles is not None and len(titles) != len(comments):
            raise DataError(f"{len(comments)} texts but {len(titles)} titles: give one title a text, '' where there is none")
        posts = pa.array([""] * len(comments), pa.large_string()) if titles is None else _texts(titles, "titles")
        scores = self.score(pa.table({"title": posts, "comment": comments}))
        return pa.table({"comment": comments, **prediction_columns(scores, self.labels)})

    def predict_rows(self, texts: Sequence[str], titles: Sequence[str]) -> list[dict[str, Prediction]]:
        """As `predict`, a mapping {task: prediction} for each text."""
        rows = self.predict_table(texts, titles)
        by_task = [_of_task(rows, task, classes) for task, classes in self.labels.items()]
        return [dict(zip(self.labels, of_row, strict=True)) for of_row in zip(*by_task, strict=True)]

    def __repr__(self) -> str:
        tasks = "; ".join(f"{task}: {', '.join(classes)}" for task, classes in self.labels.items())
        return f"<polarity classifier of the run {self.name!r}; {tasks}{'; calibrated' if self.calibrated else ''}>"


def _of_task(rows: pa.Table, task: str, classes: Sequence[str]) -> list[Prediction]:
    """A task's prediction of each row."""
    decided = zip(rows[task].to_pylist(), rows[f"{task}_confidence"].to_pylist(), strict=True)
    chances = zip(*(rows[probability_column(task, label)].to_pylist() for label in classes), strict=True)
    return [
        {"label": label, "confidence": confidence, "probabilities": dict(zip(classes, each, strict=True))}
        for (label, confidence), each in zip(decided, chances, strict=True)
    ]


def prediction_columns(
    scores: Mapping[str, Scores], labels: Labels, words: Mapping[str, Sequence[str]] | None = None
) -> dict[str, pa.Array]:
    """Scores as columns, named by `prediction_schema`; `words` are each task's decisive words, one text a row."""
    columns: list[pa.Array] = []
    for task, classes in labels.items():
        probabilities, predicted = scores[task].probabilities, scores[task].predicted
        columns.append(pa.array(list(classes), pa.string()).take(pa.array(predicted, pa.int64())))
        columns += [pa.array(probabilities[:, index]) for index in range(len(classes))]
        columns.append(pa.array(probabilities[np.arange(len(predicted)), predicted]))
        columns += [] if words is None else [pa.array(words[task], pa.large_string())]
    return dict(zip(prediction_schema(labels, words=words is not None).names, columns, strict=True))


def load_classifier(
    run: str,
    *,
    raw: bool = False,
    votes: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    precision: Precision = "fp32",
) -> Classifier:
    """The classifier of a run folder or of an ensemble's (a local path or a URI).

    `raw` leaves its calibration out; `votes` (off, mean, vote) replaces the run's own mode of multi-sample dropout; `device` is
    auto, cpu, cuda or cuda:N; `precision` auto takes bf16 where the hardware computes it fast.
    Raises RunError: no run there, files missing or damaged, written under another schema version, no such device.
    """
    if votes is not None and votes not in get_args(Votes):
        raise RunError(f"votes {votes!r}: {nearest(votes, get_args(Votes))}")
    if precision not in get_args(Precision):
        raise RunError(f"precision {precision!r}: {nearest(precision, get_args(Precision))}")
    if batch_size < 1:
        raise RunError(f"batch_size must be at least 1, got {batch_size}")

    def member(of: Run) -> Scorer:
        return ModelScorer.load(of, votes=votes, device=device, batch_size=batch_size, precision=precision)

    opened = Run.open(run)
    if opened.kind == "stack":
        scorer: Scorer = load_stack(opened, member, device)
    else:
        scorer = load_ensemble(opened, member) if opened.kind == "ensemble" else member(opened)
    calibration = None if raw or not opened.has(CALIBRATION) else read_calibration(opened.folder, scorer.labels)
    data = opened.data if opened.has(CONFIG) or opened.members else DataConfig()
    return Classifier(opened.name, scorer, calibration, comment_column=data.comment_column, title_column=data.title_column)


def _texts(values: Sequence[str], what: str) -> pa.Array:
    if isinstance(values, str):
        raise DataError(f"{what} is one string: give a list, [{values[:20]!r}]")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            kind = "missing" if value is None or (isinstance(value, float) and math.isnan(value)) else f"a {type(value).__name__}"
            raise DataError(f"{what}[{index}] is {kind}, not text")
    try:
        return pa.array(list(values), pa.large_string())
    except UnicodeEncodeError as error:
        raise DataError(f"{what} hold half of a character that Unicode writes in two (a lone surrogate): {error.reason}") from error


MOST_SPANS = 120
"""Parts that a comment is cut into at most; in longer ones neighbouring words are left out together."""
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
    return np.log(chance) - np.log1p(-chance)
