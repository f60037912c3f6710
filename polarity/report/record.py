"""A run's artifacts as the report and the card read them, and the proof that they belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity import artifacts
from polarity.artifacts import RunFolder
from polarity.best.record import BestRecord
from polarity.config import Config
from polarity.evaluate.agreement import Agreement
from polarity.evaluate.calibration import FittedTask
from polarity.evaluate.judge import PLAN_CLASSES, evaluate_split, verdict
from polarity.evaluate.predictions import check_predictions
from polarity.evaluate.results import JACKKNIFE, JudgedRows, PartName, PartResult, judged_parts, part_called
from polarity.report.page import ReportError
from polarity.run import Run
from polarity.strategy import points_on

TOLERANCE = 1e-9
ORDER: tuple[PartName, ...] = ("test", "validation")
"""The split that heads the report: test where there is one."""


@dataclass(frozen=True)
class CommentTexts:
    """The comments of the judged rows: {split: table with row_id and comment}; `missing` says why there are none."""

    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    missing: str = ""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{task: {row id: the words that spoke most for what was predicted}}, of the errors that are listed, where somebody asked."""

    def of(self, split: str, row_ids: Sequence[str]) -> dict[str, str]:
        """{row id: comment} of those rows that are known."""
        if split not in self.tables:
            return {}
        table = self.tables[split]
        found = table.filter(pc.is_in(table["row_id"], value_set=pa.array(row_ids, table["row_id"].type)))
        return dict(zip(found["row_id"].to_pylist(), found["comment"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Record:
    """A judged run as its report and card show it; what only a training writes may be missing (an ensemble has no history of its own)."""

    run: Run

    @cached_property
    def config(self) -> Config | None:
        """None of an evaluation."""
        return self.run.config if self.run.has(artifacts.CONFIG) else None

    @cached_property
    def calibration_record(self) -> dict[str, FittedTask]:
        """{task: how the calibration was fitted, and what it changes}."""
        return self.run.folder.read_json(artifacts.CALIBRATION)["tasks"] if self.run.has(artifacts.CALIBRATION) else {}

    @cached_property
    def agreement(self) -> dict[str, Agreement]:
        """{task: how far its annotators agree}, where several labelled."""
        return self.run.folder.read_json(artifacts.AGREEMENT)["tasks"] if self.run.has(artifacts.AGREEMENT) else {}

    @cached_property
    def best(self) -> BestRecord | None:
        """What `polarity best` recorded, in a run of its own."""
        return BestRecord.read(self.run.folder) if self.run.has(artifacts.BEST) else None

    @property
    def labels(self) -> dict[str, list[str]]:
        """{task: classes}, in the order of the metrics."""
        return {task: list(scores["per_class"]) for task, scores in self.split["tasks"].items()}

    @property
    def splits(self) -> list[PartName]:
        """The judged splits, the one that heads the report first."""
        judged = (name for name, _ in judged_parts(self.run.metrics))
        return sorted(judged, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    @property
    def main(self) -> PartName:
        """The split that heads the report."""
        return self.splits[0]

    @property
    def split(self) -> PartResult:
        """The metrics of the heading split."""
        return self.run.metrics[self.main]

    @property
    def called(self) -> str:
        """What the rows of the heading split are called."""
        return part_called(self.main, self.split)

    @property
    def planned(self) -> bool:
        """The plan's tasks and classes on real comments: the plan's figures may stand beside the scores."""
        plan = {task: set(names) for task, names in PLAN_CLASSES.items()}
        return not self.run.synthetic and {task: set(names) for task, names in self.labels.items()} == plan

    @property
    def points(self) -> tuple[int, ...]:
        """The points of the plan that are on, whole."""
        return () if self.config is None else points_on(self.config)

    def best_epoch(self) -> int | None:
        """The epoch whose weights were kept, from 1."""
        return None if self.run.stability is None else self.run.stability["best_epoch"]


def read_record(folder: RunFolder) -> Record:
    """The folder's run, proven. Raises RunError for what is missing or damaged, ReportError for what disagrees."""
    record = Record(Run(folder))
    if not any("overall" in part for _, part in judged_parts(record.run.metrics)):
        raise ReportError(f"{folder.uri}/{artifacts.METRICS}: has no scores; judge the run again")
    check_agreement(record)
    return record


def check_agreement(record: Record) -> None:
    """Judges predictions.parquet again and raises ReportError where metrics.json says anything else, so that no headline is unproven.

    Scores, counts and verdicts must be the same. Intervals must be the same under the numpy that drew them; another numpy may draw other
    resamples, so that their ends may then differ by a fifth of the interval.
    """
    check_predictions(record.run.predictions, record.labels)
    numpy_then = record.run.environment.get("packages", {}).get("numpy")
    for name in record.splits:
        stated, rows = record.run.metrics[name], record.run.rows(name)
        if not rows.num_rows:
            raise ReportError(f"{record.run.uri}: {artifacts.METRICS} has scores of {name!r}, {artifacts.PREDICTIONS} has no such rows")
        about = stated["intervals"]
        # An older run resampled titles: its intervals are not these, and cannot be held against them.
        comparable = about["unit"] == "row" or about["method"] == JACKKNIFE
        same_numpy = comparable and numpy_then == np.__version__
        again = evaluate_split(
            rows,
            record.labels,
            resamples=about["resamples"],
            seed=about["seed"],
            by_title=about["unit"] == "title",
            decided=stated.get("decided", ()),
            with_slices=False,
        )
        for key, found in {"rows": again["rows"], "overall": again["overall"], "tasks": again["tasks"]}.items():
            _compare(record.run.uri, f"{name}.{key}", dict(stated)[key], found if comparable else _scores_alone(found), same_numpy)
        if same_numpy and "verdict" in stated:
            judged = dict(verdict(cast(JudgedRows, {**again, "floors": stated.get("floors", {})}), None))
            for key in ("minimum", "stretch", "floors", "baseline"):
                _compare(record.run.uri, f"{name}.verdict.{key}", dict(stated["verdict"]).get(key, judged[key]), judged[key], same_numpy)


def _scores_alone(tree: Any) -> Any:
    """Without the intervals in it."""
    return {key: _scores_alone(value) for key, value in tree.items() if key != "ci95"} if isinstance(tree, dict) else tree


def _compare(uri: str, place: str, stated: Any, again: Any, same_numpy: bool) -> None:
    if isinstance(again, dict):
        for key, value in again.items():
            _compare(uri, f"{place}.{key}", stated.get(key) if isinstance(stated, dict) else None, value, same_numpy)
    elif place.endswith("ci95") and isinstance(again, list) and not same_numpy:
        room = 0.2 * (again[1] - again[0]) + TOLERANCE
        if not isinstance(stated, list) or any(abs(a - b) > room for a, b in zip(stated, again, strict=True)):
            _refuse(uri, place, stated, again)
    elif isinstance(again, list):
        if not isinstance(stated, list) or len(stated) != len(again):
            _refuse(uri, place, stated, again)
        for index, (old, new) in enumerate(zip(stated, again, strict=True)):
            _compare(uri, f"{place}[{index}]", old, new, same_numpy)
    elif isinstance(again, float) and isinstance(stated, int | float):
        if abs(again - stated) > TOLERANCE:
            _refuse(uri, place, stated, again)
    elif stated != again:
        _refuse(uri, place, stated, again)


def _refuse(uri: str, place: str, stated: object, again: object) -> None:
    raise ReportError(
        f"{uri}: {artifacts.METRICS} says {place} = {stated}, {artifacts.PREDICTIONS} gives {again}; no report is made of figures that "
        "cannot be recomputed. Put back the files that the run wrote, or train it again"
    )
