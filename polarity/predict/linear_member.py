"""The linear floor as a member of an ensemble: `linear/` in the ensemble's folder, written by `polarity ensemble --linear`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from polarity.artifacts import RunFolder
from polarity.baselines.linear import LinearFloor
from polarity.baselines.saved import load_linear as load_floor
from polarity.predict.scorers import Scores

LINEAR = "linear"
"""Its folder, its key in ensemble.json, and its name."""


@dataclass(frozen=True)
class LinearClassifier:
    """The fitted floor as a scorer of tables with `title` and `comment`."""

    floor: LinearFloor
    labels: dict[str, list[str]]

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        """{task: scores} in row order; a class that the floor never saw has probability 0."""
        found = self.floor.probabilities(table)
        return {task: Scores(found[task].astype(np.float32), found[task].argmax(axis=1)) for task in self.labels}

    def token_statistics(self, table: pa.Table) -> None:
        """It reads words and characters, not tokens."""


def load_linear(folder: RunFolder) -> LinearClassifier:
    """The linear member of an ensemble's folder, local or remote. Raises RunError: files missing or damaged."""
    with tempfile.TemporaryDirectory(prefix="polarity-linear-") as temporary:
        floor, labels = load_floor(folder.fetch_folder(LINEAR, Path(temporary)))
    return LinearClassifier(floor, labels)
