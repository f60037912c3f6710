"""One epoch's oversampled table as a Parquet file, to look at: what `polarity data oversample` writes."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from polarity.config import DataConfig
from polarity.errors import DataError

ROW_GROUP = 65_536


def _check_target(source: str, out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".parquet":
        raise DataError(f"{out}: the oversampled table is written as Parquet; give a name that ends in .parquet")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give the name of a file to write")
    if not out.parent.is_dir():
        raise DataError(f"{out}: the folder {out.parent} does not exist; make it first")
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise DataError(f"{out}: is the file that is read; give another name")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already; give another name, or allow it to be overwritten")


def named_labels(rows: pa.Table, labels: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table with each task's class indices replaced by the classes' names (string), missing ones by null."""
    for task, names in labels.items():
        indices = rows[task].combine_chunks().cast(pa.int32())
        words = pa.array(list(names)).take(indices)
        rows = rows.set_column(rows.schema.get_field_index(task), task, words)
    return rows


def write_parquet(tables: Iterable[pa.Table], out: Path) -> int:
    """Streams tables of one schema into a single file, and returns its rows; DataError where the disk is full or refuses."""
    rows = 0
    writer = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            rows += table.num_rows
        if writer:
            writer.close()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(f"{out.parent}: no space left on the disk after {rows:,} rows; free some, or write elsewhere") from error
        raise DataError(f"{out}: cannot be written: {error}") from error
    finally:
        if writer and writer.is_open:
            _abandon(writer)
    return rows


def _abandon(writer: pq.ParquetWriter) -> None:
    try:
        writer.close()
    except OSError:  # the error that brought us here is the one to show, and the file is about to be removed
        return


def write_oversampled(
    source: str, data: DataConfig, out: Path, *, seed: int, epoch: int, say: Callable[[str], None], overwrite: bool = False
) -> int:
    """Writes the rows of one epoch to the Parquet file `out`, as training would see them, and returns how many there are.

    Streams through Ray Data in flat memory. Columns: row_id, title, comment, each task's label as text, and `multiplicity` (int32,
    how often the row is in the file). The file appears whole or not at all. Raises DataError for a source that cannot be read, an `out`
    that exists (unless `overwrite`) or cannot be written, or a full disk.
    """
    from polarity.data.oversample_stage import arrow_batches, oversample_dataset
    from polarity.data.read import original_error, read_dataset

    _check_target(source, out, overwrite)
    labels = {name: task.labels for name, task in data.tasks.items()}
    columns = ["row_id", "title", "comment", *labels, "multiplicity"]
    repeated = oversample_dataset(read_dataset(source, data), data, seed=seed, epoch=epoch)

    def named() -> Iterator[pa.Table]:
        with original_error():
            for batch in arrow_batches(repeated):
                yield named_labels(batch.select(columns), labels)

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        rows = write_parquet(named(), partial)
        if not rows:
            raise DataError(f"{source}: has no rows to oversample")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    say(f"{out}: {rows:,} rows of epoch {epoch}, seed {seed}")
    return rows
