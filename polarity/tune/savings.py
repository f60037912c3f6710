"""What ASHA saved, and what it cost: trial-epochs run against the full grid, and a replay on a grid that ran in full."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from polarity.tune.asha import Asha, replay
from polarity.tune.record import Study


def savings(study: Study, epochs: Mapping[str, int]) -> dict[str, float | int]:
    """Numbers of study.json's `savings`. The full grid is every arm in full over the confirming seeds.

    With an exploration more than the full grid may have been run: it costs what it costs even where it stops nobody.
    """
    run = sum(trial.epochs for trial in study.trials)
    full = sum(epochs.values()) * len(study.head["seeds"]["confirm"])
    explored = study.of("explore")
    return {
        "trial_epochs_run": run,
        "trial_epochs_full": full,
        "saved": 1 - run / full if full else 0.0,
        "explore_epochs_run": sum(trial.epochs for trial in explored),
        "explore_epochs_planned": sum(trial.planned for trial in explored),
        "explore_trials_stopped": sum(trial.status == "stopped" for trial in explored),
        "train_seconds": round(sum(trial.train_seconds for trial in study.trials), 1),
        "seconds": round(sum(trial.seconds for trial in study.trials), 1),
    }


def replayed(study: Study, scores: Mapping[str, float], asha: Asha) -> dict[str, Any] | None:
    """`asha.replay` on the confirming trials where every arm finished in full in every seed; None otherwise, or with a single arm."""
    finished = study.of("confirm", "finished")
    whole = len(study.arms) * len(study.head["seeds"]["confirm"])
    if len(finished) < whole or len(study.arms) < 2 or not asha.rungs:
        return None
    return replay([asdict(trial) for trial in finished], {arm.name: arm.reference for arm in study.arms}, scores, asha)
