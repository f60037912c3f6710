"""`polarity predict` and `polarity serve`."""

from typing import Annotated

import typer

from polarity.cli.options import say

Run = Annotated[str, typer.Argument(help="A run's folder or URI, or an ensemble's.")]
Raw = Annotated[bool, typer.Option("--raw", help="Without the run's calibration.")]
Votes = Annotated[str | None, typer.Option(help="Multi-sample dropout: off, mean or vote; default as the run was trained.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows of one forward pass.")]


def predict(
    run: Run,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
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
    from polarity.train.importing import importing

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
    run: Run,
    data: Annotated[str, typer.Option(help="CSV, Parquet, JSON Lines or Excel of comments: a file, a folder, a glob in quotes.")],
    out: Annotated[str, typer.Option(help="File to write: .csv, .tsv, .parquet or .jsonl.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to choose.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the clusters.")] = 0,
    device: Device = "auto", batch_size: BatchSize = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
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
    run: Run,
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
