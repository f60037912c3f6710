"""study.json, the study's own record: written whole after every event, and all that a resume reads."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from polarity.artifacts import STUDY, TRIALS, RunFolder
from polarity.errors import RunError
from polarity.tune.designs import Arm
from polarity.tune.screening import Screen

Stage = Literal["explore", "screen", "confirm"]
Status = Literal["pending", "running", "finished", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One arm with one seed in one stage. Scores are fractions on the inner validation rows, seconds are wall time."""

    id: str
    arm: str
    seed: int
    stage: Stage
    planned: int
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
        return [(point["progress"], point["overall"]) for point in self.curve]

    def add_point(self, progress: float, metrics: dict[str, float]) -> None:
        """Note an epoch from what the loop reports of it; a trial that starts again writes its curve anew from there."""
        epoch = int(metrics["epoch"])
        scores = {name.removeprefix("validation_"): float(v) for name, v in metrics.items() if name.startswith("validation_")}
        kept = [point for point in self.curve if point["epoch"] < epoch]
        seconds = (kept[-1]["seconds"] if kept else 0.0) + float(metrics["seconds"])
        self.curve = [*kept, {"progress": round(progress, 6), "epoch": epoch, **scores, "seconds": round(seconds, 3)}]
        self.progress, self.epochs, self.train_seconds = round(progress, 6), epoch, round(seconds, 3)
        self.overall = max(point["overall"] for point in self.curve)


def new_trial(arm: str, seed: int, stage: Stage, planned: int) -> TrialRecord:
    """A trial that waits; its id and folder say what it is."""
    name = f"{stage}-{arm}-s{seed}"
    return TrialRecord(name, arm, seed, stage, planned, run_dir=f"{TRIALS}/{name}")


@dataclass
class Study:
    """The record in memory: `head` is study.json less its trials."""

    folder: RunFolder
    head: dict[str, Any]
    trials: list[TrialRecord]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def create(cls, folder: RunFolder, head: dict[str, Any], trials: Iterable[TrialRecord]) -> "Study":
        """A new record, written at once."""
        study = cls(folder, {"created": datetime.now(UTC).isoformat(timespec="seconds"), **head}, list(trials))
        study.save()
        return study

    @classmethod
    def load(cls, folder: RunFolder) -> "Study":
        """The record of a folder, its unfinished trials waiting again. Raises RunError: there is none, or it is damaged."""
        content = folder.read_json(STUDY)
        try:
            known = {f.name for f in fields(TrialRecord)}
            trials = [TrialRecord(**{k: v for k, v in entry.items() if k in known}) for entry in content["trials"]]
        except (KeyError, TypeError) as error:
            raise RunError(f"{folder.uri}/{STUDY}: its trials are not what polarity writes ({error})") from error
        for trial in trials:
            if trial.status == "running":
                trial.status = "pending"
        return cls(folder, {k: v for k, v in content.items() if k not in ("schema_version", "trials")}, trials)

    def save(self) -> None:
        """Write study.json, whole or not at all."""
        self.folder.write_json(STUDY, {**self.head, "trials": [asdict(trial) for trial in self.trials]})

    @property
    def arms(self) -> list[Arm]:
        return [Arm.from_json(entry) for entry in self.head["arms"]]

    @property
    def name(self) -> str:
        """The study folder's name."""
        return self.folder.root.rstrip("/").rsplit("/", 1)[-1]

    @property
    def screen(self) -> Screen | None:
        """The screening design, where the study has one."""
        return Screen.from_json(self.head["screen"]) if self.head.get("screen") else None

    @property
    def reference(self) -> str:
        return str(self.head["reference"])

    def trial(self, name: str) -> TrialRecord:
        """The trial of an id."""
        return next(trial for trial in self.trials if trial.id == name)

    def of(self, stage: Stage | None = None, *statuses: Status) -> list[TrialRecord]:
        """The trials of a stage (or of all) that have one of the statuses (or any)."""
        return [t for t in self.trials if (stage is None or t.stage == stage) and (not statuses or t.status in statuses)]


def open_study_folder(place: str, *, resume: bool) -> RunFolder:
    """The study's folder. Raises RunError: it holds a study (without `resume`) or none (with it), or cannot be written."""
    folder = RunFolder.create(place)
    holds = folder.exists(STUDY)
    if holds and not resume:
        raise RunError(f"{folder.uri}: already holds a study ({STUDY}); continue it with --resume or choose another --study-dir")
    if resume and not holds:
        raise RunError(f"{folder.uri}: holds no study to resume (no {STUDY}); leave --resume out, or name the folder with --study-dir")
    return folder


def survivors(study: Study) -> list[str]:
    """Arms that the exploration leaves: at least half of an arm's exploring trials ran to their end (the reference always stays)."""
    kept = []
    for arm in study.arms:
        own = [trial for trial in study.of("explore") if trial.arm == arm.name]
        ended = [trial for trial in own if trial.status == "finished"]
        if arm.name == study.reference or (own and 2 * len(ended) >= len(own)):
            kept.append(arm.name)
    return kept
