"""From what the user wrote (a file, a folder, `hf:NAME`, `sample`) to an opened source; Parquet and Hugging Face datasets themselves."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from polarity.artifacts import column_of_objects, has_secret, replacing, user_cache_dir
from polarity.data.excel_format import open_excel
from polarity.data.sample import DEFAULT_ROWS, SAMPLE_COLUMNS, sample_blocks
from polarity.data.source import ROWS_PER_BLOCK, Part, Source, readable
from polarity.data.text_formats import open_csv, open_jsonl
from polarity.errors import DataError, first_line, nearest, redacted
from polarity.paths import absolute

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("state.json", "dataset_dict.json")
"""Files that `save_to_disk` leaves in the folder of a dataset, or of one with several splits."""


def _open_dataset(name: str, load: Callable[[], "Dataset"]) -> Source:
    """Raises DataError where the dataset cannot be had, has several splits, is damaged or has no rows."""
    loaded = load()
    if len(loaded) == 0:
        raise DataError(f"{name}: the dataset has no rows")
    return Source(name=name, columns=tuple(loaded.column_names), unit="row", parts=(Part(0, partial(_blocks, load)),), locate=list)


def _load_saved(name: str, folder: Path) -> "Dataset":
    from datasets import load_from_disk

    splits = folder / "dataset_dict.json"
    with readable(name):
        if splits.is_file():
            names = json.loads(splits.read_text(encoding="utf-8")).get("splits", [])
            if len(names) != 1:
                raise DataError(f"{name}: holds the splits {', '.join(names)}: name the folder of one, such as {Path(name, names[0])}")
            folder = folder / names[0]
        try:
            return load_from_disk(str(folder))
        except (pa.ArrowInvalid, ValueError, KeyError) as error:
            raise DataError(f"{name}: the saved dataset is damaged: {error}: save it again") from error


def _load_hub(name: str) -> "Dataset":
    """Of `hf:NAME` or `hf:NAME@SPLIT`."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    dataset, _, split = name.removeprefix("hf:").partition("@")
    if not dataset:
        raise DataError(f"{name!r}: no dataset is named: write hf:NAME or hf:NAME@SPLIT")
    try:
        loaded = datasets.load_dataset(dataset, split=split or None)
    except datasets.exceptions.DatasetNotFoundError as error:
        advice = "check the name, or log in with `hf auth login`"
        raise DataError(f"{name}: the hub has no dataset {dataset!r} that you may read: {advice}") from error
    except (ConnectionError, HfHubHTTPError) as error:
        advice = "check the connection, or give a file, or a folder that was saved elsewhere by `datasets.save_to_disk`"
        raise DataError(f"{name}: the Hugging Face hub cannot be reached ({first_line(error)}): {advice}") from error
    except ValueError as error:
        raise DataError(f"{name}: {first_line(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) != 1:
            raise DataError(f"{name}: holds the splits {', '.join(loaded)}: name one, such as hf:{dataset}@{next(iter(loaded))}")
        return next(iter(loaded.values()))
    return loaded


def _blocks(load: Callable[[], "Dataset"], columns: Sequence[str]) -> Iterator[pa.Table]:
    dataset = load().select_columns(list(columns))
    names = {column: feature.names for column, feature in dataset.features.items() if hasattr(feature, "names")}
    for block in dataset.with_format("arrow").iter(batch_size=ROWS_PER_BLOCK):
        yield name_classes(block, names)


def name_classes(block: pa.Table, names: dict[str, list[str]]) -> pa.Table:
    """Replace the integers of `ClassLabel` columns by the class names; -1, the mark of no label, becomes null."""
    for column, classes in names.items():
        if column in block.column_names and pa.types.is_integer(block[column].type):
            values = block[column]
            labelled = pc.if_else(pc.and_(pc.greater_equal(values, 0), pc.less(values, len(classes))), values, None)
            text = pc.take(pa.array(classes, pa.large_string()), labelled)
            block = block.set_column(block.column_names.index(column), column, text)
    return block


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """{column: classes} of the `ClassLabel` features that `datasets` notes in the schema of the Parquet files it writes."""
    noted = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features", {})
    return {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel" and "names" in f}


def _not_a_dataset(name: str, folder: Path) -> str:
    """What to say of a folder that is no saved dataset."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    inside = f"it holds {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}: name one file" if files else "it holds no file"
    return f"{name}: is a folder, and not one saved by `datasets.save_to_disk`: {inside}"


FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".xlsx": "xlsx"}
EXTENSIONS = tuple(FORMATS)
MAX_PARTS = 32
"""Most tasks that a Parquet source is read by, if its row groups are small."""
ROWS_PER_PART = 32 * ROWS_PER_BLOCK
"""A row group of more rows is read by several tasks."""
MAX_CUTS = 8
"""Most tasks that one row group is read by: each of them decodes it from its beginning to its own rows."""
_HIDDEN = "._"
"""How the names of files begin that other programs do not take for data."""


def open_source(name: str) -> Source:
    """Open `name`: .csv, .tsv, .parquet, .jsonl, .ndjson, .json, .xlsx, a folder of .parquet files, or one saved by `datasets`,
    `hf:NAME[@SPLIT]`, `sample[:ROWS]`, or the URI (`s3://...`) of a file or of a folder of .parquet files.

    Only the header or footer is read. Raises DataError for what is missing, unknown, empty or damaged there.
    """
    if name == "sample" or name.startswith("sample:"):
        return _open_sample(name)
    if name.startswith("hf:"):
        return _open_dataset(name, partial(_load_hub, name))
    if "://" in name:
        return _open_remote(name)
    # absolute, because Ray's workers may stand in another folder
    path = Path(absolute(name))
    with readable(name):
        if not path.exists():
            raise DataError(f"{name}: no such file{_similar(path)}")
        if path.is_dir():
            if any((path / mark).is_file() for mark in SAVED):
                return _open_dataset(name, partial(_load_saved, name, path))
            if files := sorted(file for file in path.glob("*.parquet") if file.name[0] not in _HIDDEN):
                return _open_parquet(name, [(f"{name.rstrip('/')}/{file.name}", file) for file in files])
            raise DataError(_not_a_dataset(name, path))
    return _open_file(name, path)


def _open_file(name: str, path: Path) -> Source:
    extension = path.suffix.lower()
    match FORMATS.get(extension):
        case "csv":
            return open_csv(name, path, ",")
        case "tsv":
            return open_csv(name, path, "\t")
        case "parquet":
            return _open_parquet(name, [(name, path)])
        case "jsonl":
            return open_jsonl(name, path)
        case "xlsx":
            return open_excel(name, path)
    if extension in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        raise DataError(f"{name}: is compressed: unpack it first; known are {', '.join(EXTENSIONS)}")
    hint = nearest(extension, EXTENSIONS) if extension else ""
    hint = f" ({hint})" if hint.startswith("did you mean") else ""
    raise DataError(f"{name}: unknown extension {extension!r}{hint}: known are {', '.join(EXTENSIONS)}")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f": the folder {path.parent.name!r} does not exist either"
    hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return f": {hint}" if hint.startswith("did you mean") else ""


def _open_sample(name: str) -> Source:
    asked = name.partition(":")[2] or str(DEFAULT_ROWS) if name != "sample:" else ""
    if not re.fullmatch(r"[0-9]{1,12}", asked) or int(asked) == 0:
        raise DataError(f"{name!r}: the synthetic corpus is `sample` or `sample:ROWS`, with a whole number above 0, such as sample:3000")
    blocks = partial(_sample, int(asked))
    return Source(name=name, columns=SAMPLE_COLUMNS, unit="row", parts=(Part(0, blocks),), locate=list)


def _sample(rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    for block in sample_blocks(rows):
        yield block.select(list(columns))


def modified(name: str) -> list[Any]:
    """What tells that a source is another than it was, without reading it: place, size and time of each of its files."""
    with readable(name):
        if "://" in name:
            return [name, *([info.path, info.size, info.mtime_ns] for info in _remote_files(name))]
        if name.split(":")[0] in ("sample", "hf"):
            return [name]
        local = Path(absolute(name))
        files = sorted(p for p in local.rglob("*") if p.is_file()) if local.is_dir() else [local]
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _filesystem(name: str) -> tuple[pafs.FileSystem, str]:
    if has_secret(name):
        raise DataError(f"{redacted(name)}: this address holds a password or key, which would show in logs: give it by the environment")
    try:
        filesystem, path = pafs.FileSystem.from_uri(name)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{name}: not a URI that pyarrow's filesystems take ({error})") from error
    return filesystem, str(path).rstrip("/")


def _remote_files(name: str) -> list[pafs.FileInfo]:
    """The file at a URI, or the .parquet files of the folder there. Raises DataError where there is neither."""
    filesystem, path = _filesystem(name)
    with readable(name):
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [info]
        listed = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    files = (i for i in listed if i.type == pafs.FileType.File and i.extension == "parquet" and i.base_name[0] not in _HIDDEN)
    found = sorted(files, key=lambda i: str(i.path))
    if not found:
        raise DataError(f"{name}: no such file" if info.type == pafs.FileType.NotFound else f"{name}: is a folder without .parquet files")
    return found


def _open_remote(name: str) -> Source:
    """A source at a URI: Parquet is read where it lies, other formats from a copy in the user's cache, on each machine that reads."""
    found = _remote_files(name)
    if found[0].extension.lower() == "parquet":
        path = _filesystem(name)[1]
        below = [str(info.path)[len(path) :] for info in found]
        return _open_parquet(name, [(name.rstrip("/") + end, partial(_remote_file, name, end)) for end in below])
    opened = _open_file(name, _copied(name))
    return replace(opened, parts=tuple(Part(p.first_row, partial(_remote_blocks, name, i)) for i, p in enumerate(opened.parts)))


def _remote_blocks(name: str, part: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    return _open_file(name, _copied(name)).parts[part].blocks(columns)


def _remote_file(name: str, end: str) -> pa.NativeFile:
    filesystem, path = _filesystem(name)
    return filesystem.open_input_file(path + end)


def _copied(name: str) -> Path:
    key = hashlib.sha256(repr(modified(name)).encode()).hexdigest()[:32]
    target = user_cache_dir() / "sources" / key / Path(name.partition("?")[0]).name
    if not target.is_file():
        filesystem, path = _filesystem(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with readable(name), replacing(target) as temporary:
            pafs.copy_files(path, str(temporary), filesystem, pafs.LocalFileSystem())
    return target


Place = Path | Callable[[], pa.NativeFile]


def _open_parquet(name: str, files: Sequence[tuple[str, Place]]) -> Source:
    """The rows of one or more files (name, place), one after the other; all have the first one's columns."""
    columns: list[str] = []
    groups: list[list[int]] = []
    for file_name, place in files:
        with readable(file_name), _parquet(file_name), _parquet_file(place) as file:
            metadata, schema = file.metadata, file.schema_arrow
            objects = column_of_objects(schema)
            if objects is not None:
                raise DataError(
                    f"{file_name}: the column {objects!r} holds Ray's pickled objects, which run code when they are read: leave it out"
                )
            groups.append([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        columns = columns or list(schema.names)
        if sorted(columns) != sorted(schema.names):
            differing = sorted(set(columns) ^ set(schema.names))
            raise DataError(f"{file_name}: has not the columns of {files[0][0]} (only one has {', '.join(map(repr, differing[:3]))})")
    if not sum(map(sum, groups)):
        raise DataError(f"{name}: the file has columns but no rows")
    together = -(-sum(map(len, groups)) // MAX_PARTS)
    parts, first = [], 0
    for (file_name, place), sizes in zip(files, groups, strict=True):
        for own, rows, skipped in _cuts(sizes, together):
            parts.append(Part(first, partial(_parquet_blocks, file_name, place, own, skipped, rows)))
            first += rows
    return Source(name=name, columns=tuple(columns), unit="row", parts=tuple(parts), locate=list)


def _cuts(sizes: Sequence[int], together: int) -> Iterator[tuple[list[int], int, int]]:
    """(row groups, rows, rows of them to skip before) of each part of a file: so many small groups together, or a piece of a large one."""
    held: list[int] = []
    for group, size in enumerate(sizes):
        if size <= ROWS_PER_PART:
            held.append(group)
        if held and (len(held) == together or size > ROWS_PER_PART or group == len(sizes) - 1):
            yield held, sum(sizes[i] for i in held), 0
            held = []
        if size > ROWS_PER_PART:
            blocks = -(-size // ROWS_PER_BLOCK)
            step = -(-blocks // min(MAX_CUTS, -(-size // ROWS_PER_PART))) * ROWS_PER_BLOCK
            yield from (([group], min(step, size - start), start) for start in range(0, size, step))


def _parquet_file(place: Place) -> pq.ParquetFile:
    return pq.ParquetFile(place if isinstance(place, Path) else place(), pre_buffer=not isinstance(place, Path))


def _parquet_blocks(name: str, place: Place, groups: Sequence[int], skipped: int, rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    with readable(name), _parquet(name), _parquet_file(place) as file:
        classes = class_names(file.schema_arrow.metadata)
        for batch in file.iter_batches(batch_size=ROWS_PER_BLOCK, row_groups=list(groups), columns=list(columns), use_threads=False):
            if skipped >= batch.num_rows:
                skipped -= batch.num_rows
                continue
            block = pa.Table.from_batches([batch.slice(skipped, rows)])
            skipped, rows = 0, rows - block.num_rows
            yield name_classes(block, classes)
            if not rows:
                break


@contextmanager
def _parquet(name: str) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a DataError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's, which `readable` explains
        raise DataError(f"{name}: truncated, or not a Parquet file: {first_line(error)}") from error
