"""`polarity benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import ConfigFile, Data, Encoder, Preset, Sets, resolved, say


def benchmark(
    config: ConfigFile = None, preset: Preset = None, data: Data = None, encoder: Encoder = None, sets: Sets = None,
    quick: Annotated[bool, typer.Option("--quick", help="Training and prediction on few rows: three minutes on two cores.")] = False,
    parts: Annotated[str | None, typer.Option(help="Some of training,prediction,limit,points,oversampling,startup.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats of each contestant.")] = None,
    rows: Annotated[int | None, typer.Option(min=32, help="Training rows of a repeat.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the one process that computes.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:  # fmt: skip
    """Speed of this machine beside transformers' Trainer, a bare loop and the machine's own limit, interleaved, as ratios.

    Examples: polarity benchmark --quick; polarity benchmark --data comments.csv --encoder intfloat/multilingual-e5-small --out speed.json
    """
    from polarity.workflows.benchmark import benchmark as run

    defaults = [] if data else ["data.source=sample:3000"]
    chosen_encoder = encoder or "offline:minilm"
    threads_set = [f"cluster.cpus_per_worker={threads}"] if threads else []
    every = [*defaults, *threads_set, *(sets or [])]
    chosen = resolved(config, preset or "small", None, None, None, every, {"--data": data, "--encoder": chosen_encoder})
    options = ["--preset", preset or "small", "--encoder", chosen_encoder, *(["--data", data] if data else [])]
    options += [part for value in every for part in ("--set", value)]
    run(
        chosen.config, options, quick=quick, parts=parts.split(",") if parts else None, repeats=repeats, rows=rows, out=out, say=say
    )  # fmt: skip
