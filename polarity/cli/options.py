"""Options that several commands share, and the configuration that they come to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from polarity.cli.net import say as say
from polarity.resolve import Option, Resolved, resolve

ConfigFile = Annotated[Path | None, typer.Argument(help="YAML file of settings; it wins over the preset.", show_default=False)]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="The same YAML file, as an option.", show_default=False)]
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


class WorkerRange(NamedTuple):
    """`--workers 2` or `--workers 2-4`."""

    least: int
    most: int | None


def worker_range(text: str) -> WorkerRange:
    """Read a number of workers, or the least and the most of them."""
    least, dash, most = text.partition("-")
    try:
        return WorkerRange(int(least), int(most) if dash else None)
    except ValueError:
        raise typer.BadParameter(f"give a number of workers, or the least and the most of them, such as 2-4 (got {text!r})") from None


Workers = Annotated[
    WorkerRange | None,
    typer.Option(parser=worker_range, metavar="N|N-M", help="Ray Train workers; 2-4: as many as the cluster has room for; 0: without Ray."),
]

_KEYS = {
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


def one_file(place: Path | None, option: Path | None) -> Path | None:
    """The configuration file, given as an argument or with --config."""
    if place is not None and option is not None:
        raise typer.BadParameter(f"two configurations, {place} and --config {option}: give one")
    return place or option


def resolved(
    file: Path | None, preset: str | None, points: str | None, tiers: str | None, without: str | None, sets: list[str] | None,
    given: Mapping[str, Option],
) -> Resolved:  # fmt: skip
    numbers = (_numbers(points, "--points"), _numbers(tiers, "--tiers"), _numbers(without, "--without"))
    return resolve(preset, file, *numbers, options=by_key(given), sets=sets or [])


def given_options(context: typer.Context) -> dict[str, Option]:
    """{option: value} of a command's options that are settings; None where one was not given."""
    return {option: context.params.get(option.removeprefix("--").replace("-", "_")) for option in _KEYS}


def by_key(given: Mapping[str, Option]) -> dict[str, tuple[Option, str]]:
    """{dotted key: (value, option)} of the options that were given, as `resolve` takes them."""
    options: dict[str, tuple[Option, str]] = {_KEYS[name]: (value, name) for name, value in given.items() if value is not None}
    workers = given.get("--workers")
    if isinstance(workers, WorkerRange):
        options |= {"cluster.workers": (workers.least, "--workers"), "cluster.max_workers": (workers.most, "--workers")}
    return options
