"""`polarity compare`: two runs on the same rows, by their own held-out predictions or on a labelled file.

The difference is second minus first, paired, with its interval: name the run to beat first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from polarity import tables
from polarity.artifacts import METRICS, PREDICTIONS, SCHEMA_VERSION
from polarity.data.seen import titles_apart
from polarity.errors import DataError, RunError
from polarity.evaluate.intervals import paired_difference
from polarity.evaluate.metrics import class_scores, confusions
from polarity.evaluate.predictions import Labels, labels_of, of_split
from polarity.evaluate.render import JUDGED_BY
from polarity.evaluate.results import DECIDED, PART_NAMES, Difference, PairedDifference, PartName, judged_parts
from polarity.run import Run, SeenChoice


class SideTask(TypedDict):
    """One task on one side."""

    macro_f1: float
    per_class: dict[str, float]
    """F1."""


class Side(TypedDict):
    """One side's scores on a split, fractions."""

    overall: float
    tasks: dict[str, SideTask]


class SplitComparison(TypedDict):
    """Two sides on the same rows; the difference is second less first."""

    rows: int
    called: str
    """What the rows are called: `test`, `validation`, `out-of-fold`."""
    first: Side
    second: Side
    difference: PairedDifference


class Comparison(TypedDict):
    """What `polarity compare --json` prints."""

    schema_version: int
    first: str
    second: str
    difference: str
    splits: dict[PartName, SplitComparison]


def compare_predictions(
    first: pa.Table,
    second: pa.Table,
    labels: Labels,
    *,
    resamples: int,
    by_title: Mapping[str, bool],
    decided: Mapping[str, Sequence[str]] | None = None,
    out_of_fold: bool = False,
) -> dict[PartName, SplitComparison]:
    """{split: {"rows", "called", "first", "second", "difference"}} for the splits that both sides hold; `out_of_fold`: see `build_metrics`.

    `first` and `second` hold {"overall", "tasks": {T: {"macro_f1", "per_class": {c: f1}}}}, `difference` what `paired_difference` gives.
    Raises DataError where the sides share no split, or hold other rows or labels in one.
    """
    found: dict[PartName, SplitComparison] = {}
    for split in PART_NAMES:
        a, b = (of_split(side, split) for side in (first, second))
        if not a.num_rows or not b.num_rows:
            continue
        try:
            difference = paired_difference(
                b, a, labels, resamples=resamples, by_title=by_title.get(split, False), decided=(decided or {}).get(split, ())
            )
        except DataError as error:
            raise DataError(f"{split}: {error}") from error
        found[split] = {
            "rows": a.num_rows,
            "called": "out-of-fold" if out_of_fold and split == "validation" else split,
            "first": _scores(a, labels),
            "second": _scores(b, labels),
            "difference": difference,
        }
    if not found:
        have = [", ".join(str(name) for name in pc.unique(side["split"]).to_pylist()) for side in (first, second)]
        raise DataError(f"the two sides share no judged split (the first holds {have[0]}; the second {have[1]}); score both on --data FILE")
    return found


def _scores(predictions: pa.Table, labels: Labels) -> Side:
    f1 = {task: class_scores(confusion).f1 for task, confusion in confusions(predictions, labels).items()}
    tasks: dict[str, SideTask] = {
        task: {"macro_f1": float(values.mean()), "per_class": dict(zip(labels[task], values.tolist(), strict=True))}
        for task, values in f1.items()
    }
    return {"overall": float(np.mean([values.mean() for values in f1.values()])), "tasks": tasks}


_PLAIN = {
    "gain": "{second} does better than {first}, by more than chance explains",
    "loss": "{second} does worse than {first}, by more than chance explains",
    "within noise": "no difference between {first} and {second} that chance could not explain",
}


def plain_verdict(compared: Comparison, part: PartName) -> str:
    """What a part's difference means, in a sentence with the figures."""
    content = compared["splits"][part]
    found = content["difference"]["overall"]
    said = _PLAIN.get(found["verdict"], "no verdict (" + found["verdict"] + ")").format(**compared)
    low, high = found["ci95"]
    return (
        f"{content['rows']:,} {content['called']} rows: {said}. Overall macro-F1 {content['first']['overall']:.3f} and "
        f"{content['second']['overall']:.3f}: {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]."
    )


def _table(content: SplitComparison) -> Table:
    table = tables.table("F1", "first", "second", "difference [95 %]", "", left=[""], gap=1)
    table.columns[3].no_wrap = True  # the interval: where it is narrow, names are folded
    a, b, difference = content["first"], content["second"], content["difference"]
    table.add_row("overall", *_cells(a["overall"], b["overall"], difference["overall"]), style="bold")
    for task in a["tasks"]:
        one, two = a["tasks"][task], b["tasks"][task]
        table.add_section()
        table.add_row(task, *_cells(one["macro_f1"], two["macro_f1"], difference["tasks"][task]), style="bold")
        for label in one["per_class"]:
            table.add_row(f"  {label}", *_cells(one["per_class"][label], two["per_class"][label], difference["per_class"][task][label]))
    return table


def _cells(first: float, second: float, difference: Difference) -> list[str | Text]:
    low, high = difference["ci95"]
    verdict = Text(difference["verdict"], {"gain": "green", "loss": "red"}.get(difference["verdict"], "yellow"))
    return [f"{first:.3f}", f"{second:.3f}", f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", verdict]


RESAMPLES = 2000


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
) -> Comparison:
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
    splits = compare_predictions(
        sides[0],
        sides[1],
        labels,
        resamples=RESAMPLES,
        by_title=by_title,
        decided=decided,
        out_of_fold=not data and all(run.kind == "stack" for run in runs),
    )
    names = [run.name for run in runs]
    if names[0] == names[1]:
        names = [run.uri for run in runs]
    if names[0] == names[1]:
        names = [f"{names[0]} (1)", f"{names[0]} (2)"]
    return {"schema_version": SCHEMA_VERSION, "first": names[0], "second": names[1], "difference": "second - first", "splits": splits}


def render(compared: Comparison, *, whole: bool = False) -> str:
    """A sentence a part; the table of the part that runs are judged by, so that it fits a small terminal, or with `whole` of every part."""
    parts = [part for part in JUDGED_BY if part in compared["splits"]]
    lines: list[str] = []
    for part in parts:
        lines += tables.wrapped(plain_verdict(compared, part))
        if whole or part == parts[0]:
            lines += ["", tables.printed(_table(compared["splits"][part]))]
    how = "Differences are second less first, paired by row, with 95 % intervals; a gain or loss is one that excludes zero."
    return "\n".join([*lines, *tables.wrapped(how)])


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
        return titles_apart(run.seen.titles("train"), of_split(rows, part)["title"])
    judged = dict(judged_parts(run.metrics)) if run.has(METRICS) else {}
    return any(name == part and result["intervals"]["unit"] == "title" for name, result in judged.items())


def _decided(run: Run, part: str) -> list[str]:
    """What the rows of a part decided of a run, as it was judged."""
    if not run.has(METRICS):
        return []
    judged = dict(judged_parts(run.metrics))
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
