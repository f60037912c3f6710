"""One epoch's oversampled table as a file, of any number of rows: what `oversample.py` says of each, carried out by Ray Data.

The source is read twice: the survey keeps the hash of each row's id and its labels, from which the pure function counts how often the row
appears; then the rows are read again, each repeated so often. The cut into pieces and blocks decides nothing.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polarity.arrays import Integers
from polarity.config import DataConfig, SplitConfig
from polarity.data.formats import open_source
from polarity.data.oversample import ID_HASH, multiplicities, repeat_rows
from polarity.data.survey import LEFT_OUT, Piece, Survey, pieces_of, run, survey
from polarity.errors import DataError, Say

ROW_GROUP = 65_536


def write_oversampled(source: str, data: DataConfig, out: Path, *, seed: int, epoch: int, say: Say, overwrite: bool = False) -> int:
    """Writes the rows of one epoch to the Parquet file `out`, as training would see them, and returns how many there are.

    Streams through Ray Data; the driver keeps some tens of bytes of each row (0.4 GB of ten million).
    Columns: row_id, title, comment, each task's label as text, and
    `multiplicity` (int32, how often the row is in the file). The file appears whole or not at all. `say` hears which bad rows were left
    out, and that the file was neither split nor freed of duplicates: that is for the split, which finds those that leak. Raises DataError
    for a source that cannot be read, row ids that stand twice, an `out` that exists (unless `overwrite`) or cannot be written, or a full
    disk; ConfigError for boosts of unknown classes.
    """
    _check_target(source, out, overwrite)
    opened = open_source(source)
    for note in opened.notes:
        say(note)
    pieces = pieces_of([opened], data.model_copy(update={"split": SplitConfig()}))
    found = survey("oversampling", pieces, say=say, noted=say, through_ray=True)
    times = found.cut(_times(found, data, seed, epoch))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        rows = write_parquet(run(pieces, [(own, data.labels) for own in times], _repeated, through_ray=True), temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    say(f"{source}: every good row counts as a training row; data.split and data.duplicates were not applied, as `polarity train` would")
    say(f"{out}: {rows:,} rows of epoch {epoch + 1}, seed {seed}")
    return rows


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


def _times(found: Survey, data: DataConfig, seed: int, epoch: int) -> Integers:
    """How often each row appears (N,); LEFT_OUT for a bad one."""
    good = ~found.bad
    rows = found.columns.append_column(ID_HASH, pa.array(found.hashes)).filter(pa.array(good))
    rows = rows.append_column("row_id", pa.nulls(rows.num_rows))  # ids count only where hashes are equal: once in 10^5 tables of 10^7 rows
    times = np.full(len(good), LEFT_OUT, np.int64)
    times[good] = multiplicities(rows, data.labels, data.oversample, seed=seed, epoch=epoch)
    return times


def _repeated(piece: Piece, times: Integers, labels: Mapping[str, Sequence[str]]) -> Iterator[pa.Table]:
    """A piece's rows as the file has them: repeated, labels by name, null where one is missing."""
    for table, own in piece.rows(times):
        rows = repeat_rows(table, own.astype(np.int64))
        for task, names in labels.items():
            words = pa.array(list(names)).take(rows[task].combine_chunks().cast(pa.int32()))
            rows = rows.set_column(rows.schema.get_field_index(task), task, words)
        yield rows.select(["row_id", "title", "comment", *labels, "multiplicity"])


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
            with suppress(OSError):  # the error that brought us here is the one to show, and the file is about to be removed
                writer.close()
    return rows
