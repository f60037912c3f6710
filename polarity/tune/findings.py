"""What a study found, from its record and its trials' predictions: effects, savings, the score at equal compute."""

from collections.abc import Mapping, Sequence
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
from polarity.tune.record import Study, TrialRecord
from polarity.tune.runner import by_title
from polarity.tune.savings import replayed, savings
from polarity.tune.screen_effects import linear_effects, screen_effects
from polarity.tune.screening import Screen
from polarity.tune.statistics import EFFECTS_SCHEMA, Trial, study_effects

EFFECT_SPLIT = "test"
"""The name of the effect rows in a trial's predictions.parquet."""


def effect_rows(study: Study, trial: TrialRecord) -> pa.Table:
    """The trial's predictions of the effect rows."""
    table = study.folder.read_parquet(f"{trial.run_dir}/{PREDICTIONS}")
    return table.filter(pc.equal(table["split"], EFFECT_SPLIT))


def overall_score(predictions: pa.Table, labels: Labels) -> float:
    """Mean over tasks of macro-F1 (a fraction)."""
    return float(np.mean([class_scores(confusion).f1.mean() for confusion in confusions(predictions, labels).values()]))


def conclude(study: Study, configs: Mapping[str, Config]) -> pa.Table:
    """Write effects.parquet and the study's findings into study.json, and return the effects table.

    Only trials that ran in full enter, of a screen and of the confirmation; exploration decides who is confirmed and nothing else.
    """
    config = configs[study.reference]
    screened = _conclude_screen(study, config)
    finished = study.of("confirm", "finished")
    predictions, seconds = _of_trials(study, finished)
    found = study_effects(predictions, study.arms, config.labels, seconds=seconds, by_title=by_title(config))
    table = pa.concat_tables([screened, found.table]) if screened is not None else found.table
    study.folder.write_parquet(EFFECTS, table)
    scores: dict[str, list[float]] = {}
    for (arm, _), rows in predictions.items():
        scores.setdefault(arm, []).append(overall_score(rows, config.labels))
    head = study.head
    head["scores"] = {arm: {"mean": float(np.mean(values)), "seeds": len(values)} for arm, values in scores.items()}
    head["noisy_arms"] = list(found.noisy)
    if screened is None:
        head["detectable"] = {**head["detectable"], "after": found.detectable}
        head["spread"] = {"seed_sd": found.seed_sd, "row_sd": found.row_sd}
        head["savings"] = savings(study, {name: c.train.epochs for name, c in configs.items()})
        head["equal_compute"] = equal_compute([asdict(trial) for trial in study.trials])
        account = replayed(study, {arm: float(np.mean(values)) for arm, values in scores.items()}, rungs_for(study, configs))
        if account is not None:
            head["asha_replay"] = account
    study.save()
    return table


def _of_trials(study: Study, trials: Sequence[TrialRecord]) -> tuple[dict[Trial, pa.Table], dict[Trial, float]]:
    """Predictions of the effect rows and training seconds, by (arm, seed)."""
    return {(t.arm, t.seed): effect_rows(study, t) for t in trials}, {(t.arm, t.seed): t.train_seconds for t in trials}


def _conclude_screen(study: Study, config: Config) -> pa.Table | None:
    """The screen's effects table, with what else the model says in study.json; None where the study is no screen, or too little of it is
    done.
    """
    screen = study.screen
    if screen is None:
        return None
    finished = study.of("screen", "finished")
    if len({trial.arm for trial in finished}) <= len(screen.factors):
        return EFFECTS_SCHEMA.empty_table()
    predictions, seconds = _of_trials(study, finished)
    found = screen_effects(predictions, screen, config.labels, seconds=seconds, by_title=by_title(config))
    study.head["detectable"] = {**study.head["detectable"], "after": found.detectable}
    study.head["spread"] = {"trial_sd": found.seed_sd, "row_sd": found.row_sd}
    study.head["screen"] |= {
        "interactions": found.interactions,
        "contrasts": found.contrasts,
        "aliased": found.aliased,
        "error_df": found.error_df,
        "error_from": found.error_from,
    }
    return found.table


def inner_effects(study: Study, screen: Screen) -> dict[str, float]:
    """{factor: its effect on the inner validation rows, which decide what is confirmed}, from the screen's finished trials."""
    finished = [trial for trial in study.of("screen", "finished") if trial.overall is not None]
    effects = linear_effects([(t.arm, t.seed) for t in finished], [t.overall or 0.0 for t in finished], screen)
    return dict(zip(screen.names, map(float, effects), strict=True))


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
