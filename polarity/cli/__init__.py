"""The command `polarity`: one module for each group of commands, put together here."""

import inspect
import os
import re
import sys
from typing import Annotated, get_type_hints

import typer

from polarity import quiet
from polarity.cli import net, runs, setup, training

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train and judge multi-task classifiers of comments.",
    epilog="First:                  polarity train --preset quickstart\nA file of your own:     polarity init FILE",
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        from polarity import __version__

        typer.echo(f"polarity {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", metavar="", help="Before any command: lines of Ray, torch and transformers too.")
    ] = False,
) -> None:
    """Options without a command."""


# In the order in which people meet them; `--help` lists them so.
for command in (
    setup.init,
    training.train,
    runs.best,
    runs.evaluate,
    runs.compare,
    runs.predict,
    runs.next_rows,
    runs.serve,
    runs.report,
    training.ablate,
    training.tune,
    runs.soup,
    runs.ensemble,
    runs.export,
    training.config,
    training.points,
    setup.benchmark,
    setup.doctor,
):
    app.command("next" if command is runs.next_rows else None)(command)
# What follows the job's name belongs to the job.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False})(setup.submit)
app.add_typer(setup.app, name="data")

HELP_COLUMNS = 75
"""Of a line of an example: with typer's margins it fits the smallest terminal."""
_WORD = r"""(?:[^\s"']|"[^"]*"|'[^']*')+"""
_PART = re.compile(rf"--?[a-z-]+ (?!-){_WORD}|{_WORD}")
"""A word of a command line, or an option with its value."""


def examples(docstring: str) -> list[str]:
    """The commands that a command's docstring gives as examples, one after another, each ended by a semicolon but the last."""
    _, _, given = re.sub(r"\s+", " ", docstring).partition("Examples: " if "Examples: " in docstring else "Example: ")
    return given.split("; ") if given else []


def _help(docstring: str) -> str:
    """A docstring for `--help`: paragraphs that the terminal wraps, and each example in lines of its own, which can be pasted."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(docstring).split("\n\n")]
    paragraphs[-1] = re.sub(r"Examples?: .*", "", paragraphs[-1]).strip()
    shown = ["\n".join(["Examples:", *map(_folded, examples(docstring))])] if examples(docstring) else []
    return "\n\n".join([*filter(None, paragraphs), *shown])


def _folded(command: str) -> str:
    lines = [""]
    for part in _PART.findall(command):
        if len(lines[-1]) + len(part) > HELP_COLUMNS:
            lines[-1] += "\\"
            lines.append("    ")
        lines[-1] += f"{part} "
    return "\n".join(line.rstrip() for line in lines)


for shown in (*app.registered_commands, *setup.app.registered_commands):
    assert shown.callback is not None
    shown.help = _help(inspect.getdoc(shown.callback) or "")
    for hint in get_type_hints(shown.callback, include_extras=True).values():
        for option in getattr(hint, "__metadata__", ()) if getattr(hint, "__origin__", None) is bool else ():
            option.metavar = ""  # typer shows <bool>, as if a value were to follow


def main() -> None:
    """Run the command line. A user's mistake ends with one line and status 2, any other error with one line, a file and status 70."""
    net.print_anything()
    words = sys.argv[1:]
    if "--verbose" in words and (words[0] == "--verbose" or "train" in words[:1]):
        os.environ[quiet.VERBOSE] = "1"
    quiet.hush()
    try:
        app()
    except Exception as error:
        sys.exit(net.exit_status(error))
    finally:
        net.end_bar()
