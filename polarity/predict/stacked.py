"""A stack as a scorer: members of several kinds, combined as `polarity best` learned it from out-of-fold predictions.

stack.json lists the members and, per task, the rule that combines them. Everything is data: numbers, texts and safetensors, no pickle.
Shapes: M members, N rows, K classes, D features of the logistic rule (members x all tasks' classes).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polarity.arrays import Floats
from polarity.artifacts import STACK, RunFolder
from polarity.environment import TokenStatistics
from polarity.errors import RunError
from polarity.evaluate.metrics import softmax
from polarity.predict.scorers import SMALLEST, EnsembleScorer, Probabilities, Scorer, Scores, choose_device, combine
from polarity.run import Run

if TYPE_CHECKING:
    from polarity.model.embedding import Embedder

Kind = Literal["title", "linear", "frozen", "fused", "encoder"]


ENCODER = "encoder"
"""The encoder's folder inside a frozen member's."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StackMember(_Record):
    """One member: `folders` are relative to the run; an encoder has one a fold, whose log-probabilities are averaged; a fused model has its
    own and that of the encoder whose vectors it reads."""

    name: str = Field(min_length=1)
    kind: Kind
    folders: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _folders_are_inside(self) -> "StackMember":
        for folder in self.folders:
            if folder.startswith(("/", "~")) or ".." in folder.split("/") or "://" in folder:
                raise ValueError(f"the folder {folder!r} of the member {self.name} is not inside the run")
        return self


class PoolRule(_Record):
    """Weights (M,) of the members' log-probabilities of the task itself (a logarithmic opinion pool, Heskes 1998)."""

    rule: Literal["pool"] = "pool"
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class LogisticRule(_Record):
    """Multinomial logistic regression on the members' centred log-probabilities of all tasks (stacking, Wolpert 1992)."""

    rule: Literal["logistic"] = "logistic"
    mean: list[float]
    scale: list[float]
    coefficients: list[list[float]]
    intercepts: list[float]


class TaskStack(_Record):
    """One task: the rule, and class biases added to the log-probabilities to choose the class (None: none were kept)."""

    combination: Annotated[PoolRule | LogisticRule, Field(discriminator="rule")]
    biases: list[float] | None = None


class Stack(_Record):
    """The content of stack.json."""

    labels: dict[str, list[str]]
    members: list[StackMember] = Field(min_length=1)
    tasks: dict[str, TaskStack]

    @model_validator(mode="after")
    def _fits(self) -> "Stack":
        features = len(self.members) * sum(len(classes) for classes in self.labels.values())
        if set(self.tasks) != set(self.labels):
            raise ValueError(f"tasks {sorted(self.tasks)} are not those of the labels {sorted(self.labels)}")
        for task, stacked in self.tasks.items():
            classes, rule = len(self.labels[task]), stacked.combination
            if isinstance(rule, PoolRule):
                fits = len(rule.weights) == len(self.members) and sum(rule.weights) > 0
            else:
                fits = len(rule.mean) == len(rule.scale) == features and len(rule.intercepts) == len(rule.coefficients) == classes
                fits = fits and all(len(row) == features for row in rule.coefficients) and all(rule.scale)
            if not fits or (stacked.biases is not None and len(stacked.biases) != classes):
                raise ValueError(f"the numbers of {task} do not fit {len(self.members)} members and {classes} classes")
        return self


def stacked(members: Sequence[Probabilities], task: str, how: TaskStack) -> Scores:
    """One task's scores from all members' probabilities of all tasks."""
    rule = how.combination
    if isinstance(rule, PoolRule):
        probabilities = combine([member[task] for member in members], rule.weights).probabilities.astype(np.float64)
    else:
        standard_ND = (stack_features(members) - np.array(rule.mean)) / np.array(rule.scale)
        probabilities = softmax(standard_ND @ np.array(rule.coefficients).T + np.array(rule.intercepts))
    chosen_NK = np.log(np.clip(probabilities, SMALLEST, 1.0)) + np.array(how.biases or 0.0)
    return Scores(probabilities.astype(np.float32), chosen_NK.argmax(axis=1))


def stack_features(members: Sequence[Probabilities]) -> Floats:
    """(N, D): each member's log-probabilities of every task, less their mean over the classes."""
    logs = [np.log(np.clip(chances.astype(np.float64), SMALLEST, 1.0)) for member in members for chances in member.values()]
    return np.concatenate([log_NK - log_NK.mean(axis=1, keepdims=True) for log_NK in logs], axis=1)


_Member = Callable[[pa.Table], dict[str, Floats]]
"""Probabilities of a table's rows, {task: (N, K)}."""


@dataclass(frozen=True)
class StackScorer:
    """The loaded members under the stack's rules. `statistics` is the member that has a tokenizer, if any."""

    stack: Stack
    members: Sequence[_Member]
    statistics: Scorer | None

    @property
    def labels(self) -> dict[str, list[str]]:
        return self.stack.labels

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        found = [{task: scores[task] for task in self.labels} for scores in (member(table) for member in self.members)]
        return {task: stacked(found, task, how) for task, how in self.stack.tasks.items()}

    def token_statistics(self, table: pa.Table) -> TokenStatistics | None:
        return None if self.statistics is None else self.statistics.token_statistics(table)


def read_stack(folder: RunFolder) -> Stack:
    """stack.json of a run folder. Raises RunError where it is missing, damaged or does not fit itself."""
    content = {key: value for key, value in folder.read_json(STACK).items() if key != "schema_version"}
    try:
        return Stack.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(f"{folder.uri}/{STACK}: {place or 'content'}: {first['msg']}; the file is damaged or was edited") from error


def load_stack(run: Run, load_run: Callable[[Run], Scorer], device: str) -> StackScorer:
    """The stack of a run; `load_run` loads an encoder's fold. Raises RunError: a member's files are missing or damaged."""
    stack = read_stack(run.folder)
    members: list[_Member] = []
    statistics: Scorer | None = None
    vectors: dict[str, _Vectors] = {}
    for member in stack.members:
        if member.kind == "encoder":
            folds = [load_run(Run.open(run.folder.inside(folder))) for folder in member.folders]
            if any(fold.labels != stack.labels for fold in folds):
                raise RunError(f"{run.uri}: a fold of the member {member.name} has other tasks or classes than {STACK}; copy the run again")
            statistics = statistics or folds[0]
            members.append(_probabilities_of(EnsembleScorer(folds, [1.0] * len(folds))))
        else:
            members.append(_load_light(run.folder, member, device, stack.labels, vectors))
    return StackScorer(stack, members, statistics)


def _probabilities_of(scorer: Scorer) -> _Member:
    return lambda table: {task: scores.probabilities.astype(np.float64) for task, scores in scorer(table).items()}


class _Vectors:
    """A frozen encoder's sentence vectors, computed once for all members that read them."""

    def __init__(self, embedder: "Embedder") -> None:
        self._embedder = embedder
        self._last: tuple[pa.Table, NDArray[np.float32]] | None = None

    def __call__(self, table: pa.Table) -> NDArray[np.float32]:
        last = self._last
        if last is None or last[0] is not table:
            last = (table, self._embedder.features(table["comment"].to_pylist(), table["title"].to_pylist()))
            self._last = last
        return last[1]


def _load_light(folder: RunFolder, member: StackMember, device: str, labels: dict[str, list[str]], vectors: dict[str, _Vectors]) -> _Member:
    """A member without training of its own: in memory once read, so that nothing of a remote run stays on the disk. `vectors` are those of
    the encoders that were loaded so far, by their folder."""
    with tempfile.TemporaryDirectory(prefix="polarity-member-") as temporary:
        place = folder.fetch_folder(member.folders[0], Path(temporary))
        if member.kind == "title":
            from polarity.baselines.floors import TitlePrior

            return TitlePrior.load(place).probabilities
        if member.kind == "linear":
            from polarity.baselines.floors import load_linear

            floor, its_labels = load_linear(place)
            if its_labels != labels:
                raise RunError(f"{folder.uri}/{member.folders[0]}: has other tasks or classes than {STACK}; copy the run again")
            return floor.probabilities
        if member.kind == "fused":
            from polarity.baselines.vectors import FusedModel

            fused, of = FusedModel.load(place), _load_vectors(folder, member.folders[-1], device, vectors)
            return lambda table: fused.probabilities(table, of(table))
        from polarity.baselines.vectors import DenseModel

        dense, of = DenseModel.load(place), _load_vectors(folder, f"{member.folders[0]}/{ENCODER}", device, vectors)
        return lambda table: dense.probabilities(of(table))


def _load_vectors(folder: RunFolder, name: str, device: str, known: dict[str, _Vectors]) -> _Vectors:
    from polarity.model.embedding import Embedder

    if name not in known:
        with tempfile.TemporaryDirectory(prefix="polarity-member-") as temporary:
            known[name] = _Vectors(Embedder.load(folder.fetch_folder(name, Path(temporary)), choose_device(device)))
    return known[name]
