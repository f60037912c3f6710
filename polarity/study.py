"""A study's folder: study.json as typed entries, and `Study`, by which it is run, gone on with and read for a report.

study.json is the study's own record: it is written whole after every event, and it is all that a resume reads.
"""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, NotRequired, TypedDict, get_args, get_type_hints

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SkipValidation, ValidationError, field_validator
from pydantic.json_schema import JsonSchemaValue

from polarity.artifacts import EFFECTS, LEDGER, METRICS, STUDY, TRIALS, RunFolder
from polarity.data.ledger import Ledger
from polarity.environment import Environment
from polarity.errors import RunError
from polarity.evaluate.results import read_metrics
from polarity.paths import is_sample
from polarity.strategy import Settings
from polarity.yaml_text import parse_yaml

Stage = Literal["explore", "screen", "confirm"]
Status = Literal["pending", "running", "finished", "stopped", "failed"]
OVERALL = "overall"
HELPS, HURTS, NO_EVIDENCE = "helps", "hurts", "no evidence"
"""Verdicts on an effect."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a study. `claim` is signed, arm less reference, in fractions of macro-F1; None where the plan has none.

    `name` is file-safe and unique in its study; `reference` is None for the study's own reference, which stands first.
    """

    name: str
    points: tuple[int, ...] = ()
    sets: Settings = field(default_factory=dict)
    reference: str | None = None
    claim: tuple[float, float] | None = None


@dataclass(frozen=True)
class Asha:
    """Rungs as shares of a schedule, ascending; at each of them about 1 / `reduction` of the trials go on, and with `keep_ahead` those
    that are not behind their own reference."""

    rungs: tuple[float, ...]
    reduction: float = 2.0
    keep_ahead: bool = False


@dataclass
class TrialRecord:
    """One arm with one seed in one stage. Scores are fractions on the inner validation rows, seconds are wall time."""

    id: str
    arm: str
    seed: int
    stage: Stage
    planned: int = 0
    """Epochs of its schedule."""
    status: Status = "pending"
    progress: float = 0.0
    epochs: int = 0
    seconds: float = 0.0
    """From start to end, all that is not training included."""
    train_seconds: float = 0.0
    overall: float | None = None
    """Best so far."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """{progress, epoch, overall, a score for each task, seconds of training so far}."""
    rung: float | None = None
    """Where ASHA stopped it."""
    error: str | None = None
    attempts: int = 0
    failures: int = 0
    run_dir: str = ""

    @property
    def points(self) -> list[tuple[float, float]]:
        """The learning curve as (progress, overall)."""
        return [(point["progress"], point[OVERALL]) for point in self.curve]

    def add_point(self, progress: float, metrics: dict[str, float]) -> None:
        """Note an epoch from what the loop reports of it; a trial that starts again writes its curve anew from there."""
        epoch = int(metrics["epoch"])
        scores = {name.removeprefix("validation_"): float(v) for name, v in metrics.items() if name.startswith("validation_")}
        kept = [point for point in self.curve if point["epoch"] < epoch]
        seconds = (kept[-1]["seconds"] if kept else 0.0) + float(metrics["seconds"])
        self.curve = [*kept, {"progress": round(progress, 6), "epoch": epoch, **scores, "seconds": round(seconds, 3)}]
        self.progress, self.epochs, self.train_seconds = round(progress, 6), epoch, round(seconds, 3)
        self.overall = max(point[OVERALL] for point in self.curve)


def new_trial(arm: str, seed: int, stage: Stage, planned: int) -> TrialRecord:
    """A trial that waits; its id and folder say what it is."""
    name = f"{stage}-{arm}-s{seed}"
    return TrialRecord(name, arm, seed, stage, planned, run_dir=f"{TRIALS}/{name}")


class EffectRow(TypedDict):
    """A row of effects.parquet, one for each arm with a reference and metric: scores and claims are fractions, seconds of training a trial.

    A screen's rows are about factors; their reference is the factor off.
    """

    arm: str
    reference: str | None
    metric: str
    """overall, a task, or task/class."""
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    verdict: str | None
    score: float
    reference_score: float
    seeds: int
    seconds: float | None
    reference_seconds: float | None
    claim_low: float | None
    claim_high: float | None
    stage: NotRequired[str | None]


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}
EFFECTS_SCHEMA = pa.schema([(name, _ARROW[(get_args(kind) or [kind])[0]]) for name, kind in get_type_hints(EffectRow).items()])
"""The columns of effects.parquet."""


def excludes_zero(row: EffectRow) -> bool:
    """Whether the row's own 95 % interval excludes zero; it has none where a single seed was run."""
    low, high = row["low"], row["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


class Entry(BaseModel):
    """A part of study.json; what it does not know it leaves out, so that records of other versions are still read."""

    model_config = ConfigDict(extra="ignore")


class Seeds(Entry):
    """Run seeds by stage."""

    explore: list[int] = []
    screen: list[int] = []
    confirm: list[int] = []


class StudyData(Entry):
    """Rows by what they are for, which part the effect rows are, a hash of all, and the effect rows' resampling unit."""

    rows: dict[str, int] = {}
    effects_on: str = ""
    fingerprint: str = ""
    unit: Literal["row", "title"] | None = None
    """None: a record from before it was kept; a resume sets it."""


class Detectable(Entry):
    """The effect that is found with a power of 80 %: by the forecast, and by the spread that was measured. Fractions; None: none."""

    before: float | None = None
    after: float | None = None


class MeasuredSpread(Entry):
    """Measured standard deviations in fractions of macro-F1: over seeds, of a paired difference or of one run, and the rows' part."""

    seed_sd: float | None = None
    trial_sd: float | None = None
    row_sd: float | None = None


class Score(Entry):
    """Overall macro-F1 on the effect rows, mean over seeds."""

    mean: float
    seeds: int


class Savings(Entry):
    """What was run against the full grid: every arm in full over the confirming seeds."""

    trial_epochs_run: int
    trial_epochs_full: int
    saved: float
    explore_epochs_run: int | None = None
    explore_epochs_planned: int | None = None
    explore_trials_stopped: int | None = None
    train_seconds: float | None = None
    seconds: float | None = None


class Replay(Entry):
    """What ASHA would have done to a grid that ran in full."""

    rungs: list[float] | None = None
    seeds: int | None = None
    epochs_full: int | None = None
    epochs_with_asha: int | None = None
    saved: float
    stopped_trials: int | None = None
    arms_stopped_in_every_seed: str | None = None
    best_arm: str
    seeds_in_which_the_best_arm_was_stopped: int


class ArmCompute(Entry):
    """Score within the cheapest arm's compute (None: nothing by then), and in full."""

    arm: str
    seeds: int
    score: float | None
    full_score: float | None


class EqualCompute(Entry):
    """Scores on the inner validation rows within what the cheapest arm used; `budget` in `unit`."""

    unit: str
    budget: float | None
    cheapest: str | None
    arms: list[ArmCompute]


class SharedSetting(Entry):
    """A setting that several factors set: its value with each alone, and with all of them on."""

    setting: str
    alone: dict[str, JsonValue]
    together: JsonValue


class Interaction(Entry):
    """Two factors' interaction in overall macro-F1; its estimate holds the shares `aliases` {"a x b": correlation} of others."""

    factors: tuple[str, str]
    estimate: float
    low: float | None
    high: float | None
    aliases: dict[str, float]


class Contrast(Entry):
    """A dot of the half-normal plot: a factor's effect, or a column that no factor uses."""

    name: str
    estimate: float


class Chosen(Entry):
    """The combination that the screen predicts to be the best, by the factors' effects on the inner validation rows."""

    on: list[str]
    inner_effects: dict[str, float]


class ScreenEntry(Entry):
    """A screening design, what its factors change, and what its model found beside the effects."""

    factors: list[Arm]
    runs: dict[str, tuple[int, ...]]
    """Signs by factor: 1 on, -1 off."""
    off: Arm
    changes: dict[str, dict[str, JsonValue]] = {}
    shared: list[SharedSetting] = []
    interactions: list[Interaction] = []
    contrasts: list[Contrast] = []
    aliased: dict[str, dict[str, float]] = {}
    """{factor: {"a x b": correlation}} of the interactions that its effect is not clear of."""
    error_df: float | None = None
    error_from: str | None = None
    chosen: Chosen | None = None


class Best(Entry):
    """The best draw of a search: on the inner rows that chose it, and on rows that chose nothing."""

    arm: str
    sets: dict[str, JsonValue]
    inner_overall: float
    overall: float


class StudyFile(Entry):
    """study.json. Scores are fractions of macro-F1, times are seconds."""

    name: str
    design: str
    level: str
    arms: list[Arm]
    seeds: Seeds
    reference: str
    trials: list[TrialRecord]
    created: str | None = None
    command: str | None = None
    config: str | None = None
    """The reference's configuration, as YAML."""
    configs: dict[str, str] = {}
    data: StudyData = Field(default_factory=StudyData)
    asha: Asha | None = None
    screen: ScreenEntry | None = None
    precision: str | None = None
    detectable: Detectable = Field(default_factory=Detectable)
    spread: MeasuredSpread = Field(default_factory=MeasuredSpread)
    noisy_arms: list[str] = []
    """With a seed variance of their own."""
    scores: dict[str, Score] = {}
    savings: Savings | None = None
    equal_compute: EqualCompute | None = None
    asha_replay: Replay | None = None
    best: Best | None = None
    notes: list[str] = []
    environment: SkipValidation[Environment] = {}
    """Not validated, for it is only shown: what an older version wrote must stay readable."""

    @field_validator("detectable", "spread", mode="before")
    @classmethod
    def _unknown(cls, value: object) -> object:
        """Nothing is known yet where a record has null."""
        return {} if value is None else value


def study_schema() -> JsonSchemaValue:
    """The JSON schema of study.json."""
    return StudyFile.model_json_schema()


@dataclass
class Study:
    """A study by its folder; `file` is study.json in memory. What trials left is read when it is asked for."""

    folder: RunFolder
    file: StudyFile
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def create(cls, folder: RunFolder, file: StudyFile) -> "Study":
        """A new record, written at once."""
        file.created = datetime.now(UTC).isoformat(timespec="seconds")
        study = cls(folder, file)
        study.save()
        return study

    @classmethod
    def open(cls, place: "str | RunFolder") -> "Study":
        """The study of a folder (local or URI), as it stands. Raises RunError: there is none, or study.json is damaged."""
        folder = RunFolder.at(place) if isinstance(place, str) else place
        if not folder.exists(STUDY):
            raise RunError(f"{folder.uri}: no study here (it has no {STUDY}); `polarity ablate` writes one")
        try:
            return cls(folder, StudyFile.model_validate(folder.read_json(STUDY)))
        except ValidationError as error:
            raise RunError(f"{folder.uri}/{STUDY}: {_in_words(error)}; it is damaged or was written by another version") from error

    @classmethod
    def resumed(cls, place: "str | RunFolder") -> "Study":
        """As `open`, unfinished trials waiting again."""
        study = cls.open(place)
        for trial in study.of(None, "running"):
            trial.status = "pending"
        return study

    def save(self) -> None:
        """Write study.json, whole or not at all."""
        self.folder.write_json(STUDY, self.file.model_dump(mode="json"))

    @property
    def arms(self) -> list[Arm]:
        return self.file.arms

    @property
    def arm_names(self) -> list[str]:
        """In the study's order."""
        return [arm.name for arm in self.file.arms]

    @property
    def name(self) -> str:
        """The study folder's name."""
        return self.folder.root.rstrip("/").rsplit("/", 1)[-1]

    @property
    def reference(self) -> str:
        return self.file.reference

    @property
    def trials(self) -> list[TrialRecord]:
        return self.file.trials

    def trial(self, name: str) -> TrialRecord:
        """The trial of an id."""
        return next(trial for trial in self.trials if trial.id == name)

    def of(self, stage: Stage | None = None, *statuses: Status) -> list[TrialRecord]:
        """The trials of a stage (or of all) that have one of the statuses (or any)."""
        return [t for t in self.trials if (stage is None or t.stage == stage) and (not statuses or t.status in statuses)]

    def survivors(self) -> list[str]:
        """Arms that the exploration leaves: at least half of an arm's exploring trials ran to their end (the reference always stays)."""
        kept = []
        for arm in self.arms:
            own = [trial for trial in self.of("explore") if trial.arm == arm.name]
            ended = [trial for trial in own if trial.status == "finished"]
            if arm.name == self.reference or (own and 2 * len(ended) >= len(own)):
                kept.append(arm.name)
        return kept

    @property
    def rows(self) -> dict[str, int]:
        """{what they are for: how many}."""
        on = f" ({self.file.data.effects_on})" if self.file.data.effects_on else ""
        words = {"train": "training rows", "validation": "inner validation rows", "test": f"effect rows{on}"}
        return {words.get(part, part): count for part, count in self.file.data.rows.items()}

    @property
    def synthetic(self) -> bool:
        """Whether the comments are those of the made-up sample corpus."""
        tree = parse_yaml(self.file.config or "{}", f"{STUDY}, config")
        data = tree.get("data") if isinstance(tree, dict) else None
        return any(is_sample(str(data.get(key))) for key in ("source", "train", "validation")) if isinstance(data, dict) else False

    @cached_property
    def effects(self) -> list[EffectRow]:
        """The rows of effects.parquet; none before anything is decided."""
        return self.folder.read_parquet(EFFECTS).to_pylist() if self.folder.exists(EFFECTS) else []

    def effects_of(self, stage: Stage) -> list[EffectRow]:
        """The effects that a stage measured; tables of before there were screens name no stage."""
        return [row for row in self.effects if (row.get("stage") or "confirm") == stage]

    @property
    def main_stage(self) -> Stage:
        """The stage whose effects the study is about."""
        return "screen" if self.file.screen else "confirm"

    @property
    def decided(self) -> list[EffectRow]:
        """The effects on overall macro-F1, which carry the verdicts: a screen's factors, else the confirmed arms."""
        return [row for row in self.effects_of(self.main_stage) if row["metric"] == OVERALL]

    @property
    def confirmed(self) -> list[EffectRow]:
        """The effects on overall macro-F1 of what confirms a screen."""
        return [row for row in self.effects_of("confirm") if row["metric"] == OVERALL] if self.file.screen else []

    @property
    def tested(self) -> bool:
        """Whether there are intervals: a single seed of a design of pairs has none."""
        return any(row["low"] is not None for row in self.decided)

    @cached_property
    def ledgers(self) -> dict[str, Ledger]:
        """{arm: the ledger of one of its trials}."""
        found: dict[str, Ledger] = {}
        for trial in self.trials:
            name = f"{trial.run_dir}/{LEDGER}"
            if trial.arm not in found and self.folder.exists(name):
                found[trial.arm] = Ledger.read(self.folder, name)
        return found

    @cached_property
    def scores(self) -> dict[str, float]:
        """{trial id: overall macro-F1 on the effect rows} of finished trials."""
        found: dict[str, float] = {}
        for trial in self.of(None, "finished"):
            name = f"{trial.run_dir}/{METRICS}"
            if self.folder.exists(name) and "test" in (judged := read_metrics(self.folder, name)):
                found[trial.id] = judged["test"]["overall"]["macro_f1"]
        return found


def open_study_folder(place: str, *, resume: bool) -> RunFolder:
    """The study's folder. Raises RunError: it holds a study (without `resume`) or none (with it), or cannot be written."""
    folder = RunFolder.create(place)
    holds = folder.exists(STUDY)
    if holds and not resume:
        raise RunError(f"{folder.uri}: already holds a study ({STUDY}); continue it with --resume or choose another --study-dir")
    if resume and not holds:
        raise RunError(f"{folder.uri}: holds no study to resume (no {STUDY}); leave --resume out, or name the folder with --study-dir")
    return folder


def _in_words(error: ValidationError) -> str:
    """The first thing that is wrong: trials that are not such, keys that are missing, or a value."""
    problems = error.errors()
    of_trials = next((problem for problem in problems if problem["loc"][0] == "trials" and len(problem["loc"]) > 1), None)
    if of_trials is not None:
        return f"its trials are not what polarity writes ({'.'.join(map(str, of_trials['loc']))}: {of_trials['msg'].lower()})"
    lacking = [str(problem["loc"][0]) for problem in problems if problem["type"] == "missing" and len(problem["loc"]) == 1]
    if lacking:
        return f"has no {', '.join(lacking)}"
    return f"{'.'.join(map(str, problems[0]['loc']))}: {problems[0]['msg'].lower()}"
