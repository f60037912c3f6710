"""`polarity tune`: draw configurations from a space, train them under ASHA, and write the best one as YAML that `polarity train` takes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polarity.errors import ConfigError, RunError
from polarity.resolve import dump_config
from polarity.study import Arm, Best, Study, TrialRecord, open_study_folder
from polarity.train.cluster import check_nodes, start_ray
from polarity.tune.designs import Base, arm_config
from polarity.tune.findings import effect_rows, missing, overall_score, savings
from polarity.tune.plan import StudyPlan, new_study
from polarity.tune.rows import check_same_rows, study_rows
from polarity.tune.runner import Limits, Prepared, prepare_study, run_study
from polarity.tune.search import BASE, read_space, search_arms
from polarity.tune.terminal import Pace, live_or_lines
from polarity.workflows.ablate import resumed_study
from polarity.workflows.train import require_data

Say = Callable[[str], None]
BEST = "best.yaml"
SEARCH = "search"
"""The design of a study that searches."""


@dataclass(frozen=True)
class Search:
    """A space over a configuration: `samples` random draws, or the whole grid of a space of choices."""

    base: Base
    space: Path
    samples: int = 16
    grid: bool = False


def tune(search: Search, study_dir: str, *, seed: int = 0, limits: Limits | None = None, say: Say = print) -> Study:
    """Run the search into `study_dir` and write best.yaml. Raises ConfigError naming the draw that does not make a configuration."""
    if search.samples < 1:
        raise ConfigError(f"--samples must be at least 1 (got {search.samples})")
    arms = search_arms(read_space(search.space), search.samples, seed, grid=search.grid)
    configs = {arm.name: arm_config(search.base, arm) for arm in arms}
    require_data(configs[BASE])
    check_same_rows(configs, BASE)
    folder = open_study_folder(study_dir, resume=False)
    start_ray(configs[BASE].cluster, say)
    check_nodes(configs.values(), folder, say, with_data=True)
    prepared = prepare_study(configs, study_rows(configs[BASE], effects_on="validation", say=say), say)
    plan = StudyPlan(seeds=1, explore_seeds=1, keep_ahead=False)
    about = {
        "name": folder.uri.rstrip("/").rpartition("/")[2],
        "command": "polarity " + " ".join(sys.argv[1:]),
        "design": SEARCH,
        "level": "samples",
    }
    study = new_study(folder, plan, arms, prepared.configs, prepared.rows, about)
    study.file.seeds.confirm = []  # the search ranks by the inner rows; nothing is confirmed
    study.save()
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def resume(study_dir: str, *, limits: Limits | None = None, retry_failed: bool = False, say: Say = print) -> Study:
    """Go on with a search from its own record. Raises RunError as `resumed_study`."""
    study, prepared = resumed_study(study_dir, "tune", retry_failed=retry_failed, say=say)
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def _run_and_conclude(study: Study, prepared: Prepared, limits: Limits, say: Say) -> Study:
    configs = prepared.configs
    reason = run_study(study, prepared, limits, lambda concurrent: live_or_lines(say, Pace(concurrent)), say)
    best = best_trial(study)
    config = configs[best.arm]
    study.folder.write_text(BEST, dump_config(config))
    score = overall_score(effect_rows(study, best), config.labels)
    arm = next(arm for arm in study.arms if arm.name == best.arm)
    study.file.best = Best(arm=best.arm, sets=dict(arm.sets), inner_overall=best.overall or 0.0, overall=score)
    study.file.savings = savings(study, {name: c.train.epochs for name, c in configs.items()})
    study.save()
    rows = study.file.data.rows["test"]
    say(ranking(study))
    say(
        f"best: {best.arm} {described(arm)}: overall macro-F1 {score:.4f} on {rows:,} rows that chose nothing "
        f"({best.overall:.4f} on the inner validation rows that chose it, which flatters it)"
    )
    for line in missing(study, reason):
        say(line)
    say(f"written: {study.folder.uri.rstrip('/')}/{BEST}; train it with polarity train {study.folder.uri.rstrip('/')}/{BEST}")
    return study


def best_trial(study: Study) -> TrialRecord:
    """The finished trial with the best inner validation score; a stopped one is never compared with it. RunError where none finished."""
    finished = study.of("explore", "finished")
    if not finished:
        raise RunError("no trial of the search ran to its end, so there is no best one: give it more --budget, or see the errors above")
    return max(finished, key=lambda trial: trial.overall or 0.0)


def ranking(study: Study) -> str:
    """The ten best finished trials, a line each."""
    arms = {arm.name: arm for arm in study.arms}
    finished = sorted(study.of("explore", "finished"), key=lambda trial: -(trial.overall or 0.0))
    lines = [f"{trial.overall:.4f}  {trial.arm}  {described(arms[trial.arm])}" for trial in finished[:10]]
    stopped = len(study.of("explore", "stopped"))
    return "\n".join(["inner validation macro-F1 of the trials that ran to their end:", *lines, f"stopped by ASHA: {stopped}"])


def described(arm: Arm) -> str:
    """The drawn settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in arm.sets.items()) or "(the configuration as it is)"
