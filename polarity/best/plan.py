"""What a time budget buys: folds, epochs and frozen layers of the fine-tuned encoders, from speed measured on this machine.

The cheap members (title, linear, frozen encoder, fused) take minutes and always run. What is left goes to the fine-tuned encoders, for
they are worth the most; then to the student, one model that stands for the whole stack.
"""

import math
import re

from pydantic import BaseModel

from polarity.errors import ConfigError

MIN_ROWS = 400
"""Fewer labelled rows do not fine-tune an encoder: linear and frozen members are better there, and nearly free."""
FOLDS = 5
RESERVE = 0.9
"""Share of the budget that is planned with: machines slow down."""
LADDER: tuple[tuple[int, float, int], ...] = (
    (5, 0.0, 5), (5, 0.0, 4), (4, 0.0, 5), (4, 0.0, 4), (5, 1 / 3, 4), (4, 1 / 3, 4), (4, 1 / 2, 4), (4, 1 / 2, 3), (4, 2 / 3, 3),
    (3, 2 / 3, 3),
)  # fmt: skip
"""(folds, share of the encoder's layers that is frozen, epochs), the best first. Four folds fill two workers twice; five leave one idle."""
TIMES = {"s": 1, "m": 60, "h": 3600}


class EncoderTraining(BaseModel):
    """How each fold of one encoder is trained, and what one fold is expected to take on one worker, in seconds."""

    encoder: str
    epochs: int
    frozen_layers: int
    seconds: float


class Plan(BaseModel):
    """The whole plan. `seconds` are expectations; a student of None was not planned."""

    budget: float
    folds: int
    workers: int
    frozen: list[str]
    """Encoders whose sentence vectors are a member: all that are given."""
    trainings: list[EncoderTraining]
    """Encoders that are fine-tuned as well."""
    student: EncoderTraining | None
    cheap_seconds: float
    left_out: list[str] = []

    @property
    def seconds(self) -> float:
        """Expected wall time of everything."""
        return self.cheap_seconds + _folds_seconds(self.trainings, self.folds, self.workers) + (self.student.seconds if self.student else 0)

    def describe(self) -> str:
        """The plan in words."""
        lines = [
            f"budget {clock(self.budget)}; {self.folds} folds; {self.workers or 1} training(s) at a time; expected {clock(self.seconds)}"
        ]
        lines.append(f"  cheap members (title, linear, frozen encoder, fused), their stack and the report: {clock(self.cheap_seconds)}")
        for training in self.trainings:
            frozen = f", {training.frozen_layers} lowest layers frozen" if training.frozen_layers else ""
            lines.append(
                f"  {training.encoder}: {self.folds} trainings of {training.epochs} epochs{frozen}, {clock(training.seconds)} each"
            )
        if self.student is not None:
            lines.append(f"  student ({self.student.encoder}, {self.student.epochs} epochs): {clock(self.student.seconds)}")
        return "\n".join([*lines, *(f"  left out: {reason}" for reason in self.left_out)])


class Speed(BaseModel):
    """One encoder on this machine: seconds of one worker for a row's training step without frozen layers, and its layers."""

    encoder: str
    seconds_per_row: float
    layers: int


def make_plan(budget: float, rows: int, speeds: list[Speed], *, workers: int, cheap_seconds: float, student: bool = True) -> Plan:
    """The best plan of the ladder that is expected to fit into nine tenths of `budget` seconds.

    A student is preferred to a higher step, and the first encoder to the others. An encoder that fits at no step is left out, and named.
    """
    left = [
        f"{speed.encoder}: {rows} labelled rows are too few to fine-tune it (from {MIN_ROWS} on)" for speed in speeds if rows < MIN_ROWS
    ]
    chosen: list[EncoderTraining] = []
    plan = Plan(
        budget=budget, folds=FOLDS, workers=workers, frozen=[speed.encoder for speed in speeds], trainings=[], student=None,
        cheap_seconds=cheap_seconds, left_out=left,
    )  # fmt: skip
    if rows < MIN_ROWS:
        return plan
    for speed in speeds:
        found = _fit(plan.model_copy(update={"trainings": chosen}), rows, speed, student=student and not chosen)
        if found is None:
            left.append(f"{speed.encoder}: does not fit into the budget; give more --time")
            continue
        plan, chosen = found, found.trainings
    return plan.model_copy(update={"left_out": left})


def _fit(plan: Plan, rows: int, speed: Speed, *, student: bool) -> Plan | None:
    for with_student in (True, False) if student else (False,):
        for folds, frozen, epochs in LADDER:
            if plan.trainings and folds != plan.folds:  # one set of folds for all members
                continue
            found = _candidate(plan, rows, speed, folds, epochs, round(frozen * speed.layers), with_student)
            if found.seconds <= RESERVE * plan.budget:
                return found
    return None


def _candidate(plan: Plan, rows: int, speed: Speed, folds: int, epochs: int, frozen: int, student: bool) -> Plan:
    each = rows * speed.seconds_per_row * (1 - frozen / speed.layers + 0.3 * frozen / speed.layers / epochs)
    training = EncoderTraining(
        encoder=speed.encoder, epochs=epochs, frozen_layers=frozen, seconds=epochs * each * (folds - 1) / folds + 0.3 * each / folds + 20
    )
    taught = plan.student
    if student:
        taught = training.model_copy(update={"seconds": epochs * each / max(plan.workers, 1) + 30})
    return plan.model_copy(update={"folds": folds, "trainings": [*plan.trainings, training], "student": taught})


def _folds_seconds(trainings: list[EncoderTraining], folds: int, workers: int) -> float:
    """Wall time of all folds of all encoders, dealt to the workers as they become free, the longest first."""
    free = [0.0] * max(workers, 1)
    for seconds in sorted((t.seconds for t in trainings for _ in range(folds)), reverse=True):
        place = free.index(min(free))
        free[place] += seconds
    return max(free)


def parse_time(text: str) -> float:
    """Seconds of a time such as 2h, 90m, 1h30m or 45s. Raises ConfigError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text.strip().lower())
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text.strip().lower():
        raise ConfigError(f"--time {text!r}: give hours, minutes or seconds, such as 2h, 90m or 1h30m")
    seconds = sum(float(number) * TIMES[unit] for number, unit in parts)
    if not seconds or not math.isfinite(seconds):
        raise ConfigError(f"--time {text!r}: must be more than nothing")
    return seconds


def clock(seconds: float) -> str:
    """A time in words: 45 s, 12 min, 1 h 50 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
