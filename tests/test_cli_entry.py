"""The command's own doors: version, `python -m polarity`, and the configuration as an argument or as an option."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import polarity
from polarity.cli import app


def test_the_version_and_the_module() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"polarity {polarity.__version__}"
    done = subprocess.run([sys.executable, "-m", "polarity", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"polarity {polarity.__version__}"


def test_a_configuration_is_an_argument_or_an_option_and_not_both(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("optim: {lr: 3.0e-5}\n")
    shown = [CliRunner().invoke(app, ["config", *words, "--changes"]).output for words in ([str(file)], ["--config", str(file)])]
    assert shown[0] == shown[1] and "lr: 3" in shown[0]
    both = CliRunner().invoke(app, ["train", str(file), "--config", str(file)])
    assert both.exit_code == 2 and "two" in both.output


def every_command(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of the command itself and of all below it."""
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from every_command(below, (*words, name))


@pytest.mark.parametrize("words", list(every_command(typer.main.get_command(app))), ids=" ".join)
def test_help_fits_the_smallest_terminal_and_its_examples_can_be_pasted(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    lines = done.output.splitlines()
    assert done.exit_code == 0 and max(map(len, lines)) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in done.output
    if words not in ((), ("data",), ("points",)):
        first = lines[next(place for place, line in enumerate(lines) if line.strip() == "Examples:") + 1]
        assert first.startswith(f" polarity {' '.join(words)}")
