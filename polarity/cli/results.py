"""`polarity evaluate`, `polarity compare` and `polarity report`."""

import json
from typing import Annotated, Literal

import typer

from polarity.cli.options import Sets, say

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
