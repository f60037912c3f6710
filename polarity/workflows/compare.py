"""`polarity compare`: two runs on the same rows, by their own held-out predictions or on a labelled file."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import METRICS, PREDICTIONS, SCHEMA_VERSION
from polarity.data.seen import titles_apart
from polarity.errors import RunError
from polarity.evaluate.comparison import compare_predictions, render_comparison
from polarity.evaluate.predictions import labels_of
from polarity.evaluate.results import TRAINING, UNKNOWN, Metrics, judged_parts
from polarity.run import Run, SeenChoice

RESAMPLES = 2000
DECIDED = {"seen": [TRAINING], "unchecked": [UNKNOWN]}


def compare(
    first: str,
    second: str,
    *,
    data: str | None = None,
    raw: bool = False,
    sets: Sequence[str] = (),
    seen: SeenChoice = "drop",
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """{"schema_version", "first", "second", "splits"}: second minus first, paired, as `compare_predictions` has it.

    Without `data` the predictions of both folders (runs', or what `polarity evaluate --out` wrote) are matched by split and row id;
    with it both runs score the rows of the file that neither has seen (`seen` "keep":
    the others too, as the part `seen`). Raises RunError and DataError where the sides cannot be compared; it says why.
    """
    runs = [Run.open(run) for run in (first, second)]
    sides = _scored(runs, data, raw, sets, seen, device, say) if data else [_predictions(run) for run in runs]
    labels = _common_labels(*(labels_of(side) for side in sides), say=say)
    parts = [str(name) for name in pc.unique(sides[0]["split"]).to_pylist()]
    by_title = {part: all(_by_title(run, part, side) for run, side in zip(runs, sides, strict=True)) for part in parts}
    decided = DECIDED if data else {part: [what for run in runs for what in _decided(run, part)] for part in parts}
    splits = compare_predictions(sides[0], sides[1], labels, resamples=RESAMPLES, by_title=by_title, decided=decided)
    names = [run.name for run in runs]
    if names[0] == names[1]:
        names = [run.uri for run in runs]
    if names[0] == names[1]:
        names = [f"{names[0]} (1)", f"{names[0]} (2)"]
    return {"schema_version": SCHEMA_VERSION, "first": names[0], "second": names[1], "difference": "second - first", "splits": splits}


def render(compared: dict[str, Any]) -> str:
    """The comparison as tables, and how to read them."""
    how = "Paired 95 % intervals: a gain or loss is one whose interval excludes zero, else it is within noise."
    return f"{render_comparison(compared)}\n{how}"


def _predictions(run: Run) -> pa.Table:
    if not run.has(PREDICTIONS):
        raise RunError(f"{run.uri}: has no {PREDICTIONS}; is the run finished? With --data FILE both runs score a file")
    return run.folder.read_parquet(PREDICTIONS)


def _scored(
    runs: Sequence[Run], data: str, raw: bool, sets: Sequence[str], seen: SeenChoice, device: str, say: Callable[[str], None]
) -> list[pa.Table]:
    from polarity.workflows.evaluate import score_file

    scored = [score_file(run, data, raw=raw, sets=sets, seen=seen, beside=runs, device=device, say=say) for run in runs]
    for note in scored[0].rows.notes:
        say(f"note: {note}")
    return [side.predictions for side in scored]


def _by_title(run: Run, part: str, rows: pa.Table) -> bool:
    """Whether titles are the unit: by the run's training rows, or as an evaluation found it."""
    if run.seen is not None:
        return titles_apart(run.seen.titles("train"), rows.filter(pc.equal(rows["split"], part))["title"])
    judged = dict(judged_parts(cast(Metrics, run.metrics))) if run.has(METRICS) else {}
    return any(name == part and result["intervals"]["unit"] == "title" for name, result in judged.items())


def _decided(run: Run, part: str) -> list[str]:
    """What the rows of a part decided of a run, as it was judged."""
    if not run.has(METRICS):
        return []
    judged = dict(judged_parts(cast(Metrics, run.metrics)))
    return [what for name, result in judged.items() if name == part for what in result.get("decided", run.decided.get(part, []))]


def _common_labels(first: dict[str, list[str]], second: dict[str, list[str]], *, say: Callable[[str], None]) -> dict[str, list[str]]:
    common = {task: classes for task, classes in first.items() if task in second}
    if not common:
        raise RunError(f"the runs share no task (the first has {', '.join(first) or 'none'}; the second {', '.join(second) or 'none'})")
    for task, classes in common.items():
        if second[task] != classes:
            raise RunError(f"the runs have other classes of {task}: {', '.join(classes)} and {', '.join(second[task])}")
    left_out = sorted(set(first) ^ set(second))
    if left_out:
        say(f"only one of the runs has {', '.join(left_out)}: left out, also of the overall score")
    return common
