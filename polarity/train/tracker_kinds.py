"""TensorBoard, MLflow and Weights & Biases, each of which starts when it is made. Their libraries are imported then."""

import os
import tempfile
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polarity.artifacts import TENSORBOARD, WANDB, disk_errors
from polarity.errors import RunError
from polarity.train.progress import Record
from polarity.train.tracked_run import Say, TrackedRun, scalars

FLUSH_S = 5.0
"""Seconds in which rows for MLflow are gathered into one request."""
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Where the user has not set them: half a minute for a server that refuses, two for one that is silent; MLflow's own are 4 and 15."""
WAIT_S = 120.0
"""How long the end of a run waits for W&B to have its last rows."""


class TensorBoard:
    """Event files in RUN/tensorboard, a new one for each start; for a remote run written here and copied after each epoch.

    What an interrupted start had written of the steps that are taken again is marked void. Events are written at once, not by
    tensorboardX's thread, whose queue would block training for ever once the disk is full.
    """

    def __init__(self, run: TrackedRun, say: Say) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self._folder, local = run.folder, run.folder.local
        self._room = None if local is not None else tempfile.TemporaryDirectory(prefix="polarity-tensorboard-")
        self._place = Path(self._room.name if self._room else run.folder.path(TENSORBOARD))
        self._place.mkdir(exist_ok=True)
        # The library's names hold the second and the host: the number tells starts within a second apart, and keeps their order.
        self._events = EventsWriter(str(self._place / "events"), f".{len(run.folder.list(TENSORBOARD)):04d}")
        self._begun = False

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return (OSError, RunError)

    def log(self, record: Record) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        at: dict[str, Any] = {"step": int(record["step"] or 0), "wall_time": time.time()}
        if not self._begun:
            self._events.write_event(Event(**at, session_log=SessionLog(status=SessionLog.START)))
            self._begun = True
        for name, value in scalars(record).items():
            self._events.write_event(Event(**at, summary=scalar(name, value)))
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

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException

        found: tuple[type[Exception], ...] = (MlflowException, OSError, RunError, ImportError)  # a database's driver may be missing
        if find_spec("sqlalchemy") is not None:
            from sqlalchemy.exc import SQLAlchemyError

            found += (SQLAlchemyError,)
        return found

    def log(self, record: Record) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(record["step"] or 0)
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

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        import wandb

        return (wandb.Error, OSError, RunError)

    def log(self, record: Record) -> None:
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
