"""The command `polarity`: one module for each group of commands, put together here."""

import sys

import typer

from polarity.cli import benchmark, data, training
from polarity.errors import PolarityError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train and judge multi-task classifiers of comments."
)
app.command("train")(training.train)
app.command("config")(training.config)
app.command("points")(training.points)
app.command("benchmark")(benchmark.benchmark)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; a user's mistake ends with its message and status 2, not with a traceback."""
    try:
        app()
    except PolarityError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
