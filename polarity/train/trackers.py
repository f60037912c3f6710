"""Trackers: a run's curves in TensorBoard's event files, in MLflow, in Weights & Biases and among Ray's metrics, as one list.

They change no number of a run, and none of them ends or delays it: each has a thread of its own, and one that fails is given up with a
word. A tracker is a class with a constructor that starts it, `log` and `close`; a new one goes into `trackers_of`. Libraries are imported
when a tracker starts.
"""

import json
import os
import queue
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pydantic import BaseModel

from polarity.artifacts import TENSORBOARD, TRACKERS, WANDB, RunFolder, disk_errors
from polarity.config import Config, TrackingConfig
from polarity.environment import Environment, commit_of, read_environment
from polarity.errors import ConfigError, Say, first_line
from polarity.train.control import HistoryRow

FLUSH_S = 5.0
"""Seconds in which rows for MLflow are gathered into one request."""
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Where the user has not set them: half a minute for a server that refuses, two for one that is silent; MLflow's own are 4 and 15."""
WAIT_S = 120.0
"""How long the end of a run waits for a tracker to have its last rows."""

_SPEED = ("rows_per_s", "tokens_per_s", "padded_tokens_per_s", "padded_share", "mfu")
_REMEMBERING = threading.Lock()
_NO_CURVE = ("kind", "epoch", "step", "epochs_left")


class Tracker(Protocol):
    """One that has started."""

    def log(self, record: HistoryRow, at: float) -> None:
        """Take a row of the history, told at this time (seconds since 1970)."""

    def close(self, finished: bool) -> None:
        """The run has ended, well or not."""


@dataclass(frozen=True)
class Named:
    """A tracker that is wanted: its name for people, and how it starts."""

    name: str
    start: Callable[[], Tracker]


def check_trackers(tracking: TrackingConfig) -> None:
    """Raise ConfigError where a tracker is asked for whose extra is not installed."""
    for name in ("mlflow", "wandb"):
        if getattr(tracking, name) is not None and not _installed(name):
            raise ConfigError(
                f'tracking.{name}: {name} is not installed: pip install "polarity[{name}]", or switch it off with tracking.{name}=null'
            )


def _installed(name: str) -> bool:
    found = find_spec(name)
    return found is not None and found.origin is not None  # a folder ./wandb, which W&B makes, is a package of a kind too


def trackers_of(config: Config, folder: RunFolder, say: Say) -> list[Named]:
    """The trackers that `config.tracking` names for the run in `folder`. Raises ConfigError where an extra is missing."""
    tracking, run = config.tracking, TrackedRun.of(config, folder)
    check_trackers(tracking)
    found = [Named("TensorBoard", lambda: TensorBoard(run))] if tracking.tensorboard else []
    if tracking.mlflow is not None:
        found.append(Named("MLflow", lambda: Mlflow(run, say)))
    if tracking.wandb is not None:
        found.append(Named("Weights & Biases", lambda: Wandb(run, say)))
    return found


@contextmanager
def running(trackers: Sequence[Named], *, say: Say) -> Iterator[Callable[[HistoryRow], None]]:
    """Start the trackers, and end them with the block; yields what takes a row for all of them. Nothing of theirs is raised."""
    started = [_Observer(tracker, say) for tracker in trackers]

    def log(record: HistoryRow) -> None:
        for observer in started:
            observer.log(record)

    finished = False
    try:
        yield log
        finished = True
    finally:
        for observer in started:
            observer.close(finished)
        for observer in started:
            observer.wait()


class _Observer:
    """A tracker in a thread of its own, where it may be as slow as its server; at its first failure it is given up, with a word."""

    def __init__(self, tracker: Named, say: Say) -> None:
        self._name, self._start, self._say = tracker.name, tracker.start, say
        self._rows: queue.SimpleQueue[tuple[HistoryRow, float] | bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"polarity-{tracker.name}", daemon=True)
        self._thread.start()

    def log(self, record: HistoryRow) -> None:
        """Hand a row over; returns at once."""
        self._rows.put((record, time.time()))

    def close(self, finished: bool) -> None:
        """Hand over that the run has ended."""
        self._rows.put(finished)

    def wait(self) -> None:
        """Until the tracker has its last rows, `WAIT_S` seconds at most."""
        self._thread.join(WAIT_S)
        if self._thread.is_alive():
            self._say(f"{self._name} does not answer; what it has not taken by now, {WAIT_S:.0f} seconds after the end, is lost to it")

    def _run(self) -> None:
        try:
            tracker = self._start()
            while not isinstance(row := self._rows.get(), bool):
                tracker.log(*row)
            tracker.close(row)
        except Exception as error:  # whatever it is: a run is worth more than its curves
            self._say(f"{self._name} failed and is given up for the rest of this run, which goes on: {first_line(error)}")


def scalars(record: HistoryRow) -> dict[str, float]:
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


FlatSettings = dict[str, str | int | float | bool | None]
"""{dotted key: value} of a configuration; a mapping or a list is one value, as JSON."""


def flattened(section: BaseModel, prefix: str = "") -> FlatSettings:
    """The settings of a section."""
    found: FlatSettings = {}
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
    environment: Environment

    @classmethod
    def of(cls, config: Config, folder: RunFolder) -> "TrackedRun":
        return cls(config, folder, read_environment(folder))

    @property
    def name(self) -> str:
        """The run folder's name."""
        return PurePosixPath(self.folder.root.rstrip("/\\").replace("\\", "/")).name or self.folder.uri

    @property
    def commit(self) -> str | None:
        """The git commit that trains, where this package is a checkout."""
        return commit_of(self.environment)

    @property
    def settings(self) -> FlatSettings:
        """The flat configuration, less what says nothing of the run."""
        return {name: value for name, value in flattened(self.config).items() if not name.startswith("tracking.")}

    def known_id(self, tracker: str) -> str | None:
        """The id that was remembered."""
        return self._ids().get(tracker)

    def remember(self, tracker: str, run_id: str) -> None:
        """Keep the run's id in the run folder."""
        with _REMEMBERING:
            self.folder.write_json(TRACKERS, {**self._ids(), tracker: run_id})

    def _ids(self) -> dict[str, str]:
        content = self.folder.read_json(TRACKERS) if self.folder.exists(TRACKERS) else {}
        return {name: str(run_id) for name, run_id in content.items() if name != "schema_version"}


class TensorBoard:
    """Event files in RUN/tensorboard, a new one for each start; for a remote run written here and copied after each epoch.

    What an interrupted start had written of the steps that are taken again is marked void. Events are written at once, not by
    tensorboardX's thread, whose queue would block training for ever once the disk is full.
    """

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._folder, local = run.folder, run.folder.local
        self._room = None if local is not None else tempfile.TemporaryDirectory(prefix="polarity-tensorboard-")
        self._place = Path(self._room.name if self._room else run.folder.path(TENSORBOARD))
        self._place.mkdir(exist_ok=True)
        # The library's names hold the second and the host: the number tells starts within a second apart, and keeps their order.
        self._events = EventsWriter(str(self._place / "events"), f".{len(run.folder.list(TENSORBOARD)):04d}")
        self._begun = False

    def log(self, record: HistoryRow, at: float) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        event = partial(Event, step=int(record["step"] or 0), wall_time=at)
        if not self._begun:
            self._events.write_event(event(session_log=SessionLog(status=SessionLog.START)))
            self._begun = True
        for name, value in scalars(record).items():
            self._events.write_event(event(summary=scalar(name, value)))
        self._events.flush()
        if record["kind"] == "epoch":
            self._publish()

    def close(self, finished: bool) -> None:
        self._events.close()
        self._publish()
        if self._room is not None:
            self._room.cleanup()

    def _publish(self) -> None:
        if self._room is None:
            return
        with disk_errors(f"{self._folder.uri}/{TENSORBOARD}"):
            self._folder.filesystem.create_dir(self._folder.path(TENSORBOARD), recursive=True)
        for file in self._place.iterdir():
            self._folder.write_bytes(f"{TENSORBOARD}/{file.name}", file.read_bytes())


class Mlflow:
    """A run of MLflow: the configuration as parameters, commit and encoder as tags, and the curves."""

    def __init__(self, run: TrackedRun, say: Say) -> None:
        for name, value in _MLFLOW_PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        tracking = run.config.tracking
        self._client = MlflowClient(tracking_uri=tracking.mlflow)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        known = run.known_id("mlflow")
        if known is not None:
            self._id = known
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {"encoder": run.config.model.encoder, **({"mlflow.source.git.commit": run.commit} if run.commit else {})}
            experiment = self._experiment(tracking.mlflow_experiment)
            self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            run.remember("mlflow", self._id)
            params = [Param(name, str(value)) for name, value in run.settings.items()]
            for start in range(0, len(params), 100):  # the most that a request may have
                self._client.log_batch(self._id, params=params[start : start + 100])
        say(f"MLflow: run {run.name} ({self._id}) in the experiment {tracking.mlflow_experiment} at {tracking.mlflow}")

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run may have made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, record: HistoryRow, at: float) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * at), int(record["step"] or 0)
        self._waiting += [Metric(name, value, now, step) for name, value in scalars(record).items()]
        if record["kind"] == "epoch" or time.monotonic() - self._sent >= FLUSH_S:
            self._flush()

    def close(self, finished: bool) -> None:
        self._flush()
        self._client.set_terminated(self._id, status="FINISHED" if finished else "FAILED")

    def _flush(self) -> None:
        waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for start in range(0, len(waiting), 1000):  # the most that a request may have
            self._client.log_batch(self._id, metrics=waiting[start : start + 1000])


class Wandb:
    """A run of Weights & Biases: the configuration with the commit, the encoder as a tag, and the curves.

    W&B keeps its own files in RUN/wandb; for a remote run in a temporary folder, of which an offline run is copied at the end.
    """

    def __init__(self, run: TrackedRun, say: Say) -> None:
        import wandb

        self._folder, local = run.folder, run.folder.local
        self._room = None if local is not None else tempfile.TemporaryDirectory(prefix="polarity-wandb-")
        run_id = run.known_id("wandb") or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=run.config.tracking.wandb,
            id=run_id,
            name=run.name,
            resume="allow",
            reinit="create_new",
            dir=str(local) if self._room is None else self._room.name,
            config={**run.settings, "git_commit": run.commit},
            allow_val_change=True,
            tags=[run.config.model.encoder[-64:]],  # the most that a tag may have
            settings=wandb.Settings(silent=True, console="off", finish_timeout=WAIT_S, finish_timeout_raises=True),
        )
        run.remember("wandb", run_id)
        where = f"offline: wandb sync {self._run.sync_dir} uploads it" if self._run.offline else self._run.url
        say(f"Weights & Biases: run {run.name} ({run_id}), {where}")

    def log(self, record: HistoryRow, at: float) -> None:
        step = int(record["step"] or 0)
        if step >= self._run.starting_step:  # a resumed run repeats steps, with the same numbers, that W&B may have
            self._run.log(scalars(record), step=step)

    def close(self, finished: bool) -> None:
        own = Path(self._run.sync_dir)
        self._run.finish(exit_code=0 if finished else 1)
        if self._room is not None:
            if self._run.offline:
                self._folder.write_folder(f"{WANDB}/{own.name}", own)
            self._room.cleanup()
