"""What predict writes: CSV, TSV, Parquet, JSON Lines and Excel workbooks, the input's columns first, the predictions behind them.

A cell of a CSV that begins with = + - @ or a control character is run as a formula by spreadsheets, whoever wrote the comment
(https://owasp.org/www-community/attacks/CSV_Injection). Such cells get an apostrophe in front, unless they are plain numbers.
"""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.artifacts import disk_errors
from polarity.data.excel_format import ExcelSheet
from polarity.data.formats import EXTENSIONS
from polarity.errors import DataError, nearest
from polarity.evaluate.predictions import probability_column
from polarity.evaluate.shares import Tally
from polarity.predict.input import FORMATS, Input, Rows, as_table, column_text, json_text, row_blocks, table_schema

DIGITS = 6
"""Digits of a probability in text formats."""
FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
"""How a formula begins; the last four are the wide forms of = + - @, which some spreadsheets take too."""
NUMBER = r"^[+\-]?[0-9]+([.,][0-9]+)*([eE][+\-]?[0-9]+)?%?$"


def confidence_column(task: str) -> str:
    """Name of the column with the probability of the predicted class."""
    return f"{task}_confidence"


def words_column(task: str) -> str:
    """Name of the column with the words that spoke most for the predicted class."""
    return f"{task}_words"


def prediction_names(labels: Mapping[str, Sequence[str]], prefix: str = "", *, words: bool = False) -> list[str]:
    """Names of the columns that are added, in order; `words` adds each task's decisive words."""
    names = []
    for task, classes in labels.items():
        names += [task, *(probability_column(task, label) for label in classes), confidence_column(task)]
        names += [words_column(task)] if words else []
    return [prefix + name for name in names]


def prediction_table(part: pa.Table, labels: Mapping[str, Sequence[str]], prefix: str = "") -> pa.Table:
    """Per task its class, the probability of each class, and the predicted class's; null for an empty comment."""
    columns: list[pa.Array] = []
    for task, classes in labels.items():
        predicted, chances = part[task].combine_chunks(), part[f"{task}_p"].combine_chunks()
        empty = pc.is_null(predicted)
        flat = chances.fill_null([0.0] * len(classes)).flatten().to_numpy().reshape(-1, len(classes))
        best = predicted.fill_null(0).to_numpy()
        mask = empty.to_numpy(zero_copy_only=False)
        columns.append(pa.array(list(classes), pa.string()).take(predicted))
        columns += [pa.array(np.ascontiguousarray(flat[:, k]), mask=mask) for k in range(len(classes))]
        columns.append(pa.array(flat[np.arange(len(flat)), best], mask=mask))
        if words_column(task) in part.column_names:
            columns.append(part[words_column(task)].combine_chunks())
    words = any(words_column(task) in part.column_names for task in labels)
    return pa.Table.from_arrays(columns, names=prediction_names(labels, prefix, words=words))


PREFIX = "predicted_"
"""Put before all added columns where the input has one of their names already."""


def choose_prefix(
    inputs: Mapping[str, Iterable[str]], labels: Mapping[str, Sequence[str]], prefix: str | None, *, words: bool = False
) -> str:
    """What stands before the added columns: `prefix`, or, where that is None, nothing, or `predicted_` where a name is taken.

    `inputs` are the columns of each input by its name. A labelled file so keeps its own `sentiment`, and gets `predicted_sentiment`.
    Raises DataError where the names are taken with the prefix, too.
    """
    tried = [prefix] if prefix is not None else ["", PREFIX]
    for chosen in tried:
        names = set(prediction_names(labels, chosen, words=words))
        if not any(names & set(columns) for columns in inputs.values()):
            return chosen
    for name, columns in inputs.items():
        refuse_taken(columns, prediction_names(labels, tried[-1], words=words), name)
    raise AssertionError("one of the inputs has such a column")


def refuse_taken(columns: Iterable[str], added: Iterable[str], name: str) -> None:
    """Raise DataError where an input has a column that is to be added."""
    taken = set(columns) & set(added)
    if taken:
        raise DataError(f"{name}: has a column {min(taken)!r}, which predict adds: rename it, or put a --prefix before the added ones")


class Writer(Protocol):
    """Writes blocks of rows beside their predictions; `escaped` counts cells that would have been formulas."""

    escaped: int

    def write(self, rows: Rows, predictions: pa.Table) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class CsvWriter:
    """CSV or TSV in UTF-8, with quotes only where needed."""

    def __init__(self, path: Path, name: str, schema: pa.Schema, delimiter: str, *, escape: bool) -> None:
        self.escaped = 0
        self._name, self._schema, self._escape, self._started = name, schema, escape, False
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, delimiter=delimiter, lineterminator="\n")
        # The csv module does not see that a lone carriage return needs quotes; where there is one, everything gets them.
        self._quoting = csv.writer(self._file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, rows: Rows, predictions: pa.Table) -> None:
        table = as_table(rows, self._schema, self._name)
        if not self._started:
            names = pa.array([*self._schema.names, *predictions.column_names], pa.large_string())
            self._write([[name] for name in self._safe(pa.chunked_array([names])).to_pylist()])
            self._started = True
        cells = [self._cells(column, name) for name, column in zip(table.column_names, table.columns, strict=True)]
        self._write([*cells, *(_rounded(column) for column in predictions.columns)])

    def _write(self, columns: list[list[Any]]) -> None:
        returns = any(isinstance(cell, str) and "\r" in cell for column in columns for cell in column)
        (self._quoting if returns else self._writer).writerows(zip(*columns, strict=True))

    def _cells(self, column: pa.ChunkedArray, name: str) -> list[Any]:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            return list(column.to_pylist())
        return list(self._safe(column_text(column, name, self._name)).to_pylist())

    def _safe(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        if not self._escape:
            return texts
        formula = pc.match_substring_regex(texts, FORMULA)
        if not pc.any(formula).as_py():
            return texts
        formula = pc.and_not(formula, pc.match_substring_regex(texts, NUMBER)).fill_null(False)
        self.escaped += pc.sum(formula).as_py()
        marked = pc.binary_join_element_wise(pa.scalar("'", texts.type), texts, pa.scalar("", texts.type))
        return pc.if_else(formula, marked, texts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _rounded(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_floating(column.type):
        return list(column.to_pylist())
    return [None if value is None else f"{value:.{DIGITS}f}" for value in column.to_pylist()]


class JsonlWriter:
    """JSON Lines in UTF-8; the objects of JSON Lines keep all that they hold."""

    def __init__(self, path: Path, name: str) -> None:
        self.escaped, self._name = 0, name
        self._file = path.open("w", encoding="utf-8", newline="")

    def write(self, rows: Rows, predictions: pa.Table) -> None:
        objects = rows if isinstance(rows, list) else _without_nan(rows).to_pylist()
        names = set(predictions.column_names)
        for row, added in zip(objects, predictions.to_pylist(), strict=True):
            refuse_taken(row, names, self._name)
            rounded = {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in added.items()}
            self._file.write(json_text({**row, **rounded}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _without_nan(table: pa.Table) -> pa.Table:
    """NaN as null: JSON has no other word for it."""
    for index, column in enumerate(table.columns):
        if pa.types.is_floating(column.type):
            missing = pc.is_nan(column.cast(pa.float64()))
            table = table.set_column(index, table.column_names[index], pc.if_else(missing, pa.scalar(None, column.type), column))
    return table


class ParquetWriter:
    """Parquet (zstd) with the input's types."""

    def __init__(self, path: Path, name: str, schema: pa.Schema) -> None:
        self.escaped = 0
        self._path, self._name, self._schema = path, name, schema
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: Rows, predictions: pa.Table) -> None:
        table = as_table(rows, self._schema, self._name)
        for name, column in zip(predictions.column_names, predictions.columns, strict=True):
            table = table.append_column(name, column)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()


class ExcelWriter:
    """One sheet of a workbook (.xlsx): numbers as numbers, all else as text, so that nothing is a formula."""

    def __init__(self, path: Path, name: str, schema: pa.Schema) -> None:
        self.escaped = 0
        self._path, self._name, self._schema = path, name, schema
        self._sheet: ExcelSheet | None = None

    def write(self, rows: Rows, predictions: pa.Table) -> None:
        table = as_table(rows, self._schema, self._name)
        if self._sheet is None:
            self._sheet = ExcelSheet(self._path, [*self._schema.names, *predictions.column_names])
        cells = [self._cells(column, name) for name, column in zip(table.column_names, table.columns, strict=True)]
        for values in zip(*cells, *(column.to_pylist() for column in predictions.columns), strict=True):
            self._sheet.append(values)

    def _cells(self, column: pa.ChunkedArray, name: str) -> list[Any]:
        kind = column.type
        if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and kind.bit_width <= 32):
            return list(column.to_pylist())
        if pa.types.is_floating(kind):
            return [value if value is None or isfinite(value) else None if value != value else str(value) for value in column.to_pylist()]
        return list(column_text(column, name, self._name).to_pylist())  # Excel rounds whole numbers above 15 digits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sheet is not None:
            self._sheet.close(keep=kind is None)


def open_writer(path: Path, kind: str, name: str, schema: pa.Schema, *, escape: bool) -> Writer:
    """A writer of `kind` (csv, tsv, parquet, jsonl, xlsx) to `path`; `name` is the input's in messages."""
    if kind == "jsonl":
        return JsonlWriter(path, name)
    if kind == "parquet":
        return ParquetWriter(path, name, schema)
    if kind == "xlsx":
        return ExcelWriter(path, name, schema)
    return CsvWriter(path, name, schema, "\t" if kind == "tsv" else ",", escape=escape)


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
