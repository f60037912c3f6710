"""`polarity compare`: two runs on the same rows, by their own held-out predictions or on a labelled file."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from polarity.artifacts import METRICS, PREDICTIONS, SCHEMA_VERSION, RunFolder
from polarity.errors import RunError
from polarity.evaluate.comparison import compare_predictions, render_comparison
from polarity.evaluate.predictions import labels_of
from polarity.run import Run

RESAMPLES = 2000


def compare(
    first: str,
    second: str,
    *,
    data: str | None = None,
    raw: bool = False,
    sets: Sequence[str] = (),
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """{"schema_version", "first", "second", "splits"}: second minus first, paired, as `compare_predictions` has it.

    Without `data` the predictions of both folders (runs', or what `polarity evaluate --out` wrote) are matched by split and row id;
    with it both runs score the file. Raises RunError and DataError where the sides cannot be compared; it says why.
    """
    runs = [Run.open(run) for run in (first, second)]
    sides = _scored(first, second, data, raw, sets, device, say) if data else [_predictions(run) for run in runs]
    labels = _common_labels(*(labels_of(side) for side in sides), say=say)
    by_title = {split: unit == "title" for split, unit in _units(runs[0].folder).items()}
    splits = compare_predictions(sides[0], sides[1], labels, resamples=RESAMPLES, by_title=by_title)
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


def _scored(first: str, second: str, data: str, raw: bool, sets: Sequence[str], device: str, say: Callable[[str], None]) -> list[pa.Table]:
    from polarity.workflows.evaluate import score_file

    return [score_file(run, data, raw=raw, sets=sets, device=device, say=say).predictions for run in (first, second)]


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


def _units(folder: RunFolder) -> dict[str, str]:
    """What the run's own intervals resample, split by split."""
    if not folder.exists(METRICS):
        return {}
    metrics = folder.read_json(METRICS)
    return {split: metrics[split]["intervals"]["unit"] for split in ("validation", "test") if split in metrics}
