"""A study folder as `polarity ablate` leaves it, of simulated trials: enough of everything that its page shows."""

import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from polarity.artifacts import EFFECTS, LEDGER, METRICS, STUDY, RunFolder
from polarity.config import Config
from polarity.data.ledger import build_ledger
from polarity.evaluate.predictions import build_predictions
from polarity.strategy import apply_points
from polarity.study import Arm, TrialRecord
from polarity.tune.designs import design_arms
from polarity.tune.findings import equal_compute
from polarity.tune.statistics import study_effects

SKILL = {"baseline": 1.0, "tier-1": 1.5, "tier-2": 1.05, "tier-3": 0.72, "tier-4": 1.0}
EPOCHS = {"baseline": 6, "tier-1": 12, "tier-2": 6, "tier-3": 6, "tier-4": 6}
CONFIRMED = ("baseline", "tier-1", "tier-2", "tier-3")
RUNGS = [0.2, 0.4, 0.8]


def effect_rows(arm: str, seed: int, rows: int = 900) -> pa.Table:
    """A trial's predictions: labels by row, errors partly shared by all trials."""
    fixed, own = np.random.default_rng(3), np.random.default_rng([seed, zlib.crc32(arm.encode())])
    columns = {
        "row_id": pa.array([f"r{i}" for i in range(rows)], pa.large_string()),
        "title": pa.array(["a title"] * rows, pa.large_string()),
    }
    probabilities = {}
    for task, classes in Config().labels.items():
        true = fixed.choice(3, rows, p=[0.55, 0.15, 0.30])
        columns[task] = pa.array(true.astype(np.int8))
        strength = SKILL[arm] * (1 + 0.05 * own.normal())
        logits = 0.9 * fixed.normal(size=(rows, 3)) + 0.4 * own.normal(size=(rows, len(classes))) + strength * np.eye(3)[true]
        probabilities[task] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return build_predictions("test", pa.table(columns), probabilities, Config().labels)


def trial(arm: str, seed: int, stage: str, *, ended: int | None = None, status: str = "finished", **more: Any) -> dict[str, Any]:
    """An entry of study.json's trials with a learning curve; `ended` is the epoch at which it was stopped or failed."""
    rng, planned = np.random.default_rng([seed, zlib.crc32(arm.encode()), 5]), EPOCHS[arm]
    epochs = planned if ended is None else ended
    best = 0.45 + 0.12 * SKILL[arm]
    curve = []
    for epoch in range(1, epochs + 1):
        score = best * (1 - 0.6 * np.exp(-4 * epoch / planned)) + 0.01 * float(rng.normal())
        point = {"progress": epoch / planned, "epoch": epoch, "overall": score, "sentiment": score, "polarization": score}
        curve.append({**point, "seconds": 11.0 * epoch})
    name = f"{stage}-{arm}-s{seed}"
    entry = {
        "id": name, "arm": arm, "seed": seed, "stage": stage, "status": status, "progress": epochs / planned, "epochs": epochs,
        "seconds": 11.0 * epochs + 4, "train_seconds": 11.0 * epochs, "overall": max((p["overall"] for p in curve), default=None),
        "curve": curve, "rung": None, "error": None, "attempts": 1, "run_dir": f"trials/{name}",
    }  # fmt: skip
    return {**entry, **more}


def trials() -> list[dict[str, Any]]:
    explored = [trial(arm, 0, "explore") for arm in CONFIRMED]
    explored.append(trial("tier-4", 0, "explore", ended=2, status="stopped", rung=0.4))
    confirmed = [trial(arm, seed, "confirm") for arm in CONFIRMED for seed in (11, 12, 13)]
    confirmed[-1] = trial("tier-3", 13, "confirm", ended=1, status="failed", error="RunError: <b>loss</b> is NaN in step 7", attempts=2)
    return [*explored, *confirmed]


def write_study(place: Path, **changes: Any) -> Path:
    """Write the folder; `changes` replace keys of study.json."""
    folder, every, arms = RunFolder.at(place), trials(), design_arms("only")
    finished = [t for t in every if t["stage"] == "confirm" and t["status"] == "finished"]
    predictions = {(t["arm"], t["seed"]): effect_rows(t["arm"], t["seed"]) for t in finished}
    found = study_effects(predictions, arms, Config().labels, seconds={(t["arm"], t["seed"]): t["train_seconds"] for t in finished})
    for entry in every:
        _write_trial(folder, entry, next(arm for arm in arms if arm.name == entry["arm"]))
    study = {
        "name": "only-tiers", "created": "2026-05-04T10:00:00+00:00", "command": "polarity ablate --design only --seeds 3 --data a&b.csv",
        "design": "only", "level": "tiers", "config": "train:\n  epochs: 6  # <script>alert(1)</script>\n",
        "data": {"rows": {"train": 5000, "validation": 850, "test": 900}, "effects_on": "validation"}, "reference": "baseline",
        "arms": [asdict(arm) for arm in arms],
        "seeds": {"explore": [0], "confirm": [11, 12, 13]}, "asha": {"rungs": RUNGS, "reduction": 2.0},
        "detectable": {"before": 0.031, "after": found.detectable}, "trials": every,
        "equal_compute": equal_compute(TypeAdapter(list[TrialRecord]).validate_python(every)).model_dump(),
        "spread": {"seed_sd": found.seed_sd, "row_sd": found.row_sd},
        "environment": {"python": "3.11.9", "data": {"/somewhere/a&b.csv": "12ab"}, "gpus": []},
        "savings": {"trial_epochs_run": 120, "trial_epochs_full": 180, "saved": 1 / 3},
        "asha_replay": {"best_arm": "tier-1", "seeds_in_which_the_best_arm_was_stopped": 0, "saved": 0.27},
    }  # fmt: skip
    folder.write_json(STUDY, {**study, **changes})
    folder.write_parquet(EFFECTS, found.table)
    return place


def _write_trial(folder: RunFolder, entry: dict[str, Any], arm: Arm) -> None:
    config, rng = apply_points(Config(), arm.points), np.random.default_rng(1)
    train = {task: pa.array(rng.choice(3, 600, p=[0.55, 0.15, 0.30]).astype(np.int8)) for task in Config().labels}
    table = pa.table({"row_id": pa.array([f"t{i}" for i in range(600)], pa.large_string()), **train})
    build_ledger(table, config).write(folder, f"{entry['run_dir']}/{LEDGER}")
    if entry["status"] == "finished":
        score = float(entry["overall"]) + 0.01
        folder.write_json(f"{entry['run_dir']}/{METRICS}", {"test": {"overall": {"macro_f1": score}}})
