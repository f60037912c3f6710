"""`polarity data check` and `polarity data oversample`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import (
    Encoder,
    Points,
    Preset,
    Seed,
    Sets,
    Test,
    Train,
    Validation,
    resolved,
    say,
)

app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")


@app.command("check")
def data_check(
    file: Annotated[str | None, typer.Argument(help="CSV, Parquet, JSON Lines, Excel, a datasets folder, hf:NAME or sample.")] = None,
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
    chosen = resolved(config, preset, None, None, None, sets, given)
    typer.echo(check(chosen.config, encoder=encoder, as_json=as_json, progress=partial(typer.echo, err=True)))


@app.command("oversample")
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

    chosen = resolved(config, preset, points, None, None, sets, {"--seed": seed})
    oversample(file, chosen.config, out, epoch=epoch - 1, overwrite=overwrite, say=say)


def init(
    file: Annotated[str, typer.Argument(help="CSV, TSV, Parquet, JSON Lines or Excel, with labels.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="YAML file to write; default: the file's name with .yaml, in this folder.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text; default: guessed.")] = None,
    title: Annotated[str | None, typer.Option(help="Column of the title; - for none.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="Column that identifies a row; - to number them.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Column of labels. Repeatable.")] = None,
    encoder: Encoder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take the guesses and ask nothing, for scripts.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the YAML file if it is there.")] = False,
) -> None:
    """Look at a file of your own, guess its columns and classes, and write the configuration that `polarity train` takes.

    It asks before it writes; --yes takes the guesses, and says what it cannot decide.

    Examples: polarity init reviews.xlsx; polarity init comments.csv --text body --label stance --yes --out stance.yaml
    """
    import sys

    from polarity.errors import ConfigError
    from polarity.workflows.init import Wanted
    from polarity.workflows.init import init as write

    if not yes and not sys.stdin.isatty():
        raise ConfigError("nobody is there to answer questions: give --yes to take the guesses")
    ask = None if yes else (lambda question, default: str(typer.prompt(question, default=default)))
    place = out or Path(f"{Path(file.rstrip('/')).name.split('.')[0]}.yaml")
    wanted = Wanted(text, title, row_id, tuple(label or ()))
    write(file, place, wanted, encoder=encoder or "intfloat/multilingual-e5-small", overwrite=overwrite, ask=ask, say=say)
