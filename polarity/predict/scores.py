"""What scoring gives, and what scores: the shape that models, ensembles and their members share."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """One task's scores: `probabilities` (N, K) float32 in class order, `predicted` (N,) int64 class indices."""

    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]


class Scorer(Protocol):
    """Scores a non-empty table with the columns `title` and `comment`: {task: scores in row order}, before any calibration."""

    @property
    def labels(self) -> dict[str, list[str]]: ...

    def __call__(self, table: pa.Table) -> dict[str, Scores]: ...

    def token_statistics(self, table: pa.Table) -> dict[str, Any] | None:
        """What `polarity.evaluate.drift.describe_tokens` says of the rows; None for a scorer without a tokenizer."""
