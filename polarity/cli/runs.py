"""Commands on finished runs: `evaluate`, `compare`, `report`, `best`, `soup`, `ensemble` and `export`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from polarity.cli.options import Sets, resolved, say

Run = Annotated[str, typer.Argument(help="A run's folder or URI, or an ensemble's.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Leave the run's calibration out.")]
Seen = Annotated[
    Literal["drop", "keep"],
    typer.Option(help="Rows that the run was trained on, or that chose something of it: drop leaves them out, keep scores them as `seen`."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def evaluate(
    run: Run,
    data: Annotated[str, typer.Option(help="The labelled file to judge on.", show_default=False)],
    out: Annotated[str | None, typer.Option(help="A new folder for metrics.json and predictions.parquet.")] = None,
    train: Annotated[str | None, typer.Option(help="The run's training rows: for the floors, and to compare with.")] = None,
    raw: Raw = False,
    votes: Annotated[str | None, typer.Option(help="off, mean or vote, in place of the run's own multi-sample mode.")] = None,
    sets: Sets = None,
    seen: Seen = "drop",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of one pass; no effect on results.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON instead of tables.")] = False,
) -> None:
    """Judge a run on a labelled file: scores with intervals, slices, languages, and how the file differs from training.

    Examples: polarity evaluate runs/first --data new.csv --out judged;
    polarity evaluate runs/first --data new.csv --train comments.csv --set data.comment_column=text
    """
    from polarity.workflows.evaluate import evaluate as judge

    told = _nothing if as_json else say
    metrics = judge(
        run, data, out=out, raw=raw, votes=votes, train=train, sets=sets or [], seen=seen, device=device, batch_size=batch_size, say=told
    )
    if as_json:
        typer.echo(json.dumps(metrics, indent=2, ensure_ascii=False))


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="The run to beat.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other run.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="A labelled file that both runs score; default: their own held-out rows.")] = None,
    raw: Raw = False,
    sets: Sets = None,
    seen: Seen = "drop",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two runs on the same rows: the second's scores minus the first's, paired, with intervals.

    Examples: polarity compare runs/baseline runs/new; polarity compare runs/baseline runs/new --data new.csv --json
    """
    from polarity.workflows.compare import compare as compared
    from polarity.workflows.compare import render

    found = compared(first, second, data=data, raw=raw, sets=sets or [], seen=seen, device=device, say=_nothing if as_json else say)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else render(found))


def _nothing(line: str) -> None:
    """Progress is left out beside JSON."""


def report(
    folder: Annotated[str, typer.Argument(metavar="RUN_OR_STUDY", help="A run's or a study's folder or URI.", show_default=False)],
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Leave comments, titles and folder names out, for sharing.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Beside each listed error of a run the words that led to it: one prediction a word.")
    ] = False,
) -> None:  # fmt: skip
    """Write report.html of a run or a study: one page with everything in it; and the model card of a run.

    Comments are read again from the run's own data; where that is gone or changed, the page says so and does without.

    Examples: polarity report runs/first; polarity report runs/first --explain; polarity report studies/points
    """
    from polarity.workflows.report import report as run

    run(folder, texts=not no_texts, explain=explain, say=say)


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
    file: Annotated[str, typer.Argument(help="One labelled file, or a YAML file of settings that names it.", show_default=False)],
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
    evaluate, predict, report and compare take it.

    Examples: polarity best comments.csv --encoder intfloat/multilingual-e5-small; polarity best reviews.yaml --time 90m;
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
    settings = Path(file) if file.endswith((".yaml", ".yml")) else None
    config = resolved(settings, preset, None, None, None, sets, {"--data": None if settings else file}).config
    if dry_run:
        say(plan_only(config, asked, say=say).describe())
        return
    run(config, asked, run_dir or default_run_dir("best"), resume=resume, say=say)
