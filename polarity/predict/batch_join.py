"""From scored parts to the files that the user asked for: the inputs are read once more and written out beside their predictions."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import disk_errors
from polarity.data.formats import EXTENSIONS
from polarity.errors import DataError, nearest
from polarity.evaluate.tally import Tally
from polarity.predict.input import FORMATS, Input
from polarity.predict.input_rows import row_blocks, table_schema
from polarity.predict.output import open_writer, prediction_names, prediction_table, refuse_taken

Labels = Mapping[str, Sequence[str]]
JOINED = "joined"


@dataclass(frozen=True)
class Target:
    """One file to write: where, its path among the staged ones, in which format, from which inputs (by number)."""

    path: Path
    staged: Path
    format: str
    inputs: dict[int, Input]


@dataclass
class Written:
    """What was written: rows, those with an empty comment, cells that were kept from being formulas, and predictions by task."""

    rows: int = 0
    empty: int = 0
    escaped: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)


def check_out(out: Path, *, overwrite: bool) -> bool:
    """Whether `out` is a folder: it is one, or has no extension. Raises DataError for an unknown extension, or what is there already."""
    is_folder = out.is_dir() or (not out.is_file() and not out.suffix)
    if not is_folder and out.suffix.lower() not in FORMATS:
        hint = nearest(out.suffix.lower(), EXTENSIONS)
        raise DataError(f"{out}: unknown extension {out.suffix!r} ({hint}); one without an extension is a folder")
    if not overwrite and (any(out.iterdir()) if out.is_dir() else out.exists()):
        raise DataError(f"{out}: is there already: replace it with --overwrite, or choose another --out")
    return is_folder


def plan_targets(out: Path, inputs: Sequence[Input], *, is_folder: bool) -> list[Target]:
    """One file for all inputs, or, in a folder, one for each, of the same name and format. Raises DataError where it is an input."""
    if is_folder:
        kinds = ["parquet" if each.format == "rows" else each.format for each in inputs]
        targets = [Target(out / each.relative, each.relative, kinds[number], {number: each}) for number, each in enumerate(inputs)]
    else:
        targets = [Target(out, Path(out.name), FORMATS[out.suffix.lower()], dict(enumerate(inputs)))]
    for target in targets:
        if any(each.path == target.path for each in inputs):
            raise DataError(f"{target.path}: is an input: choose another --out")
    return targets


class PartCursor:
    """Walks through the predictions of all rows."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held: list[pa.Table] = []

    def take(self, rows: int, file: int, first: int) -> pa.Table:
        """The predictions of `rows` rows of a file from row `first` on, which must be the next ones. Raises DataError if they are not."""
        while sum(table.num_rows for table in self._held) < rows:
            following = next(self._tables, None)
            if following is None:
                break
            self._held.append(following)
        whole = pa.concat_tables(self._held) if self._held else pa.table({"file": [], "row": []})
        taken, rest = whole.slice(0, rows), whole.slice(rows)
        self._held = [rest] if rest.num_rows else []
        right = taken.num_rows == rows and pc.all(pc.equal(taken["file"], file)).as_py()
        if not right or not np.array_equal(taken["row"].to_numpy(), np.arange(first, first + rows)):
            raise DataError("an input changed while it was predicted: run the command again with --overwrite")
        return taken

    def finish(self) -> None:
        """Raise DataError where predictions are left over."""
        if self._held or next(self._tables, None) is not None:
            raise DataError("an input lost rows while it was predicted: run the command again with --overwrite")


def join(
    cursor: PartCursor, targets: Sequence[Target], staging: Path, labels: Labels, *, prefix: str, escape: bool, words: bool = False
) -> Written:
    """Write all targets in the folder `staging`, one after the other; see `put_in_place`."""
    written = Written(tallies={task: Tally.empty(len(classes)) for task, classes in labels.items()})
    added = prediction_names(labels, prefix, words=words)
    shutil.rmtree(staging, ignore_errors=True)
    for target in targets:
        path = staging / target.staged
        with disk_errors(str(target.path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(cursor, target, path, labels, added, prefix, escape, written)
            with path.open("rb") as file:
                os.fsync(file.fileno())
    cursor.finish()
    return written


def _write(
    cursor: PartCursor, target: Target, path: Path, labels: Labels, added: list[str], prefix: str, escape: bool, written: Written
) -> None:  # fmt: skip
    schema = pa.schema([]) if target.format == "jsonl" else table_schema(list(target.inputs.values()))
    refuse_taken(schema.names, added, str(target.path))
    first = next(iter(target.inputs.values()))
    with open_writer(path, target.format, first.source.name, schema, escape=escape) as writer:
        for number, each in target.inputs.items():
            row = 0
            for rows in row_blocks(each):
                count = len(rows) if isinstance(rows, list) else rows.num_rows
                part = cursor.take(count, number, row)
                writer.write(rows, prediction_table(part, labels, prefix))
                _count(part, labels, written)
                row += count
    written.escaped += writer.escaped


def _count(part: pa.Table, labels: Labels, written: Written) -> None:
    written.rows += part.num_rows
    known = part.filter(pc.is_valid(part[next(iter(labels))]))
    written.empty += part.num_rows - known.num_rows
    if not known.num_rows:
        return
    for task, classes in labels.items():
        chances_NK = known[f"{task}_p"].combine_chunks().flatten().to_numpy().reshape(-1, len(classes))
        written.tallies[task] = written.tallies[task] + Tally.of(chances_NK, known[task].to_numpy())


def put_in_place(targets: Sequence[Target], staging: Path, folder: Path | None) -> None:
    """Give the written files their names: in one step for a file, and for a `folder` that is new or empty, else file by file."""
    with disk_errors(str(folder or targets[0].path)):
        if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
            os.replace(staging, folder)
            return
        for target in targets:
            target.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / target.staged, target.path)
