"""`polarity train`, `polarity config` and `polarity points`."""

from typing import Annotated

import typer

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
    one_file,
    resolved,
    say,
)


def train(
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
    from polarity.artifacts import default_run_dir
    from polarity.workflows.train import require_data, resumed_configuration
    from polarity.workflows.train import train as run

    given = {
        "--data": data, "--train": train, "--validation": validation, "--test": test, "--encoder": encoder, "--epochs": epochs,
        "--max-steps": max_steps, "--seed": seed, "--workers": workers,
    }  # fmt: skip
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
        run(kept, str(run_dir), resume=True, verbose=verbose, say=say)
        return
    chosen = resolved(config, preset, points, tiers, without, sets, given)
    if dry_run:
        from polarity.workflows.preview import estimate

        require_data(chosen.config)
        say(estimate(chosen.config, say=say))
        return
    run(chosen.config, run_dir or default_run_dir(preset or (config.stem if config else "baseline")), verbose=verbose, say=say)


def config(
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

    given = {
        "--data": data, "--train": train, "--validation": validation, "--test": test, "--encoder": encoder, "--epochs": epochs,
        "--max-steps": max_steps, "--seed": seed, "--workers": workers,
    }  # fmt: skip
    from polarity.resolve import render

    chosen = resolved(config, preset, points, tiers, without, sets, given)
    only_points = points is not None and all(value is None for value in given.values()) and not (sets or config or tiers or without)
    typer.echo(changed_lines(chosen, preset) if changes or only_points else render(chosen), nl=False)


def points() -> None:
    """Print the ten points: what each changes, its paper, the plan's claim, and what it costs."""
    from polarity.workflows.preview import points_table

    typer.echo(points_table())
