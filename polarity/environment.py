"""What a run ran on: versions, commit, machine, seeds and the hashes of its inputs. No environment variables, no secrets."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NotRequired, Protocol, cast

import pyarrow.fs as pafs
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from polarity.artifacts import ENVIRONMENT, RunFolder, replacing, sha256_file, user_cache_dir

REMEMBERED_BYTES = 32_000_000
PACKAGES = (
    "polarity",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "datasets",
    "pyarrow",
    "numpy",
    "pandas",
    "scikit-learn",
    "pydantic",
)


class GitState(TypedDict):
    """A checkout's commit, and whether tracked files differ from it."""

    commit: str | None
    dirty: bool


class Machine(TypedDict):
    """The machine's system and processors."""

    system: str
    machine: str
    cpus: int | None
    usable_cpus: int | None


class Identified(Protocol):
    """An encoder's files, as `polarity.encoders.EncoderFiles` has them."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def sha256(self) -> str: ...


class EncoderIdentity(TypedDict):
    """An encoder's name, revision and hash of its files."""

    name: str
    revision: str | None
    sha256: str


class DroppedRows(TypedDict):
    """Training rows that stood in a held-out part too, and the first of their ids."""

    rows: int
    row_ids: list[str]


class MadeFrom(TypedDict):
    """A member of an ensemble or a soup."""

    run: str
    seeds: NotRequired[dict[str, int]]


class TokenStatistics(TypedDict):
    """What a run keeps of its training rows' tokens, by `polarity.evaluate.drift.describe_tokens`."""

    rows: int
    tokens: int
    unknown_tokens: int
    median_length: float
    length_edges: list[int]
    length_counts: list[int]


class Environment(TypedDict, total=False):
    """environment.json; an older run lacks what was added since. The last four are a run's own."""

    created: str
    python: str
    packages: dict[str, str]
    git: GitState | None
    platform: Machine
    gpus: list[str]
    seeds: dict[str, int]
    data: dict[str, str | None]
    encoder: EncoderIdentity | None
    rows: dict[str, int]
    dropped_from_train: DroppedRows
    train_tokens: TokenStatistics
    made_from: list[MadeFrom]


def read_environment(folder: RunFolder) -> Environment:
    """environment.json of a folder; empty where there is none."""
    return cast(Environment, folder.read_json(ENVIRONMENT)) if folder.exists(ENVIRONMENT) else {}


def commit_of(environment: Environment) -> str | None:
    """The git commit that ran, where the package was a checkout."""
    git = environment.get("git")
    return None if git is None else git["commit"]


def describe_environment(
    *,
    seeds: Mapping[str, int],
    sources: Iterable[str],
    encoder: Identified | None = None,
    torch: ModuleType | None = None,
) -> Environment:
    """The content of environment.json.

    `seeds` by name (run, split); `sources` as configured, hashed where they are local files; `torch` is passed by callers
    that have it loaded, so that this module costs nothing to import.
    """
    cuda = None if torch is None or not torch.cuda.is_available() else torch.cuda
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": installed_versions(),
        "git": git_state(Path(__file__).parent),
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count(), "usable_cpus": usable},
        "gpus": [] if cuda is None else [str(cuda.get_device_name(index)) for index in range(cuda.device_count())],
        "seeds": dict(seeds),
        "data": source_hashes(sources),
        "encoder": None if encoder is None else {"name": encoder.name, "revision": encoder.revision, "sha256": encoder.sha256},
    }


def source_hashes(sources: Iterable[str]) -> dict[str, str | None]:
    """{source: SHA-256 of the local file, or of a saved folder's files; size and time of a URI's; None for the hub and the sample}."""
    return {source: _source_hash(source) for source in sources}


def git_state(package: Path) -> GitState | None:
    """Commit and whether tracked files differ from it, or None where the package is not a git checkout's own folder."""
    top = _git(package, "rev-parse", "--show-toplevel")
    # A virtual environment inside someone's repository is not a checkout of this package.
    if top is None or Path(top).resolve() != package.resolve().parent or _git(package, "ls-files", "--", "errors.py") != "errors.py":
        return None
    commit = _git(package, "rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed_versions() -> dict[str, str]:
    """The versions of PACKAGES, those that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _file_hash(path: Path) -> str:
    """SHA-256 of a file; that of a large one is remembered in the user's cache for as long as its size and time stay what they are."""
    stat = path.stat()
    if stat.st_size < REMEMBERED_BYTES:
        return sha256_file(path)
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    note = user_cache_dir() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if note.is_file() and re.fullmatch("[0-9a-f]{64}", kept := note.read_text()):
        return kept
    found = sha256_file(path)
    with suppress(OSError):  # a cache
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as temporary:
            temporary.write_text(found)
    return found


def _source_hash(source: str) -> str | None:
    """SHA-256 of a local file, or of a folder's files with their names; size and time of what is at a URI; None for the hub and the
    sample."""
    path = Path(source)
    if "://" in source:
        filesystem, place = pafs.FileSystem.from_uri(source)
        found = [filesystem.get_file_info(place.rstrip("/"))]
        if found[0].type == pafs.FileType.Directory:
            found = [i for i in filesystem.get_file_info(pafs.FileSelector(found[0].path)) if i.type == pafs.FileType.File]
        return f"{sum(i.size for i in found)} bytes of {max(i.mtime for i in found)}"
    if path.is_file():
        return _file_hash(path)
    if path.is_dir():
        listing = "\n".join(f"{p.relative_to(path)} {sha256_file(p)}" for p in sorted(path.rglob("*")) if p.is_file())
        return hashlib.sha256(listing.encode()).hexdigest()
    return None
