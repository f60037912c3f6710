"""The predictions table: a row per example with labels, predictions and probabilities. All that judges reads only this.

Columns: `split`, `row_id`, `title`; per task T: `T_label` (null where missing), `T_prediction`, and `T_p_CLASS` per class.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Codes
from polarity.errors import DataError, nearest

Labels = Mapping[str, Sequence[str]]

MISSING = -1
_SHOWN = 5


def label_column(task: str) -> str:
    """Name of the column with a task's true labels."""
    return f"{task}_label"


def prediction_column(task: str) -> str:
    """Name of the column with a task's predicted classes."""
    return f"{task}_prediction"


def probability_column(task: str, label: str) -> str:
    """Name of the column with the probability of one class."""
    return f"{task}_p_{label}"


def of_split(predictions: pa.Table, split: str) -> pa.Table:
    """The rows of one split."""
    return predictions.filter(pc.equal(predictions["split"], split))


def build_predictions(
    split: str,
    comments: pa.Table,
    probabilities: Mapping[str, NDArray[np.floating]],
    labels: Labels,
    predicted: Mapping[str, NDArray[np.integer]] | None = None,
) -> pa.Table:
    """The predictions table of one split, in the order of `comments`.

    `probabilities[task]` is (N, K) in class order; `predicted[task]` is (N,) class indices, by default the argmax (a vote over
    dropout samples may differ from it). Raises DataError where the numbers of rows or classes do not fit, and what
    `check_predictions` raises.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "split": pa.repeat(pa.scalar(split, pa.string()), comments.num_rows),
        "row_id": comments["row_id"],
        "title": comments["title"],
    }
    for task, classes in labels.items():
        probs = np.asarray(probabilities[task])
        if probs.shape != (comments.num_rows, len(classes)):
            raise DataError(
                f"{split}: the probabilities of {task} have shape {probs.shape}, expected {(comments.num_rows, len(classes))}: "
                "one row per comment, one column per class"
            )
        best = probs.argmax(axis=1) if predicted is None or task not in predicted else np.asarray(predicted[task])
        names = pa.array(list(classes), pa.string())
        given = comments[task].combine_chunks() if task in comments.column_names else pa.nulls(comments.num_rows, pa.int8())
        columns[label_column(task)] = names.take(given)
        columns[prediction_column(task)] = names.take(pa.array(best, pa.int64()))
        for index, label in enumerate(classes):
            columns[probability_column(task, label)] = pa.array(probs[:, index].astype(np.float32))
    table = pa.table(columns)
    check_predictions(table, labels)
    return table


def check_predictions(table: pa.Table, labels: Labels) -> None:
    """Refuse a predictions table that would be judged wrongly.

    Raises DataError, naming column and row ids, for a missing column, a row that stands twice in a split, a null or unknown
    prediction, an unknown label, and a probability that is not a number from 0 to 1.
    """
    needed = ["split", "row_id", "title"]
    for task, classes in labels.items():
        needed += [label_column(task), prediction_column(task), *(probability_column(task, label) for label in classes)]
    for name in needed:
        if name not in table.column_names:
            raise DataError(f"predictions have no column {name!r} ({nearest(name, table.column_names)})")
    _check_unique(table)
    for task, classes in labels.items():
        known = pa.array(list(classes), pa.string())
        for name, nulls_allowed in ((label_column(task), True), (prediction_column(task), False)):
            unknown = pc.invert(pc.is_in(table[name].cast(pa.string()), value_set=known))
            if nulls_allowed:
                unknown = pc.and_(unknown, pc.is_valid(table[name]))
            _refuse(table, unknown, f"column {name!r} holds something other than {', '.join(classes)}")
        for label in classes:
            name = probability_column(task, label)
            values = pc.fill_null(table[name], float("nan"))
            fits = pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, 1.0 + 1e-6))
            _refuse(table, pc.invert(fits), f"column {name!r} holds NaN or something outside 0 to 1")


def labels_of(predictions: pa.Table) -> dict[str, list[str]]:
    """{task: classes in order} as the columns of a predictions table name them."""
    names: list[str] = list(predictions.column_names)
    tasks = [name.removesuffix("_label") for name in names if name.endswith("_label")]
    tasks = [task for task in tasks if f"{task}_prediction" in names]
    found = {task: [name.removeprefix(f"{task}_p_") for name in names if name.startswith(f"{task}_p_")] for task in tasks}
    return {task: classes for task, classes in found.items() if classes}


def task_codes(table: pa.Table, task: str, classes: Sequence[str]) -> tuple[Codes, Codes]:
    """Class indices (N,) of a task's labels, -1 where missing, and of its predictions; expects a checked table."""
    return _codes(table[label_column(task)], classes), _codes(table[prediction_column(task)], classes)


def title_codes(table: pa.Table) -> tuple[Codes, list[str]]:
    """Per row the index of its title (N,), and the distinct titles in order of appearance."""
    encoded = table["title"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), [str(title) for title in encoded.dictionary.to_pylist()]


def _codes(column: pa.ChunkedArray, classes: Sequence[str]) -> Codes:
    indices = pc.index_in(column.cast(pa.string()), value_set=pa.array(list(classes), pa.string()))
    codes: Codes = pc.fill_null(indices, MISSING).to_numpy().astype(np.int64)
    return codes


def _check_unique(table: pa.Table) -> None:
    # Own files may number their rows from 0 in each split, so a row is (split, row_id).
    counts = table.group_by(["split", "row_id"]).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if twice.num_rows:
        rows = [f"{row['row_id']!r} ({row['split']})" for row in twice.to_pylist()]
        raise DataError(f"predictions: column 'row_id' holds rows twice: {_first(rows)}. Each row is judged once")


def _refuse(table: pa.Table, bad: pa.ChunkedArray, what: str) -> None:
    rows = table.filter(bad)["row_id"].to_pylist()
    if rows:
        raise DataError(f"predictions: {what}, row_id {_first([repr(row) for row in rows])}")


def _first(rows: list[str]) -> str:
    return ", ".join(rows[:_SHOWN]) + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
