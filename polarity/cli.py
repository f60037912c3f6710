"""The command `polarity`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from polarity.errors import PolarityError
from polarity.resolve import Resolved, resolve

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train and judge multi-task classifiers of comments."
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")

ConfigFile = Annotated[Path | None, typer.Argument(help="YAML file of settings; it wins over the preset.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="baseline (default), strategy, small or quickstart.")]
Points = Annotated[str | None, typer.Option(help="Points of the plan to switch on: 1,2,6.")]
Tiers = Annotated[str | None, typer.Option(help="Tiers of the plan to switch on: 1,3.")]
Without = Annotated[str | None, typer.Option(help="Points to leave out; alone, all ten points less these.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any setting: --set optim.lr=3e-5. Repeatable.")]
Data = Annotated[str | None, typer.Option(help="One labelled file, split as data.split says.")]
Train = Annotated[str | None, typer.Option(help="Training rows, when you bring your own split.")]
Validation = Annotated[str | None, typer.Option(help="Validation rows.")]
Test = Annotated[str | None, typer.Option(help="Test rows (optional).")]
Encoder = Annotated[str | None, typer.Option(help="A hub name, a folder, or offline:minilm.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training rows.")]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after so many optimizer steps.")]
Seed = Annotated[int | None, typer.Option(help="The run's seed; the split has its own.")]
Workers = Annotated[int | None, typer.Option(help="Ray Train workers; 0 trains in this process without Ray.")]

OPTION_KEYS = {
    "--data": "data.source",
    "--train": "data.train",
    "--validation": "data.validation",
    "--test": "data.test",
    "--encoder": "model.encoder",
    "--epochs": "train.epochs",
    "--max-steps": "train.max_steps",
    "--seed": "train.seed",
    "--workers": "cluster.workers",
}


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers with commas between them, such as 1,2,6 (got {text!r})") from None


def _resolved(
    file: Path | None, preset: str | None, points: str | None, tiers: str | None, without: str | None, sets: list[str] | None,
    given: dict[str, Any],
) -> Resolved:  # fmt: skip
    options = {OPTION_KEYS[name]: (value, name) for name, value in given.items() if value is not None}
    numbers = (_numbers(points, "--points"), _numbers(tiers, "--tiers"), _numbers(without, "--without"))
    return resolve(preset, file, *numbers, options=options, sets=sets or [])


@app.command("train")
def train_command(
    config: ConfigFile = None, preset: Preset = None, points: Points = None, tiers: Tiers = None, without: Without = None,
    data: Data = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    epochs: Epochs = None, max_steps: MaxSteps = None, seed: Seed = None, workers: Workers = None, sets: Sets = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder or URI; default runs/PRESET-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run-dir to the numbers of an uninterrupted one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and estimate rows, steps, time and memory.")] = False,
) -> None:  # fmt: skip
    """Train, evaluate and write a run folder.

    Examples: polarity train --preset quickstart;
    polarity train --preset small --encoder intfloat/multilingual-e5-small --data comments.csv;
    polarity train --resume --run-dir runs/first
    """
    from polarity.artifacts import default_run_dir
    from polarity.workflows.resume import resumed_configuration
    from polarity.workflows.train import require_data
    from polarity.workflows.train import train as run

    given = {
        "--data": data, "--train": train, "--validation": validation, "--test": test, "--encoder": encoder, "--epochs": epochs,
        "--max-steps": max_steps, "--seed": seed, "--workers": workers,
    }  # fmt: skip
    if resume:
        chosen = {"CONFIG": config, "--preset": preset, "--points": points, "--tiers": tiers, "--without": without}
        kept = resumed_configuration(run_dir, {**chosen, **given}, sets or [])
        run(kept, str(run_dir), resume=True, say=_say)
        return
    resolved = _resolved(config, preset, points, tiers, without, sets, given)
    require_data(resolved.config)
    if dry_run:
        from polarity.workflows.estimate import estimate

        _say(estimate(resolved.config, say=_say))
        return
    run(resolved.config, run_dir or default_run_dir(preset or (config.stem if config else "baseline")), say=_say)


@app.command("config")
def config_command(
    config: ConfigFile = None, preset: Preset = None, points: Points = None, tiers: Tiers = None, without: Without = None,
    data: Data = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    epochs: Epochs = None, max_steps: MaxSteps = None, seed: Seed = None, workers: Workers = None, sets: Sets = None,
    changes: Annotated[bool, typer.Option("--changes", help="Only the settings that differ from the preset.")] = False,
) -> None:  # fmt: skip
    """Print the effective configuration as YAML, each value with where it came from.

    Examples: polarity config --preset small; polarity config --points 6 --changes
    """
    from polarity.workflows.show_config import changed_lines

    given = {
        "--data": data, "--train": train, "--validation": validation, "--test": test, "--encoder": encoder, "--epochs": epochs,
        "--max-steps": max_steps, "--seed": seed, "--workers": workers,
    }  # fmt: skip
    from polarity.resolve import render

    resolved = _resolved(config, preset, points, tiers, without, sets, given)
    only_points = points is not None and all(value is None for value in given.values()) and not (sets or config or tiers or without)
    typer.echo(changed_lines(resolved, preset) if changes or only_points else render(resolved), nl=False)


@app.command("points")
def points_command() -> None:
    """Print the ten points: what each changes, its paper, the plan's claim, and what it costs."""
    from polarity.workflows.show_config import points_table

    typer.echo(points_table())


@data_app.command("check")
def data_check(
    file: Annotated[str | None, typer.Argument(help="CSV, Parquet, JSON Lines, a datasets folder, hf:NAME or sample.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings (columns, tasks, split).")] = None,
    preset: Preset = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """Counts, bad rows, duplicates, conflicts, lengths, and what would leak across the split.

    Examples: polarity data check comments.csv; polarity data check --train train.csv --validation val.csv
    """
    from polarity.workflows.data import check

    given = {"--data": file, "--train": train, "--validation": validation, "--test": test}
    resolved = _resolved(config, preset, None, None, None, sets, given)
    typer.echo(check(resolved.config, encoder=encoder, as_json=as_json))


@data_app.command("oversample")
def data_oversample(
    file: Annotated[str, typer.Argument(help="The labelled file.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    preset: Preset = None, points: Points = None, seed: Seed = None, sets: Sets = None,
    epoch: Annotated[int, typer.Option(min=1, help="Which epoch's table.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:  # fmt: skip
    """Write one epoch's oversampled table with the column `multiplicity`, in flat memory.

    Example: polarity data oversample comments.csv --points 2 --out epoch1.parquet
    """
    from polarity.workflows.data import oversample

    resolved = _resolved(config, preset, points, None, None, sets, {"--seed": seed})
    oversample(file, resolved.config, out, epoch=epoch - 1, overwrite=overwrite, say=_say)


def _say(line: str) -> None:
    typer.echo(line)


def main() -> None:
    """Run the command line; a user's mistake ends with its message and status 2, not with a traceback."""
    try:
        app()
    except PolarityError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
