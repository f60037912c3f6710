"""`polarity export`, `polarity soup`, `polarity ensemble` and `polarity best`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import Sets, resolved, say

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


def best(
    file: Annotated[str, typer.Argument(help="One labelled file: all of its rows train.", show_default=False)],
    time: Annotated[str, typer.Option(help="The budget: 2h, 90m, 1h30m. It decides folds, epochs and members.")] = "2h",
    encoder: Annotated[
        list[str] | None, typer.Option(help="A hub name, a folder, or offline:minilm; repeat it for more. none: without an encoder.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Rows that decide nothing, scored once at the end.")] = None,
    hold_out: Annotated[float, typer.Option(help="Share of the file's rows to keep apart as test rows.", min=0.0, max=0.5)] = 0.0,
    unlabelled: Annotated[
        str | None, typer.Option(help="Comments without labels: the student is taught what the stack says of them.")
    ] = None,
    student: Annotated[bool, typer.Option("--student/--no-student", help="One encoder that is taught what the stack says.")] = True,
    preset: Annotated[str, typer.Option(help="The recipe of a training.")] = "small",
    workers: Annotated[int | None, typer.Option(help="Trainings at a time, on Ray; 0: in this process, without Ray.", min=0)] = None,
    sets: Sets = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder or URI; default runs/best-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir, with the same options.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the rows, measure the speed, and print the plan.")] = False,
) -> None:
    """Make the best model for these rows within a time, and say how good it is on rows that decided nothing.

    Members: the title's prior, a linear model of words and characters, logistic regression on each encoder's sentence vectors, and the
    encoders fine-tuned in folds. What combines them is fitted on out-of-fold predictions and judged by cross-fitting. The result is a run:
    evaluate, predict, calibrate, report and compare take it.

    Examples: polarity best comments.csv --encoder intfloat/multilingual-e5-small;
    polarity best comments.csv --encoder ./e5 --time 90m --test test.csv --run-dir runs/best;
    polarity best sample:1000 --encoder offline:minilm --time 5m --dry-run
    """
    from polarity.artifacts import default_run_dir
    from polarity.best.plan import parse_time
    from polarity.errors import RunError
    from polarity.workflows.best import best as run
    from polarity.workflows.best import plan_only
    from polarity.workflows.best_rows import Asked

    asked = Asked(
        parse_time(time), list(encoder or []), test=test, hold_out=hold_out, unlabelled=unlabelled, student=student, workers=workers
    )
    if resume and not run_dir:
        raise RunError("--resume needs --run-dir: which run is to go on?")
    config = resolved(None, preset, None, None, None, sets, {"--data": file}).config
    if dry_run:
        say(plan_only(config, asked, say=say).describe())
        return
    run(config, asked, run_dir or default_run_dir("best"), resume=resume, say=say)
