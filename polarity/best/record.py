"""best.json: what `polarity best` planned, what each member was worth and cost, and what decided. Light to import: reports read it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from polarity.artifacts import BEST, RunFolder
from polarity.best.plan import Plan
from polarity.errors import RunError


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Difference(_Record):
    """A paired difference of overall macro-F1, with its 95 % interval and what it says."""

    difference: float
    ci95: tuple[float, float]
    verdict: str


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
    drop_one: Difference | None
    """The stack less the stack without it, paired; None where it is the only member."""
    seconds: float


class Started(_Record):
    """What is fixed before the first fit, so that a resumed run is the same run."""

    fingerprint: str
    plan: Plan
    precision: str


class Outcome(_Record):
    """What came of it."""

    rule: Literal["pool", "greedy", "logistic"]
    rules: dict[str, float]
    """Cross-fitted overall macro-F1 of each rule."""
    over_simplest: Difference | None
    biases: dict[str, BiasGain]
    members: list[MemberWorth]
    against_best_member: Difference | None
    label_errors: dict[str, int]
    """{task: rows whose label is suspect}; label_errors.parquet lists them."""
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
