"""Two models on the same rows: scores side by side, and the paired difference with its interval.

The difference is second minus first: name the run to beat first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from polarity import tables
from polarity.errors import DataError
from polarity.evaluate.intervals import paired_difference
from polarity.evaluate.metrics import class_scores, confusions
from polarity.evaluate.predictions import Labels
from polarity.evaluate.results import PART_NAMES


def compare_predictions(
    first: pa.Table,
    second: pa.Table,
    labels: Labels,
    *,
    resamples: int,
    by_title: Mapping[str, bool],
    decided: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """{split: {"rows", "first", "second", "difference"}} for the splits that both sides hold.

    `first` and `second` hold {"overall", "tasks": {T: {"macro_f1", "per_class": {c: f1}}}}, `difference` what `paired_difference` gives.
    Raises DataError where the sides share no split, or hold other rows or labels in one.
    """
    found: dict[str, Any] = {}
    for split in PART_NAMES:
        a, b = (side.filter(pc.equal(side["split"], split)) for side in (first, second))
        if not a.num_rows or not b.num_rows:
            continue
        try:
            difference = paired_difference(
                b, a, labels, resamples=resamples, seed=seed, by_title=by_title.get(split, False), decided=(decided or {}).get(split, ())
            )
        except DataError as error:
            raise DataError(f"{split}: {error}") from error
        found[split] = {"rows": a.num_rows, "first": _scores(a, labels), "second": _scores(b, labels), "difference": difference}
    if not found:
        have = [", ".join(str(name) for name in pc.unique(side["split"]).to_pylist()) for side in (first, second)]
        raise DataError(f"the two sides share no judged split (the first holds {have[0]}; the second {have[1]}); score both on --data FILE")
    return found


def _scores(predictions: pa.Table, labels: Labels) -> dict[str, Any]:
    f1 = {task: class_scores(confusion).f1 for task, confusion in confusions(predictions, labels).items()}
    tasks = {
        task: {"macro_f1": float(values.mean()), "per_class": dict(zip(labels[task], values.tolist(), strict=True))}
        for task, values in f1.items()
    }
    return {"overall": float(np.mean([values.mean() for values in f1.values()])), "tasks": tasks}


def render_comparison(compared: Mapping[str, Any]) -> str:
    """{"first", "second", "splits"} as text for the terminal."""
    return tables.printed(*(_table(compared["first"], compared["second"], *part) for part in compared["splits"].items()))


def _table(first: str, second: str, split: str, content: Mapping[str, Any]) -> Table:
    title = f"{split}, {content['rows']:,} rows: F1 of the second, {second}, less that of the first, {first}"
    table = tables.table("F1", "first", "second", "difference [95 %]", "", title=title, left=[""])
    a, b, difference = content["first"], content["second"], content["difference"]
    table.add_row("overall", *_cells(a["overall"], b["overall"], difference["overall"]), style="bold")
    for task in a["tasks"]:
        one, two = a["tasks"][task], b["tasks"][task]
        table.add_section()
        table.add_row(task, *_cells(one["macro_f1"], two["macro_f1"], difference["tasks"][task]), style="bold")
        for label in one["per_class"]:
            table.add_row(f"  {label}", *_cells(one["per_class"][label], two["per_class"][label], difference["per_class"][task][label]))
    return table


def _cells(first: float, second: float, difference: Mapping[str, Any]) -> list[str | Text]:
    low, high = difference["ci95"]
    verdict = Text(difference["verdict"], {"gain": "green", "loss": "red"}.get(difference["verdict"], "yellow"))
    return [f"{first:.3f}", f"{second:.3f}", f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", verdict]
