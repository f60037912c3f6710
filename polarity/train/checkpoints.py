"""The state of a training: what a stopped run needs to end with the numbers of an uninterrupted one, and how it is kept.

All randomness is a function of (seed, epoch, step, micro-batch), so there is no generator's state to save: the step counts are enough.

A checkpoint folder holds `state.json`, `model.safetensors`, `optimizer.pt` (tensors only), `best.safetensors` where an earlier epoch is
the best so far, and `checksums.json` of the others, written last: a copy that was cut short is known by it. It is complete by itself.
It is made after an epoch, or inside one with what the epoch has summed up to there, and written beside the training (`Background`).
"""

import errno
import hashlib
import json
import pickle
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.errors import PolarityError, RunError, first_line
from polarity.loss import AdaptiveGamma
from polarity.resolve import RETIRED, part
from polarity.train.control import HistoryRow
from polarity.train.world import World

Weights = dict[str, Tensor]
StateDict = dict[str, Any]
"""What torch's `state_dict` gives and takes, of an optimizer or a scaler."""
Observed = dict[str, list[Tensor]]
"""{task: each worker's observations of the epoch so far}, for adaptive gamma."""

CHECKSUMS = "checksums.json"


@dataclass
class TrainState:
    """What changes while training, besides weights and optimizer. Equal on all ranks."""

    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Optimizer steps taken or skipped."""
    best_epoch: int = -1
    best_score: float = -1.0
    bad_steps: int = 0
    gammas: dict[str, AdaptiveGamma] = field(default_factory=dict)
    """Adaptive gamma of each task, as of the next epoch."""
    history: list[HistoryRow] = field(default_factory=list)
    precision: str = ""
    """The number format in use: a resumed run keeps it, whatever `auto` would choose now."""
    fingerprint: str = ""
    """Of the configuration and data that the run started with: a resume with others is refused."""
    batch: int = 0
    """Batches done of the epoch under way; 0 between epochs."""
    running: dict[str, list[float]] = field(default_factory=dict)
    """The sums of the epoch under way, in a checkpoint made inside it."""

    def name(self) -> str:
        """The checkpoint's folder; in the order of time where names are sorted."""
        return f"epoch_{self.epoch:04d}" + (f"_step_{self.step:08d}" if self.batch else "")

    def copy(self) -> "TrainState":
        """As it stands now. Rows of the history and gammas are added or replaced, but not changed, so they are shared."""
        running = {name: list(values) for name, values in self.running.items()}
        return replace(self, gammas=dict(self.gammas), history=list(self.history), running=running)

    def epochs_without_gain(self) -> int:
        """Completed epochs since the best one."""
        return self.epoch - 1 - self.best_epoch


@dataclass
class EpochTotals:
    """Running totals of an epoch."""

    losses: list[float] = field(default_factory=list)
    classification: list[float] = field(default_factory=list)
    """The losses without R-Drop's term, whose weight changes from step to step."""
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    computed_tokens: int = 0
    """Real tokens of the epoch's steps, and times the passes that read them."""

    @classmethod
    def continued(cls, running: dict[str, list[float]]) -> "EpochTotals":
        """From what a checkpoint inside the epoch holds, or from nothing."""
        if not running:
            return cls()
        return cls(list(running["losses"]), list(running["classification"]), time.monotonic() - running["seconds"][0])

    def so_far(self) -> dict[str, list[float]]:
        """What `continued` takes."""
        return {"losses": self.losses, "classification": self.classification, "seconds": [time.monotonic() - self.started]}


def fingerprint(config: Config, corpora: Sequence[Corpus], left_out: str) -> str:
    """Hash of what decides a run's numbers: configuration (placement, tracking and step limit left out), the training and validation rows
    of `corpora`, and the hash of the weights that are left out of checkpoints. Places do not count, for data and encoder may be moved."""
    numberless: Mapping[str, bool | set[str]] = {
        "cluster": True,
        "tracking": True,
        "train": {"max_steps", "log_every", "resamples"},
        "data": {"source", "train", "validation", "test", "shards", "shard_dir"},
        "model": {"encoder", "revision"},
    }
    settings = config.model_dump(mode="json", exclude=numberless)
    for key, value in RETIRED.items():  # with what they were, a training that an older release began goes on
        section, _, leaf = key.rpartition(".")
        part(settings, section)[leaf] = value
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True) + left_out).encode())
    for corpus in corpora:
        digest.update(corpus.digest.encode())
        if not corpus.digest:
            labels = [values.astype(np.int64) for values in corpus.labels.values()]
            for array in (corpus.offsets, *corpus.tokens.values(), *labels, *(corpus.soft or {}).values()):
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def host_copy(value: Any) -> Any:
    """The value with a copy of every tensor in it, in the host's memory: it stays as it is while the training goes on."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(part) for key, part in value.items()}
    return [host_copy(part) for part in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    state: TrainState
    model: Weights
    best: Weights | None
    """The best epoch's weights: `model` itself where they are the same, None where no epoch was finished."""
    optimizer: StateDict
    scaler: StateDict
    observed: Observed = field(default_factory=dict)
    recent: list[Weights] = field(default_factory=list)
    """After each of the newest epochs, where weights are averaged over epochs."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a complete checkpoint into the empty `folder`; the best weights only where they are others. Raises `OSError`: no room."""
    model, best = checkpoint.model, checkpoint.best
    with _os_errors(folder):
        save_file(_plain(model), folder / "model.safetensors")
        if best is not None and best is not model:
            save_file(_plain(best), folder / "best.safetensors")
        rest = {name: getattr(checkpoint, name) for name in ("optimizer", "scaler", "observed", "recent")}
        torch.save(rest, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(asdict(checkpoint.state)))
        seal(folder)


def seal(folder: Path) -> None:
    """Write the sizes and checksums of the folder's files beside them."""
    sums = {file.name: _checksum(file) for file in sorted(folder.iterdir()) if file.name != CHECKSUMS}
    (folder / CHECKSUMS).write_text(json.dumps(sums))


def verify(folder: Path) -> None:
    """Raise a RunError naming the first file that is not what was written: against damage, not against malice."""
    try:
        for name, written in json.loads((folder / CHECKSUMS).read_text()).items():
            found = _checksum(folder / name)
            if found != written:
                what = "other bytes than were written" if found[0] == written[0] else f"{found[0]} bytes, {written[0]} were written"
                raise _damaged(folder, f"{name}: {what}")
    except (OSError, ValueError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(folder, str(error)) from error


def _checksum(file: Path) -> list[int]:
    """Bytes and CRC-32."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while part := stream.read(1 << 22):
            crc, size = zlib.crc32(part, crc), size + len(part)
    return [size, crc]


def _damaged(folder: Path, what: str) -> RunError:
    return RunError(f"{folder}: the checkpoint is damaged or incomplete ({what})")


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    """Makes an OSError of what safetensors and torch raise where the system refuses to write; torch does not say why it did."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if shutil.disk_usage(folder).free < 1 << 20:
            raise OSError(errno.ENOSPC, str(error)) from error
        raise OSError(errno.EIO, f"{first_line(error)}; is the disk full, or a quota used up?") from error


@contextmanager
def temporary_room(folder: Path) -> Iterator[None]:
    """Turns a refusal to write into the temporary `folder` into a RunError; safetensors and torch raise errors of their own for it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{folder}: cannot be written ({first_line(error)}). If the disk is full, free some space, or set TMPDIR to a folder "
            "with room; the run goes on with --resume"
        ) from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; `RunError` names the file that is missing or damaged. Nothing is unpickled but tensors."""
    verify(folder)
    try:
        content = json.loads((folder / "state.json").read_text())
        gammas = {task: AdaptiveGamma(**gamma) for task, gamma in content.pop("gammas").items()}
        state = TrainState(**content, gammas=gammas)
        model = load_file(folder / "model.safetensors")
        best = load_file(folder / "best.safetensors") if (folder / "best.safetensors").exists() else model
        rest = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise _damaged(folder, str(error)) from error
    kept = best if state.best_epoch >= 0 else None
    return Checkpoint(state, model, kept, rest["optimizer"], rest["scaler"], rest["observed"], rest["recent"])


def _plain(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


class EpochAverage:
    """The weights that are judged and kept: each epoch's own, or the mean over the newest `epochs` epochs.

    The mean of weights along one training is often better, and steadier from seed to seed, than any of them (Izmailov et al. 2018,
    "Averaging weights leads to wider optima and better generalization"; over a window of the latest: Kaddour 2022). The training itself
    never sees it. The weights after each of these epochs are in the host's memory; of 1 epoch none are kept.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.recent: list[Weights] = []

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[Weights]:
        """After an epoch: while the block runs, `model` has the weights that are to be judged; gives a copy of them."""
        own: Weights = host_copy(model.state_dict())
        if self.epochs == 1:
            yield own
            return
        self.recent = [*self.recent, own][-self.epochs :]
        average = mean(self.recent)
        model.load_state_dict(average)
        try:
            yield average
        finally:
            model.load_state_dict(own)

    def for_the_next(self) -> list[Weights]:
        """What the next epoch's mean takes of the epochs so far."""
        return self.recent[-(self.epochs - 1) :] if self.epochs > 1 else []


def mean(parts: list[Weights]) -> Weights:
    """The mean of each tensor over the parts; of one that is no float, the last part's."""
    return {
        name: torch.stack([part[name] for part in parts]).mean(0) if last.is_floating_point() else last for name, last in parts[-1].items()
    }


class Background:
    """Work of the first worker beside the training: one piece at a time, in a thread, and no error of it is lost.

    As a context it ends no earlier than its work, also where the block fails.

    A thread of its own, not an executor's, which would keep a process alive whose storage never answers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; the one before must have been waited for."""
        if self._under_way is not None:
            raise RuntimeError("the work before was not waited for")
        self._under_way = Future()
        threading.Thread(target=_do, args=(work, self._under_way), name="polarity-background", daemon=True).start()

    def wait(self) -> None:
        """Wait for the work, on all workers. Raises `RunError` on all of them where it failed, and on the first one what is no fault of
        the user's or of the machine."""
        failure = self._ended()
        if failure is not None and not isinstance(failure, PolarityError):
            raise failure
        self._world.raise_together(None if failure is None else str(failure))  # the others would wait for the one whose disk is full

    def _ended(self) -> BaseException | None:
        """What the work failed with, once it has ended. A wait that is broken off (by a second Ctrl-C, say) is not begun again."""
        work, self._under_way = self._under_way, None
        return None if work is None else work.exception()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The others may have failed or not, so this worker waits alone, and tells of both errors."""
        failure = self._ended()
        if failure is None:
            return
        if error is None:
            raise failure
        if isinstance(error, PolarityError):  # shown without notes
            error.args = (f"{error}; and what was being written beside the training failed: {failure}",)
        else:
            error.add_note(f"What was being written beside the training failed: {failure!r}")


def _do(work: Callable[[], None], future: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # whatever it is, it is raised where the work is waited for
        future.set_exception(error)
    else:
        future.set_result(None)
