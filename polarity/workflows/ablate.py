"""`polarity ablate`: plan a study, run it with Ray Tune, and say what each arm does to the score."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polarity.artifacts import REPORT, RunFolder
from polarity.config import Config
from polarity.errors import RunError
from polarity.resolve import parse_config
from polarity.train.cluster import check_nodes, start_ray
from polarity.tune.designs import Arm, Base, Design, Level, arm_configs, design_arms
from polarity.tune.effects_text import render_effects
from polarity.tune.findings import conclude, missing
from polarity.tune.placement import place_trials
from polarity.tune.plan import StudyPlan, describe, detectable_line, new_study
from polarity.tune.progress import Pace, live_or_lines
from polarity.tune.record import Study, open_study_folder
from polarity.tune.rows import check_same_rows, study_rows
from polarity.tune.runner import Limits, Prepared, prepare_study, run_study
from polarity.workflows.train import require_data

Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What a study asks: which arms, over which configuration."""

    base: Base
    design: Design = "only"
    level: Level = "tiers"
    custom: Path | None = None

    def arms(self) -> list[Arm]:
        return design_arms(self.design, self.level, self.custom)


def ablate(question: Question, plan: StudyPlan, study_dir: str, *, limits: Limits | None = None, say: Say = print) -> Study:
    """Run a new study into the folder `study_dir` and conclude it as far as it came.

    Raises PolarityError for everything a user can mend, before the first trial where that is possible.
    """
    arms = question.arms()
    configs = checked_configs(question.base, arms)
    folder = open_study_folder(study_dir, resume=False)
    prepared = _prepare(configs, plan.effects_on, folder, say)
    about = {
        "name": Path(study_dir.rstrip("/")).name,
        "command": "polarity " + " ".join(sys.argv[1:]),
        "design": question.design,
        "level": question.level,
        "environment": _environment(configs[arms[0].name]),
    }
    study = new_study(folder, plan, arms, prepared.configs, prepared.rows, about)
    say(detectable_line(study.head["detectable"]["before"], plan.seeds))
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def resume(study_dir: str, *, limits: Limits | None = None, retry_failed: bool = False, say: Say = print) -> Study:
    """Go on with a study from its own record: finished trials are kept, the others run as they would have.

    Raises RunError where the folder holds no study or the data is no longer what it was.
    """
    study, prepared = resumed_study(study_dir, "ablate", retry_failed=retry_failed, say=say)
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def resumed_study(study_dir: str, command: str, *, retry_failed: bool, say: Say) -> tuple[Study, Prepared]:
    """The record of a study that `command` began, with its data read again; with `retry_failed` its failed trials wait again too.

    Raises RunError: the folder holds no study, another command's, or the data is no longer what it was.
    """
    study = Study.load(open_study_folder(study_dir, resume=True))
    began = "tune" if study.head["design"] == "search" else "ablate"
    if began != command:
        raise RunError(f"{study_dir}: this study was begun by polarity {began}: go on with polarity {began} --resume")
    configs = {name: parse_config(text, f"{study_dir}, arm {name}") for name, text in study.head["configs"].items()}
    prepared = _prepare(configs, study.head["data"]["effects_on"], study.folder, say)
    if prepared.rows.fingerprint != study.head["data"]["fingerprint"]:
        raise RunError(f"{study_dir}: the data is not what the study began with; its finished trials cannot be compared with new ones")
    for trial in study.of(None, "failed") if retry_failed else []:
        trial.status, trial.failures = "pending", 0
    say(f"goes on with {len(study.of(None, 'pending'))} trials that wait; {len(study.of(None, 'finished', 'stopped'))} are done")
    return study, prepared


def dry_run(question: Question, plan: StudyPlan, *, concurrent: int | None = None, say: Say = print) -> str:
    """Check everything, then the plan in words; times come from a few timed batches of each arm on this machine."""
    arms = question.arms()
    prepared = _prepare(checked_configs(question.base, arms), plan.effects_on, None, say)
    place = place_trials(prepared.configs[arms[0].name].cluster, max_concurrent=concurrent)
    return describe(plan, arms, prepared, place.concurrent)


def checked_configs(base: Base, arms: Sequence[Arm]) -> dict[str, Config]:
    """{arm: configuration}, each naming data and seeing the rows of the first. Raises ConfigError naming the arm."""
    configs = arm_configs(base, arms)
    require_data(configs[arms[0].name])
    check_same_rows(configs, arms[0].name)
    return configs


def _prepare(configs: Mapping[str, Config], effects_on: str, folder: RunFolder | None, say: Say) -> Prepared:
    reference = next(iter(configs.values()))
    start_ray(reference.cluster, say)  # before anything else does: it knows which cluster to join, and quietens it
    check_nodes(configs.values(), folder, say, with_data=True)
    return prepare_study(configs, study_rows(reference, effects_on=effects_on, say=say), say)


def _run_and_conclude(study: Study, prepared: Prepared, limits: Limits, say: Say) -> Study:
    reason = run_study(study, prepared, limits, lambda concurrent: live_or_lines(say, Pace(concurrent)), say)
    gaps = missing(study, reason)
    study.head["notes"] = gaps
    table = conclude(study, prepared.configs)
    say(render_effects(table, detectable=study.head["detectable"]))
    for gap in gaps:
        say(gap)
    write_report(study.folder, say)
    say(f"study folder: {study.folder.uri}")
    return study


def write_report(folder: RunFolder, say: Say) -> None:
    """Write the study's report.html."""
    from polarity.report.study import render_study

    folder.write_text(REPORT, render_study(folder.uri))
    say(f"report: {folder.uri.rstrip('/')}/{REPORT}")


def _environment(config: Config) -> dict[str, Any]:
    import torch

    from polarity.encoders import resolve_encoder
    from polarity.environment import describe_environment

    data = config.data
    sources = [s for s in (data.source, data.train, data.validation, data.test) if s]
    encoder = resolve_encoder(config.model.encoder, config.model.revision)
    return describe_environment(seeds={"split": data.split.seed}, sources=sources, encoder=encoder, torch=torch)
