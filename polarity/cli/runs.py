"""Commands on finished runs: `evaluate`, `compare`, `predict`, `next`, `serve`, `report`, `export`, `soup`, `ensemble`; and `best`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from polarity import quiet
from polarity.cli.net import stopped_by_hand
from polarity.cli.options import Sets, resolved, say
from polarity.errors import nothing

RunPlace = Annotated[str, typer.Argument(help="A run's folder or URI, or an ensemble's.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Leave the run's calibration out.")]
Votes = Annotated[str | None, typer.Option(help="Multi-sample dropout: off, mean or vote; default as the run was trained.")]
Seen = Annotated[
    Literal["drop", "keep"],
    typer.Option(help="Rows that the run was trained on, or that chose something of it: drop leaves them out, keep scores them as `seen`."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows of one forward pass; no effect on results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")]


def evaluate(
    run: RunPlace,
    data: Annotated[str, typer.Option(help="The labelled file to judge on.", show_default=False)],
    out: Annotated[str | None, typer.Option(help="A new folder for metrics.json and predictions.parquet.")] = None,
    train: Annotated[str | None, typer.Option(help="The run's training rows: for the floors, and to compare with.")] = None,
    raw: Raw = False,
    votes: Votes = None,
    sets: Sets = None,
    seen: Seen = "drop",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON instead of tables.")] = False,
) -> None:
    """Judge a run on a labelled file: scores with intervals, slices, languages, and how the file differs from training.

    Examples: polarity evaluate runs/first --data new.csv --out judged;
    polarity evaluate runs/first --data new.csv --train comments.csv --set data.comment_column=text
    """
    from polarity.workflows.evaluate import evaluate as judge

    metrics = judge(
        run,
        data,
        out=out,
        raw=raw,
        votes=votes,
        train=train,
        sets=sets or [],
        seen=seen,
        device=device,
        batch_size=batch_size,
        say=nothing if as_json else say,
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

    found = compared(first, second, data=data, raw=raw, sets=sets or [], seen=seen, device=device, say=nothing if as_json else say)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else render(found, whole=quiet.verbose()))


def predict(
    run: RunPlace,
    data: Annotated[str | None, typer.Option(help="CSV, Parquet, JSON Lines, Excel: a file, a folder, a glob in quotes; hf:NAME.")] = None,
    out: Annotated[str | None, typer.Option(help="File (.csv, .tsv, .parquet, .jsonl), or a folder: one file for each input.")] = None,
    text: Annotated[str | None, typer.Option(help="One comment instead of --data.")] = None,
    title: Annotated[str, typer.Option(help="The post that --text answers.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the prediction of --text as JSON.")] = False,
    comment_column: Annotated[str | None, typer.Option(help="Column of the comment, if not the run's.")] = None,
    title_column: Annotated[str | None, typer.Option(help='Column of the title, if not the run\'s; "" if there are none.')] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="Put before the names of the added columns; default: nothing, or predicted_ where a name is taken."),
    ] = None,
    votes: Votes = None, raw: Raw = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Ray actors; 0: this process, without Ray, as for small files.")] = None,
    device: Device = "auto", batch_size: BatchSize = 64,
    overwrite: Overwrite = False,
    no_escape: Annotated[bool, typer.Option("--no-escape", help="Leave CSV cells that look like formulas as they are.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each word's part in the decision; for --data a column T_words. One prediction a word.")
    ] = False,
    shares: Annotated[str | None, typer.Option(help="JSON file for the shares of the classes.")] = None,
) -> None:  # fmt: skip
    """Label, probabilities and confidence for every comment of a file, or for one text; then the shares of the classes.

    All columns and the order of the rows are kept. A prediction that was stopped goes on when the command is given again.

    Examples: polarity predict runs/first --data comments.csv --out predicted.csv;
    polarity predict runs/first --data 'crawl/*.parquet' --out predicted/ --workers 8;
    polarity predict runs/first --text "Magaling ang ginawa nila" --title "City opens new road" --explain
    """
    from polarity.quiet import importing

    with importing():
        import polarity.predict.classifier  # noqa: F401  # torch and transformers
        from polarity.predict.batch import ScoreOptions
        from polarity.workflows import predict as workflow

    if (text is None) == (data is None) or (data is None) != (out is None):
        raise typer.BadParameter("give --data with --out, or --text")
    options = ScoreOptions(run, raw=raw, votes=votes, device=device, batch_size=batch_size, explain=explain)
    if text is not None:
        import json

        found = workflow.predict_text(options, text, title)
        say(json.dumps(found, ensure_ascii=False, indent=2) if as_json else workflow.render_text(found))
        return
    given = workflow.PredictOptions(
        comment_column=comment_column, title_column=title_column, prefix=prefix, overwrite=overwrite, escape=not no_escape,
        workers=workers, shares=shares,
    )  # fmt: skip
    workflow.predict(options, str(data), str(out), given, say=say)


def next_rows(
    run: RunPlace,
    data: Annotated[str, typer.Option(help="CSV, Parquet, JSON Lines or Excel of comments: a file, a folder, a glob in quotes.")],
    out: Annotated[str, typer.Option(help="File to write: .csv, .tsv, .parquet or .jsonl.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to choose.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the clusters.")] = 0,
    device: Device = "auto", batch_size: BatchSize = 64,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """The rows worth labelling next: those the run is least sure of, spread over titles and kinds of comments.

    The file has all columns of the rows, empty label columns where it had none, and a `priority`; predictions are left out, for who
    labels should not see them. Fill the labels in, put the rows to your training rows, and train again.

    Example: polarity next runs/first --data unlabelled.csv --rows 200 --out to_label.csv
    """
    from polarity.predict.batch import ScoreOptions
    from polarity.workflows.next_rows import choose_next

    choose_next(ScoreOptions(run, device=device, batch_size=batch_size), data, out, rows, overwrite=overwrite, seed=seed, say=say)


def serve(
    run: RunPlace,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all, without a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the model.")] = 1,
    votes: Votes = None, raw: Raw = False, device: Device = "auto", batch_size: BatchSize = 64,
) -> None:  # fmt: skip
    """Answer predictions over HTTP as JSON, with Ray Serve (extra `serve`); /docs describes the API.

    Examples: polarity serve runs/first;
    curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"comments": [{"text": "Magaling", "title": "New road"}]}'
    """
    from polarity.predict.batch import ScoreOptions
    from polarity.workflows.serve import serve as workflow

    options = ScoreOptions(run, raw=raw, votes=votes, device=device, batch_size=batch_size)
    workflow(options, host=host, port=port, replicas=replicas, say=say)


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
    run: RunPlace,
    to: Annotated[str, typer.Option(help="hf (transformers' pipeline) or onnx (onnxruntime).")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: an int8 copy as well, and what it costs on validation rows.")] = False,
    raw: Raw = False,
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
    hold_out: Annotated[
        float | None,
        typer.Option(help="Share of the rows to keep apart as test rows; default: 0.1 for a student, else none.", min=0.0, max=0.5),
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="Comments without labels: the student is taught what the stack says of them.")
    ] = None,
    no_student: Annotated[bool, typer.Option("--no-student", help="Leave out the one encoder that is taught what the stack says.")] = False,
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
    from polarity.artifacts import BEST, default_run_dir
    from polarity.best.plan import parse_time
    from polarity.best.rows import Asked
    from polarity.errors import RunError
    from polarity.workflows.best import best as run
    from polarity.workflows.best import plan_only

    asked = Asked(
        parse_time(time), list(encoder or []), test=test, hold_out=hold_out, unlabelled=unlabelled, student=not no_student, workers=workers
    )
    if resume and not run_dir:
        raise RunError("--resume needs --run-dir: which run is to go on?")
    settings = Path(file) if file.endswith((".yaml", ".yml")) else None
    config = resolved(settings, preset, None, None, None, sets, {"--data": None if settings else file}).config
    if dry_run:
        say(plan_only(config, asked, say=say).describe())
        return
    place = run_dir or default_run_dir("best")
    with stopped_by_hand(place, BEST, "go on with the same command and --resume --run-dir {}"):
        run(config, asked, place, resume=resume, say=say)
