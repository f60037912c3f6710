"""`polarity report`."""

from typing import Annotated

import typer

from polarity.cli.options import say


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
