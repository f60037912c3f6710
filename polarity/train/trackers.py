"""Trackers: a run's curves in TensorBoard's event files, in MLflow and in Weights & Biases, as the section `tracking` says.

They change no number of the run, and one that fails is given up with a word: a run is worth more than its curves.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from polarity.artifacts import RunFolder
from polarity.config import Config
from polarity.config_tracking import TrackingConfig
from polarity.errors import ConfigError
from polarity.train.progress import Record, Watch
from polarity.train.tracked_run import Say, TrackedRun, Tracker
from polarity.train.tracker_kinds import Mlflow, TensorBoard, Wandb


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


class _Guarded:
    """A tracker that is given up, with a word, at its first failure."""

    def __init__(self, name: str, kind: type[Tracker], run: TrackedRun, say: Say) -> None:
        self._name, self._kind, self._say = name, kind, say
        self._tracker: Tracker | None = None
        self._attempt(lambda: setattr(self, "_tracker", kind(run, say)))

    def log(self, record: Record) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._attempt(lambda: tracker.log(record))

    def close(self, finished: bool) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._attempt(lambda: tracker.close(finished))

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except self._kind.errors() as error:
            self._tracker = None
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._say(f"{self._name} failed and is given up for the rest of this run, which goes on: {why}")


@contextmanager
def open_trackers(config: Config, folder: RunFolder, *, say: Say) -> Iterator[Watch]:
    """Start the trackers that `config.tracking` names for the run in `folder`, and end them with the block.

    Yields what the loop is to call. Raises ConfigError where an extra is missing; whatever fails later is said and left out.
    """
    tracking = config.tracking
    check_trackers(tracking)
    wanted: list[tuple[str, type[Tracker]]] = [
        *([("TensorBoard", TensorBoard)] if tracking.tensorboard else []),
        *([("MLflow", Mlflow)] if tracking.mlflow is not None else []),
        *([("Weights & Biases", Wandb)] if tracking.wandb is not None else []),
    ]
    run = TrackedRun.of(config, folder)
    trackers = [_Guarded(name, kind, run, say) for name, kind in wanted]

    def watch(record: Record) -> None:
        for tracker in trackers:
            tracker.log(record)

    finished = False
    try:
        yield watch
        finished = True
    finally:
        for tracker in trackers:
            tracker.close(finished)
