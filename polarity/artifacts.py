"""Run folders: their names, and writing and reading them on a local disk or on any URI that pyarrow's filesystems take.

Local writes are atomic: a temporary file in the same folder, then a rename. A remote object appears when it is closed.
"""

import errno
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from polarity.errors import RunError, redacted

SCHEMA_VERSION = 1

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.json"
LEDGER = "ledger.json"
AGREEMENT = "agreement.json"
HISTORY = "history.parquet"
PREDICTIONS = "predictions.parquet"
REPORT = "report.html"
MODEL = "model"
CALIBRATION = "model/calibration.json"
ENSEMBLE = "ensemble.json"
SOUP = "soup.json"
STACK = "stack.json"
BEST = "best.json"
STUDENT = "student"
SEEN = "seen.parquet"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
WANDB = "wandb"
TRACKERS = "trackers.json"
STUDY = "study.json"
EFFECTS = "effects.parquet"
TRIALS = "trials"
RUN_FILES = (CONFIG, ENVIRONMENT, METRICS, HISTORY, PREDICTIONS, MODEL, CHECKPOINTS, ENSEMBLE, STACK, BEST)
"""Any of these makes a folder one that already holds a run."""

Fill = Callable[[Path], None]
"""Writes the files of a folder into the empty one that it is given; a refusal of the system is an OSError."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RAYS = "ray."
"""How the names of Ray's Arrow extension types begin."""


def default_run_dir(preset: str, now: datetime | None = None) -> str:
    """`runs/<preset>-<UTC timestamp>`: a new folder for each start."""
    return f"runs/{preset}-{(now or datetime.now(UTC)).astimezone(UTC):%Y%m%dT%H%M%SZ}"


def user_cache_dir() -> Path:
    """The user's cache of this package: $XDG_CACHE_HOME/polarity, or ~/.cache/polarity."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "polarity"


def has_secret(text: str) -> bool:
    """Whether a URI in `text` carries a password or key, which would show in logs, on the dashboard and in the run's own files."""
    return redacted(text) != text


_MAPS: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
"""The Arrow files that are mapped in this process; one leaves with the last table that reads it."""


def mapped_table(path: Path) -> pa.Table:
    """An Arrow file as a table of mapped columns: the system may drop them from memory and read them again.

    Raises OSError, ValueError for an empty file, and Arrow's errors for what is not such a file.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPS.add(mapped)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def release_mapped_pages() -> None:
    """Take what was read of mapped tables out of this process's memory; what is asked for again is mapped again.

    Without it all that was ever looked at counts as this process's memory until the system is short of it: single rows drawn from all
    over a file bring their neighbours with them, and so most of the file.
    """
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for mapped in list(_MAPS):
            mapped.madvise(mmap.MADV_DONTNEED)


def column_of_objects(schema: pa.Schema) -> str | None:
    """The first column of an extension type of Ray's, or None: once Ray Data is imported, values of one such type are unpickled when they
    are read, and a stranger's pickle runs code."""
    return next((field.name for field in schema if _is_of_objects(field)), None)


def _is_of_objects(field: pa.Field) -> bool:
    """By the type where Ray has registered it, else by what Arrow noted beside the storage: it may be registered later."""
    noted = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")
    kind = field.type
    inner = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if noted.startswith(_RAYS) or getattr(kind, "extension_name", "").startswith(_RAYS):
        return True
    return any(_is_of_objects(inner.field(i)) for i in range(inner.num_fields))


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(place: str, instead: str = "choose another --run-dir") -> Iterator[None]:
    """Turns an operating system's refusal to write at `place` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(f"{place}: the disk is full; free some space or {instead}") from error
        raise RunError(f"{place}: cannot write here ({error.strerror or error}); {instead}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """The bytes reach the disk before the name does."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@dataclass(frozen=True)
class RunFolder:
    """One run's folder: `uri` as the user gave it, `root` the path on `filesystem`."""

    uri: str
    filesystem: pafs.FileSystem
    root: str

    @classmethod
    def create(cls, run_dir: str | Path, resume: bool = False) -> "RunFolder":
        """The folder for a new run, or with `resume` for one to go on with.

        Raises RunError: it already holds a run (without resume) or none (with it), it is a file, it cannot be written.
        """
        folder = cls.at(run_dir)
        holds = folder._holds_run()
        if holds and not resume:
            raise RunError(f"{folder.uri}: already holds a run ({holds}); continue it with --resume or choose another --run-dir")
        if resume and not holds:
            raise RunError(
                f"{folder.uri}: holds no run to resume; leave --resume out to start one, or name the run's folder with --run-dir"
            )
        folder.check_writable()
        return folder

    @classmethod
    def open(cls, run_dir: str | Path) -> "RunFolder":
        """The folder of an existing run. Raises RunError where there is none."""
        folder = cls.at(run_dir)
        if not folder._holds_run():
            raise RunError(f"{folder.uri}: no run here (none of {', '.join(RUN_FILES)})")
        return folder

    @classmethod
    def at(cls, place: str | Path) -> "RunFolder":
        """The folder at a place, whatever it holds (a study's, say). Raises RunError: a file, or not reachable."""
        text = str(place)
        if not text.strip():
            raise RunError("--run-dir is empty: give a folder or a URI such as s3://bucket/runs/first")
        if has_secret(text):
            raise RunError(
                f"the {text.partition(':')[0]}:// address of the run folder holds a password or key, which would show in logs: leave it "
                "out, and give credentials by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's own role)"
            )
        uri = text if "://" in text else str(Path(text).expanduser().absolute())
        try:
            filesystem, root = pafs.FileSystem.from_uri(uri)
            kind = filesystem.get_file_info(root).type
        except (pa.ArrowException, ValueError) as error:
            raise RunError(f"{text}: not a folder or URI that pyarrow's filesystems take ({error})") from error
        except OSError as error:
            raise RunError(f"{text}: cannot be reached ({error})") from error
        if kind == pafs.FileType.File:
            raise RunError(f"{text}: is a file, a run needs a folder; choose another --run-dir")
        return cls(text, filesystem, root)

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None where it is remote."""
        return Path(self.root) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        """The path of `name` on `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}"

    def inside(self, name: str) -> str:
        """`name` in this folder as a place of its own, which `open` and `create` take: a path or a URI."""
        return f"{self.uri.rstrip('/')}/{name}" if self.local is None else str(self.local / name)

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def is_file(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type == pafs.FileType.File)

    def _holds_run(self) -> str | None:
        return next((name for name in RUN_FILES if self.exists(name)), None)

    def check_writable(self) -> None:
        """Writes and deletes a small file: better now than after an hour of training."""
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        self.write_bytes(probe, b"polarity")
        with disk_errors(self.uri):
            self.filesystem.delete_file(self.path(probe))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a whole file or nothing. Raises RunError: disk full, not writable."""
        with disk_errors(f"{self.uri}/{name}"):
            if self.local is None:
                with self.filesystem.open_output_stream(self.path(name)) as stream:
                    stream.write(content)
                return
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes JSON with the schema's version in front; numpy numbers are taken, NaN and infinity are not (ValueError)."""
        full = {"schema_version": SCHEMA_VERSION, **content}
        self.write_text(name, json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")

    def write_parquet(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def write_folder(self, name: str, source: Path | Fill) -> None:
        """Writes the folder `name`, replacing what was there: a copy of a local folder, or what `source` fills it with.

        On a local disk it is filled beside its place, and the change is one rename; else in a temporary folder, and then copied.
        """
        with disk_errors(f"{self.uri}/{name}"):
            if self.local is not None:
                _replace_folder(partial(_copy, source) if isinstance(source, Path) else source, self.local / name)
                return
            if isinstance(source, Path):
                self._upload(name, source)
                return
            with tempfile.TemporaryDirectory(prefix="polarity-") as temporary:
                with disk_errors(temporary, "set TMPDIR to a folder with room"):
                    source(Path(temporary))
                self._upload(name, Path(temporary))

    def _upload(self, name: str, source: Path) -> None:
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))
        self.filesystem.create_dir(self.path(name), recursive=True)
        pafs.copy_files(str(source), self.path(name), pafs.LocalFileSystem(), self.filesystem)

    def remove_if_empty(self) -> None:
        """Deletes the run's folder itself where nothing is in it."""
        if self.filesystem.get_file_info(self.root).type == pafs.FileType.Directory and not self.list(""):
            with disk_errors(self.uri):
                self.filesystem.delete_dir(self.root)

    def delete_folder(self, name: str) -> None:
        """Deletes a folder of the run, with what is in it."""
        with disk_errors(f"{self.uri}/{name}"):
            self.filesystem.delete_dir(self.path(name))

    def list(self, name: str) -> list[str]:
        """Names in a folder of the run, sorted; none where it does not exist."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a file. Raises RunError: it is not there or cannot be read."""
        try:
            with self.filesystem.open_input_stream(self.path(name), compression=None) as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            raise RunError(f"{self.uri}: has no {name}; is the run finished?") from error
        except OSError as error:
            raise RunError(f"{self.uri}/{name}: cannot be read ({error})") from error

    def read_text(self, name: str) -> str:
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RunError(f"{self.uri}/{name}: is not UTF-8 text ({error})") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object of a file. Raises RunError: damaged, or written under another schema version."""
        try:
            content = json.loads(self.read_text(name))
        except json.JSONDecodeError as error:
            raise RunError(f"{self.uri}/{name}: damaged JSON, line {error.lineno} ({error.msg})") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{self.uri}/{name}: a run folder of another schema version ({version}; this polarity reads {SCHEMA_VERSION}): "
                "use the version of polarity that wrote it, see environment.json"
            )
        return dict(content)

    def read_parquet(self, name: str) -> pa.Table:
        try:
            table = pq.read_table(pa.BufferReader(self.read_bytes(name)))
        except pa.ArrowException as error:
            raise RunError(f"{self.uri}/{name}: damaged Parquet ({error})") from error
        objects = column_of_objects(table.schema)
        if objects is not None:
            raise RunError(f"{self.uri}/{name}: the column {objects!r} holds Python objects, and no run writes such: not read")
        return table

    def fetch_folder(self, name: str, target: Path) -> Path:
        """A local path of the folder `name`: itself where the run is local, else a copy under `target`."""
        if not self.exists(name):
            raise RunError(f"{self.uri}: has no {name}; is the run finished?")
        if self.local is not None:
            return self.local / name
        with disk_errors(str(target)):
            (target / name).mkdir(parents=True, exist_ok=True)
            pafs.copy_files(self.path(name), str(target / name), self.filesystem, pafs.LocalFileSystem())
        return target / name


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except shutil.Error as error:
        # copytree collects the refusals of single files and loses their numbers.
        full = any("No space left" in str(reason) or "quota" in str(reason) for *_, reason in error.args[0])
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error.args[0][0][-1])) from error


def _replace_folder(fill: Fill, target: Path) -> None:
    """Fills a folder beside the target first, so that the old one stands until the new one is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = staging / "new", staging.with_name(staging.name + ".old")
    try:
        new.mkdir()
        fill(new)
        _sync(new)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            with suppress(FileNotFoundError):
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
