"""What predict writes: CSV, TSV, Parquet, JSON Lines and Excel workbooks, the input's columns first, the predictions behind them.

A cell of a CSV that begins with = + - @ or a control character is run as a formula by spreadsheets, whoever wrote the comment
(https://owasp.org/www-community/attacks/CSV_Injection). Such cells get an apostrophe in front, unless they are plain numbers.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from polarity.artifacts import disk_errors
from polarity.data.canonical import TEXT
from polarity.data.excel_format import ExcelSheet
from polarity.data.formats import EXTENSIONS, FORMATS
from polarity.data.text_formats import WHOLE
from polarity.errors import DataError, nearest
from polarity.evaluate.calibration import probabilities_of
from polarity.evaluate.predictions import Labels, probability_column
from polarity.evaluate.shares import Tally
from polarity.predict.input import Input

DIGITS = 6
"""Digits of a probability in text formats."""
FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
"""How a formula begins; the last four are the wide forms of = + - @, which some spreadsheets take too."""
NUMBER = r"^[+\-]?[0-9]+([.,][0-9]+)*([eE][+\-]?[0-9]+)?%?$"


def prediction_schema(labels: Labels, prefix: str = "", *, words: bool = False) -> pa.Schema:
    """The columns that are added, in order: per task its class, the probability of each class, and of the predicted one.

    `words` adds each task's decisive words.
    """
    fields: list[tuple[str, pa.DataType]] = []
    for task, classes in labels.items():
        fields.append((task, pa.string()))
        fields += [(probability_column(task, label), pa.float32()) for label in classes]
        fields.append((f"{task}_confidence", pa.float32()))
        fields += [(f"{task}_words", TEXT)] if words else []
    return pa.schema([(prefix + name, kind) for name, kind in fields])


PREFIX = "predicted_"
"""Put before all added columns where the input has one of their names already."""


def choose_prefix(inputs: Mapping[str, Iterable[str]], labels: Labels, prefix: str | None, *, words: bool = False) -> str:
    """What stands before the added columns: `prefix`, or, where that is None, nothing, or `predicted_` where a name is taken.

    `inputs` are the columns of each input by its name. A labelled file so keeps its own `sentiment`, and gets `predicted_sentiment`.
    Raises DataError where the names are taken with the prefix, too.
    """
    tried = [prefix] if prefix is not None else ["", PREFIX]
    for chosen in tried:
        names = set(prediction_schema(labels, chosen, words=words).names)
        if not any(names & set(columns) for columns in inputs.values()):
            return chosen
    for name, columns in inputs.items():
        refuse_taken(columns, prediction_schema(labels, tried[-1], words=words).names, name)
    raise AssertionError("one of the inputs has such a column")


def refuse_taken(columns: Iterable[str], added: Iterable[str], name: str) -> None:
    """Raise DataError where an input has a column that is to be added."""
    taken = set(columns) & set(added)
    if taken:
        raise DataError(f"{name}: has a column {min(taken)!r}, which predict adds: rename it, or put a --prefix before the added ones")


@dataclass
class Written:
    """What was written: rows, those with an empty comment, cells that were kept from being formulas, and predictions by task."""

    rows: int = 0
    empty: int = 0
    escaped: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def count(self, predictions: pa.Table, labels: Labels) -> None:
        """Add rows, by their predictions' columns."""
        known = predictions.filter(pc.is_valid(predictions[next(iter(labels))]))
        self.rows += predictions.num_rows
        self.empty += predictions.num_rows - known.num_rows
        for task, classes in labels.items() if known.num_rows else ():
            predicted = pc.index_in(known[task], value_set=pa.array(list(classes))).to_numpy()
            tally = Tally.of(probabilities_of(known, task, classes), predicted)
            self.tallies[task] = self.tallies[task] + tally if task in self.tallies else tally


Write = Callable[[pa.Table, pa.Table], None]
"""Writes rows and, behind them, their predictions."""


def open_writer(
    path: Path, kind: str, name: str, schema: pa.Schema, added: pa.Schema, written: Written, *, escape: bool
) -> AbstractContextManager[Write]:
    """A writer of `kind` (csv, tsv, parquet, jsonl, xlsx) to `path`, for rows under a schema and what is added to them.

    `name` is the input's in messages; `written` counts cells that would have been formulas.
    """
    if kind == "jsonl":
        return _jsonl(path, name)
    if kind == "parquet":
        return _parquet(path, name, schema, added)
    if kind == "xlsx":
        return _excel(path, name, schema, added)
    return _csv(path, name, schema, added, "\t" if kind == "tsv" else ",", written if escape else None)


@contextmanager
def _csv(path: Path, name: str, schema: pa.Schema, added: pa.Schema, delimiter: str, escaped: Written | None) -> Iterator[Write]:
    """CSV or TSV in UTF-8, with quotes only where needed; with `escaped`, no cell is a formula."""
    with path.open("w", encoding="utf-8", newline="") as file:
        plain = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        # The csv module does not see that a lone carriage return needs quotes; where there is one, everything gets them.
        quoting = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def put(columns: list[list[object]]) -> None:
            returns = any(isinstance(cell, str) and "\r" in cell for column in columns for cell in column)
            (quoting if returns else plain).writerows(zip(*columns, strict=True))

        def cells(column: pa.ChunkedArray, of: str) -> list[object]:
            if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
                return list(column.to_pylist())
            texts = column_text(column, of, name)
            return list((texts if escaped is None else _without_formulas(texts, escaped)).to_pylist())

        def write(rows: pa.Table, predictions: pa.Table) -> None:
            columns = as_table(rows, schema, name).columns
            put([*map(cells, columns, schema.names), *map(_rounded, predictions.columns)])

        header = cells(pa.chunked_array([pa.array([*schema.names, *added.names], TEXT)]), "header")
        put([[cell] for cell in header])
        yield write


def _without_formulas(texts: pa.ChunkedArray, written: Written) -> pa.ChunkedArray:
    formula = pc.match_substring_regex(texts, FORMULA)
    if not pc.any(formula).as_py():
        return texts
    formula = pc.and_not(formula, pc.match_substring_regex(texts, NUMBER)).fill_null(False)
    written.escaped += pc.sum(formula).as_py()
    marked = pc.binary_join_element_wise(pa.scalar("'", texts.type), texts, pa.scalar("", texts.type))
    return pc.if_else(formula, marked, texts)


def _rounded(column: pa.ChunkedArray) -> list[object]:
    if not pa.types.is_floating(column.type):
        return list(column.to_pylist())
    return [None if value is None else f"{value:.{DIGITS}f}" for value in column.to_pylist()]


@contextmanager
def _jsonl(path: Path, name: str) -> Iterator[Write]:
    """JSON Lines in UTF-8; the objects of JSON Lines keep all that they hold."""
    with path.open("w", encoding="utf-8", newline="") as file:

        def write(rows: pa.Table, predictions: pa.Table) -> None:
            whole = _objects(rows) if is_json(rows.schema) else _without_nan(rows).to_pylist()
            for row, added in zip(whole, predictions.to_pylist(), strict=True):
                refuse_taken(row, added, name)
                rounded = {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in added.items()}
                file.write(json_text({**row, **rounded}) + "\n")

        yield write


def _without_nan(table: pa.Table) -> pa.Table:
    """NaN as null: JSON has no other word for it."""
    for index, column in enumerate(table.columns):
        if pa.types.is_floating(column.type):
            missing = pc.is_nan(column.cast(pa.float64()))
            table = table.set_column(index, table.column_names[index], pc.if_else(missing, pa.scalar(None, column.type), column))
    return table


@contextmanager
def _parquet(path: Path, name: str, schema: pa.Schema, added: pa.Schema) -> Iterator[Write]:
    """Parquet (zstd) with the input's types."""
    whole = pa.schema([*schema, *added], schema.metadata)
    with pq.ParquetWriter(path, whole, compression="zstd") as writer:
        yield lambda rows, predictions: writer.write_table(
            pa.Table.from_arrays([*as_table(rows, schema, name).columns, *predictions.columns], schema=whole)
        )


@contextmanager
def _excel(path: Path, name: str, schema: pa.Schema, added: pa.Schema) -> Iterator[Write]:
    """One sheet of a workbook (.xlsx): numbers as numbers, all else as text, so that nothing is a formula."""
    sheet = ExcelSheet(path, [*schema.names, *added.names])

    def cells(column: pa.ChunkedArray, of: str) -> list[object]:
        kind = column.type
        if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and kind.bit_width <= 32):
            return list(column.to_pylist())
        if pa.types.is_floating(kind):
            return [value if value is None or isfinite(value) else None if value != value else str(value) for value in column.to_pylist()]
        return list(column_text(column, of, name).to_pylist())  # Excel rounds whole numbers above 15 digits

    def write(rows: pa.Table, predictions: pa.Table) -> None:
        columns = map(cells, as_table(rows, schema, name).columns, schema.names)
        for values in zip(*columns, *(column.to_pylist() for column in predictions.columns), strict=True):
            sheet.append(values)

    try:
        yield write
    except BaseException:
        sheet.close(keep=False)
        raise
    sheet.close()


def is_json(schema: pa.Schema) -> bool:
    """Whether rows are whole objects of JSON Lines."""
    return bool(schema.names == [WHOLE])


def _objects(rows: pa.Table) -> list[dict[str, JsonValue]]:
    return [json.loads(text) for text in rows[WHOLE].to_pylist()]


def table_schema(tables: Iterable[pa.Table]) -> pa.Schema:
    """Columns of all rows together, in the order in which they come; one whose type differs is text.

    A key of JSON Lines has the type that all its values have. The metadata are the first rows'.
    """
    kinds: dict[str, set[object]] = {}
    metadata: dict[bytes, bytes] | None = None
    for rows in tables:
        if metadata is None:
            # pandas' note says which column is the index; that of `datasets` would no longer fit the columns
            metadata = {key: note for key, note in (rows.schema.metadata or {}).items() if key == b"pandas"}
        if is_json(rows.schema):
            for row in _objects(rows):
                for key, value in row.items():
                    kinds.setdefault(key, set()).add(_kind(value))
        else:
            for of in rows.schema:
                kinds.setdefault(of.name, set()).add(of.type)
    return pa.schema([(name, _common(found)) for name, found in kinds.items()], metadata)


def _kind(value: object) -> type:
    """The Python type of a JSON value; a whole number beyond 64 bits is none for Arrow."""
    return float if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else type(value)


def _common(kinds: set[object]) -> pa.DataType:
    """The one type of a column's Arrow types and its JSON values' Python types."""
    plain = {kind for kind in kinds if isinstance(kind, type)} - {type(None)}
    types = {kind for kind in kinds if isinstance(kind, pa.DataType)}
    types |= {_json_type(plain)} if plain else set()
    known = types - {pa.null()}
    return known.pop() if len(known) == 1 else TEXT if known or not types else pa.null()


def _json_type(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else TEXT


def as_table(rows: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """Rows under a schema: columns that they lack are null, values of another type are text (nested ones as JSON)."""
    if is_json(rows.schema):
        objects = _objects(rows)
        return pa.table({field.name: _from_json([row.get(field.name) for row in objects], field.type) for field in schema}, schema=schema)
    return pa.Table.from_arrays([_cast(rows, field, name) for field in schema], schema=schema)


def _from_json(values: list[object], kind: pa.DataType) -> pa.Array:
    if kind == TEXT:
        return pa.array([None if value is None else value if isinstance(value, str) else json_text(value) for value in values], kind)
    if kind == pa.float64():
        return pa.array([float(value) if isinstance(value, int | float) else None for value in values], kind)
    return pa.array(values, kind)


def _cast(table: pa.Table, field: pa.Field, name: str) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table[field.name]
    if column.type.equals(field.type):
        return column
    return column_text(column, field.name, name)


def column_text(column: pa.ChunkedArray, column_name: str, name: str) -> pa.ChunkedArray:
    """A column as text: nested values as JSON. Raises DataError for bytes that are not text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pa.chunked_array([column.combine_chunks().dictionary_decode()])
        kind = column.type
    if pa.types.is_nested(kind):
        return pa.chunked_array([pa.array([None if v is None else json_text(v) for v in column.to_pylist()], TEXT)])
    try:
        return column.cast(TEXT)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name}, column {column_name!r}: holds {kind} that is not text: leave it out, or write Parquet") from error


def json_text(value: object) -> str:
    """A value as JSON; what JSON has no form for (dates, decimals) as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


JOINED = "joined"


@dataclass(frozen=True)
class Target:
    """One file to write: where, its path among the staged ones, in which format, from which inputs (by number)."""

    path: Path
    staged: Path
    format: str
    inputs: dict[int, Input]


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


Tables = Callable[[Collection[int]], Iterator[tuple[pa.Table, pa.Table]]]
"""From numbers of inputs to the predictions and rows of these inputs, in order and in blocks."""


def join(
    tables: Tables, targets: Sequence[Target], staging: Path, labels: Labels, *, prefix: str, escape: bool, words: bool = False
) -> Written:
    """Write all targets in the folder `staging`, one after the other; see `put_in_place`."""
    written = Written()
    added = prediction_schema(labels, prefix, words=words)
    shutil.rmtree(staging, ignore_errors=True)
    for target in targets:
        path = staging / target.staged
        with disk_errors(str(target.path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            schema = pa.schema([]) if target.format == "jsonl" else table_schema(rows for _, rows in tables(target.inputs))
            schema = schema if len(target.inputs) == 1 else schema.remove_metadata()
            refuse_taken(schema.names, added.names, str(target.path))
            name = next(iter(target.inputs.values())).source.name
            with open_writer(path, target.format, name, schema, added, written, escape=escape) as write:
                for predictions, rows in tables(target.inputs):
                    write(rows, predictions.rename_columns(added.names))
                    written.count(predictions, labels)
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return written


def put_in_place(targets: Sequence[Target], staging: Path, folder: Path | None) -> None:
    """Give the written files their names: in one step for a file, and for a `folder` that is new or empty, else file by file."""
    with disk_errors(str(folder or targets[0].path)):
        if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
            os.replace(staging, folder)
            return
        for target in targets:
            target.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / target.staged, target.path)
