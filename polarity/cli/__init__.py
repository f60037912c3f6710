"""The command `polarity`: one module for each group of commands, put together here."""

import sys

import typer

from polarity.cli import ablation, benchmark, best, data, models, ops, prediction, reporting, results, training
from polarity.errors import PolarityError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train and judge multi-task classifiers of comments."
)
# In the order in which people meet them; `--help` lists them so.
for command in (
    training.train,
    best.best,
    results.evaluate,
    results.compare,
    prediction.predict,
    prediction.serve,
    reporting.report,
    ablation.ablate,
    ablation.tune,
    models.soup,
    models.ensemble,
    models.export,
    training.config,
    training.points,
    benchmark.benchmark,
    ops.doctor,
):
    app.command()(command)
# What follows the job's name belongs to the job.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False})(ops.submit)
app.command("next")(prediction.next_rows)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; a user's mistake ends with its message and status 2, not with a traceback."""
    try:
        app()
    except PolarityError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
