"""The ledger: what oversampling, class weights and the loss make of the class balance together, before a step is trained.

Each of them corrects the same imbalance, and corrections multiply. The ledger puts them side by side:

    share            labelled rows of a class / labelled rows of its task
    sampled share    the same in an expected epoch, after oversampling
    effective prior  sampled share x class weight, normalised: the balance that the loss sees

First the formula of the class weights alone, on counts; then the account; then its text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from polarity import tables
from polarity.arrays import Flags, Floats
from polarity.artifacts import LEDGER, RunFolder
from polarity.config import ClassWeightConfig, Config
from polarity.data.oversample import SamplingPlan, StratumKey, expected_multiplicity, table_strata
from polarity.errors import DataError, RunError
from polarity.strategy import points_on

MIN_WEIGHT = 0.1


def unclipped_weights(counts: npt.ArrayLike, multipliers: npt.ArrayLike, strength: float) -> Floats:
    """m_c (N / (K n_c))^strength before any cap; a class without rows has an infinite weight where strength is above 0.

    counts: (K,) labelled rows, or expected rows after resampling; multipliers: (K,). Formula: scikit-learn's
    `class_weight="balanced"` (King and Zeng 2001), with a multiplier and an exponent.
    """
    n = np.asarray(counts, dtype=np.float64)
    m = np.asarray(multipliers, dtype=np.float64)
    if n.ndim != 1 or n.shape != m.shape:
        raise ValueError(f"counts and multipliers must be of the same length, got {n.shape} and {m.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        balanced = np.where(n > 0, n.sum() / (len(n) * n), np.inf)
    return m * balanced**strength


def class_weights(counts: npt.ArrayLike, multipliers: npt.ArrayLike, config: ClassWeightConfig) -> tuple[Floats, Flags]:
    """w_c = clip(m_c (N / (K n_c))^strength, 0.1, max_weight), and which of them were clipped: two (K,) arrays.

    counts and multipliers as in `unclipped_weights`; the basis of the counts (raw or resampled) is the caller's.
    """
    free = unclipped_weights(counts, multipliers, config.strength)
    weights = np.clip(free, MIN_WEIGHT, config.max_weight)
    return weights, weights != free


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
    points: list[int] = field(default_factory=list)
    """Points of the plan that are on, whole; older versions did not write them."""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunFolder, name: str = LEDGER) -> "Ledger":
        """The ledger in a file of a run folder. Raises RunError: none there, damaged, or edited."""
        try:
            return TypeAdapter(cls).validate_python(folder.read_json(name))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(f"{folder.uri}/{name}: {place}: {first['msg']}; the file is damaged or was edited") from error

    def write(self, folder: RunFolder, name: str = LEDGER) -> None:
        """The whole ledger as JSON; shares are fractions."""
        folder.write_json(name, asdict(self))

    def counts(self, labels: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
        """{task: training rows in the order of `labels`}; a task is left out where the ledger lacks it or one of its classes."""
        rows = {task: {entry.name: entry.rows for entry in entries} for task, entries in self.tasks.items()}
        return {
            task: [rows[task][label] for label in classes]
            for task, classes in labels.items()
            if task in rows and set(classes) <= set(rows[task])
        }

    @property
    def task_statistics(self) -> dict[str, TaskStatistics]:
        """{task: what its loss must know of the training rows}."""
        return {
            task: TaskStatistics([e.class_weight for e in entries], [e.rows for e in entries], [e.sampled_share for e in entries])
            for task, entries in self.tasks.items()
        }

    def render(self, *, whole: bool = True) -> str:
        """The classes and the warnings as plain text for the terminal; the `whole` of it has every column, and the label combinations."""
        console = tables.console(tables.width(140 if whole else tables.IN_A_FILE))
        if whole or self.points:
            console.print(f"points on: {', '.join(map(str, self.points)) or 'none of the plan'}")
        console.print(_class_table(self, whole))
        if whole:
            console.print(_stratum_table(self))
            hidden = len(self.strata) - _STRATA_SHOWN
            if hidden > 0:
                console.print(f"and {hidden} label combinations with more rows")
        for warning in self.warnings:
            console.print(f"warning: {warning}", soft_wrap=True)
        return tables.text_of(console).removesuffix("\n")


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
        },
        points=list(points_on(config)),
        warnings=[],
    )
    ledger.warnings.extend(warnings_of(ledger))
    return ledger


def _normalised(values: Floats) -> Floats:
    total: Floats = values / values.sum()
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


_NOTICED = 1.1
_OVERTAKES = 1.5
"""A rarer class is told of where its part in the loss is more than so many times that of a more frequent one."""
"""A class whose weight or share is lifted by less than this is not called corrected."""
_STRATA_SHOWN = 24


def warnings_of(ledger: Ledger) -> list[str]:
    """Where the same imbalance is corrected more than once, and where a rarer class ends above a more frequent one: one sentence each."""
    found: list[str] = []
    for task, entries in ledger.tasks.items():
        found += _corrected_twice(ledger, task, entries)
        found += _adjusted_twice(ledger, task, entries)
        found += _overtaken(ledger, task, entries)
    return found


def _lift(after: float, before: float) -> float:
    return after / before if before > 0 else 1.0


def _corrected_twice(ledger: Ledger, task: str, entries: list[ClassEntry]) -> Iterator[str]:
    if ledger.basis != "raw" or not ledger.settings["strength"]:
        return
    gamma = ledger.focal_gamma[task]
    for entry in entries:
        by_rows, by_weight = _lift(entry.sampled_share, entry.share), _lift(entry.effective_prior, entry.sampled_share)
        if by_rows < _NOTICED or by_weight < _NOTICED:
            continue
        even = 1 / len(entries)
        yield (
            f"{task}.{entry.name}: {entry.share:.1%} of the rows, {entry.sampled_share:.1%} of the sampled rows, "
            f"{entry.effective_prior:.1%} of the loss: corrected twice. Oversampling lifts it x{by_rows:.1f}, "
            f"and class weights that count the rows before resampling lift it x{by_weight:.1f} again, "
            f"to x{entry.effective_prior / even:.1f} of an even {even:.1%}; "
            f"loss.class_weights.basis=resampled gives {entry.single_prior:.1%}"
            + (f". Focal loss (gamma {gamma:g}) is a third correction, on top of these" if gamma else "")
        )


def _adjusted_twice(ledger: Ledger, task: str, entries: list[ClassEntry]) -> Iterator[str]:
    """Logit adjustment takes the sampled prior out by itself; weights that lift a class do so a second time."""
    tau = ledger.logit_adjustment
    if not tau or not ledger.settings["strength"]:
        return
    for entry in entries:
        by_weight = _lift(entry.effective_prior, entry.sampled_share)
        by_logits = _lift(entry.adjusted_prior, entry.effective_prior)
        if by_weight >= _NOTICED and by_logits >= _NOTICED:
            yield (
                f"{task}.{entry.name}: class weights lift it x{by_weight:.1f} to {entry.effective_prior:.1%}, and logit adjustment "
                f"(tau {tau:g}) x{by_logits:.1f} again, to {entry.adjusted_prior:.1%}: corrected twice; set "
                "loss.class_weights.strength=0 or loss.logit_adjustment=0"
            )


def _overtaken(ledger: Ledger, task: str, entries: list[ClassEntry]) -> Iterator[str]:
    for rare in entries:
        above = [other for other in entries if other.rows > rare.rows and rare.effective_prior > _OVERTAKES * other.effective_prior]
        if above:
            others = " and ".join(_beside(rare, other) for other in above)
            yield (f"{task}.{rare.name}: {rare.share:.1%} of the rows but {rare.effective_prior:.1%} of the loss, above {others}")


def _beside(rare: ClassEntry, other: ClassEntry) -> str:
    factor = rare.effective_prior / other.effective_prior
    return f"{other.name} ({other.share:.1%} of the rows, {other.effective_prior:.1%} of the loss) by x{factor:.1f}"


def _cap_note(stratum: StratumEntry, ledger: Ledger) -> str:
    cap = ledger.settings["max_multiplier"]
    if stratum.capped:
        return f"cap {cap:g} binds ({stratum.uncapped:.2f} before it): its boost and alpha change nothing"
    if stratum.ratio_capped and ledger.settings["alpha"]:
        return f"cap {cap:g} binds on M/n = {ledger.median_stratum / stratum.rows:.1f}"
    return ""


def _class_table(ledger: Ledger, whole: bool) -> Table:
    size = f"{ledger.rows:,} rows, an epoch has {ledger.epoch_rows:,.0f}"
    columns = ["task", "class", "rows", "share", "in an epoch", "weight", "in the loss"]
    extra = ["sampled", "focal", *(["adjusted prior"] if ledger.logit_adjustment else []), "cap"]
    title = f"Class balance ({size}{f'; class weights count {ledger.basis} rows' if whole else ''})"
    table = tables.table(*columns, *(extra if whole else []), title=title, left=["class", "cap"], gap=1)
    for task, entries in ledger.tasks.items():
        for entry in entries:
            cells = [f"{entry.rows:,}", f"{entry.share:.1%}", f"{entry.sampled_share:.1%}"]
            cells += [f"{entry.class_weight:.3f}", f"{entry.effective_prior:.1%}"]
            adjusted = [f"{entry.adjusted_prior:.1%}"] if ledger.logit_adjustment else []
            bound = f"{entry.class_weight:g} binds on {entry.uncapped_weight:.2f}" if entry.weight_capped else ""
            more = [f"{entry.sampled_rows:,.0f}", f"{ledger.focal_gamma[task]:g}", *adjusted, bound]
            table.add_row(task, entry.name, *cells, *(more if whole else []))
        table.add_section()
    return table


def _stratum_table(ledger: Ledger) -> Table:
    title = f"Oversampling by label combination (median {ledger.median_stratum:g} rows)"
    table = tables.table(*ledger.tasks, "rows", "times", "sampled", "cap", title=title, left=[*ledger.tasks, "cap"])
    for stratum in sorted(ledger.strata, key=lambda each: each.rows)[:_STRATA_SHOWN]:
        names = [name or "-" for name in stratum.labels.values()]
        table.add_row(
            *names, f"{stratum.rows:,}", f"{stratum.multiplicity:.2f}", f"{stratum.sampled_rows:,.0f}", _cap_note(stratum, ledger)
        )
    return table
