"""What a study found, from its record and its trials' predictions: effects, savings, the score at equal compute."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from polarity.artifacts import EFFECTS, PREDICTIONS
from polarity.config import Config
from polarity.errors import RunError
from polarity.evaluate.metrics import class_scores, confusions
from polarity.evaluate.predictions import Labels, of_split
from polarity.study import (
    EFFECTS_SCHEMA,
    ArmCompute,
    Asha,
    Detectable,
    EqualCompute,
    MeasuredSpread,
    Replay,
    Savings,
    Score,
    Study,
    TrialRecord,
)
from polarity.tune.conductor import plan_asha, replay
from polarity.tune.designs import Screen
from polarity.tune.screen_effects import linear_effects, screen_effects
from polarity.tune.statistics import Trial, study_effects

_TOLERANCE = 1e-9
_NAMED = 3
"""Trials that a line names; of more it says how many they are."""
EFFECT_SPLIT = "test"
"""The name of the effect rows in a trial's predictions.parquet."""


def effect_predictions(study: Study, trial: TrialRecord) -> pa.Table:
    """The trial's predictions of the effect rows."""
    table = study.folder.read_parquet(f"{trial.run_dir}/{PREDICTIONS}")
    return of_split(table, EFFECT_SPLIT)


def overall_score(predictions: pa.Table, labels: Labels) -> float:
    """Mean over tasks of macro-F1 (a fraction)."""
    return float(np.mean([class_scores(c).f1[c.sum(axis=1) > 0].mean() for c in confusions(predictions, labels).values()]))


def conclude(study: Study, configs: Mapping[str, Config]) -> pa.Table:
    """Write effects.parquet and the study's findings into study.json, and return the effects table.

    Only trials that ran in full enter, of a screen and of the confirmation; exploration decides who is confirmed and nothing else.
    """
    config = configs[study.reference]
    screened = _conclude_screen(study, config)
    finished = study.of("confirm", "finished")
    predictions, seconds = _of_trials(study, finished)
    found = study_effects(predictions, study.arms, config.labels, seconds=seconds, by_title=study.file.data.unit == "title")
    table = pa.concat_tables([screened, found.table]) if screened is not None else found.table
    study.folder.write_parquet(EFFECTS, table)
    scores: dict[str, list[float]] = {}
    for (arm, _), rows in predictions.items():
        scores.setdefault(arm, []).append(overall_score(rows, config.labels))
    file = study.file
    file.scores = {arm: Score(mean=float(np.mean(values)), seeds=len(values)) for arm, values in scores.items()}
    file.noisy_arms = list(found.noisy)
    if screened is None:
        file.detectable = Detectable(before=file.detectable.before, after=found.detectable)
        file.spread = MeasuredSpread(seed_sd=found.seed_sd, row_sd=found.row_sd)
        file.savings = savings(study, {name: c.train.epochs for name, c in configs.items()})
        file.equal_compute = equal_compute(study.trials)
        epochs, warmups = [c.train.epochs for c in configs.values()], [c.optim.warmup_ratio for c in configs.values()]
        asha = file.asha or plan_asha(epochs, warmups, keep_ahead=True)  # its own rungs, or those that it would have had
        file.asha_replay = replayed(study, {arm: score.mean for arm, score in file.scores.items()}, asha)
    study.save()
    return table


def _of_trials(study: Study, trials: Sequence[TrialRecord]) -> tuple[dict[Trial, pa.Table], dict[Trial, float]]:
    """Predictions of the effect rows and training seconds, by (arm, seed)."""
    return {(t.arm, t.seed): effect_predictions(study, t) for t in trials}, {(t.arm, t.seed): t.train_seconds for t in trials}


def _conclude_screen(study: Study, config: Config) -> pa.Table | None:
    """The screen's effects table, empty while too little of it is done, with what else the model says in study.json; None: no screen."""
    screen, entry, file = Screen.of(study), study.file.screen, study.file
    if screen is None or entry is None:
        return None
    finished = study.of("screen", "finished")
    if len({trial.arm for trial in finished}) <= len(screen.factors):
        return EFFECTS_SCHEMA.empty_table()
    predictions, seconds = _of_trials(study, finished)
    found = screen_effects(predictions, screen, config.labels, seconds=seconds, by_title=study.file.data.unit == "title")
    file.detectable = Detectable(before=file.detectable.before, after=found.detectable)
    file.spread = MeasuredSpread(trial_sd=found.seed_sd, row_sd=found.row_sd)
    entry.interactions, entry.contrasts, entry.aliased = found.interactions, found.contrasts, found.aliased
    entry.error_df, entry.error_from = found.error_df, found.error_from
    return found.table


def inner_effects(study: Study, screen: Screen) -> dict[str, float]:
    """{factor: its effect on the inner validation rows, which decide what is confirmed}, from the screen's finished trials."""
    finished = [trial for trial in study.of("screen", "finished") if trial.overall is not None]
    effects = linear_effects([(t.arm, t.seed) for t in finished], [t.overall or 0.0 for t in finished], screen)
    return dict(zip(screen.names, map(float, effects), strict=True))


def missing(study: Study, reason: str | None) -> list[str]:
    """Lines that say what was not run, and why; none where all was."""
    lines = []
    waiting = study.of(None, "pending")
    if waiting:
        named = ", ".join(trial.id for trial in waiting[:_NAMED])
        more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
        lines.append(
            f"{len(waiting)} of {len(study.trials)} trials are not run, as {reason or 'the study was interrupted'}: {named}{more}; "
            "go on with --resume"
        )
    if study.of("explore") and not study.of("confirm"):
        lines.append("nothing is confirmed yet, so there are no effects")
    lines += [f"failed: {trial.id} after {trial.attempts} attempts: {trial.error}" for trial in study.of(None, "failed")]
    return lines


def savings(study: Study, epochs: Mapping[str, int]) -> Savings:
    """What ASHA saved, and what it cost. The full grid is every arm in full over the confirming seeds.

    With an exploration more than the full grid may have been run: it costs what it costs even where it stops nobody.
    """
    run = sum(trial.epochs for trial in study.trials)
    full = sum(epochs.values()) * len(study.file.seeds.confirm)
    explored = study.of("explore")
    return Savings(
        trial_epochs_run=run,
        trial_epochs_full=full,
        saved=1 - run / full if full else 0.0,
        explore_epochs_run=sum(trial.epochs for trial in explored),
        explore_epochs_planned=sum(trial.planned for trial in explored),
        explore_trials_stopped=sum(trial.status == "stopped" for trial in explored),
        train_seconds=round(sum(trial.train_seconds for trial in study.trials), 1),
        seconds=round(sum(trial.seconds for trial in study.trials), 1),
    )


def replayed(study: Study, scores: Mapping[str, float], asha: Asha) -> Replay | None:
    """`asha.replay` on the confirming trials where every arm finished in full in every seed; None otherwise, or with a single arm."""
    finished = study.of("confirm", "finished")
    whole = len(study.arms) * len(study.file.seeds.confirm)
    if len(finished) < whole or len(study.arms) < 2 or not asha.rungs:
        return None
    return replay(finished, {arm.name: arm.reference for arm in study.arms}, scores, asha)


def equal_compute(trials: Sequence[TrialRecord]) -> EqualCompute:
    """What each arm had reached by the time the cheapest arm was done; only finished trials count.

    The budget is the mean over seeds of the seconds that the cheapest arm used. `score` is the mean over seeds of the best inner-validation
    score within it, None where an arm has no score by then in some seed; `full_score` the same without a limit. Seconds of an epoch are its
    `seconds` in the curve (since the trial's start of training), else the trial's training seconds shared out evenly over its epochs. Of
    exploration and confirmation the later stage is taken where it has finished trials. Raises RunError for a trial without a curve.
    """
    finished = [trial for trial in trials if trial.status == "finished"]
    confirmed = [trial for trial in finished if trial.stage == "confirm"]
    by_arm: dict[str, list[list[tuple[float, float]]]] = {}
    for trial in confirmed or finished:
        by_arm.setdefault(trial.arm, []).append(_used_and_score(trial))
    if not by_arm:
        return EqualCompute(unit="seconds", budget=None, cheapest=None, arms=[])
    costs = {arm: float(np.mean([curve[-1][0] for curve in curves])) for arm, curves in by_arm.items()}
    cheapest = min(costs, key=lambda arm: costs[arm])
    arms = [
        ArmCompute(arm=arm, seeds=len(curves), score=_within(curves, costs[cheapest]), full_score=_within(curves, float("inf")))
        for arm, curves in by_arm.items()
    ]
    # A seed of the cheapest arm may take a little longer than its mean: within its own budget it is whole.
    for entry in arms:
        if entry.arm == cheapest:
            entry.score = entry.full_score
    return EqualCompute(unit="seconds", budget=costs[cheapest], cheapest=cheapest, arms=arms)


def _used_and_score(trial: TrialRecord) -> list[tuple[float, float]]:
    curve = trial.curve
    if not curve:
        raise RunError(f"trial {trial.id}: is finished but has no curve")
    if all("seconds" in point for point in curve):
        return [(float(point["seconds"]), float(point["overall"])) for point in curve]
    per_epoch = trial.train_seconds / float(curve[-1]["epoch"])
    return [(float(point["epoch"]) * per_epoch, float(point["overall"])) for point in curve]


def _within(curves: Sequence[Sequence[tuple[float, float]]], budget: float) -> float | None:
    best = [max((score for used, score in curve if used <= budget * (1 + _TOLERANCE)), default=None) for curve in curves]
    known = [score for score in best if score is not None]
    return float(np.mean(known)) if len(known) == len(curves) else None
