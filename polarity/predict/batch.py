"""Scoring of chunks: by actors of Ray Data's `map_batches`, in order, or in this process.

Shapes: N rows, K classes.
"""

import fcntl
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.artifacts import disk_errors, replacing
from polarity.data.source import Part
from polarity.errors import DataError, RunError, Say
from polarity.predict.input import CHUNK, Input, Place

if TYPE_CHECKING:
    from polarity.predict.classifier import Classifier


PART_ROWS = 100_000
PART_SECONDS = 30.0
"""A part is written after so many rows or so long: what a kill may cost."""
SCHEMA_VERSION = 1
MANIFEST, LOCK = "manifest.json", "lock"


@dataclass(frozen=True)
class Predicted:
    """Predictions of a chunk: its place, its rows, and a table with the columns `T` and `T_p` of each task."""

    file: int
    row: int
    table: pa.Table


def part_schema(labels: Mapping[str, Sequence[str]], *, words: bool = False) -> pa.Schema:
    """Schema of a part; `words` adds each task's decisive words `T_words`."""
    fields = [pa.field("file", pa.int32()), pa.field("row", pa.int64())]
    for task, classes in labels.items():
        fields += [pa.field(task, pa.int16()), pa.field(f"{task}_p", pa.list_(pa.float32(), len(classes)))]
        fields += [pa.field(f"{task}_words", pa.large_string())] if words else []
    return pa.schema(fields)


def fingerprint(inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """Name, size and time of change of each input: whether they are still the same files."""
    found: list[dict[str, Any]] = []
    for each in inputs:
        entry: dict[str, Any] = {"name": str(each.path or each.source.name)}
        if each.path is not None and each.path.is_file():
            status = each.path.stat()
            entry |= {"size": status.st_size, "changed_ns": status.st_mtime_ns}
        found.append(entry)
    return found


class Parts:
    """The parts of one prediction, in its hidden folder."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self._held: list[pa.Table] = []
        self._since = time.monotonic()
        self._written = sorted(folder.glob("part-*.parquet"))

    def next_place(self) -> Place:
        """The row after the last one that a part holds. Raises RunError for a part that cannot be read."""
        if not self._written:
            return Place()
        last = self._read(self._written[-1])
        return Place(last["file"][-1].as_py(), last["row"][-1].as_py() + 1)

    def rows(self) -> int:
        """Rows in the written parts."""
        return sum(pq.ParquetFile(path).metadata.num_rows for path in self._written)

    def add(self, predicted: Predicted) -> None:
        """Take a chunk, which must follow the one before; write a part where enough has come together."""
        rows = predicted.table.num_rows
        place = [pa.array([predicted.file] * rows, pa.int32()), pa.array(range(predicted.row, predicted.row + rows), pa.int64())]
        self._held.append(pa.Table.from_arrays([*place, *predicted.table.columns], schema=self.schema))
        if sum(table.num_rows for table in self._held) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a part, whole or not at all."""
        if self._held:
            path = self.folder / f"part-{len(self._written):08d}.parquet"
            with disk_errors(str(path)), replacing(path) as temporary:
                pq.write_table(pa.concat_tables(self._held), temporary, compression="zstd")
            self._written.append(path)
            self._held = []
        self._since = time.monotonic()

    def tables(self) -> Iterator[pa.Table]:
        """All parts, in order."""
        for path in self._written:
            yield self._read(path)

    def _read(self, path: Path) -> pa.Table:
        try:
            return pq.read_table(path, schema=self.schema)
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{path}: damaged ({error}): delete the folder {path.parent} and begin again") from error


@contextmanager
def working_folder(out: Path, identity: dict[str, Any], *, overwrite: bool) -> Iterator[tuple[Path, bool]]:
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


def _manifest(folder: Path) -> dict[str, Any] | None:
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
    """Turns chunks into predictions, each one row: the class Ray Data makes an actor of, or an object of this process."""

    def __init__(self, options: ScoreOptions, threads: int = 0) -> None:
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.classifier, self.explain = options.load(), options.explain

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """One row a chunk: file, row, fault, and per task the lists `T` of class indices and `T_p` of probabilities."""
        return pa.concat_tables([self._one(chunks.slice(index, 1)) for index in range(chunks.num_rows)])

    def _one(self, chunk: pa.Table) -> pa.Table:
        if chunk["fault"][0].is_valid:
            predicted = _unscored(0, self.classifier.labels, self.explain)
        else:
            title, comment = (chunk[name][0].values for name in ("title", "comment"))
            predicted = score_rows(self.classifier, title, comment, self.explain)
        cells = {name: chunk[name] for name in ("file", "row", "fault")}
        return pa.table(cells | {name: _one_list(column.combine_chunks()) for name, column in zip(*_named(predicted), strict=True)})


def _named(table: pa.Table) -> tuple[list[str], list[pa.ChunkedArray]]:
    return table.column_names, table.columns


def _one_list(values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def score_rows(classifier: "Classifier", title: pa.Array, comment: pa.Array, explain: bool = False) -> pa.Table:
    """Columns `T` (int16), `T_p` (lists of K float32) and, with `explain`, `T_words` of N rows; null where the comment is null."""
    known = np.flatnonzero(pc.is_valid(comment).to_numpy(zero_copy_only=False))
    if not len(known):
        return _unscored(len(comment), classifier.labels, explain)
    rows = pa.array(known)
    scores = classifier.score(pa.table({"title": title.take(rows), "comment": comment.take(rows)}))
    places = np.full(len(comment), -1)
    places[known] = np.arange(len(known))
    back = pa.array(places, mask=places < 0)
    columns: dict[str, pa.Array] = {}
    words = _words(classifier, comment.take(rows).to_pylist(), title.take(rows).to_pylist()) if explain else {}
    for task, classes in classifier.labels.items():
        flat = pa.array(scores[task].probabilities.astype(np.float32).reshape(-1))
        columns[task] = pa.array(scores[task].predicted.astype(np.int16)).take(back)
        columns[f"{task}_p"] = pa.FixedSizeListArray.from_arrays(flat, len(classes)).take(back)
        if explain:
            columns[f"{task}_words"] = pa.array(words[task], pa.large_string()).take(back)
    return pa.table(columns)


def _words(classifier: "Classifier", comments: list[str], titles: list[str]) -> dict[str, list[str]]:
    """For each task each comment's decisive words with their parts, as one text."""
    from polarity.predict.explain import explain, top_words

    found = explain(classifier, comments, titles)
    return {task: [top_words(row[task]) for row in found] for task in classifier.labels}


def _unscored(rows: int, labels: Mapping[str, Sequence[str]], explain: bool = False) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for task, classes in labels.items():
        columns[task], columns[f"{task}_p"] = pa.nulls(rows, pa.int16()), pa.nulls(rows, pa.list_(pa.float32(), len(classes)))
        if explain:
            columns[f"{task}_words"] = pa.nulls(rows, pa.large_string())
    return pa.table(columns)


def in_process(parts: Sequence[Part], scorer: ChunkScorer) -> Iterator[Predicted]:
    """The predictions of all parts' chunks, scored here."""
    for part in parts:
        for chunk in part.blocks(()):
            yield from unpacked(scorer(chunk))


def through_ray(parts: Sequence[Part], options: ScoreOptions, name: str, workers: int | None, say: Say) -> Iterator[Predicted]:
    """The same, scored by actors on the cluster that runs, streamed in order."""
    import ray
    from ray.data import ActorPoolStrategy

    from polarity.data.datasource import Pieces, quiet_console
    from polarity.data.read import original_error

    actors = actor_resources(ray.cluster_resources(), workers, options.device)
    say(f"scoring with {actors.describe()}")
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    quiet_console()
    warnings.filterwarnings("ignore", message="The (minimum|maximum) number of concurrent", category=UserWarning)  # few chunks, many actors
    block_size, context.target_max_block_size = context.target_max_block_size, 1  # bytes: a chunk a block, so that all actors get some
    chunks = ray.data.read_datasource(
        Pieces(name, [partial(_chunks_of, part) for part in parts], CHUNK),
        override_num_blocks=len(parts),
        # Reading needs little, and where the actors hold every CPU it would wait for one for ever.
        num_cpus=0,
        concurrency=min(2, len(parts)),
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
            yield from unpacked(block)


def _chunks_of(part: Part) -> Iterator[pa.Table]:
    return part.blocks(())


def unpacked(table: Any) -> Iterator[Predicted]:
    """The chunks of a scorer's table. Raises DataError for what could not be read."""
    for row in range(table.num_rows):
        if table["fault"][row].is_valid:
            raise DataError(table["fault"][row].as_py())
        names = [name for name in table.column_names if name not in ("file", "row", "fault")]
        predictions = pa.table({name: table[name][row].values for name in names})
        yield Predicted(table["file"][row].as_py(), table["row"][row].as_py(), predictions)


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
