"""Floors that count: the most frequent class of all, and the most frequent class of each title."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.errors import DataError, RunError
from polarity.evaluate.predictions import MISSING, Codes, Floats, Labels


def majority(train: pa.Table, held_out: pa.Table, labels: Labels) -> dict[str, Floats]:
    """Per task the training shares of the classes, repeated for each held-out row: (N, K)."""
    return {
        task: np.tile(class_shares(label_codes(train, task), len(classes), task), (held_out.num_rows, 1))
        for task, classes in labels.items()
    }


def label_codes(comments: pa.Table, task: str) -> Codes:
    """Class indices (N,) of a comments table, -1 where the label is missing."""
    codes: Codes = pc.fill_null(comments[task], MISSING).to_numpy().astype(np.int64)
    return codes


def class_shares(codes: Codes, classes: int, task: str) -> Floats:
    """Share of each class (K,) among the labelled rows; raises DataError where none is labelled."""
    counts = np.bincount(codes[codes >= 0], minlength=classes)
    if not counts.sum():
        raise DataError(f"no training row has a label of task {task!r}: there is nothing to fit a baseline on")
    shares: Floats = counts / counts.sum()
    return shares


SMOOTHING_ROWS = 1.0
FILE = "title.json"


@dataclass(frozen=True)
class TitlePrior:
    """The training titles, and per task their class probabilities (T + 1, K); the last row is for a title that training never saw."""

    titles: list[str]
    shares: dict[str, Floats]

    def probabilities(self, comments: pa.Table) -> dict[str, Floats]:
        """Per task (N, K) of a table's rows, by their `title`."""
        known = pa.array(self.titles, pa.large_string())
        asked = comments["title"].cast(pa.large_string())
        rows = pc.fill_null(pc.index_in(asked, value_set=known), len(self.titles)).to_numpy()
        return {task: shares[rows] for task, shares in self.shares.items()}

    def save(self, folder: Path) -> None:
        """Write title.json into an existing folder."""
        content = {"titles": self.titles, "shares": {task: shares.tolist() for task, shares in self.shares.items()}}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TitlePrior":
        """What `save` wrote. Raises RunError where the file is missing or damaged."""
        try:
            content = json.loads((folder / FILE).read_text("utf-8"))
            shares = {task: np.asarray(rows, np.float64) for task, rows in content["shares"].items()}
            titles = [str(title) for title in content["titles"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{folder / FILE}: cannot be read ({error}); copy the run again") from error
        if any(rows.ndim != 2 or len(rows) != len(titles) + 1 for rows in shares.values()):
            raise RunError(f"{folder / FILE}: its shares do not fit its titles; copy the run again")
        return cls(titles, shares)


def fit_title_prior(train: pa.Table, labels: Labels) -> TitlePrior:
    """Per task (n_tc + prior_c) / (n_t + 1) of each title t, and the prior for a title unseen in training."""
    titles = pc.unique(train["title"])
    rows = pc.index_in(train["title"], value_set=titles).to_numpy()
    found: dict[str, Floats] = {}
    for task, classes in labels.items():
        codes = label_codes(train, task)
        prior = class_shares(codes, len(classes), task)
        known = codes >= 0
        counts = np.zeros((len(titles) + 1, len(classes)))  # the last row is for unseen titles
        np.add.at(counts, (rows[known], codes[known]), 1.0)
        found[task] = (counts + SMOOTHING_ROWS * prior) / (counts.sum(axis=1, keepdims=True) + SMOOTHING_ROWS)
    return TitlePrior([str(title) for title in titles.to_pylist()], found)


def title_only(train: pa.Table, held_out: pa.Table, labels: Labels) -> dict[str, Floats]:
    """Per task (N, K): the prior of the row's title among the training rows; see `fit_title_prior`."""
    return fit_title_prior(train, labels).probabilities(held_out)
