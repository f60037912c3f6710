"""What a study found, from its record and its trials' predictions: effects, savings, the score at equal compute."""

import math
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import EFFECTS, PREDICTIONS
from polarity.config import Config
from polarity.evaluate.metrics import class_scores, confusions
from polarity.evaluate.predictions import Labels
from polarity.tune.asha import Asha, plan_asha
from polarity.tune.equal_compute import equal_compute
from polarity.tune.power import STATED_SEED_SD, detectable_effect, stated_row_sd
from polarity.tune.record import Study, TrialRecord
from polarity.tune.runner import by_title
from polarity.tune.savings import replayed, savings
from polarity.tune.statistics import Trial, study_effects

EFFECT_SPLIT = "test"
"""The name of the effect rows in a trial's predictions.parquet."""


def detectable_before(seeds: int, arms: int, rows: int) -> float | None:
    """The effect that a study can see, from stated spreads; None where it cannot see any (one seed, or nothing to compare)."""
    if arms < 1:
        return None
    found = detectable_effect(seeds, arms, STATED_SEED_SD, stated_row_sd(rows))
    return found if math.isfinite(found) else None


def effect_rows(study: Study, trial: TrialRecord) -> pa.Table:
    """The trial's predictions of the effect rows."""
    table = study.folder.read_parquet(f"{trial.run_dir}/{PREDICTIONS}")
    return table.filter(pc.equal(table["split"], EFFECT_SPLIT))


def overall_score(predictions: pa.Table, labels: Labels) -> float:
    """Mean over tasks of macro-F1 (a fraction)."""
    return float(np.mean([class_scores(confusion).f1.mean() for confusion in confusions(predictions, labels).values()]))


def conclude(study: Study, configs: Mapping[str, Config]) -> pa.Table:
    """Write effects.parquet and the study's findings into study.json, and return the effects table.

    Only confirming trials that ran in full enter; exploration decides who is confirmed and nothing else.
    """
    config = configs[study.reference]
    finished = study.of("confirm", "finished")
    predictions: dict[Trial, pa.Table] = {(t.arm, t.seed): effect_rows(study, t) for t in finished}
    seconds: dict[Trial, float] = {(t.arm, t.seed): t.train_seconds for t in finished}
    found = study_effects(predictions, study.arms, config.labels, seconds=seconds, by_title=by_title(config))
    study.folder.write_parquet(EFFECTS, found.table)
    scores: dict[str, list[float]] = {}
    for (arm, _), table in predictions.items():
        scores.setdefault(arm, []).append(overall_score(table, config.labels))
    head = study.head
    head["scores"] = {arm: {"mean": float(np.mean(values)), "seeds": len(values)} for arm, values in scores.items()}
    head["detectable"] = {**head["detectable"], "after": found.detectable}
    head["spread"] = {"seed_sd": found.seed_sd, "row_sd": found.row_sd}
    head["savings"] = savings(study, {name: c.train.epochs for name, c in configs.items()})
    head["equal_compute"] = equal_compute([asdict(trial) for trial in study.trials])
    account = replayed(study, {arm: float(np.mean(values)) for arm, values in scores.items()}, rungs_for(study, configs))
    if account is not None:
        head["asha_replay"] = account
    study.save()
    return found.table


def rungs_for(study: Study, configs: Mapping[str, Config]) -> Asha:
    """The study's own rungs, or those that it would have had."""
    if study.head["asha"] is not None:
        return Asha.from_json(study.head["asha"])
    return plan_asha([c.train.epochs for c in configs.values()], [c.optim.warmup_ratio for c in configs.values()], keep_ahead=True)


def missing(study: Study, reason: str | None) -> list[str]:
    """Lines that say what was not run, and why; none where all was."""
    lines = []
    waiting = study.of(None, "pending")
    if waiting:
        lines.append(
            f"not run, as {reason or 'the study was interrupted'}: {', '.join(trial.id for trial in waiting)}; go on with --resume"
        )
    if study.of("explore") and not study.of("confirm"):
        lines.append("nothing is confirmed yet, so there are no effects")
    lines += [f"failed: {trial.id} after {trial.attempts} attempts: {trial.error}" for trial in study.of(None, "failed")]
    return lines
