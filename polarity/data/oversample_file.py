"""One epoch's oversampled table as a Parquet file, to look at: what `polarity data oversample` writes."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.config import DataConfig
from polarity.data.canonical import Layout, find_columns, left_out
from polarity.data.formats import open_source
from polarity.data.oversample import row_hash
from polarity.data.read import annotated_blocks, refusal_of, settle
from polarity.data.source import Part, Source
from polarity.errors import DataError, Say

ROW_GROUP = 65_536
_SURVEY = pa.schema([("hash", pa.uint64()), ("bad", pa.bool_()), ("fault", pa.large_string())])


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


def _surveyed(source: Source, layout: Layout, part: Part, data: DataConfig) -> Iterator[pa.Table]:
    """The hash of each row's id, and whether the row is bad; what cannot be read at all comes as the text of a last row.

    (An error that is raised in a task of Ray Data costs the user a page of Ray's own words.)
    """
    try:
        for block in annotated_blocks(source, layout, part):
            ids, none = block["row_id"].fill_null(""), pa.nulls(block.num_rows, pa.large_string())
            yield pa.table([pa.array(row_hash(ids, 0, 0)), left_out(block, data), none], schema=_SURVEY)
    except DataError as error:
        yield pa.table([[0], [True], [str(error)]], schema=_SURVEY)


def _check_rows(source: Source, layout: Layout, data: DataConfig, say: Say) -> None:
    """Refuse what cannot be read, bad rows (or tell how many are left out), and row ids that stand twice: the stage would mix them up.

    Reads the source once and keeps 8 bytes a row; only where something is wrong, once more.
    """
    from polarity.data.datasource import dataset_of
    from polarity.data.oversample_stage import arrow_batches
    from polarity.data.read import original_error

    rows, hashes = 0, [np.zeros(0, dtype=np.uint64)]
    with original_error():
        for batch in arrow_batches(dataset_of(source, lambda part: _surveyed(source, layout, part, data), _SURVEY)):
            if faults := batch["fault"].drop_null().to_pylist():
                raise DataError(faults[0])
            rows += batch.num_rows
            hashes.append(batch.filter(pc.invert(batch["bad"]))["hash"].to_numpy())
    good = np.concatenate(hashes)
    bad = rows - len(good)
    if bad and data.bad_rows == "error":
        raise refusal_of(source, layout)
    if bad:
        say(f"{source.name}: left out {bad:,} of {rows:,} rows as bad (data.bad_rows=drop); `polarity data check` lists them")
    good.sort()
    twice = np.unique(good[1:][good[1:] == good[:-1]])
    if len(twice):
        settle(_rows_of(source, layout, data, twice), source, layout, data, say)


def _rows_of(source: Source, layout: Layout, data: DataConfig, hashes: npt.NDArray[np.uint64]) -> pa.Table:
    found = []
    for block in annotated_blocks(source, layout):
        among = np.isin(row_hash(block["row_id"].fill_null(""), 0, 0), hashes)
        found.append(block.filter(pc.and_(pa.array(among), pc.invert(left_out(block, data)))))
    return pa.concat_tables(found)


def write_oversampled(source: str, data: DataConfig, out: Path, *, seed: int, epoch: int, say: Say, overwrite: bool = False) -> int:
    """Writes the rows of one epoch to the Parquet file `out`, as training would see them, and returns how many there are.

    Streams through Ray Data in flat memory. Columns: row_id, title, comment, each task's label as text, and `multiplicity` (int32,
    how often the row is in the file). The file appears whole or not at all. `say` hears how many bad rows were left out, and that the
    file was neither split nor freed of duplicates: that is for the split, which finds those that leak. Raises DataError for a source that
    cannot be read, row ids that stand twice, an `out` that exists (unless `overwrite`) or cannot be written, or a full disk.
    """
    from polarity.data.oversample_stage import arrow_batches, oversample_dataset
    from polarity.data.read import original_error, read_dataset

    _check_target(source, out, overwrite)
    labels = {name: task.labels for name, task in data.tasks.items()}
    columns = ["row_id", "title", "comment", *labels, "multiplicity"]
    opened = open_source(source)
    for note in opened.notes:
        say(note)
    _check_rows(opened, find_columns(opened, data), data, say)
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
    say(f"{source}: every good row counts as a training row; data.split and data.duplicates were not applied, as `polarity train` would")
    say(f"{out}: {rows:,} rows of epoch {epoch + 1}, seed {seed}")
    return rows
