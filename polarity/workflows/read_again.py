"""A finished run's rows, read again through its own configuration and held against what it predicted."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import PREDICTIONS, RunFolder
from polarity.config import Config
from polarity.data.split import Splits, load_splits
from polarity.errors import RunError
from polarity.evaluate.predictions import check_predictions, label_column

Say = Callable[[str], None]


def held_out_tables(splits: Splits) -> dict[str, pa.Table]:
    """The splits that judge: validation, and test where there is one."""
    return {name: table for name, table in splits.parts.items() if name != "train"}


def read_again(folder: RunFolder, config: Config, say: Say) -> Splits:
    """The run's splits. Raises DataError where the data cannot be read, RunError where it is no longer what the run was judged on."""
    splits = load_splits(config.data, say)
    predictions = folder.read_parquet(PREDICTIONS)
    check_predictions(predictions, config.labels)
    for name, table in held_out_tables(splits).items():
        aligned(predictions, name, table, config.labels, folder.uri)
    return splits


def aligned(predictions: pa.Table, split: str, table: pa.Table, labels: dict[str, list[str]], run: str) -> pa.Table:
    """The run's predictions of one split in the order of `table`'s rows.

    Raises RunError naming a row that only one of the two has, or whose label they give differently.
    """
    of_split = predictions.filter(pc.equal(predictions["split"], split))
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
            f"{run}: its {split} rows are not those of the data ({here} rows are new, {gone.num_rows} are gone, e.g. {example}): "
            "it was made on another split or the data has changed since; use runs of one split, and the data that they were trained on"
        )
    ordered = of_split.take(rows)
    for task, classes in labels.items():
        names = pa.array(classes, pa.string()).take(table[task].combine_chunks())
        then = pc.fill_null(ordered[label_column(task)].cast(pa.string()), "").combine_chunks()
        differ = pc.not_equal(then, pc.fill_null(names, ""))
        if pc.any(differ).as_py():
            row = ordered["row_id"].to_pylist()[pc.index(differ, True).as_py()]
            raise RunError(
                f"{run}: its {split} row {row!r} had another label of {task}: the labels have changed since, or it is another file"
            )
    return ordered
