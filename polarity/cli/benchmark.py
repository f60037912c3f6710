"""`polarity benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import ConfigFile, Data, Encoder, Preset, Sets, resolved, say

_PARTS = "training,prediction,limit,checkpoint,points,oversampling,loading,startup,trials"


def benchmark(
    config: ConfigFile = None, preset: Preset = None, data: Data = None, encoder: Encoder = None, sets: Sets = None,
    quick: Annotated[bool, typer.Option("--quick", help="Training and prediction on few rows: three minutes on two cores.")] = False,
    parts: Annotated[str | None, typer.Option(help=f"Some of {_PARTS}.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats of each contestant.")] = None,
    rows: Annotated[int | None, typer.Option(min=32, help="Training rows of a repeat.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the one process that computes.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures; a page with charts is written beside it.")] = None,
) -> None:  # fmt: skip
    """Speed of this machine beside transformers' Trainer, a bare loop and the machine's own limit, interleaved, as ratios.

    Examples: polarity benchmark --quick; polarity benchmark --data comments.csv --encoder intfloat/multilingual-e5-small --out speed.json
    """
    from polarity.workflows.benchmark import benchmark as run

    # A file of settings may name data and encoder itself; without one, what a machine without a hub has.
    own = {"--data": data, "--encoder": encoder or (None if config else "offline:minilm")}
    every = [*([] if data or config else ["data.source=sample:3000"]), *([f"cluster.cpus_per_worker={threads}"] if threads else [])]
    every += sets or []
    chosen = resolved(config, preset or "small", None, None, None, every, own)
    options = [*([str(config)] if config else []), "--preset", preset or "small"]
    options += [part for name, value in own.items() if value for part in (name, value)]
    options += [part for value in every for part in ("--set", value)]
    run(
        chosen.config, options, quick=quick, parts=parts.split(",") if parts else None, repeats=repeats, rows=rows, out=out, say=say
    )  # fmt: skip
