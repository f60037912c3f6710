"""The hidden folder in which a prediction grows: numbered parts and a manifest, so that a killed one goes on where it stopped.

`.OUT.predict/` lies beside OUT and is deleted when OUT is there. A part holds the predictions of consecutive rows (file, row, per task
T the class index `T`, null for an empty comment, and K probabilities `T_p`), not the rows themselves.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polarity.artifacts import disk_errors, replacing
from polarity.errors import DataError, RunError
from polarity.predict.input import Input, Place

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
