"""Several annotators a row: their votes, the majority, and the votes' shares as soft targets.

A task with `data.tasks.TASK.annotators` (a column an annotator) or `.counts` (a column a class, with its number of votes) has its votes
in the column `votes_column(task)` of the comments table, K numbers a row. Its label is the class with most votes; a tie is no label.

Shapes: N rows, K classes.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from polarity.arrays import Integers
from polarity.config import TaskConfig
from polarity.data.batch import soft_column
from polarity.data.oversample import id_hash
from polarity.errors import DataError

MOST_VOTES = 30_000
"""Votes that a cell of a count table may hold: more is another kind of number."""


def votes_column(task: str) -> str:
    """The comments table's column of a task's votes: a list of K int16 a row."""
    return f"{task}/votes"


def votes_type(task: TaskConfig) -> pa.DataType:
    """The type of that column."""
    return pa.list_(pa.int16(), len(task.labels))


def of_classes(classes_AN: list[pa.Array], task: TaskConfig) -> Integers:
    """(N, K) votes of annotators' class indices, each (N,), null where one gave none."""
    codes_AN = np.stack([np.asarray(classes.fill_null(-1)) for classes in classes_AN])
    return np.stack([(codes_AN == index).sum(0) for index in range(len(task.labels))], axis=1)


def of_counts(cells_KN: list[pa.Array], task: TaskConfig) -> tuple[Integers, pa.Array]:
    """(N, K) votes of a count table's cells as text, and each row's problem, null where there is none; an empty cell is no vote."""
    votes_NK = np.zeros((len(cells_KN[0]), len(cells_KN)), np.int64)
    problems: list[str | None] = [None] * len(votes_NK)
    for index, cells in enumerate(cells_KN):
        for row, cell in enumerate(cells.to_pylist()):
            text = (cell or "").strip()
            if text.isascii() and text.isdigit() and int(text) <= MOST_VOTES:
                votes_NK[row, index] = int(text)
            elif text:
                shown = text if len(text) <= 60 else text[:60] + "..."
                problems[row] = f"no count: the column {task.counts[index]!r} holds {shown!r}: give a whole number of votes, or nothing"
    return votes_NK, pa.array(problems, pa.large_string())


def majority(votes_NK: Integers) -> pa.Array:
    """int8 index of the class with most votes; null where two have as many, or none has any."""
    most_N = votes_NK.max(axis=1, initial=0)
    alone_N = (votes_NK == most_N[:, None]).sum(axis=1) == 1
    return pa.array(votes_NK.argmax(axis=1).astype(np.int8), mask=~(alone_N & (most_N > 0)))


def as_column(votes_NK: Integers, task: TaskConfig) -> pa.Array:
    """Votes as the comments table holds them."""
    return pa.FixedSizeListArray.from_arrays(pa.array(votes_NK.astype(np.int16).reshape(-1)), type=votes_type(task))


def votes_of(table: pa.Table, task: str) -> Integers:
    """(N, K) of a comments table."""
    column = table[votes_column(task)].combine_chunks()
    found: Integers = column.flatten().to_numpy().reshape(len(column), -1).astype(np.int64)
    return found


def check_overlap(table: pa.Table, tasks: Mapping[str, TaskConfig], source: str) -> None:
    """Raise DataError where a task's annotators share no row: then they are not several, and nothing tells how far they agree."""
    for name, task in tasks.items():
        if votes_column(name) in table.column_names and votes_of(table, name).sum(axis=1).max(initial=0) < 2:
            given = ", ".join(map(repr, task.annotators or task.counts))
            raise DataError(
                f"{source}: no row has two votes of {name}, so that the columns {given} share no row: put them into one column "
                f"(data.tasks.{name}.column), or have some rows labelled twice"
            )


def taught(table: pa.Table, tasks: Mapping[str, TaskConfig]) -> pa.Table:
    """Training rows without votes; of a task with `soft` with the votes' shares as targets, and ties broken by a hash of the row id.

    A broken tie's label only says which class's weight and stratum the row has: its target is what the annotators said.
    """
    for name, task in tasks.items():
        if votes_column(name) not in table.column_names:
            continue
        votes_NK = votes_of(table, name)
        table = table.drop_columns([votes_column(name)])
        if not task.soft:
            continue
        tied_NK = votes_NK == votes_NK.max(axis=1, keepdims=True)
        ranks_NK = np.cumsum(tied_NK, axis=1) * tied_NK
        chosen_N = 1 + (id_hash(table["row_id"]) % tied_NK.sum(axis=1).astype(np.uint64)).astype(np.int64)
        label_N = (ranks_NK == chosen_N[:, None]).argmax(axis=1).astype(np.int8)
        total_N = votes_NK.sum(axis=1)
        shares_NK = (votes_NK / np.maximum(total_N, 1)[:, None]).astype(np.float32)
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(label_N, mask=total_N == 0))
        flat = pa.array(shares_NK.reshape(-1))
        table = table.append_column(soft_column(name), pa.FixedSizeListArray.from_arrays(flat, shares_NK.shape[1]))
    return table


def without_votes(table: pa.Table, tasks: Mapping[str, TaskConfig]) -> pa.Table:
    """The table without the columns of votes."""
    return table.drop_columns([votes_column(name) for name in tasks if votes_column(name) in table.column_names])


def votes_table(table: pa.Table, tasks: Mapping[str, TaskConfig]) -> pa.Table:
    """Row ids, labels and votes alone, of the tasks that have votes."""
    voted = [name for name in tasks if votes_column(name) in table.column_names]
    return table.select(["row_id", *voted, *map(votes_column, voted)])
