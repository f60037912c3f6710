"""What a tracker is told of a run: its name, its settings, and its curves."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from pydantic import BaseModel

from polarity.artifacts import ENVIRONMENT, TRACKERS, RunFolder
from polarity.config import Config
from polarity.train.progress import Record

Say = Callable[[str], None]

_SPEED = ("rows_per_s", "tokens_per_s", "padded_tokens_per_s", "padded_share")
_NO_CURVE = ("kind", "epoch", "step", "epochs_left")


def scalars(record: Record) -> dict[str, float]:
    """{curve: value} of a row of the history: train/..., speed/..., epoch/..., validation/macro_f1_TASK and validation/f1/TASK/CLASS."""
    of_step = record["kind"] == "step"
    return {
        _curve(name, of_step): float(value)
        for name, value in record.items()
        if value is not None and not isinstance(value, str) and name not in _NO_CURVE
    }


def _curve(name: str, of_step: bool) -> str:
    if of_step:
        return f"{'speed' if name in _SPEED else 'train'}/{name}"
    if name.startswith("f1/"):  # a class may have any name, a curve of MLflow may not
        _, task, label = name.split("/", 2)
        plain = re.sub(r"[^ \w-]", "_", label)
        return f"validation/f1/{task}/{plain}"
    if name.startswith("validation_") and name != "validation_seconds":
        return f"validation/macro_f1_{name.removeprefix('validation_')}"
    return f"epoch/{name}"


def flattened(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of a configuration; a mapping or a list is one value, as JSON."""
    found: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, BaseModel):
            found |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, dict | list):
            found[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False, default=lambda inner: inner.model_dump())
        else:
            found[f"{prefix}{name}"] = value
    return found


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker tells of a run, and its run's id in the run folder, by which a resumed run goes on with the same curves."""

    config: Config
    folder: RunFolder
    environment: Mapping[str, Any]

    @classmethod
    def of(cls, config: Config, folder: RunFolder) -> "TrackedRun":
        return cls(config, folder, folder.read_json(ENVIRONMENT) if folder.exists(ENVIRONMENT) else {})

    @property
    def name(self) -> str:
        """The run folder's name."""
        return PurePosixPath(self.folder.root.rstrip("/\\").replace("\\", "/")).name or self.folder.uri

    @property
    def commit(self) -> str | None:
        """The git commit that trains, where this package is a checkout."""
        return (self.environment.get("git") or {}).get("commit")

    @property
    def settings(self) -> dict[str, Any]:
        """The flat configuration, less what says nothing of the run."""
        return {name: value for name, value in flattened(self.config).items() if not name.startswith("tracking.")}

    def known_id(self, tracker: str) -> str | None:
        """The id that was remembered."""
        return self._ids().get(tracker)

    def remember(self, tracker: str, run_id: str) -> None:
        """Keep the run's id in the run folder."""
        self.folder.write_json(TRACKERS, {**self._ids(), tracker: run_id})

    def _ids(self) -> dict[str, str]:
        content = self.folder.read_json(TRACKERS) if self.folder.exists(TRACKERS) else {}
        return {name: str(run_id) for name, run_id in content.items() if name != "schema_version"}


class Tracker(Protocol):
    """Its constructor starts it. `errors` are what it may fail with, its library's own among them."""

    def __init__(self, run: TrackedRun, say: Say) -> None: ...

    @staticmethod
    def errors() -> tuple[type[Exception], ...]: ...

    def log(self, record: Record) -> None: ...

    def close(self, finished: bool) -> None: ...
