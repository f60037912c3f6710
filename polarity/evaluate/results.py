"""What metrics.json holds, as types: the judge writes them, the terminal, the report and the card read them, the schema is made of them.

Scores are fractions, not percent. A type here is a plain dictionary at run time, so that what `polarity.fit` returns is what the file says.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, NotRequired, cast, get_args

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from pydantic.json_schema import JsonSchemaValue
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from polarity.artifacts import METRICS, RunFolder

SCHEMA_VERSION: Literal[1] = 1
SYNTHETIC = "SYNTHETIC sample corpus"
"""`data` of the made-up corpus."""
BOOTSTRAP: Literal["percentile bootstrap"] = "percentile bootstrap"
JACKKNIFE: Literal["title jackknife, t"] = "title jackknife, t"

PartName = Literal["validation", "test", "unchecked", "seen"]
"""The parts that are judged; see `Metrics`."""
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

Language = Literal["tagalog", "cebuano", "english", "mixed", "other"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Signed = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2, description="Lower and upper end of a 95 % interval.")]
SignedInterval = Annotated[list[Signed], Field(min_length=2, max_length=2, description="The 95 % interval of a difference.")]

TRAINING = "the weights"
"""What rows decided that the model was trained on."""
UNKNOWN = "unknown"
"""What rows decided of which nobody can say whether the model was trained on them."""

DECIDED = {"seen": [TRAINING], "unchecked": [UNKNOWN]}
"""What the parts of a judged file decided, beside `test`, which decided nothing."""

WITHHELD = ("on rows that chose it", "on rows that trained it", "on unchecked rows", "too few titles")
"""What stands in place of a verdict."""
NO_VERDICT = "|".join(WITHHELD)
Judged = Annotated[str, Field(pattern=f"^(met|missed by .+|within noise|{NO_VERDICT})$")]
Beside = Annotated[str, Field(pattern=f"^(above by .+|below by .+|within noise|{NO_VERDICT})$")]
Compared = Annotated[str, Field(pattern=f"^(gain|loss|within noise|{NO_VERDICT})$")]

_closed = with_config(ConfigDict(extra="forbid"))


@_closed
class Intervals(TypedDict):
    """How the part's intervals were made; slices always resample rows."""

    method: Literal["percentile bootstrap", "title jackknife, t"]
    unit: Annotated[Literal["row", "title"], Field(description="What varies: titles where none of them was trained on.")]
    units: Positive
    degrees: NotRequired[Annotated[float | None, Field(description="Of Student's t, for titles: their effective number less one.")]]
    resamples: Positive
    seed: int
    note: NotRequired[Annotated[str, Field(description="What limits the intervals here.")]]


@_closed
class Overall(TypedDict):
    """Mean of the tasks' macro-F1."""

    macro_f1: Fraction
    ci95: Interval


@_closed
class ClassResult(TypedDict):
    """Scores of one class; ci95 is of f1, support its labelled rows."""

    precision: Fraction
    recall: Fraction
    f1: Fraction
    ci95: Interval
    support: Count


@_closed
class WeakestClass(TypedDict):
    """The lowest F1 among the classes; ci95 is of the lowest true one, whichever it is."""

    label: str
    f1: Fraction
    ci95: Interval


@_closed
class TaskResult(TypedDict):
    """One task's scores over its labelled rows."""

    macro_f1: Fraction
    ci95: Interval
    accuracy: Fraction
    labelled: Count
    weakest_class: WeakestClass
    per_class: Annotated[dict[str, ClassResult], Field(min_length=2, description="Classes in their fixed order.")]
    confusion: Annotated[list[list[Count]], Field(description="A row a label, a column a prediction, both in the order of per_class.")]
    absent_classes: NotRequired[Annotated[list[str], Field(description="Classes without a labelled row: macro_f1 leaves them out.")]]


@_closed
class SliceScore(TypedDict):
    """One task on a slice; macro-F1 is over the classes that have a labelled row there."""

    labelled: Count
    macro_f1: Fraction
    ci95: Interval
    accuracy: Fraction


@_closed
class TitleSlice(TypedDict):
    """The rows of one title."""

    title: Annotated[str, Field(max_length=60, description="Cut to 60 characters.")]
    rows: Count
    tasks: dict[str, SliceScore]


@_closed
class ClassSlice(SliceScore):
    """One task on the rows of one class of another."""

    task: str
    within: Annotated[dict[str, str], Field(min_length=1, max_length=1, description="Other task and the class that its label has.")]


@_closed
class LanguageSlice(TypedDict):
    """The rows of one language, told by pycld2."""

    language: Language
    rows: Count
    tasks: dict[str, SliceScore]


@_closed
class Slices(TypedDict):
    """Scores of parts of the rows: compare slices with each other, not with the headline."""

    title: list[TitleSlice]
    within: list[ClassSlice]
    language: NotRequired[Annotated[list[LanguageSlice], Field(description="`polarity evaluate` alone.")]]


@_closed
class Difference(TypedDict):
    """A paired difference; gain or loss only where the interval excludes zero and the rows decided nothing."""

    difference: Signed
    ci95: SignedInterval
    verdict: Compared


@_closed
class PairedDifference(TypedDict):
    """One side less the other on the same rows."""

    overall: Difference
    tasks: dict[str, Difference]
    per_class: dict[str, dict[str, Difference]]


@_closed
class FloorResult(TypedDict):
    """A baseline on the same rows; `difference` is the model less the baseline."""

    rows: Count
    intervals: Intervals
    overall: Overall
    tasks: Annotated[dict[str, TaskResult], Field(min_length=1)]
    difference: PairedDifference


@_closed
class TargetJudgement(TypedDict):
    """within noise: the interval contains the target."""

    metric: str
    target: Fraction
    value: Fraction
    ci95: Interval
    verdict: Judged


@_closed
class StabilityJudgement(TypedDict):
    """Of a training; value is null where nothing is known, and there is no interval."""

    metric: str
    target: float
    value: float | None
    ci95: None
    verdict: Judged


@_closed
class FloorJudgement(TypedDict):
    """met: the paired interval of model minus floor lies above zero."""

    metric: str
    floor: str
    target: Fraction
    value: Fraction
    ci95: Interval
    difference: Signed
    difference_ci95: SignedInterval
    verdict: Judged


@_closed
class BaselineJudgement(TypedDict):
    """Beside the plan's published baseline; other rows, so no claim of a gain."""

    metric: str
    baseline: Fraction
    value: Fraction
    ci95: Interval
    verdict: Beside


@_closed
class Verdict(TypedDict):
    """minimum, stretch and baseline are empty where tasks and classes are not the plan's; stability where nothing was trained."""

    minimum: list[TargetJudgement]
    stretch: list[TargetJudgement]
    stability: list[StabilityJudgement]
    floors: list[FloorJudgement]
    baseline: list[BaselineJudgement]


class JudgedRows(TypedDict):
    """The scores of a part, without floors and verdict."""

    rows: Positive
    out_of_fold: NotRequired[
        Annotated[bool, Field(description="Of `polarity best`: all labelled rows, each scored by models that had not seen it.")]
    ]
    decided: NotRequired[Annotated[list[str], Field(description="What of the model these rows decided, such as `the epoch`.")]]
    no_verdict: NotRequired[Annotated[str | None, Field(description="What stands in place of every verdict on these rows.")]]
    intervals: Intervals
    overall: Overall
    tasks: Annotated[dict[str, TaskResult], Field(min_length=1)]


@_closed
class PartResult(JudgedRows):
    """A judged part: its scores, slices, floors on the same rows, and the verdict."""

    slices: Slices
    floors: dict[str, FloorResult]
    verdict: Verdict


@_closed
class SeenCounts(TypedDict):
    """How many of the rows the run has seen; null in `Evaluation` where it kept no hashes, so that it cannot be checked."""

    train: Count
    validation: Count
    test: Count
    near: Annotated[Count, Field(description="Of these, rows that only resemble one of the run's.")]
    left_out: Annotated[Count, Field(description="Training and validation rows that were not scored.")]


@_closed
class Evaluation(TypedDict):
    """`polarity evaluate` alone: which run on which file."""

    run: str
    data: str
    calibrated: bool
    votes: Annotated[Literal["off", "mean", "vote"] | None, Field(description="Mode of multi-sample dropout in place of the run's own.")]
    calibration_rows: Annotated[Count, Field(description="Rows that the run's calibration was fitted on.")]
    seen: NotRequired[SeenCounts | None]
    notes: list[str]


class Shift(TypedDict):
    """distance: total variation, the share of rows that would have to be others; p: of a chi-squared test."""

    train_shares: list[Fraction]
    shares: list[Fraction]
    distance: Fraction
    p: Fraction
    drifted: bool


class LengthShift(Shift):
    """Tokens of a row, in bins."""

    train_median: Annotated[float, Field(ge=0)]
    median: Annotated[float, Field(ge=0)]


@_closed
class UnknownShift(TypedDict):
    """Share of tokens that the tokenizer does not know."""

    train_rate: Fraction
    rate: Fraction
    drifted: bool


@_closed
class Drift(TypedDict):
    """`polarity evaluate` alone: how the rows differ from the training rows."""

    labels: dict[str, Shift]
    lengths: NotRequired[LengthShift]
    unknown: NotRequired[UnknownShift]
    warnings: list[str]


@_closed
class Optimism(TypedDict):
    """The score on validation rows, which chose the model, less that on test rows, which did not; the two are of different rows."""

    difference: Signed
    ci95: SignedInterval


@_closed
class Metrics(TypedDict):
    """metrics.json of a polarity run, version 1.

    `test` decided nothing. `validation` may have chosen the epoch (see `decided`). `unchecked`: an older run kept no hashes, so nobody can
    say whether it was trained on them. `seen`: the run was trained on these rows, or they chose something; scored with `--seen keep` alone.
    """

    schema_version: Literal[1]
    validation: NotRequired[PartResult]
    test: NotRequired[PartResult]
    unchecked: NotRequired[PartResult]
    seen: NotRequired[PartResult]
    optimism: NotRequired[Optimism]
    data: NotRequired[Annotated[str, Field(description="What the rows are, where they are not real comments.")]]
    evaluation: NotRequired[Evaluation]
    drift: NotRequired[Drift]


def part_called(name: PartName, part: JudgedRows) -> str:
    """What the rows of a part are called before the word `rows`: `test`, `validation`, or `out-of-fold`."""
    return "out-of-fold" if part.get("out_of_fold") else name


def what_rows_decided(part: JudgedRows) -> str:
    """What the rows of a part decided, in words to stand behind its name: `chose the epoch`; empty where they decided nothing."""
    decided = part.get("decided", [])
    if UNKNOWN in decided:
        return "not checked whether it was trained on them"
    if TRAINING in decided:
        return "seen in training or validation"
    return f"chose {' and '.join(decided)}" if decided else ""


def how_intervals(about: Intervals) -> str:
    """How a part's 95 % intervals were made, in words."""
    if about["method"] == JACKKNIFE:
        return f"95 % intervals over {about['units']:,} titles, left out one by one (t with {about.get('degrees') or 0:.1f} degrees)"
    what = f"{about['units']:,} titles" if about["unit"] == "title" else "rows"
    return f"95 % intervals from {about['resamples']:,} bootstrap resamples of {what}"


def judged_parts(metrics: Metrics) -> list[tuple[PartName, PartResult]]:
    """(name, results) of the parts that were judged."""
    return [(name, metrics[name]) for name in PART_NAMES if name in metrics]


FLOOR_ORDER = ("linear", "title", "majority")


def strongest_first(names: Iterable[str]) -> list[str]:
    """Names of floors in the order in which they are shown."""
    return sorted(names, key=lambda name: FLOOR_ORDER.index(name) if name in FLOOR_ORDER else len(FLOOR_ORDER))


def floors_of(part: PartResult) -> dict[str, FloorResult]:
    """A part's floors, the strongest first; none where an older run has none."""
    floors = part.get("floors", {})
    return {name: floors[name] for name in strongest_first(floors)}


def verdict_of(part: PartResult) -> Verdict:
    """A part's verdict; empty lists where an older run has none."""
    none: Verdict = {"minimum": [], "stretch": [], "stability": [], "floors": [], "baseline": []}
    return {**none, **part.get("verdict", none)}


def score_of(side: JudgedRows | FloorResult, scope: str) -> Overall | TaskResult:
    """The scores `overall` or of a task, of a part or of a floor: both have macro_f1 and ci95."""
    return side["overall"] if scope == "overall" else side["tasks"][scope]


def difference_of(found: PairedDifference, scope: str) -> Difference:
    """The difference `overall` or of a task."""
    return found["overall"] if scope == "overall" else found["tasks"][scope]


def read_metrics(folder: RunFolder, name: str = METRICS) -> Metrics:
    """metrics.json of a folder. It isn't validated: what an older version wrote and this one doesn't know must stay readable.

    Raises RunError where it is missing or no JSON.
    """
    return cast(Metrics, folder.read_json(name))


def metrics_schema() -> JsonSchemaValue:
    """The published JSON schema of metrics.json (polarity/evaluate/metrics.schema.json), made of these types."""
    schema = TypeAdapter(Metrics).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "anyOf": [{"required": [part]} for part in PART_NAMES],
    }
