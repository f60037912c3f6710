"""`polarity ablate`: plan a study, run it with Ray Tune, and say what each arm does to the score."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from polarity.artifacts import REPORT, RunFolder
from polarity.config import Config
from polarity.encoders import require_encoders, resolve_encoder
from polarity.environment import describe_environment
from polarity.errors import ConfigError, RunError, Say
from polarity.resolve import dump_config, parse_config
from polarity.study import Arm, Chosen, Study, open_study_folder
from polarity.train.cluster import check_nodes, start_ray
from polarity.tune import designs
from polarity.tune.conductor import trials_of
from polarity.tune.findings import conclude, inner_effects, missing
from polarity.tune.plan import Costs, StudyPlan, compare_designs, describe, detectable_line, new_study
from polarity.tune.ray_tune import place_trials
from polarity.tune.runner import Limits, PreparedStudy, check_same_rows, prepare_study, run_study, study_rows
from polarity.tune.terminal import render_effects, shared_notes
from polarity.workflows.report import report_study
from polarity.workflows.train import require_data


def tell(line: str) -> None:
    """Print a line. Ray puts another function in the place of `print`, and then Tune cannot pickle a display that holds the old one."""
    print(line)


@dataclass(frozen=True)
class Question:
    """What a study asks: which arms, over which configuration. A `screen` asks about each factor of its level or of the file `custom`."""

    base: designs.Base
    design: designs.Design = "only"
    level: designs.Level = "tiers"
    custom: Path | None = None
    runs: int | None = None
    """Of a screen; None: the most that it may have."""

    def __post_init__(self) -> None:
        if self.runs is not None and self.design != designs.SCREEN:
            raise ConfigError(f"--runs {self.runs} is the number of runs of --design screen; the design {self.design} has no such choice")

    @property
    def screen(self) -> designs.Screen | None:
        return designs.plan_screen(self.level, self.runs, self.custom) if self.design == designs.SCREEN else None

    def arms(self) -> list[Arm]:
        screen = self.screen
        return screen.arms() if screen else designs.design_arms(self.design, self.level, self.custom)

    def configure(self, arm: Arm) -> Config:
        """The configuration of an arm."""
        return designs.arm_config(self.base, arm)


def ablate(question: Question, plan: StudyPlan, study_dir: str, *, limits: Limits | None = None, say: Say = tell) -> Study:
    """Run a new study into the folder `study_dir` and conclude it as far as it came.

    Raises PolarityError for everything a user can mend, before the first trial where that is possible.
    """
    arms = question.arms()
    plan = replace(plan, screen=question.screen)
    configs = checked_configs(question, arms)
    folder = open_study_folder(study_dir, resume=False)
    prepared = prepare(configs, plan.effects_on, folder, say)
    level, command = "custom" if question.custom else question.level, "polarity " + " ".join(sys.argv[1:])
    config = configs[arms[0].name]
    encoder = resolve_encoder(config.model.encoder, config.model.revision)
    environment = describe_environment(seeds={"split": config.data.split.seed}, sources=config.data.sources, encoder=encoder, torch=torch)
    study = new_study(folder, plan, arms, prepared, design=question.design, level=level, command=command, environment=environment)
    if study.file.screen and plan.screen:  # what a confirmation will need, and what settings that factors share mean in each run
        changes = designs.factor_changes(plan.screen, question.configure)
        study.file.screen.changes, study.file.screen.shared = changes, designs.shared_settings(changes)
        study.save()
    say(detectable_line(study.file.detectable.before, plan.seeds))
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def resume(study_dir: str, *, limits: Limits | None = None, retry_failed: bool = False, confirm_seeds: int = 0, say: Say = tell) -> Study:
    """Go on with a study from its own record: finished trials are kept, the others run as they would have.

    `confirm_seeds`: a screen's confirmation is asked for now. Raises RunError where the folder holds no study or the data is no longer
    what it was, ConfigError where the study is no screen.
    """
    study, prepared = resumed_study(study_dir, "ablate", retry_failed=retry_failed, say=say)
    if confirm_seeds:
        if study.file.screen is None:
            raise ConfigError(f"{study_dir}: --confirm is for studies with --design screen; this one confirms by itself")
        if not study.file.seeds.confirm:
            first = 1 + max(study.file.seeds.screen)
            study.file.seeds.confirm = list(range(first, first + confirm_seeds))
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def resumed_study(study_dir: str, command: str, *, retry_failed: bool, say: Say) -> tuple[Study, PreparedStudy]:
    """The record of a study that `command` began, with its data read again; with `retry_failed` its failed trials wait again too.

    Raises RunError: the folder holds no study, another command's, or the data is no longer what it was.
    """
    study = Study.resumed(open_study_folder(study_dir, resume=True))
    began = "tune" if study.file.design == "search" else "ablate"
    if began != command:
        raise RunError(f"{study_dir}: this study was begun by polarity {began}: go on with polarity {began} --resume")
    configs = configs_of(study)
    require_encoders(configs.values())
    prepared = prepare(configs, study.file.data.effects_on, study.folder, say)
    if prepared.rows.fingerprint != study.file.data.fingerprint:
        raise RunError(f"{study_dir}: the data is not what the study began with; its finished trials cannot be compared with new ones")
    study.file.data.unit = study.file.data.unit or prepared.rows.unit
    for trial in study.of(None, "failed") if retry_failed else []:
        trial.status, trial.failures = "pending", 0
    say(f"goes on with {len(study.of(None, 'pending'))} trials that wait; {len(study.of(None, 'finished', 'stopped'))} are done")
    return study, prepared


def dry_run(question: Question, plan: StudyPlan, *, concurrent: int | None = None, say: Say = tell) -> str:
    """Check everything, then the plan in words; times come from a few timed batches of each arm on this machine.

    Where the arms are the plan's own tiers or points, the designs for them are compared.
    """
    arms = question.arms()
    screen = question.screen
    plan = replace(plan, screen=screen)
    configs = checked_configs(question, arms)
    compared = screen or (designs.plan_screen(question.level) if question.design in ("only", "without") else None)
    if compared is not None:
        configs |= {factor.name: question.configure(designs.factor_alone(compared, factor)) for factor in compared.factors}
        configs |= {compared.off.name: question.configure(compared.off)}
    prepared = prepare(configs, plan.effects_on, None, say)
    concurrent = place_trials(prepared.configs[arms[0].name].cluster, max_concurrent=concurrent).concurrent
    if compared is None:
        return describe(plan, arms, prepared, concurrent)
    costs = Costs.measured(compared.off.name, compared.names, prepared)
    screens = {f"screen --runs {len(compared.runs)}": compared}
    if len(compared.runs) == 24 and question.custom is None:
        screens["screen --runs 12"] = designs.plan_screen(question.level, 12)
    lines = [describe(plan, arms, prepared, concurrent, costs)]
    if screen:
        lines += shared_notes(designs.shared_settings(designs.factor_changes(screen, question.configure)))
    lines.append(compare_designs(screens, costs, plan.seeds, prepared.rows.counts["test"], concurrent))
    return "\n".join(lines)


def checked_configs(question: Question, arms: Sequence[Arm]) -> dict[str, Config]:
    """{arm: configuration}, each naming data and seeing the rows of the first. Raises ConfigError naming the arm or the factor."""
    screen = question.screen
    if screen:
        require_data(question.configure(screen.off))
        designs.factor_changes(screen, question.configure)
    configs = designs.arm_configs(question.base, arms)
    require_data(configs[arms[0].name])
    check_same_rows(configs, arms[0].name)
    require_encoders(configs.values())
    return configs


def prepare(configs: Mapping[str, Config], effects_on: str, folder: RunFolder | None, say: Say) -> PreparedStudy:
    """Rows and tokens of the arms' configurations, the reference's first, with Ray running and every node seeing what a trial needs."""
    reference = next(iter(configs.values()))
    start_ray(reference.cluster, say)  # before anything else does: it knows which cluster to join, and quietens it
    check_nodes(configs.values(), folder, say, with_data=True)
    return prepare_study(configs, study_rows(reference, effects_on=effects_on, say=say), say)


def _run_and_conclude(study: Study, prepared: PreparedStudy, limits: Limits, say: Say) -> Study:
    reason = run_study(study, prepared, limits, say)
    if reason is None and _plan_confirmation(study, say):
        configs = {**prepared.configs, **{arm.name: configs_of(study)[arm.name] for arm in study.arms if arm.name not in prepared.configs}}
        prepared = prepare_study(configs, prepared.rows, say)
        reason = run_study(study, prepared, limits, say)
    gaps = missing(study, reason)
    study.file.notes = gaps
    table = conclude(study, prepared.configs)
    say(render_effects(table, detectable=study.file.detectable, screen=study.file.screen))
    for gap in gaps:
        say(gap)
    report_study(study.folder)
    say(f"report: {study.folder.uri.rstrip('/')}/{REPORT}")
    say(f"study folder: {study.folder.uri}")
    return study


def _plan_confirmation(study: Study, say: Say) -> bool:
    """Add the trials that confirm a screen, where that was asked for: the best predicted combination, everything on, and the baseline.

    The combination is chosen on the inner validation rows: the effect rows that judge it have decided nothing.
    """
    screen, entry, seeds = designs.Screen.of(study), study.file.screen, study.file.seeds.confirm
    if screen is None or entry is None or not seeds or study.of("confirm") or study.of("screen", "failed"):
        if screen is not None and seeds and not study.of("confirm"):
            say("the confirmation waits: failed runs of the screen are missing (--resume --retry-failed)")
        return False
    effects = inner_effects(study, screen)
    best, every = designs.best_combination(screen, list(effects.values())), designs.everything_on(screen)
    changes = entry.changes
    best_on = [name for name, effect in effects.items() if effect > 0]
    reference = configs_of(study)[study.reference]  # the baseline: everything off
    own = {
        designs.BEST_COMBINATION: designs.put_together(reference, [changes[name] for name in best_on]),
        designs.ALL: designs.put_together(reference, changes.values()),
    }
    chosen = [arm for arm in (best, every) if own[arm.name] != reference]
    if own[best.name] == own[every.name]:
        chosen = [every]
    known = {arm.name: arm for arm in study.arms} | {arm.name: arm for arm in chosen}
    study.file.arms = list(known.values())
    study.file.configs |= {arm.name: dump_config(own[arm.name]) for arm in chosen}
    entry.chosen = Chosen(on=best_on, inner_effects=effects)
    epochs = {name: config.train.epochs for name, config in configs_of(study).items()}
    study.trials.extend(trials_of("confirm", [study.reference, *(arm.name for arm in chosen)], seeds, epochs))
    study.save()
    say(f"the best predicted combination: {', '.join(best_on) or 'everything off'} (chosen on the inner rows)")
    return True


def configs_of(study: Study) -> dict[str, Config]:
    """{arm: configuration} of a study's own record."""
    return {name: parse_config(text, f"{study.folder.uri}, arm {name}") for name, text in study.file.configs.items()}
