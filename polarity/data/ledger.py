"""The ledger: what oversampling, class weights and the loss make of the class balance together, before a step is trained.

Each of them corrects the same imbalance, and corrections multiply. The ledger puts them side by side:

    share            labelled rows of a class / labelled rows of its task
    sampled share    the same in an expected epoch, after oversampling
    effective prior  sampled share x class weight, normalised: the balance that the loss sees
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polarity.config import Config
from polarity.data.ledger_text import render, warnings_of
from polarity.data.oversample import SamplingPlan, StratumKey, expected_multiplicity, table_strata
from polarity.data.weights import class_weights, unclipped_weights
from polarity.errors import DataError
from polarity.strategy import points_on

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassEntry:
    """One class of one task; shares are fractions of the task's labelled rows."""

    name: str
    rows: int
    share: float
    sampled_rows: float
    sampled_share: float
    class_weight: float
    uncapped_weight: float
    weight_capped: bool
    effective_prior: float
    single_prior: float
    """The effective prior if the class weights counted the rows after resampling: one correction of frequency in all."""
    adjusted_prior: float
    """effective prior / sampled share^tau, normalised: what logit adjustment leaves to be learned; the effective prior at tau 0."""


@dataclass(frozen=True)
class StratumEntry:
    """One label combination: its rows, how often each is seen in an epoch, and the caps it meets."""

    labels: dict[str, str | None]
    rows: int
    multiplicity: float
    uncapped: float
    sampled_rows: float
    ratio_capped: bool
    capped: bool


@dataclass(frozen=True)
class TaskStatistics:
    """What the loss must know of a task's training rows: class weights (K,), class counts (K,), sampled prior (K,)."""

    class_weights: list[float]
    counts: list[int]
    sampled_prior: list[float]


@dataclass(frozen=True)
class Ledger:
    """The account of a training table under a configuration; see the module's words."""

    rows: int
    epoch_rows: float
    """Rows of an epoch: exact where oversampling is stratified, expected otherwise."""
    median_stratum: float
    tasks: dict[str, list[ClassEntry]]
    strata: list[StratumEntry]
    basis: str
    focal_gamma: dict[str, float]
    logit_adjustment: float
    settings: dict[str, float | str | bool]
    points: list[int]
    """Points of the plan that are on, whole."""
    warnings: list[str]

    def counts(self, task: str) -> list[int]:
        """Labelled training rows of each class, in class order."""
        return [entry.rows for entry in self.tasks[task]]

    def class_weights(self, task: str) -> list[float]:
        """The loss's weight of each class, in class order."""
        return [entry.class_weight for entry in self.tasks[task]]

    def sampled_prior(self, task: str) -> list[float]:
        """Share of each class in an expected epoch, in class order; the prior of logit adjustment."""
        return [entry.sampled_share for entry in self.tasks[task]]

    def effective_prior(self, task: str) -> list[float]:
        """Sampled share x class weight, normalised, in class order."""
        return [entry.effective_prior for entry in self.tasks[task]]

    @property
    def task_statistics(self) -> dict[str, TaskStatistics]:
        """{task: what its loss must know of the training rows}."""
        return {task: TaskStatistics(self.class_weights(task), self.counts(task), self.sampled_prior(task)) for task in self.tasks}

    def to_json(self) -> dict[str, Any]:
        """The whole ledger as plain values; shares are fractions."""
        return asdict(self)

    def render(self, *, whole: bool = True) -> str:
        """The ledger as a plain-text table, then its warnings; see `ledger_text.render`."""
        return render(self, whole=whole)


def build_ledger(train: pa.Table, config: Config) -> Ledger:
    """The ledger of a canonical training table; DataError where a class has no row, for it can neither be weighted nor learned."""
    labels = config.labels
    ids, keys = table_strata(train, list(labels))
    sampling = config.data.oversample
    plan = expected_multiplicity(np.bincount(ids, minlength=len(keys)), keys, sampling, labels)
    tasks = {task: _entries(task, index, plan, config) for index, task in enumerate(labels)}
    weights = config.loss.class_weights
    ledger = Ledger(
        rows=train.num_rows,
        epoch_rows=float(plan.counts.sum()) if sampling.stratified else float(plan.expected @ plan.sizes),
        median_stratum=plan.median,
        tasks=tasks,
        strata=[_stratum(index, key, plan, labels) for index, key in enumerate(plan.keys)],
        basis=weights.basis,
        focal_gamma={task: config.loss.focal_gamma.get(task, 0.0) for task in labels},
        logit_adjustment=config.loss.logit_adjustment,
        settings={
            "alpha": sampling.alpha,
            "max_multiplier": sampling.max_multiplier,
            "stratified": sampling.stratified,
            "size": sampling.size,
            "strength": weights.strength,
            "max_weight": weights.max_weight,
            "warn_factor": weights.warn_factor,
        },
        points=list(points_on(config)),
        warnings=[],
    )
    ledger.warnings.extend(warnings_of(ledger))
    return ledger


def _normalised(values: FloatArray) -> FloatArray:
    total: FloatArray = values / values.sum()
    return total


def _entries(task: str, index: int, plan: SamplingPlan, config: Config) -> list[ClassEntry]:
    names, weighting, tau = config.data.tasks[task].labels, config.loss.class_weights, config.loss.logit_adjustment
    member = np.array([[key[index] == c for key in plan.keys] for c in range(len(names))], dtype=np.float64).reshape(len(names), -1)
    rows, sampled = member @ plan.sizes, member @ (plan.sizes * plan.expected)
    for name, n in zip(names, rows, strict=True):
        if not n:
            raise DataError(f"train: no row of {task} is {name!r}: add some, or remove the class from data.tasks.{task}.labels")
    multipliers = np.array([weighting.multipliers.get(task, {}).get(name, 1.0) for name in names])
    basis = rows if weighting.basis == "raw" else sampled
    weights, clipped = class_weights(basis, multipliers, weighting)
    uncapped = unclipped_weights(basis, multipliers, weighting.strength)
    share, sampled_share = _normalised(rows), _normalised(sampled)
    effective = _normalised(sampled_share * weights)
    single = _normalised(sampled_share * class_weights(sampled, multipliers, weighting)[0])
    adjusted = _normalised(effective * sampled_share**-tau)
    return [
        ClassEntry(
            name=names[c],
            rows=int(rows[c]),
            share=float(share[c]),
            sampled_rows=float(sampled[c]),
            sampled_share=float(sampled_share[c]),
            class_weight=float(weights[c]),
            uncapped_weight=float(uncapped[c]),
            weight_capped=bool(clipped[c]),
            effective_prior=float(effective[c]),
            single_prior=float(single[c]),
            adjusted_prior=float(adjusted[c]),
        )
        for c in range(len(names))
    ]


def _stratum(index: int, key: StratumKey, plan: SamplingPlan, labels: dict[str, list[str]]) -> StratumEntry:
    names = {task: None if c is None else labels[task][c] for (task, c) in zip(labels, key, strict=True)}
    return StratumEntry(
        labels=names,
        rows=int(plan.sizes[index]),
        multiplicity=float(plan.expected[index]),
        uncapped=float(plan.uncapped[index]),
        sampled_rows=float(plan.sizes[index] * plan.expected[index]),
        ratio_capped=bool(plan.ratio_capped[index]),
        capped=bool(plan.capped[index]),
    )
