"""A batch prediction under way: its parts on the disk, and scoring by actors of Ray Data's `map_batches` or in this process.

Shapes: N rows, K classes.
"""

import fcntl
import json
import shutil
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from polarity.artifacts import column_of_objects, disk_errors, replacing
from polarity.data.source import ROWS_PER_BLOCK
from polarity.errors import DataError, RunError, Say
from polarity.predict.input import Chunk, Input, Place, Read

if TYPE_CHECKING:
    from polarity.predict.classifier import Classifier


PART_ROWS = 100_000
PART_SECONDS = 30.0
"""A part is written after so many rows or so long: what a kill may cost."""
SCHEMA_VERSION = 2
MANIFEST, LOCK = "manifest.json", "lock"


class Identity(TypedDict):
    """What a prediction must have in common with the one that it goes on with: the files, the run's hash, and the settings."""

    input: list[dict[str, str | int]]
    run: str
    settings: dict[str, bool | int | str | None]


def fingerprint(inputs: Sequence[Input]) -> list[dict[str, str | int]]:
    """By which an input is known as the same file again: its name, and of a local one also size and time of change."""
    found: list[dict[str, str | int]] = []
    for each in inputs:
        found.append({"name": str(each.path or each.source.name)})
        if each.path is not None and each.path.is_file():
            status = each.path.stat()
            found[-1]["size"], found[-1]["changed_ns"] = status.st_size, status.st_mtime_ns
    return found


BESIDE = b"polarity:beside"
"""In a schema's metadata: how many of the first columns stand beside the rows. Names may be the same on both sides."""


def joined(chunk: Chunk) -> pa.Table:
    """A chunk as one table: what is beside its rows first. `parted` takes it apart."""
    beside, rows = chunk.beside, chunk.rows
    metadata = {**(rows.schema.metadata or {}), BESIDE: str(beside.num_columns)}
    return pa.Table.from_arrays([*beside.columns, *rows.columns], schema=pa.schema([*beside.schema, *rows.schema], metadata))


def parted(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """What is beside the rows, and the rows."""
    metadata = dict(table.schema.metadata)
    count = int(metadata.pop(BESIDE))
    fields = list(table.schema)
    return (
        pa.Table.from_arrays(table.columns[:count], schema=pa.schema(fields[:count])),
        pa.Table.from_arrays(table.columns[count:], schema=pa.schema(fields[count:], metadata)),
    )


def _write_stream(table: pa.Table, sink: Path | pa.BufferOutputStream, compression: str | None = None) -> None:
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(table)


class PartFiles:
    """The parts of one prediction, in its hidden folder: rows with their predictions, so that the input is read no second time.

    `part-FILE-ROW-ROWS.arrow` holds so many rows of one input from a row on, as an Arrow stream.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: list[pa.Table] = []
        self._place = Place()
        self._since = time.monotonic()
        self._written = sorted(folder.glob("part-*.arrow"))

    def next_place(self) -> Place:
        """The row after the last one that a part holds. Raises RunError for a part that cannot be read."""
        if not self._written:
            return Place()
        file, row, rows = _numbers(self._written[-1])
        _ = self._read(self._written[-1])
        return Place(file, row + rows)

    def rows(self) -> int:
        """Rows in the written parts."""
        return sum(_numbers(path)[2] for path in self._written)

    def add(self, chunk: Chunk) -> None:
        """Take a scored chunk, which must follow the one before; write a part where enough has come together."""
        table = joined(chunk)
        if self._held and (chunk.file != self._place.file or table.schema != self._held[0].schema):
            self.flush()
        if not self._held:
            self._place = Place(chunk.file, chunk.row)
        self._held.append(table)
        if sum(table.num_rows for table in self._held) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a part, whole or not at all."""
        if self._held:
            whole = pa.concat_tables(self._held)
            path = self.folder / f"part-{self._place.file:08d}-{self._place.row:012d}-{whole.num_rows}.arrow"
            with disk_errors(str(path)), replacing(path) as temporary:
                _write_stream(whole, temporary, "zstd")
            self._written.append(path)
            self._held = []
        self._since = time.monotonic()

    def tables(self, files: Collection[int]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """(predictions, rows) of these inputs, in order and in blocks."""
        for path in self._written:
            if _numbers(path)[0] in files:
                predictions, rows = parted(self._read(path))
                for start in range(0, rows.num_rows, ROWS_PER_BLOCK):
                    yield predictions.slice(start, ROWS_PER_BLOCK), rows.slice(start, ROWS_PER_BLOCK)

    def _read(self, path: Path) -> pa.Table:
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                if column_of_objects(stream.schema) is not None:
                    raise RunError(f"{path}: holds Python objects, which no part does: delete the folder {path.parent} and begin again")
                table = stream.read_all()
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{path}: damaged ({error}): delete the folder {path.parent} and begin again") from error
        if table.num_rows != _numbers(path)[2]:
            raise RunError(f"{path}: damaged ({table.num_rows} rows): delete the folder {path.parent} and begin again")
        return table


def _numbers(path: Path) -> tuple[int, int, int]:
    """File, first row and number of rows of a part."""
    file, row, rows = path.stem.split("-")[1:]
    return int(file), int(row), int(rows)


@contextmanager
def working_folder(out: Path, identity: Identity, *, overwrite: bool) -> Iterator[tuple[Path, bool]]:
    """The hidden folder of `out`, locked, and whether it holds a prediction to go on with; deleted when the block ends well.

    Raises DataError where another process works there, or where an unfinished prediction of other rows, another run or other settings is
    there (with `overwrite` it is begun anew).
    """
    folder = out.with_name(f".{out.name}.predict")
    with disk_errors(str(out)):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{out}: another process is predicting into it; wait for it, or choose another --out") from error
        found = _manifest(folder)
        content = {"schema_version": SCHEMA_VERSION, **identity}
        if found is not None and found != content:
            differs = ", ".join(key for key in content if found.get(key) != content[key]) or "schema_version"
            if not overwrite:
                raise DataError(
                    f"{out}: an unfinished prediction is in {folder}, but not this one: {differs} differ(s). Repeat the command that began "
                    "it, or begin anew with --overwrite"
                )
            found = None
        if found is None:
            _empty(folder)
            with replacing(folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
        yield folder, found is not None
        shutil.rmtree(folder)


def _manifest(folder: Path) -> dict[str, JsonValue] | None:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


MOST_THREADS = 4
"""CPUs of an actor on a large machine: a few fast actors need less memory than many slow ones."""


@dataclass(frozen=True)
class ScoreOptions:
    """How a run is loaded to score; see `load_classifier`."""

    run: str
    raw: bool = False
    votes: str | None = None
    device: str = "auto"
    batch_size: int = 64
    explain: bool = False
    """Whether each row also gets the words that spoke most for its classes: one more prediction a word."""

    def load(self) -> "Classifier":
        """The classifier."""
        from polarity.predict.classifier import load_classifier

        return load_classifier(self.run, raw=self.raw, votes=self.votes, device=self.device, batch_size=self.batch_size)


class ChunkScorer:
    """Scores chunks: an object of this process, or the class that Ray Data makes an actor of."""

    def __init__(self, options: ScoreOptions, threads: int = 0) -> None:
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.classifier, self.explain = options.load(), options.explain

    def score(self, chunk: Chunk) -> Chunk:
        """The chunk with its predictions beside the rows, in place of the texts."""
        return replace(chunk, beside=score_rows(self.classifier, chunk.beside, self.explain))

    def __call__(self, block: pa.Table) -> pa.Table:
        """The same for an actor; what could not be read is passed on."""
        cells = block.to_pylist()
        return pa.concat_tables([_packed(self.score(_chunk(cell))) if cell["fault"] is None else _fault(cell["fault"]) for cell in cells])


def score_rows(classifier: "Classifier", texts: pa.Table, explain: bool = False) -> pa.Table:
    """The predictions' columns (see `prediction_columns`) of N rows of `title` and `comment`; null where the comment is null."""
    from polarity.predict.classifier import prediction_columns

    known = np.flatnonzero(pc.is_valid(texts["comment"]).to_numpy(zero_copy_only=False))
    whole = texts.take(pa.array(known))
    words = _words(classifier, whole) if explain else None
    places = np.full(texts.num_rows, -1)
    places[known] = np.arange(len(known))
    return pa.table(prediction_columns(classifier.score(whole), classifier.labels, words)).take(pa.array(places, mask=places < 0))


def _words(classifier: "Classifier", texts: pa.Table) -> dict[str, list[str]]:
    """For each task each comment's decisive words with their parts, as one text."""
    from polarity.predict.classifier import explain, top_words

    found = explain(classifier, texts["comment"].to_pylist(), texts["title"].to_pylist())
    return {task: [top_words(row[task]) for row in found] for task in classifier.labels}


PACKED = pa.schema([("file", pa.int32()), ("row", pa.int64()), ("table", pa.large_binary()), ("fault", pa.string())])
"""A chunk as Ray Data carries it, one row whose cell holds its columns as an Arrow stream; or what could not be read, in words, for an
error that is raised in a task of Ray's costs pages."""


def _packed(chunk: Chunk) -> pa.Table:
    sink = pa.BufferOutputStream()
    _write_stream(joined(chunk), sink)
    return pa.table({"file": [chunk.file], "row": [chunk.row], "table": [sink.getvalue().to_pybytes()], "fault": [None]}, schema=PACKED)


def _fault(words: str) -> pa.Table:
    return pa.table({"file": [None], "row": [None], "table": [None], "fault": [words]}, schema=PACKED)


def _chunk(cell: Mapping[str, Any]) -> Chunk:
    return Chunk(cell["file"], cell["row"], *parted(pa.ipc.open_stream(cell["table"]).read_all()))


def _read_packed(read: Read) -> Iterator[pa.Table]:
    try:
        yield from map(_packed, read())
    except DataError as error:
        yield _fault(str(error))


def through_ray(reads: Sequence[Read], options: ScoreOptions, name: str, workers: int | None, say: Say) -> Iterator[Chunk]:
    """All chunks, scored by actors on the cluster that runs, streamed in order. Raises DataError for what could not be read."""
    import ray
    from ray.data import ActorPoolStrategy

    from polarity.data.datasource import Pieces, ordered_context
    from polarity.data.read import original_error

    actors = actor_resources(ray.cluster_resources(), workers, options.device)
    say(f"scoring with {actors.describe()}")
    context = ordered_context()
    warnings.filterwarnings("ignore", message="The (minimum|maximum) number of concurrent", category=UserWarning)  # few chunks, many actors
    block_size, context.target_max_block_size = context.target_max_block_size, 1  # bytes: a chunk a block, so that all actors get some
    chunks = ray.data.read_datasource(
        Pieces(name, [partial(_read_packed, read) for read in reads], PACKED),
        override_num_blocks=len(reads),
        # Reading needs little, and where the actors hold every CPU it would wait for one for ever.
        num_cpus=0,
        concurrency=min(2, len(reads)),
    )
    scored = chunks.map_batches(
        ChunkScorer,
        fn_constructor_args=(options, actors.threads),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors.count),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus or None,
    )
    context.target_max_block_size = block_size  # a dataset has a copy of its own
    with original_error():
        for block in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            for cell in block.to_pylist():
                if cell["fault"] is not None:
                    raise DataError(cell["fault"])
                yield _chunk(cell)


@dataclass(frozen=True)
class Actors:
    """How many actors score, and what each takes."""

    count: int
    cpus: float
    gpus: float
    threads: int

    def describe(self) -> str:
        """In words."""
        gpu = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.count} actor{'s' if self.count > 1 else ''}, {self.cpus:g} CPU{'s' if self.cpus > 1 else ''}{gpu} each"


def actor_resources(have: Mapping[str, float], workers: int | None, device: str) -> Actors:
    """Actors for a cluster's resources: one a GPU where there are any, else as many as its CPUs keep busy.

    Raises RunError where `workers` are more than its CPUs, for they would wait for ever.
    """
    cpus, gpus = int(have.get("CPU", 0)), 0 if device == "cpu" else int(have.get("GPU", 0))
    if workers is not None and workers > max(cpus, 1):
        raise RunError(f"--workers {workers}: the cluster has {cpus} CPUs; lower it, or leave it out")
    if gpus:
        count = workers or gpus
        each = cpus / count
        return Actors(count, 1.0 if each >= 1 else each, 1.0 if gpus >= count else gpus / count, max(1, min(MOST_THREADS, int(each))))
    count = workers or max(1, min(cpus, max(2, cpus // MOST_THREADS)))
    threads = max(1, min(MOST_THREADS, cpus // count))
    return Actors(count, float(threads) if cpus else 0.0, 0.0, threads)
