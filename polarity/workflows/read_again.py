"""A finished run's rows, read again through its own configuration and held against what it predicted."""

import pyarrow as pa
import pyarrow.compute as pc

from polarity.data.split import Splits, load_splits
from polarity.errors import RunError, Say
from polarity.evaluate.predictions import label_column
from polarity.run import Run


def read_again(run: Run, say: Say) -> Splits:
    """The run's splits. Raises DataError where the data cannot be read, RunError where it is no longer what the run was judged on."""
    splits = load_splits(run.data, say)
    aligned_predictions(run, splits)
    return splits


def aligned_predictions(run: Run, splits: Splits) -> dict[str, pa.Table]:
    """The run's predictions of each held-out split, in the splits' row order. Raises RunError where its rows or labels are others."""
    return {name: _aligned(run, name, table) for name, table in splits.held_out.items()}


def _aligned(run: Run, split: str, table: pa.Table) -> pa.Table:
    """Raises RunError naming a row that only the run or the data has, or whose label they give differently."""
    of_split = run.rows(split)
    ids_then, ids_now = (part["row_id"].cast(pa.string()).combine_chunks() for part in (of_split, table))
    rows = pc.index_in(ids_now, value_set=ids_then)
    here = rows.null_count
    if here or of_split.num_rows != table.num_rows:
        only = table.filter(pc.is_null(rows))["row_id"].to_pylist()
        gone = of_split.filter(
            pc.invert(pc.is_in(of_split["row_id"].cast(pa.string()), table["row_id"].cast(pa.string()).combine_chunks()))
        )
        example = repr((only or gone["row_id"].to_pylist())[0])
        raise RunError(
            f"{run.uri}: its {split} rows are not those of the data ({here} rows are new, {gone.num_rows} are gone, e.g. {example}): "
            "it was made on another split or the data has changed since; use runs of one split, and the data that they were trained on"
        )
    ordered = of_split.take(rows)
    for task, classes in run.labels.items():
        names = pa.array(classes, pa.string()).take(table[task].combine_chunks())
        then = pc.fill_null(ordered[label_column(task)].cast(pa.string()), "").combine_chunks()
        differ = pc.not_equal(then, pc.fill_null(names, ""))
        if pc.any(differ).as_py():
            row = ordered["row_id"].to_pylist()[pc.index(differ, True).as_py()]
            raise RunError(
                f"{run.uri}: its {split} row {row!r} had another label of {task}: the labels have changed since, or it is another file"
            )
    return ordered
