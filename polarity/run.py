"""A run folder, opened: the one reader of what a training, an ensemble, a soup or an evaluation has written.

    run = polarity.Run.open("runs/first")       # or s3://bucket/runs/first
    run.labels, run.config.optim.lr, run.rows("test").num_rows

Everything is read when it is first asked for, and kept. What only some runs have (a history, a ledger, hashes of the rows) is None
where it is missing.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NotRequired, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import TypedDict  # as in polarity.evaluate.results

from polarity import artifacts
from polarity.artifacts import RunFolder, sha256_file
from polarity.config import Config, DataConfig
from polarity.data.ledger import Ledger, TaskStatistics
from polarity.data.seen import SCHEMA as SEEN_SCHEMA
from polarity.data.seen import SeenRows, titles_apart
from polarity.environment import Environment, read_environment
from polarity.errors import ConfigError, DataError, RunError
from polarity.evaluate.calibration import TaskCalibration, read_calibration
from polarity.evaluate.judge import Stability
from polarity.evaluate.predictions import check_predictions, labels_of, of_split
from polarity.evaluate.results import Difference, Metrics, SeenCounts, read_metrics
from polarity.resolve import parse_config, with_sets

_SCORE = "validation_"
"""The history's columns of scores begin so."""


class WeightChoice(TypedDict):
    """How an ensemble's weights were chosen; the difference is of overall macro-F1 on the validation rows."""

    chosen: str
    folds: NotRequired[int]
    fitted_minus_equal_cross_fitted: NotRequired[Difference]


class BesideMember(Difference):
    """The ensemble less its best member."""

    member: str


class EnsembleRecord(TypedDict, total=False):
    """ensemble.json; `validation` is each member's overall macro-F1. What an older version or another hand wrote may lack anything."""

    members: list[str]
    linear: bool
    weights: list[float]
    choice: WeightChoice
    validation: dict[str, float]
    against_best_member: BesideMember
    against_best_member_on_test: BesideMember


class SoupMember(TypedDict):
    run: str
    validation: float
    kept: bool


class Tried(TypedDict):
    """A step of a greedy soup: the score with a member more, and whether it stayed."""

    member: str
    score: float
    kept: bool


class SoupRecord(TypedDict, total=False):
    """soup.json; `decided`: what of the members the validation rows had decided."""

    kind: Literal["greedy", "uniform"]
    members: list[SoupMember]
    tried: list[Tried]
    validation: float
    decided: list[str]


Kind = Literal["training", "ensemble", "soup", "stack", "evaluation"]


@dataclass(frozen=True)
class Epoch:
    """An epoch of the history: means of its losses, seconds of training, and macro-F1 on validation, {overall or task: score}."""

    number: int
    """From 1."""
    step: int
    loss: float | None
    classification_loss: float | None
    seconds: float
    bad_steps: int
    """So far."""
    scores: dict[str, float]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Epoch":
        """From its row of history.parquet."""
        scores = {key.removeprefix(_SCORE): value for key, value in row.items() if key.startswith(_SCORE)}
        losses = (row["loss"], row["classification_loss"])
        return cls(row["epoch"], row["step"], *losses, row["seconds"] or 0.0, int(row["bad_steps"]), scores)


@dataclass(frozen=True)
class Run:
    """One run, by its folder (a local path or any URI that pyarrow's filesystems take)."""

    folder: RunFolder

    @classmethod
    def open(cls, place: "str | Path | RunFolder") -> "Run":
        """The run in a folder. Raises RunError: none there, not reachable, or written under another schema version."""
        run = cls(place if isinstance(place, RunFolder) else RunFolder.open(place))
        for name in (artifacts.ENVIRONMENT, artifacts.METRICS):
            if run.folder.exists(name):
                run.folder.read_json(name)
        return run

    def __repr__(self) -> str:
        tasks = "no labels yet"
        if any(map(self.has, (artifacts.CONFIG, artifacts.ENSEMBLE, artifacts.PREDICTIONS))):
            tasks = ", ".join(f"{task} ({len(classes)} classes)" for task, classes in self.labels.items())
        rows = ", ".join(f"{name} {count:,}" for name, count in self.row_counts.items())
        return f"Run({self.uri!r}, {self.kind}: {tasks}{f'; rows: {rows}' if rows else ''})"

    @property
    def uri(self) -> str:
        """The folder as it was named."""
        return self.folder.uri

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return PurePosixPath(self.folder.root.rstrip("/\\").replace("\\", "/")).name or self.folder.uri

    @cached_property
    def kind(self) -> Kind:
        """What wrote the folder."""
        if self.has(artifacts.ENSEMBLE):
            return "ensemble"
        if self.has(artifacts.SOUP):
            return "soup"
        if self.has(artifacts.STACK):
            return "stack"
        return "evaluation" if not self.has(artifacts.CONFIG) and self.has(artifacts.METRICS) else "training"

    def has(self, name: str) -> bool:
        """Whether a file or folder of that name is in the run."""
        return self.folder.exists(name)

    @cached_property
    def config(self) -> Config:
        """The configuration from config.yaml; of an ensemble that has none, its first member's. Raises RunError: none, or not one."""
        if not self.has(artifacts.CONFIG) and self.kind == "ensemble":
            if not self.members:
                raise RunError(
                    f"{self.uri}/{artifacts.ENSEMBLE}: names no member run, so that it has no configuration; make the ensemble again"
                )
            return self.members[0].config
        try:
            return parse_config(self.config_text, f"{self.uri}/{artifacts.CONFIG}")
        except ConfigError as error:
            raise RunError(f"{error} (is the file of another version of polarity, or edited?)") from error

    @cached_property
    def config_text(self) -> str:
        """config.yaml as it stands. Raises RunError where there is none."""
        return self.folder.read_text(artifacts.CONFIG)

    def config_with(self, sets: Sequence[str]) -> Config:
        """The configuration with `key=value` settings on top, as `--set` gives them. Raises ConfigError for one that is not allowed."""
        return with_sets(self.config, sets) if sets else self.config

    @property
    def data(self) -> DataConfig:
        """Where the run's rows came from, and how they were read, cut and split."""
        return self.config.data

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """{task: classes in order}, by the configuration, or by the predictions where there is no configuration."""
        if self.kind == "evaluation":
            return labels_of(self._stored_predictions)
        return self.config.labels

    @cached_property
    def environment(self) -> Environment:
        """environment.json: packages, seeds, hashes of data and encoder, numbers of rows; empty where there is none."""
        return read_environment(self.folder)

    @cached_property
    def ledger(self) -> Ledger | None:
        """The account of the training rows' class balance."""
        return Ledger.read(self.folder) if self.has(artifacts.LEDGER) else None

    @property
    def task_statistics(self) -> dict[str, TaskStatistics]:
        """{task: what the loss knows of its training rows}. Raises RunError where the run kept no ledger."""
        if self.ledger is None:
            raise RunError(f"{self.uri}: has no {artifacts.LEDGER}; is the run finished?")
        return self.ledger.task_statistics

    @cached_property
    def history(self) -> pa.Table | None:
        """A row a step and an epoch."""
        return self.folder.read_parquet(artifacts.HISTORY) if self.has(artifacts.HISTORY) else None

    @cached_property
    def epochs(self) -> list[Epoch]:
        """The whole epochs of the history; none where nothing was trained here. Raises RunError where a column of them is missing."""
        try:
            return [] if self.history is None else [Epoch.of(row) for row in self.history.to_pylist() if row["kind"] == "epoch"]
        except KeyError as error:
            raise RunError(f"{self.uri}/{artifacts.HISTORY}: has no column {error}; copy the run again") from error

    @property
    def stability(self) -> Stability | None:
        """What the plan's stability metrics need: skipped steps, and the epochs' mean classification loss."""
        epochs = self.epochs
        if not epochs:
            return None
        scores = [epoch.scores["overall"] for epoch in epochs]
        losses = [epoch.classification_loss for epoch in epochs if epoch.classification_loss is not None]
        kept = len(scores) if self.config.train.keep == "last" else 1 + scores.index(max(scores))
        return Stability(non_finite_steps=epochs[-1].bad_steps, epoch_losses=losses, best_epoch=kept)

    @cached_property
    def _stored_predictions(self) -> pa.Table:
        if not self.has(artifacts.PREDICTIONS):
            raise RunError(f"{self.uri}: has no {artifacts.PREDICTIONS}; is the run finished?")
        return self.folder.read_parquet(artifacts.PREDICTIONS)

    @cached_property
    def predictions(self) -> pa.Table:
        """predictions.parquet, checked: a row per held-out row. Raises RunError: none there; DataError: it would be judged wrongly."""
        check_predictions(self._stored_predictions, self.labels)
        return self._stored_predictions

    @property
    def splits(self) -> list[str]:
        """The parts that were predicted, in the order of the file."""
        return [str(name) for name in pc.unique(self.predictions["split"]).to_pylist()]

    def rows(self, split: str) -> pa.Table:
        """The predictions of one part; no rows where the run has no such part."""
        return of_split(self.predictions, split)

    @property
    def row_counts(self) -> dict[str, int]:
        """{part: rows}, as the training counted them."""
        return {str(name): int(count) for name, count in self.environment.get("rows", {}).items()}

    @property
    def calibration(self) -> dict[str, TaskCalibration]:
        """{task: temperature and biases}; empty where none is kept with the model. Raises RunError where the file does not fit."""
        return read_calibration(self.folder, self.labels) if self.has(artifacts.CALIBRATION) else {}

    @cached_property
    def metrics(self) -> Metrics:
        """metrics.json. Raises RunError where the run is not judged yet."""
        return read_metrics(self.folder)

    @cached_property
    def seen(self) -> SeenRows | None:
        """Hashes of its training, validation and test rows, of an ensemble all members'; None where an older run kept none."""
        if self.has(artifacts.SEEN):
            return SeenRows(self.folder.read_parquet(artifacts.SEEN).cast(SEEN_SCHEMA))
        kept = [member.seen for member in self.members]
        known = [seen for seen in kept if seen is not None]
        return SeenRows.union(known) if known and len(known) == len(kept) else None

    def trained_on_held_out_of(self, other: "Run") -> int:
        """How many of this run's training rows are the same as validation or test rows of another. Raises RunError: one has no hashes."""
        if self.seen is None or other.seen is None:
            raise RunError(f"{(self if self.seen is None else other).uri}: kept no hashes of its rows; it is of an older version")
        held_out = np.union1d(other.seen.keys("validation"), other.seen.keys("test"))
        # what stands on both sides of the other's own split (data.duplicates: allow) is no difference between the two
        return len(np.setdiff1d(np.intersect1d(self.seen.keys("train"), held_out), other.seen.keys("train")))

    def by_title(self, part: str) -> bool:
        """Whether titles are the unit of intervals over the run's own rows of a part; see `polarity.data.seen.titles_apart`.

        An older run, which kept no hashes, is taken at its configuration's word.
        """
        if self.seen is not None:
            return titles_apart(self.seen.titles("train"), self.rows(part)["title"])
        return self.data.split.kind == "group" and self.data.source is not None

    @cached_property
    def decided(self) -> dict[str, list[str]]:
        """{part: what of the model its rows decided}, such as {"validation": ["the epoch"]}; a part that decided nothing is not in it.

        Calibration is not among it: a run's own metrics are of its scores before that.
        """
        found = list(dict.fromkeys(what for member in self.members for what in member.decided.get("validation", [])))
        if len(self.epochs) > 1 and self.config.train.keep == "best":
            found.append("the epoch")
        if self.kind == "ensemble" and not self.ensemble_record.get("choice", WeightChoice(chosen=""))["chosen"].endswith("as asked"):
            found.append("the members' weights")
        if self.kind == "soup":
            record = cast(SoupRecord, self.folder.read_json(artifacts.SOUP))
            found += [what for what in record.get("decided", ["the epoch"]) if what not in found]
            found += ["the members"] if record.get("kind") == "greedy" else []
        return {"validation": found} if found else {}

    @property
    def synthetic(self) -> bool:
        """Whether its rows are made-up comments, whose scores say nothing of real ones."""
        return self.has(artifacts.METRICS) and "data" in self.metrics

    @cached_property
    def ensemble_record(self) -> EnsembleRecord:
        """ensemble.json. Raises RunError where it is missing or damaged."""
        return cast(EnsembleRecord, self.folder.read_json(artifacts.ENSEMBLE))

    @cached_property
    def members(self) -> "list[Run]":
        """The runs of an ensemble, in its order; none of any other run. Raises RunError where one cannot be used."""
        if self.kind != "ensemble":
            return []
        names = self.ensemble_record.get("members")
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise RunError(f"{self.uri}/{artifacts.ENSEMBLE}: `members` must be a list of run folders; make the ensemble again")
        return [self._member(name) for name in names]

    def _member(self, name: str) -> "Run":
        """A member by its name in ensemble.json: relative to the ensemble's folder, absolute, or a URI."""
        if "://" in name or posixpath.isabs(name):
            where = name
        elif self.folder.local is not None:
            where = str(self.folder.local / name)
        else:
            scheme, _, path = self.uri.partition("://")
            where = f"{scheme}://{posixpath.normpath(posixpath.join(path, name))}"
        try:
            member = Run.open(where)
        except RunError as error:
            raise RunError(f"{self.uri}/{artifacts.ENSEMBLE}: the member {name} cannot be used: {error}") from error
        if member.kind == "ensemble":
            raise RunError(f"{self.uri}/{artifacts.ENSEMBLE}: the member {name} is an ensemble itself; name its members instead")
        return member


SeenChoice = Literal["drop", "keep"]
"""What becomes of rows that a run was trained on, or that chose something of it, where they are to be scored."""


@dataclass(frozen=True)
class CheckedRows:
    """Labelled rows that are to be scored, told apart by what runs have seen of them."""

    comments: pa.Table
    parts: pa.Array
    """Each row's part: `test` (not seen, or among the run's own test rows), `seen`, or `unchecked` where nobody can say."""
    validation: NDArray[np.bool_]
    """Rows that are, or resemble, validation rows: calibration was fitted on them."""
    counts: SeenCounts | None
    notes: list[str]


def check_rows(
    runs: Sequence[Run], comments: pa.Table, place: str, *, seen: SeenChoice = "drop", training: pa.Table | None = None
) -> CheckedRows:
    """Tell apart what any of the runs has seen of labelled comments, and leave it out, or with `keep` call it `seen`.

    `training` are the training rows of runs that kept no hashes, where somebody has them. Raises DataError, naming `place`, where nothing
    is left to judge on.
    """
    known = [run.seen for run in runs]
    hashes = [rows for rows in known if rows is not None]
    unknown = [run for run, rows in zip(runs, known, strict=True) if rows is None]
    if unknown and training is not None:
        hashes.append(SeenRows.of({"train": training}))
        unknown = []
    if unknown:
        return _unchecked(unknown, comments, place, seen)
    matches = SeenRows.union(hashes).match(comments)
    used, own = matches.of("train", "validation"), matches.counts()
    whose = " or ".join(dict.fromkeys(run.name for run in runs))
    counts: SeenCounts = {
        "train": own.get("train", 0),
        "validation": own.get("validation", 0),
        "test": own.get("test", 0),
        "near": int(matches.near.sum()),
        "left_out": int(used.sum()) if seen == "drop" else 0,
    }
    if not used.any():
        notes = [f"none of the {comments.num_rows:,} rows was seen by {whose} in training or validation"]
        return CheckedRows(comments, pa.array(["test"] * comments.num_rows), used, counts, notes)
    where = f"{counts['train']:,} in training, {counts['validation']:,} in validation, which chose something"
    near = int((matches.near & used).sum())
    where += f"; {near:,} only resemble such a row" if near else ""
    what = f"{int(used.sum()):,} of {comments.num_rows:,} rows were seen by {whose} ({where})"
    if seen == "keep":
        notes = [f"{what}: scored apart, as `seen`; their scores are too good"]
        return CheckedRows(comments, pa.array(np.where(used, "seen", "test")), matches.of("validation"), counts, notes)
    if used.all():
        raise DataError(f"{place}: {what}: nothing is left to judge on. Give rows that were not seen, or score these with --seen keep")
    left = comments.filter(pa.array(~used))
    notes = [f"{what}: left out (--seen keep scores them, labelled so)"]
    return CheckedRows(left, pa.array(["test"] * left.num_rows), np.zeros(left.num_rows, np.bool_), counts, notes)


def _unchecked(unknown: Sequence[Run], comments: pa.Table, place: str, seen: SeenChoice) -> CheckedRows:
    """Rows for runs that kept no hashes: only a file that is the run's own, byte for byte, is known again."""
    whose, rows = ", ".join(run.name for run in unknown), comments.num_rows
    none = np.zeros(rows, np.bool_)
    path = Path(place)
    own = path.is_file() and any(sha256_file(path) in (run.environment.get("data") or {}).values() for run in unknown)
    if own and seen == "drop":
        raise DataError(
            f"{place}: is a file that {whose} was made from, and the run kept no hashes of its rows (it is an older one): rows that it was "
            "trained on cannot be told apart. Give rows that it has not seen, or score these with --seen keep"
        )
    if own:
        note = f"the file is one that {whose} was made from: `seen`, too good"
        return CheckedRows(comments, pa.array(["seen"] * rows), none, None, [note])
    note = (
        f"{whose} kept no hashes of its rows (an older run), so it cannot be checked whether it was trained on some of these: they are "
        "called `unchecked`, and there is no verdict on them (--train FILE names its training rows)"
    )
    return CheckedRows(comments, pa.array(["unchecked"] * rows), none, None, [note])
