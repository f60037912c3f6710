"""The commands that train: `polarity train` with `config` and `points`, and studies of many trainings, `polarity ablate` and `tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from polarity.cli.net import stopped_by_hand
from polarity.cli.options import (
    ConfigFile,
    ConfigOption,
    Data,
    Encoder,
    Epochs,
    MaxSteps,
    Points,
    Preset,
    Seed,
    Sets,
    Test,
    Tiers,
    Train,
    Validation,
    Without,
    Workers,
    by_key,
    given_options,
    one_file,
    resolved,
    say,
)
from polarity.errors import ConfigError

if TYPE_CHECKING:
    from polarity.tune.designs import Base, Design, Level
    from polarity.tune.runner import Limits

GO_ON = "go on from its last checkpoint with\n  polarity train --resume --run-dir {}"


def train(
    context: typer.Context,
    config: ConfigFile = None, preset: Preset = None, points: Points = None, tiers: Tiers = None, without: Without = None,
    data: Data = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    epochs: Epochs = None, max_steps: MaxSteps = None, seed: Seed = None, workers: Workers = None, sets: Sets = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder or URI; default runs/PRESET-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run-dir to the numbers of an uninterrupted one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and estimate rows, steps, time and memory.")] = False,
    config_option: ConfigOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="All tables of scores in the terminal; they are in report.html too.")] = False,
) -> None:  # fmt: skip
    """Train on your rows or on made-up ones, judge the model beside simple ones, and write a run folder with model, scores and report.

    Examples: polarity train --preset quickstart;
    polarity train --preset small --encoder intfloat/multilingual-e5-small --data comments.csv;
    polarity train --resume --run-dir runs/first
    """
    config = one_file(config, config_option)
    from polarity.artifacts import CONFIG, default_run_dir
    from polarity.workflows.train import require_data, resumed_configuration
    from polarity.workflows.train import train as run

    given = given_options(context)
    if resume:
        forbidden = {
            "--dry-run": dry_run or None,
            "CONFIG": config,
            "--preset": preset,
            "--points": points,
            "--tiers": tiers,
            "--without": without,
        }
        kept = resumed_configuration(run_dir, {**forbidden, **given}, sets or [])
        with stopped_by_hand(str(run_dir), CONFIG, GO_ON):
            run(kept, str(run_dir), resume=True, verbose=verbose, say=say)
        return
    chosen = resolved(config, preset, points, tiers, without, sets, given)
    if dry_run:
        from polarity.workflows.preview import estimate

        require_data(chosen.config)
        say(estimate(chosen.config, say=say))
        return
    place = run_dir or default_run_dir(preset or (config.stem if config else "baseline"))
    with stopped_by_hand(place, CONFIG, GO_ON):
        run(chosen.config, place, verbose=verbose, say=say)


def config(
    context: typer.Context,
    config: ConfigFile = None, preset: Preset = None, points: Points = None, tiers: Tiers = None, without: Without = None,
    data: Data = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    epochs: Epochs = None, max_steps: MaxSteps = None, seed: Seed = None, workers: Workers = None, sets: Sets = None,
    config_option: ConfigOption = None,
    changes: Annotated[bool, typer.Option("--changes", help="Only the settings that differ from the preset.")] = False,
) -> None:  # fmt: skip
    """Print the effective configuration as YAML, each value with where it came from.

    Examples: polarity config --preset small; polarity config --points 6 --changes
    """
    config = one_file(config, config_option)
    from polarity.workflows.preview import changed_lines

    given = given_options(context)
    from polarity.resolve import render

    chosen = resolved(config, preset, points, tiers, without, sets, given)
    only_points = points is not None and all(value is None for value in given.values()) and not (sets or config or tiers or without)
    typer.echo(changed_lines(chosen, preset) if changes or only_points else render(chosen), nl=False)


def points() -> None:
    """Print the ten points: what each changes, its paper, the plan's claim, and what it costs."""
    from polarity.workflows.preview import points_table

    typer.echo(points_table())


StudyDir = Annotated[str | None, typer.Option(help="The study's folder or URI; default studies/NAME-TIME.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the study in --study-dir; finished trials are kept.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: failed trials get their attempts again.")]
GroupWorkers = Annotated[int, typer.Option("--workers", help="Workers of one trial. 1: trials run side by side, which is faster.")]
BudgetText = Annotated[str | None, typer.Option("--budget", help="Start no trial after 30m or 2h, or above 200e (trial-epochs).")]
MaxConcurrent = Annotated[int | None, typer.Option(help="Trials at a time; default: as many as the cluster's CPUs and GPUs take.")]
GpusPerTrial = Annotated[float | None, typer.Option(help="Part of a GPU a trial, such as 0.5; default: one, where there are any.")]

_DESIGN = (
    "screen: half of the points on in each run, so that every run tells of every point; only: baseline plus one; without: all ten less "
    "one; ladder: step by step; custom."
)
_CONFIRM = "screen: then run the best predicted combination, everything and the baseline over fresh seeds. With --resume too, after a look."

_WITH_RESUME = {"study_dir", "resume", "retry_failed", "budget", "max_concurrent", "gpus_per_trial", "confirm", "confirm_seeds"}


def ablate(
    context: typer.Context,
    config: ConfigFile = None, preset: Preset = None, data: Data = None, train: Train = None, validation: Validation = None,
    test: Test = None, encoder: Encoder = None, epochs: Epochs = None, max_steps: MaxSteps = None, sets: Sets = None,
    workers: GroupWorkers = 1,
    design: Annotated[str, typer.Option(help=_DESIGN)] = "only",
    level: Annotated[str | None, typer.Option(help="Arms of tiers or of points; default: a screen's points, else tiers.")] = None,
    arms: Annotated[Path | None, typer.Option(help="custom, screen: a YAML list of {name, points, tiers, set, reference}.")] = None,
    runs: Annotated[int | None, typer.Option(help="screen of points: 24, or 12, in which interactions blur the effects.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help=_CONFIRM)] = False,
    confirm_seeds: Annotated[int, typer.Option(help="Fresh seeds of --confirm.")] = 3,
    seeds: Annotated[int, typer.Option(help="Seeds that each run of a screen, or each confirmed arm, trains in full.")] = 3,
    no_asha: Annotated[
        bool, typer.Option("--no-asha", help="Every arm in full over all seeds, without the exploration in which ASHA stops arms early.")
    ] = False,
    effects_on: Annotated[str, typer.Option(help="Rows that measure effects: validation or test.")] = "validation",
    budget: BudgetText = None, max_concurrent: MaxConcurrent = None, gpus_per_trial: GpusPerTrial = None,
    study_dir: StudyDir = None, resume: Resume = False, retry_failed: RetryFailed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List trials, time and what can be found, designs side by side.")] = False,
    config_option: ConfigOption = None,
) -> None:  # fmt: skip
    """Find out which of the plan's ten training techniques (points, in four tiers) help: a study folder with effects and a report.

    Examples: polarity ablate --preset quickstart --design ladder --seeds 3;
    polarity ablate --preset small --data comments.csv --design screen --level points --seeds 2 --confirm --budget 8h;
    polarity ablate --resume --study-dir studies/first
    """
    from polarity.workflows import ablate as workflow

    limits = _limits(budget, max_concurrent, gpus_per_trial)
    if resume:
        fresh = _confirm_seeds(context, confirm, confirm_seeds)
        workflow.resume(_resumed_dir(context, study_dir), limits=limits, retry_failed=retry_failed, confirm_seeds=fresh, say=say)
        return
    _refuse_retry(retry_failed)
    from polarity.tune.plan import StudyPlan

    base = _base(context, one_file(config, config_option), preset, sets)
    chosen = cast("Design", design)  # design_arms refuses what is none
    at = cast("Level", level or ("points" if design == "screen" else "tiers"))
    question = workflow.Question(base, "custom" if arms is not None and design == "only" else chosen, at, arms, runs)
    if design == "screen":
        if no_asha:
            raise ConfigError("a screen runs each of its runs in full and explores nothing: leave out --no-asha")
    elif confirm:
        raise ConfigError(f"--confirm is for --design screen: the design {design} confirms by itself what its exploration leaves")
    plan = StudyPlan(seeds, not no_asha, effects_on, confirm_seeds=_confirm_seeds(context, confirm, confirm_seeds))
    if dry_run:
        say(workflow.dry_run(question, plan, concurrent=max_concurrent, say=say))
        return
    workflow.ablate(question, plan, study_dir or _default_dir(design), limits=limits, say=say)


def tune(
    context: typer.Context,
    space: Annotated[Path | None, typer.Argument(help="YAML: {setting: {loguniform|uniform|quniform|choice: [...]}}.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; it wins over the preset.")] = None,
    preset: Preset = None, data: Data = None, train: Train = None, validation: Validation = None, test: Test = None,
    encoder: Encoder = None, epochs: Epochs = None, max_steps: MaxSteps = None, sets: Sets = None, workers: GroupWorkers = 1,
    samples: Annotated[int, typer.Option(help="Configurations to draw, beside the one that is given.")] = 16,
    grid: Annotated[bool, typer.Option("--grid", help="Every combination of a space of choices instead.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0, budget: BudgetText = None, max_concurrent: MaxConcurrent = None,
    gpus_per_trial: GpusPerTrial = None, study_dir: StudyDir = None, resume: Resume = False, retry_failed: RetryFailed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the configurations and how long they would take.")] = False,
) -> None:  # fmt: skip
    """Search settings, stopping hopeless trials early (ASHA), and write the best as best.yaml, which `polarity train` takes.

    Examples: polarity tune space.yaml --preset small --data comments.csv --samples 24 --budget 4h;
    polarity tune --resume --study-dir studies/search
    """
    from polarity.workflows import tune as workflow

    limits = _limits(budget, max_concurrent, gpus_per_trial)
    if resume:
        workflow.resume(_resumed_dir(context, study_dir), limits=limits, retry_failed=retry_failed, say=say)
        return
    _refuse_retry(retry_failed)
    if space is None:
        raise ConfigError("which space? Give a YAML file such as space.yaml with optim.lr: {loguniform: [1.0e-5, 1.0e-4]}")
    base = _base(context, config, preset, sets)
    search = workflow.Search(base, space, samples, grid)
    if dry_run:
        say(workflow.dry_run(search, seed=seed, concurrent=max_concurrent, say=say))
        return
    workflow.tune(search, study_dir or _default_dir("search"), seed=seed, limits=limits, say=say)


def _base(context: typer.Context, config: Path | None, preset: str | None, sets: list[str] | None) -> "Base":
    from polarity.tune.designs import Base

    return Base(preset, config, by_key({**given_options(context), "--seed": None}), tuple(sets or ()))  # tune's seed is that of the draws


def _limits(budget: str | None, max_concurrent: int | None, gpus_per_trial: float | None) -> "Limits":
    from polarity.tune.conductor import parse_budget
    from polarity.tune.runner import Limits

    return Limits(parse_budget(budget), max_concurrent, gpus_per_trial)


def _given(context: typer.Context) -> dict[str, str]:
    """{parameter: how it is written} of everything that the user gave."""
    written = {p.name: p.opts[0] if p.opts[0].startswith("-") else p.opts[0].upper() for p in context.command.params if p.name}
    return {name: shown for name, shown in written.items() if str(getattr(context.get_parameter_source(name), "name", "")) == "COMMANDLINE"}


def _resumed_dir(context: typer.Context, study_dir: str | None) -> str:
    """The study to go on with; every setting but how to go on is the study's own, and refused here."""
    refused = [shown for name, shown in _given(context).items() if name not in _WITH_RESUME]
    if study_dir is None:
        raise ConfigError("--resume needs --study-dir: which study is to go on?")
    if refused:
        raise ConfigError(f"--resume takes the study's own settings; leave out {', '.join(refused)}")
    return study_dir


def _refuse_retry(retry_failed: bool) -> None:
    if retry_failed:
        raise ConfigError("--retry-failed needs --resume: a new study has no failed trials")


def _confirm_seeds(context: typer.Context, confirm: bool, seeds: int) -> int:
    if not confirm and "confirm_seeds" in _given(context):
        raise ConfigError("--confirm-seeds needs --confirm")
    if seeds < 2:
        raise ConfigError(f"--confirm-seeds {seeds}: a confirmation needs at least 2 seeds, better 3")
    return seeds if confirm else 0


def _default_dir(name: str) -> str:
    from polarity.artifacts import default_run_dir

    return default_run_dir(name).replace("runs/", "studies/", 1)
