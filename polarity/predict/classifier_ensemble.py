"""An ensemble as a scorer: the weighted mean of its members' log-probabilities, normalised (a product of experts, Hinton 2002).

ensemble.json: {"schema_version": 1, "members": ["../a", ...], "weights": [...]}, members relative to the ensemble's folder or
absolute. With "linear": true the folder `linear/` beside it is one more member, whose weight is the last one.

Shapes: N rows, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.artifacts import ENSEMBLE, RunFolder
from polarity.errors import RunError
from polarity.predict.scores import Scorer, Scores
from polarity.run import Run

SMALLEST = 1e-6
"""Probabilities below count as this: a baseline's 0 for a class that it never saw must not forbid the class."""

FOLDER_MEMBERS = {"linear": "polarity.predict.linear_member:load_linear"}
"""Members that lie in the ensemble's own folder: key in ensemble.json -> `module:function` of (RunFolder) -> Scorer."""


@dataclass(frozen=True)
class EnsembleScorer:
    """Members with their weights, which need not sum to one."""

    members: Sequence[Scorer]
    weights: Sequence[float]

    @property
    def labels(self) -> dict[str, list[str]]:
        return self.members[0].labels

    def token_statistics(self, table: pa.Table) -> dict[str, Any] | None:
        """Those of the first member that has a tokenizer."""
        return next((found for member in self.members if (found := member.token_statistics(table)) is not None), None)

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        scored = [member(table) for member in self.members]
        return {task: combine([scores[task].probabilities for scores in scored], self.weights) for task in self.labels}


def combine(probabilities: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> Scores:
    """Scores of one task from the members' probabilities, each (N, K): softmax of the weighted mean of their logarithms."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    logs_NK = sum(share * np.log(np.clip(p, SMALLEST, 1.0).astype(np.float64)) for share, p in zip(shares, probabilities, strict=True))
    exp_NK = np.exp(logs_NK - np.max(logs_NK, axis=1, keepdims=True))
    mean_NK = exp_NK / exp_NK.sum(axis=1, keepdims=True)
    return Scores(mean_NK.astype(np.float32), mean_NK.argmax(axis=1))


def load_ensemble(run: Run, load_member: Callable[[Run], Scorer]) -> EnsembleScorer:
    """The ensemble of a run; members are taken without their own calibration. Raises RunError where it cannot be used."""
    content, place = run.ensemble_record, f"{run.uri}/{ENSEMBLE}"
    kinds = [kind for kind in FOLDER_MEMBERS if content.get(kind)]
    if not [*run.members, *kinds]:
        raise RunError(f"{place}: `members` must be a list of run folders; make the ensemble again")
    weights = _weights(content.get("weights"), len(run.members) + len(kinds), place)
    members = [load_member(member) for member in run.members]
    members += [_folder_member(FOLDER_MEMBERS[kind])(run.folder) for kind in kinds]
    names = [*content["members"], *kinds]
    for name, member in zip(names, members, strict=True):
        if member.labels != members[0].labels:
            raise RunError(f"{place}: the member {name} has other tasks or classes than {names[0]}")
    return EnsembleScorer(members, weights)


def _weights(given: Any, count: int, place: str) -> list[float]:
    numbers = [1.0] * count if given is None else given
    fine = isinstance(numbers, list) and all(isinstance(w, int | float) and isfinite(w) and w >= 0 for w in numbers)
    if not fine or len(numbers) != count or not sum(numbers):
        raise RunError(f"{place}: `weights` must be {count} numbers of at least 0, not all 0: one a member; make the ensemble again")
    return [float(weight) for weight in numbers]


def _folder_member(place: str) -> Callable[[RunFolder], Scorer]:
    module, _, name = place.partition(":")
    found: Callable[[RunFolder], Scorer] = getattr(import_module(module), name)
    return found
