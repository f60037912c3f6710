"""What happens next in a study: which trial starts, which one stops, and when it is over. It knows nothing of Ray.

The record decides everything: after a resume the same questions get the same answers.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from polarity.errors import ConfigError
from polarity.study import Asha, Study, TrialRecord, new_trial
from polarity.tune.asha import stops_at
from polarity.tune.designs import needed_for

MAX_ATTEMPTS = 2

Next = str | Literal[False] | None
"""A trial's id, None to ask again later, False when there will be no more."""


@dataclass
class Budget:
    """What a study may use from now on: minutes in which trials start, or epochs over all trials. None: no limit."""

    minutes: float | None = None
    epochs: int | None = None
    started: float = field(default_factory=time.monotonic)

    def allows(self, used: int, promised: int, more: int) -> bool:
        """Whether a trial of `more` epochs may start after `used` epochs, while running trials still have `promised`."""
        if self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes:
            return False
        return self.epochs is None or used + promised + more <= self.epochs

    def __str__(self) -> str:
        return f"{self.minutes:g} minutes" if self.minutes is not None else f"{self.epochs} trial-epochs"


def parse_budget(text: str | None) -> Budget:
    """`30m`, `2h` or `200e` (trial-epochs); None is no limit. Raises ConfigError."""
    if text is None:
        return Budget()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhe])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--budget {text}: give minutes (30m), hours (2h) or trial-epochs (200e)")
    amount, unit = float(match[1]), match[2]
    return Budget(epochs=int(amount)) if unit == "e" else Budget(minutes=amount * (60 if unit == "h" else 1))


class Watcher(Protocol):
    """Who is told of every event: the progress display."""

    def __call__(self, study: Study, trial: TrialRecord, event: str) -> None: ...


@dataclass
class Conductor:
    """The study's course. `epochs`: of each arm's schedule; `concurrent`: trials at a time."""

    study: Study
    epochs: Mapping[str, int]
    asha: Asha | None
    concurrent: int
    budget: Budget
    watch: Watcher
    max_attempts: int = MAX_ATTEMPTS
    used: int = 0
    """Epochs that trials have run since this start."""
    closed: str | None = None
    """Why nothing starts any more, though trials wait."""
    prepare: Callable[[TrialRecord], None] = field(default=lambda trial: None)
    """Called before a trial starts."""
    _begun: dict[str, float] = field(default_factory=dict)

    def next(self) -> Next:
        """The trial to start now, which is noted as running."""
        running = self.study.of(None, "running")
        if self.closed is not None:
            return None if running else False
        if len(running) >= self.concurrent:
            return None
        waiting = self.study.of("explore", "pending")
        if not waiting:
            if self.study.of("explore", "running"):
                return None  # who is confirmed is known when the last exploring trial has ended
            self._plan_confirmation()
            waiting = self.study.of("screen", "pending") or self.study.of("confirm", "pending")
        if not waiting:
            return None if running else False
        trial = waiting[0]
        promised = sum(max(0, other.planned - other.epochs) for other in running)
        if not self.budget.allows(self.used, promised, trial.planned):
            self.closed = f"the budget of {self.budget} is used up"
            return None if running else False
        self.prepare(trial)
        trial.status, trial.attempts, trial.error = "running", trial.attempts + 1, None
        self._begun[trial.id] = time.monotonic()
        self._note(trial, "starts" if trial.attempts == 1 else f"starts again (attempt {trial.attempts})")
        return trial.id

    def report(self, name: str, progress: float, metrics: dict[str, float]) -> bool:
        """Note an epoch; False where ASHA ends the trial."""
        trial = self.study.trial(name)
        trial.add_point(progress, metrics)
        self.used += 1
        rung = self._rung_that_stops(trial)
        if rung is not None:
            trial.status, trial.rung = "stopped", rung
            self._clock(trial)
        self._note(trial, f"stopped at the rung of {rung:.0%} of its schedule" if rung is not None else "epoch")
        return rung is None

    def _rung_that_stops(self, trial: TrialRecord) -> float | None:
        if self.asha is None or trial.stage != "explore" or trial.arm == self.study.reference:
            return None
        others = {
            other.arm: (other.points, other.status == "finished")
            for other in self.study.of("explore", "running", "finished", "stopped")
            if other.seed == trial.seed and other.id != trial.id
        }
        reference = next(arm.reference for arm in self.study.arms if arm.name == trial.arm)
        return stops_at(trial.points, others.values(), self.asha, others.get(str(reference)))

    def finish(self, name: str) -> None:
        """The trial ran to its end and wrote its run folder."""
        trial = self.study.trial(name)
        trial.status = "finished"
        self._clock(trial)
        self._note(trial, "finished")

    def fail(self, name: str, reason: str, *, retry: bool) -> None:
        """The trial broke: it waits again, before all others, or is given up after `max_attempts`."""
        trial = self.study.trial(name)
        trial.failures += 1
        trial.error = reason
        again = retry and trial.failures < self.max_attempts
        trial.status = "pending" if again else "failed"
        self._clock(trial)
        self._note(trial, f"failed{', will be tried again' if again else ' for good'}: {reason}")

    def abandon(self) -> None:
        """Tune has ended with trials unfinished: they wait for a resume."""
        for trial in self.study.of(None, "running"):
            trial.status = "pending"
        self.study.save()

    def _plan_confirmation(self) -> None:
        if self.study.of("confirm") or self.study.of("screen"):
            return  # a screen is confirmed only where that is asked for, when all of it has ended
        arms = self.study.arms
        chosen = needed_for(arms, self.study.survivors()) if self.study.of("explore") else [arm.name for arm in arms]
        self.study.trials.extend(confirmation(chosen, self.study.file.seeds.confirm, self.epochs))
        self.study.save()

    def _clock(self, trial: TrialRecord) -> None:
        begun = self._begun.pop(trial.id, None)
        if begun is not None:
            trial.seconds = round(trial.seconds + time.monotonic() - begun, 3)

    def _note(self, trial: TrialRecord, event: str) -> None:
        self.study.save()
        self.watch(self.study, trial, event)


def screening(runs: Sequence[str], seeds: Sequence[int], epochs: Mapping[str, int]) -> list[TrialRecord]:
    """Every run of a screen in full, one seed after the other: a study cut short has whole designs."""
    return [new_trial(run, seed, "screen", epochs[run]) for seed in seeds for run in runs]


def confirmation(arms: Sequence[str], seeds: Sequence[int], epochs: Mapping[str, int]) -> list[TrialRecord]:
    """Every arm in full, one seed after the other, so that a study cut short has whole pairs."""
    return [new_trial(arm, seed, "confirm", epochs[arm]) for seed in seeds for arm in arms]


def exploration(arms: Sequence[str], seeds: Sequence[int], epochs: Mapping[str, int]) -> list[TrialRecord]:
    """Every arm, the reference first: ASHA's first trial at an empty rung is never stopped."""
    return [new_trial(arm, seed, "explore", epochs[arm]) for seed in seeds for arm in arms]
