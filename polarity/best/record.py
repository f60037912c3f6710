"""best.json: what `polarity best` planned, what each member was worth and cost, and what decided. Light to import: reports read it."""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from polarity.artifacts import BEST, RunFolder
from polarity.best.plan import Plan
from polarity.errors import RunError

LABEL_ERRORS = "label_errors.parquet"
TIMES_MORE = (2, 4)
"""How far a learning curve is extended. Beyond four times the rows it is no more than a guess."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gain(_Record):
    """A paired difference of overall macro-F1, with its 95 % interval and what it says."""

    difference: float
    ci95: tuple[float, float]
    verdict: str

    @property
    def interval(self) -> str:
        """`+1.2 points [+0.3, +2.1]`."""
        return _points(self.difference, self.ci95)


class BiasGain(_Record):
    """What class biases gain in a task's macro-F1, cross-fitted; kept only where the interval excludes zero."""

    cross_fitted: float
    ci95: tuple[float, float]
    kept: bool


class MemberWorth(_Record):
    """One member: its own out-of-fold overall macro-F1, what the stack loses without it, and what it took."""

    name: str
    kind: str
    macro_f1: float
    ci95: tuple[float, float]
    drop_one: Gain | None
    """The stack less the stack without it, paired; None where it is the only member."""
    seconds: float


class CurvePoint(_Record):
    """A point of the learning curve: training rows of a fold, overall macro-F1 out of fold, and its 95 % interval over rows or titles."""

    rows: int
    macro_f1: float
    ci95: tuple[float, float]


class Reach(CurvePoint):
    """What the stack is expected to score with so many labelled rows in all."""


class LabelDoubt(_Record):
    """How far one task's labels can be trusted; shares of the labelled rows."""

    task: str
    suspect: float
    """Labels that the stack contradicts with confidence."""
    macro_f1: float
    macro_f1_if_wrong: float
    """The stack's score if every suspect label were wrong and the stack right there: an upper bound."""
    views: tuple[str, str] | None
    """Two members that share no features: word counts and an encoder."""
    views_agree: float | None
    label_differs: float | None
    """Of the rows on which the two agree, the share whose label is another."""


class Ceiling(_Record):
    """Where the ceiling is: what more rows would bring, and what the labels allow."""

    curve: list[CurvePoint]
    reach: list[Reach]
    target: float | None
    """The plan's; None where the tasks are not the plan's."""
    rows_for_target: int | None
    """None where four times the rows are not expected to be enough."""
    labels: list[LabelDoubt] = []


class Started(_Record):
    """What is fixed before the first fit, so that a resumed run is the same run."""

    fingerprint: str
    plan: Plan
    precision: str


class Outcome(_Record):
    """What came of it."""

    rule: Literal["mean", "pool", "greedy", "logistic"]
    rules: dict[str, float]
    """Cross-fitted overall macro-F1 of each rule."""
    over_simplest: Gain | None
    biases: dict[str, BiasGain]
    members: list[MemberWorth]
    against_best_member: Gain | None
    label_errors: dict[str, int]
    """{task: rows whose label is suspect}; label_errors.parquet lists them."""
    ceiling: Ceiling | None = None
    """None where the rows are too few for a learning curve."""
    student: str | None
    """What became of the student, in words; None where none was planned."""
    seconds: float


class BestRecord(_Record):
    """The content of best.json; `outcome` is None until the run is finished."""

    started: Started
    seconds: dict[str, float] = {}
    """{member or step: seconds}, of what is done."""
    outcome: Outcome | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> "BestRecord":
        """best.json of a run folder. Raises RunError where it is missing or damaged."""
        content = {key: value for key, value in folder.read_json(BEST).items() if key != "schema_version"}
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(f"{folder.uri}/{BEST}: {place}: {first['msg']}; the file is damaged or of another version") from error

    def write(self, folder: RunFolder) -> None:
        """Write best.json."""
        folder.write_json(BEST, self.model_dump(mode="json"))


def combination_lines(outcome: Outcome) -> Iterator[str]:
    """How the members were combined, what that gained, and which labels it contradicts, in words."""
    shown = ", ".join(f"{name} {100 * score:.1f} %" for name, score in outcome.rules.items())
    yield f"combined by {outcome.rule} (cross-fitted: {shown})"
    for task, gain in outcome.biases.items():
        yield f"class biases of {task} {'kept' if gain.kept else 'not kept'}: {_points(gain.cross_fitted, gain.ci95)}"
    if outcome.against_best_member is not None:
        yield f"stack against its best member: {outcome.against_best_member.interval}, {outcome.against_best_member.verdict}"
    if outcome.student is not None:
        yield f"student: {outcome.student}"
    suspects = ", ".join(f"{count:,} of {task}" for task, count in outcome.label_errors.items())
    yield f"labels that the stack contradicts with confidence: {suspects} ({LABEL_ERRORS})"


def _points(value: float, ci95: tuple[float, float]) -> str:
    return f"{100 * value:+.1f} points [{100 * ci95[0]:+.1f}, {100 * ci95[1]:+.1f}]"


def _when_reached(ceiling: Ceiling) -> str:
    needed = ceiling.rows_for_target
    if needed is None:
        return f"not expected with {TIMES_MORE[-1]} times these rows: better labels or a larger encoder are needed"
    now = ceiling.reach[0].rows / TIMES_MORE[0]
    return f"expected at about {needed:,} labelled rows" if needed > now else "reached with these rows"


def ceiling_lines(ceiling: Ceiling) -> Iterator[str]:
    """What it means, in words."""
    now = ceiling.curve[-1]
    shown = ", ".join(f"{point.rows:,} rows {100 * point.macro_f1:.1f}" for point in ceiling.curve)
    yield f"learning curve of the cheap members, overall macro-F1: {shown}"
    reached = "; ".join(
        f"{reach.rows:,} rows like these: {100 * reach.macro_f1:.1f} [{100 * reach.ci95[0]:.1f}, {100 * reach.ci95[1]:.1f}]"
        for reach in ceiling.reach
    )
    yield f"the stack with more labelled rows, by the curve's extension (now {now.rows:,} train each fold): {reached}"
    if ceiling.target is not None:
        yield f"the plan's target of {100 * ceiling.target:.0f} is {_when_reached(ceiling)}"
    for doubt in ceiling.labels:
        line = f"{doubt.task}: {100 * doubt.suspect:.1f} % of the labels are suspect; if each of them were wrong, the stack would have "
        line += f"{100 * doubt.macro_f1_if_wrong:.1f} for {100 * doubt.macro_f1:.1f}, an upper bound"
        if doubt.views is not None and doubt.views_agree is not None and doubt.label_differs is not None:
            line += (
                f"; {doubt.views[0]} and {doubt.views[1]} agree on {100 * doubt.views_agree:.0f} % of the rows, and the label differs in "
            )
            line += f"{100 * doubt.label_differs:.0f} % of these"
        yield line
