"""Checkpoints: everything that a stopped run needs to end with the numbers of an uninterrupted one.

All randomness is a function of (seed, epoch, step, micro-batch), so there is no generator's state to save: the step counts are enough.

A checkpoint folder holds `state.json`, `model.safetensors`, `optimizer.pt` (tensors only), `best.safetensors` where an earlier epoch is
the best so far, and `checksums.json` of the others, written last: a copy that was cut short is known by it. It is complete by itself.
It is made after an epoch, or inside one with what the epoch has summed up to there.
"""

import errno
import json
import pickle
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polarity.errors import RunError

Weights = dict[str, Tensor]
HistoryRow = dict[str, Any]
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
    gammas: dict[str, dict[str, Any]] = field(default_factory=dict)
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


def host_copy(value: Any) -> Any:
    """The value with a copy of every tensor in it, in the host's memory: it stays as it is while the training goes on."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(part) for key, part in value.items()}
    return [host_copy(part) for part in value] if isinstance(value, list) else value


def save_checkpoint(
    folder: Path, state: TrainState, model: Weights, best: Weights | None, optimizer: dict[str, Any], scaler: dict[str, Any],
    observed: Observed | None = None, recent: Sequence[Weights] = (),
) -> None:  # fmt: skip
    """Write a complete checkpoint into the empty `folder`; `best` only where it is not `model`. Raises `OSError`: no room."""
    with _os_errors(folder):
        save_file(_plain(model), folder / "model.safetensors")
        if best is not None:
            save_file(_plain(best), folder / "best.safetensors")
        rest = {"optimizer": optimizer, "scaler": scaler, "observed": observed or {}, "recent": list(recent)}
        torch.save(rest, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(asdict(state)))
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
        raise OSError(errno.EIO, f"{str(error).splitlines()[0]}; is the disk full, or a quota used up?") from error


@contextmanager
def temporary_room(folder: Path) -> Iterator[None]:
    """Turns a refusal to write into the temporary `folder` into a RunError; safetensors and torch raise errors of their own for it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{folder}: cannot be written ({str(error).splitlines()[0]}). If the disk is full, free some space, or set TMPDIR to a folder "
            "with room; the run goes on with --resume"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    state: TrainState
    model: Weights
    best: Weights | None
    """None where no epoch was finished."""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    observed: Observed
    recent: list[Weights]
    """After each of the newest epochs, where weights are averaged over epochs."""


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; `RunError` names the file that is missing or damaged. Nothing is unpickled but tensors."""
    verify(folder)
    try:
        state = TrainState(**json.loads((folder / "state.json").read_text()))
        model = load_file(folder / "model.safetensors")
        best = load_file(folder / "best.safetensors") if (folder / "best.safetensors").exists() else model
        rest = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise _damaged(folder, str(error)) from error
    kept = best if state.best_epoch >= 0 else None
    return Checkpoint(state, model, kept, rest["optimizer"], rest["scaler"], rest["observed"], rest["recent"])


def _plain(weights: Weights) -> Weights:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
