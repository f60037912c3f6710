"""`polarity export`, `polarity soup` and `polarity ensemble`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import say

Runs = Annotated[list[str], typer.Argument(help="Run folders or URIs.", show_default=False)]
Out = Annotated[str, typer.Option(help="The new run's folder or URI.")]


def export(
    run: Annotated[str, typer.Argument(help="The run's folder or URI.")],
    to: Annotated[str, typer.Option(help="hf (transformers' pipeline) or onnx (onnxruntime).")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: an int8 copy as well, and what it costs on validation rows.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Leave the calibration out.")] = False,
    push: Annotated[str | None, typer.Option(help="With hf: send it to the hub as USER/NAME, a repository a task.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see; else private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: only say what would be sent.")] = False,
) -> None:
    """Write a folder that others use without this package: model, tokenizer, code, and a card with the run's scores.

    With hf it holds a folder a task, which transformers.pipeline("text-classification") takes.

    Examples: polarity export runs/first --to hf --out shared --push me/comments --dry-run; polarity export runs/first --to onnx --out onnx
    """
    from polarity.errors import RunError
    from polarity.workflows.export import Push
    from polarity.workflows.export import export as run_export

    if push is None and (public or dry_run):
        raise RunError("--public and --dry-run are for --push USER/NAME")
    run_export(run, to, out, int8=int8, raw=raw, push=None if push is None else Push(push, dry_run, public), say=say)


def soup(
    runs: Runs,
    out: Out,
    greedy: Annotated[bool, typer.Option("--greedy", help="Add a run only where the score on validation does not fall.")] = False,
) -> None:
    """Average the weights of runs of one architecture (or of RUN/checkpoints/epoch_N) into one run.

    Examples: polarity soup runs/seed0 runs/seed1 --out runs/soup; polarity soup --greedy runs/seed* --out runs/soup
    """
    from polarity.workflows.soup import soup as run_soup

    run_soup(runs, out, greedily=greedy, say=say)


def ensemble(
    runs: Runs,
    out: Out,
    linear: Annotated[bool, typer.Option("--linear", help="The linear baseline, fitted on the training rows, as a member too.")] = False,
    weights: Annotated[str, typer.Option(help="auto: fitted where that helps in cross-fitting, else equal; or equal.")] = "auto",
) -> None:
    """Average the log-probabilities of runs, copied into one folder that is used like a run.

    Examples: polarity ensemble runs/seed0 runs/seed1 --out runs/both; polarity ensemble runs/first --linear --out runs/with-linear
    """
    from polarity.workflows.ensemble import ensemble as run_ensemble

    run_ensemble(runs, out, linear=linear, weights=weights, say=say)
