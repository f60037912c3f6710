"""From what the user wrote (a file, a folder, `hf:NAME`, `sample`) to an opened source."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from polarity.artifacts import column_of_objects, has_secret, replacing, user_cache_dir
from polarity.data import hf_format
from polarity.data.csv_format import open_csv
from polarity.data.excel_format import open_excel
from polarity.data.json_format import open_jsonl
from polarity.data.sample import DEFAULT_ROWS, sample_blocks, sample_columns
from polarity.data.source import ROWS_PER_BLOCK, Part, Source, positions, readable
from polarity.errors import DataError, nearest, redacted
from polarity.paths import absolute

EXTENSIONS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".xlsx")
MAX_PARTS = 32
"""Most tasks that one Parquet file is read by."""


def open_source(name: str) -> Source:
    """Open `name`: .csv, .tsv, .parquet, .jsonl, .ndjson, .json, .xlsx, a folder saved by `datasets`, `hf:NAME[@SPLIT]`, `sample[:ROWS]`,
    or a URI of a file (`s3://...`).

    Only the header or footer is read. Raises DataError for what is missing, unknown, empty or damaged there.
    """
    if name == "sample" or name.startswith("sample:"):
        return _open_sample(name)
    if name.startswith("hf:"):
        return hf_format.open_hub(name)
    if "://" in name:
        return _open_remote(name)
    # absolute, because Ray's workers may stand in another folder
    path = Path(absolute(name))
    with readable(name):
        if not path.exists():
            raise DataError(f"{name}: no such file{_similar(path)}")
        if path.is_dir():
            if any((path / mark).is_file() for mark in hf_format.SAVED):
                return hf_format.open_saved(name, path)
            raise DataError(hf_format.not_a_dataset(name, path))
    return _open_file(name, path)


def _open_file(name: str, path: Path) -> Source:
    extension = path.suffix.lower()
    if extension == ".csv":
        return open_csv(name, path, ",")
    if extension == ".tsv":
        return open_csv(name, path, "\t")
    if extension == ".parquet":
        return _open_parquet(name, path)
    if extension in (".jsonl", ".ndjson", ".json"):
        return open_jsonl(name, path)
    if extension == ".xlsx":
        return open_excel(name, path)
    if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst", ".zip"):
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
    return Source(name=name, columns=sample_columns(), unit="row", parts=(Part(0, blocks),), locate=positions)


def _sample(rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    for block in sample_blocks(rows):
        yield block.select(list(columns))


def modified(name: str) -> list[Any]:
    """What tells that a source is another than it was, without reading it: place, size and time of each of its files."""
    with readable(name):
        if "://" in name:
            filesystem, path = _filesystem(name)
            info = filesystem.get_file_info(path)
            return [name, info.size, info.mtime_ns]
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
    return filesystem, str(path)


def _open_remote(name: str) -> Source:
    """A file at a URI: Parquet is read where it lies, other formats from a copy in the user's cache, on each machine that reads."""
    filesystem, path = _filesystem(name)
    with readable(name):
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            raise DataError(f"{name}: no such file")
    if path.lower().endswith(".parquet"):
        return _open_parquet(name, partial(_remote_file, name))
    opened = _open_file(name, _copied(name))
    return replace(opened, parts=tuple(Part(p.first_row, partial(_remote_blocks, name, i)) for i, p in enumerate(opened.parts)))


def _remote_blocks(name: str, part: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    return _open_file(name, _copied(name)).parts[part].blocks(columns)


def _remote_file(name: str) -> pa.NativeFile:
    filesystem, path = _filesystem(name)
    return filesystem.open_input_file(path)


def _copied(name: str) -> Path:
    key = hashlib.sha256(repr(modified(name)).encode()).hexdigest()[:32]
    target = user_cache_dir() / "sources" / key / Path(name.partition("?")[0]).name
    if not target.is_file():
        filesystem, path = _filesystem(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with readable(name), replacing(target) as temporary:
            pafs.copy_files(path, str(temporary), filesystem, pafs.LocalFileSystem())
    return target


def _open_parquet(name: str, place: Path | Callable[[], pa.NativeFile]) -> Source:
    with readable(name), _parquet(name), _parquet_file(place) as file:
        metadata, schema = file.metadata, file.schema_arrow
        if metadata.num_rows == 0:
            raise DataError(f"{name}: the file has columns but no rows")
        objects = column_of_objects(schema)
        if objects is not None:
            raise DataError(f"{name}: the column {objects!r} holds Ray's pickled objects, which run code when they are read: leave it out")
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    groups_per_part = -(-len(sizes) // MAX_PARTS)
    parts = []
    for first in range(0, len(sizes), groups_per_part):
        groups = list(range(first, min(first + groups_per_part, len(sizes))))
        parts.append(Part(sum(sizes[:first]), partial(_parquet_blocks, name, place, groups)))
    return Source(name=name, columns=tuple(schema.names), unit="row", parts=tuple(parts), locate=positions)


def _parquet_file(place: Path | Callable[[], pa.NativeFile]) -> pq.ParquetFile:
    return pq.ParquetFile(place if isinstance(place, Path) else place(), pre_buffer=not isinstance(place, Path))


def _parquet_blocks(
    name: str, place: Path | Callable[[], pa.NativeFile], groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    with readable(name), _parquet(name), _parquet_file(place) as file:
        classes = hf_format.class_names(file.schema_arrow.metadata)
        for batch in file.iter_batches(batch_size=ROWS_PER_BLOCK, row_groups=list(groups), columns=list(columns), use_threads=False):
            yield hf_format.name_classes(pa.Table.from_batches([batch]), classes)


@contextmanager
def _parquet(name: str) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a DataError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's, which `readable` explains
        raise DataError(f"{name}: truncated, or not a Parquet file: {str(error).splitlines()[0]}") from error
