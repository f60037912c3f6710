"""ASHA made fair to arms of different length (Li et al. 2020, asynchronous successive halving), as pure functions of learning curves.

Progress is the share of an arm's own schedule, so an arm of 12 epochs is judged at its 4th where one of 6 is judged at its 2nd. No
rung lies before the longest warm-up has ended, and rungs lie where all arms report. A trial's score at a rung is its best so far on the
inner validation rows, which is what early stopping would keep. Trials compete within a seed, on the same rows in the same order.

An ablation does not look for the best arm but for what each arm does, so there (`keep_ahead`) an arm that is not behind the one it is
compared with goes on, however good the others are; a search for the best is plain ASHA.

Nothing here remembers anything: a decision follows from the record's curves alone, so it is the same after a resume.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from polarity.errors import ConfigError
from polarity.study import Asha, Replay, TrialRecord

REDUCTION = 2.0
GRACE = 0.2
"""No rung before this share of an arm's schedule, however short its warm-up."""
_SLACK = 0.01  # epochs differ by a few steps where oversampling draws row by row

Curve = Sequence[tuple[float, float]]
"""(progress 0..1, overall score) of each epoch."""
Run = tuple[Curve, bool]
"""A trial's curve, and whether it ended of itself."""


def plan_asha(
    epochs: Iterable[int], warmups: Iterable[float], *, reduction: float = REDUCTION, grace: float = GRACE, keep_ahead: bool = False
) -> Asha:
    """Rungs for arms of these numbers of epochs and warm-up shares: from the end of the longest warm-up (`grace` at least), each
    `reduction` times the one before, moved up to where every arm ends an epoch (if there are such places).

    Raises ConfigError for a reduction of 1 or less and for a grace outside 0 to 1.
    """
    if reduction <= 1:
        raise ConfigError(f"--reduction must be above 1: one in so many trials goes on at a rung (got {reduction:g})")
    if not 0 < grace < 1:
        raise ConfigError(f"--grace is a share of a trial's schedule, above 0 and below 1 (got {grace:g})")
    common = math.gcd(*epochs)
    at, rungs = max(grace, *warmups), list[float]()
    while at < 1 - _SLACK:
        snapped = math.ceil(at * common - 1e-9) / common if common > 1 else at
        if snapped >= 1:
            break
        if snapped not in rungs:
            rungs.append(snapped)
        at = snapped * reduction
    return Asha(tuple(rungs), reduction, keep_ahead)


def score_at(curve: Curve, rung: float, *, ended: bool) -> float | None:
    """The best score when the rung was reached; None before that. A trial that `ended` of itself keeps its best at all later rungs."""
    best = -math.inf
    for progress, score in curve:
        best = max(best, score)
        if progress >= rung - _SLACK:
            return best
    return best if ended and curve else None


def stops_at(curve: Curve, others: Iterable[Run], asha: Asha, reference: Run | None = None) -> float | None:
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


def _ahead(own: float, rung: float, reference: Run | None, asha: Asha) -> bool:
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
        seen: dict[str, Run] = {}
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
