"""Tiny studies for the tests of this folder: a random encoder, random comments, arms that differ in what is plain to see."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polarity.artifacts import RunFolder
from polarity.config import Config
from polarity.study import Arm, Seeds, Study, StudyFile, TrialRecord
from polarity.tune.designs import Base, arm_configs
from polarity.tune.plan import StudyPlan, new_study
from polarity.tune.runner import PreparedStudy, prepare_study, study_rows
from tests.tiny import tiny_csv, tiny_encoder

ARMS = [
    Arm("baseline"),
    Arm("slow", sets={"optim.lr": 1e-6}, reference="baseline"),  # learns next to nothing: ASHA stops it
    Arm("twin", sets={"train.eval_batch_size": 32}, reference="baseline"),  # the baseline's own numbers: ASHA lets it go on
]


@dataclass(frozen=True)
class Inputs:
    """An encoder's folder and a file of comments."""

    encoder: Path
    data: Path
    workers: int = 1
    """Of one trial."""

    def base(self, *sets: str) -> Base:
        """The small preset on these inputs: four epochs, float32."""
        options: dict[str, tuple[Any, str]] = {
            "data.source": (str(self.data), "--data"),
            "model.encoder": (str(self.encoder), "--encoder"),
            "cluster.workers": (self.workers, "--workers"),
            "train.epochs": (4, "--epochs"),
        }
        return Base("small", None, options, ("optim.lr=3e-3", "train.precision=fp32", "train.resamples=100", *sets))


def record(arms: Sequence[Arm], trials: Sequence[TrialRecord], explore: Sequence[int], confirm: Sequence[int], **more: Any) -> StudyFile:
    """study.json of a study that is only its arms, seeds and trials."""
    seeds = Seeds(explore=list(explore), confirm=list(confirm))
    known = {"name": "tiny", "design": "custom", "level": "custom", "reference": arms[0].name, **more}
    return StudyFile(arms=list(arms), trials=list(trials), seeds=seeds, **known)


def make_inputs(folder: Path, rows: int = 400, workers: int = 1) -> Inputs:
    """Write the inputs into a folder."""
    return Inputs(tiny_encoder(folder / "encoder", "bert", hidden=16), tiny_csv(folder / "comments.csv", rows), workers)


def prepared(inputs: Inputs, arms: Sequence[Arm] = ARMS, *sets: str) -> PreparedStudy:
    """Rows, tokens and ledgers of a study of these arms."""
    configs: dict[str, Config] = arm_configs(inputs.base(*sets), arms)
    rows = study_rows(configs[arms[0].name], effects_on="validation", say=lambda _: None)
    return prepare_study(configs, rows, lambda _: None)


def begun(folder: Path, ready: PreparedStudy, plan: StudyPlan, arms: Sequence[Arm] = ARMS) -> Study:
    """The record of a study that has not run."""
    return new_study(RunFolder.create(folder), plan, arms, ready, design="custom", level="custom")
