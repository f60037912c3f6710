"""What happens next in a study: which trial starts, which one stops, and when it is over. It knows nothing of Ray.

The record decides everything: after a resume the same questions get the same answers.

Exploring trials are stopped by ASHA made fair to arms of different length (Li et al. 2020, asynchronous successive halving), as pure
functions of learning curves. Progress is the share of an arm's own schedule, so an arm of 12 epochs is judged at its 4th where one of 6 is
judged at its 2nd. No rung lies before the longest warm-up has ended, and rungs lie where all arms report. A trial's score at a rung is its
best so far on the inner validation rows, which is what early stopping would keep. Trials compete within a seed, on the same rows in the
same order. An ablation does not look for the best arm but for what each arm does, so there (`keep_ahead`) an arm that is not behind the one
it is compared with goes on, however good the others are; a search for the best is plain ASHA.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from polarity.errors import ConfigError
from polarity.study import Asha, Replay, Stage, Study, TrialRecord, new_trial
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
        """The trial broke: it waits again, before all others, or is given up after MAX_ATTEMPTS."""
        trial = self.study.trial(name)
        trial.failures += 1
        trial.error = reason
        again = retry and trial.failures < MAX_ATTEMPTS
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
        self.study.trials.extend(trials_of("confirm", chosen, self.study.file.seeds.confirm, self.epochs))
        self.study.save()

    def _clock(self, trial: TrialRecord) -> None:
        begun = self._begun.pop(trial.id, None)
        if begun is not None:
            trial.seconds = round(trial.seconds + time.monotonic() - begun, 3)

    def _note(self, trial: TrialRecord, event: str) -> None:
        self.study.save()
        self.watch(self.study, trial, event)


def trials_of(stage: Stage, arms: Sequence[str], seeds: Sequence[int], epochs: Mapping[str, int]) -> list[TrialRecord]:
    """Every arm, one seed after the other, so that a study cut short has whole pairs and designs.

    The reference is the first arm: ASHA's first trial at an empty rung is never stopped.
    """
    return [new_trial(arm, seed, stage, epochs[arm]) for seed in seeds for arm in arms]


REDUCTION = 2.0
GRACE = 0.2
"""No rung before this share of an arm's schedule, however short its warm-up."""
_SLACK = 0.01  # epochs differ by a few steps where oversampling draws row by row

Curve = Sequence[tuple[float, float]]
"""(progress 0..1, overall score) of each epoch."""
TrialCurve = tuple[Curve, bool]
"""A trial's curve, and whether it ended of itself."""


def plan_asha(epochs: Iterable[int], warmups: Iterable[float], *, keep_ahead: bool = False) -> Asha:
    """Rungs for arms of these numbers of epochs and warm-up shares: from the end of the longest warm-up (GRACE at least), each twice the
    one before (REDUCTION), moved up to where every arm ends an epoch (if there are such places)."""
    common = math.gcd(*epochs)
    at, rungs = max(GRACE, *warmups), list[float]()
    while at < 1 - _SLACK:
        snapped = math.ceil(at * common - 1e-9) / common if common > 1 else at
        if snapped >= 1:
            break
        if snapped not in rungs:
            rungs.append(snapped)
        at = snapped * REDUCTION
    return Asha(tuple(rungs), REDUCTION, keep_ahead)


def score_at(curve: Curve, rung: float, *, ended: bool) -> float | None:
    """The best score when the rung was reached; None before that. A trial that `ended` of itself keeps its best at all later rungs."""
    best = -math.inf
    for progress, score in curve:
        best = max(best, score)
        if progress >= rung - _SLACK:
            return best
    return best if ended and curve else None


def stops_at(curve: Curve, others: Iterable[TrialCurve], asha: Asha, reference: TrialCurve | None = None) -> float | None:
    """The rung at which the trial's newest point ends it, or None.

    `others`: the other trials of its seed; `reference`: the one it is compared with, for `keep_ahead`. At a rung that the newest point
    reaches first, the trial goes on where its best is not below the (1 - 1/reduction) quantile of those that were there before; an empty
    rung stops nobody.
    """
    progress = curve[-1][0]
    if progress >= 1 - _SLACK:
        return None  # there is nothing left to save
    before = curve[-2][0] if len(curve) > 1 else -1.0
    known = list(others)
    for rung in asha.rungs:
        if before < rung - _SLACK <= progress:
            there = [score for other, ended in known if (score := score_at(other, rung, ended=ended)) is not None]
            own = max(score for _, score in curve)
            if there and own < float(np.quantile(there, 1 - 1 / asha.reduction)) and not _ahead(own, rung, reference, asha):
                return rung
    return None


def _ahead(own: float, rung: float, reference: TrialCurve | None, asha: Asha) -> bool:
    if not asha.keep_ahead or reference is None:
        return False
    its = score_at(reference[0], rung, ended=reference[1])
    return its is not None and own >= its


def replay(trials: Sequence[TrialRecord], references: Mapping[str, str | None], scores: Mapping[str, float], asha: Asha) -> Replay:
    """What ASHA would have done to a grid that ran in full, one trial after the other in the given order, each seed by itself.

    `trials`: finished trials of study.json; `references`: {arm: the arm it is compared with}, None for the study's own, which is never
    stopped; `scores`: {arm: score on the effect rows, mean over seeds}, which says who is truly best.
    Returns an account: epochs saved, arms stopped, and in how many seeds the best arm would have been stopped.
    """
    stopped: dict[str, int] = {}
    run = full = 0
    seeds = sorted({trial.seed for trial in trials})
    best = max(scores, key=lambda arm: scores[arm])
    for seed in seeds:
        seen: dict[str, TrialCurve] = {}
        for trial in (t for t in trials if t.seed == seed):
            curve, cut = trial.points, None
            full += len(curve)
            reference = references[trial.arm]
            for length in range(1, len(curve) + 1) if reference is not None else ():
                if stops_at(curve[:length], seen.values(), asha, seen.get(str(reference))) is not None:
                    cut = length
                    break
            seen[trial.arm] = (curve[:cut], cut is None)
            run += cut or len(curve)
            if cut is not None:
                stopped[trial.arm] = stopped.get(trial.arm, 0) + 1
    everywhere = sorted(arm for arm, count in stopped.items() if count == len(seeds))
    return Replay(
        rungs=list(asha.rungs),
        seeds=len(seeds),
        epochs_full=full,
        epochs_with_asha=run,
        saved=1 - run / full if full else 0.0,
        stopped_trials=sum(stopped.values()),
        arms_stopped_in_every_seed=", ".join(everywhere) or "none",
        best_arm=best,
        seeds_in_which_the_best_arm_was_stopped=stopped.get(best, 0),
    )
