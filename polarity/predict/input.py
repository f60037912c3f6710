"""What predict reads: a file, a folder, a glob. Each row is read once: its texts to score, and all of it to be written again.

A chunk is CHUNK_ROWS rows of one file, cut at fixed places, so that a prediction that is begun again scores the same batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from itertools import zip_longest
from os.path import commonpath
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from polarity.config import DataConfig
from polarity.data.canonical import TEXT, VISIBLE, as_text, find_column, refuse_numbers
from polarity.data.formats import EXTENSIONS, FORMATS, SAVED, open_source
from polarity.data.source import Part, Source
from polarity.data.text_formats import WHOLE
from polarity.errors import DataError

CHUNK_ROWS = 1024
"""Rows of a chunk: enough to sort by length, few enough that little is lost when a run is killed."""


@dataclass(frozen=True)
class Input:
    """One file to predict: its opened source, path (None for hub and sample), and path relative to the folder that was named.

    `comment` and `title` are the source's own names of the columns with the texts; a title of None scores comments alone.
    """

    source: Source
    path: Path | None
    relative: Path
    comment: str
    title: str | None

    @property
    def format(self) -> str:
        """csv, tsv, parquet, jsonl, xlsx; or `rows` for a source that is no such file."""
        return "rows" if self.path is None or self.path.is_dir() else FORMATS[self.path.suffix.lower()]

    @property
    def columns(self) -> list[str]:
        """What is read of it: all columns, or the texts and the whole object of JSON Lines, whose objects may hold anything."""
        if self.format != "jsonl":
            return list(self.source.columns)
        return [*dict.fromkeys(name for name in (self.title, self.comment) if name is not None), WHOLE]


def text_columns(data: DataConfig, comment: str | None = None, title: str | None = None) -> tuple[str, str | None]:
    """Names of the comments' and the titles' column: the run's, or what the options say; an empty title means that there are none."""
    return comment or data.comment_column, (data.title_column if title is None else title) or None


def has_text(text: str) -> bool:
    """Whether a text holds anything that leaves a mark."""
    return bool(pc.match_substring_regex(pa.array([text], TEXT), VISIBLE)[0].as_py())


def open_inputs(data: str, columns: tuple[str, str | None], leave_out: Path | None = None) -> tuple[list[Input], list[str]]:
    """The files that `data` names, in order of their paths, opened; and the names of files in a folder that are left out.

    `columns` are the names of the comments' and the titles' column; a title of None scores comments alone. `leave_out` is never read: the
    output may lie in the folder. Raises DataError for what is not there, is no such file, has no rows or
    lacks a column.
    """
    found, skipped = _found(data)
    kept = [(name, path, relative) for name, path, relative in found if path is None or path != leave_out]
    if not kept:
        raise DataError(f"{data}: no file to predict: a folder or glob must hold files ending in {', '.join(EXTENSIONS)}")
    return [_opened(name, path, relative, columns) for name, path, relative in kept], skipped


def _found(data: str) -> tuple[list[tuple[str, Path | None, Path]], list[str]]:
    if data.startswith("hf:") or data.split(":")[0] == "sample":
        return [(data, None, Path(data.replace("/", "-").replace(":", "-") + ".parquet"))], []
    if "://" in data:
        return [(data, None, Path(data.rstrip("/").rpartition("/")[2] + ".parquet"))], []
    path = Path(data).expanduser()
    if path.is_dir() and not any((path / mark).is_file() for mark in SAVED):
        shown = (p for p in sorted(path.rglob("*")) if not any(part.startswith((".", "_")) for part in p.relative_to(path).parts))
        inside, base = [p for p in shown if p.is_file()], path
    elif has_magic(data) and not path.exists():
        inside = [Path(p) for p in sorted(glob(str(path), recursive=True)) if Path(p).is_file()]
        base = Path(commonpath([p.parent for p in inside])) if inside else path
    else:
        relative = Path(path.name + ".parquet" if path.is_dir() else path.name)
        return [(str(path), path.absolute(), relative)], []
    readable = [p for p in inside if p.suffix.lower() in EXTENSIONS]
    skipped = [str(p) for p in inside if p.suffix.lower() not in EXTENSIONS]
    return [(str(p), p.absolute(), p.relative_to(base)) for p in readable], skipped


def _opened(name: str, path: Path | None, relative: Path, columns: tuple[str, str | None]) -> Input:
    source = open_source(name)
    comment = find_column(source, columns[0], "name the column with --comment-column")
    no_titles = 'name the column with --title-column, or --title-column "" if there are no titles'
    title = None if columns[1] is None else find_column(source, columns[1], no_titles)
    twice = [each for each in source.columns if each.strip() and source.columns.count(each) > 1]
    if twice:
        raise DataError(f"{name}: has the column {twice[0]!r} {source.columns.count(twice[0])} times: rename or remove one")
    blank = [number for number, each in enumerate(source.columns, start=1) if not each.strip()]
    if len(blank) > 1:
        raise DataError(f"{name}: columns {', '.join(map(str, blank))} have no name: name or remove all but one of them")
    return Input(source, path, relative, comment, title)


@dataclass(frozen=True)
class Place:
    """A row: file number and position in the file. Scoring begins at one."""

    file: int = 0
    row: int = 0


@dataclass(frozen=True)
class Chunk:
    """Rows of one input: its number, the position of the first row, and the rows as they are, with what stands `beside` them.

    A chunk that was read has `title` and `comment` (null where it is blank) beside its rows, one that was scored the predictions.
    """

    file: int
    row: int
    beside: pa.Table
    rows: pa.Table


Read = Callable[[], Iterator[Chunk]]


def chunk_reads(inputs: Sequence[Input], start: Place) -> list[Read]:
    """A function for each piece of the inputs from `start` on, which reads the piece's chunks: the work of one task."""
    reads: list[Read] = []
    for number, each in enumerate(inputs[start.file :], start.file):
        begin = start.row if number == start.file else 0
        for part, following in zip_longest(each.source.parts, each.source.parts[1:]):
            if following is None or following.first_row > begin:
                reads.append(partial(_chunks, number, each, part, begin))
    return reads


def _chunks(number: int, given: Input, part: Part, begin: int) -> Iterator[Chunk]:
    row = part.first_row
    for rows in _cut(part.blocks(given.columns)):
        if row >= begin:
            texts = _texts(given, rows, first=row == 0)
            yield Chunk(number, row, texts, rows.select([WHOLE]) if given.format == "jsonl" else rows)
        row += rows.num_rows
    if row == 0 and len(given.source.parts) == 1:
        raise DataError(f"{given.source.name}: holds a header but no rows")


def _cut(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all blocks in tables of CHUNK_ROWS, the last one of what is left."""
    held: pa.Table | None = None
    for block in blocks:
        held = block if held is None else pa.concat_tables([held, block])
        while held.num_rows >= CHUNK_ROWS:
            yield held.slice(0, CHUNK_ROWS)
            held = held.slice(CHUNK_ROWS)
    if held is not None and held.num_rows:
        yield held


def _texts(given: Input, rows: pa.Table, *, first: bool) -> pa.Table:
    comment = as_text(rows, given.comment, given.source.name)
    if first:
        refuse_numbers(comment, given.comment, given.source.name, "name the comments' with --comment-column")
    title = pa.array([""] * rows.num_rows, TEXT) if given.title is None else as_text(rows, given.title, given.source.name).fill_null("")
    return pa.table({"title": title, "comment": pc.if_else(pc.match_substring_regex(comment, VISIBLE), comment, pa.scalar(None, TEXT))})
