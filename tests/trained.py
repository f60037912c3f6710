"""A tiny trained run, made once a session in this process; tests take copies of it."""

import atexit
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

from polarity.resolve import resolve
from polarity.workflows.train import train
from tests.tiny import tiny_csv, tiny_encoder

SETTINGS = (
    "train.precision=fp32",
    "train.resamples=100",
    "train.log_every=1000",
    "train.epochs=3",
    "optim.lr=3e-3",
    "model.pooling=mean",
    "model.dropout=0.3",
    "cluster.workers=0",
)


def scratch(prefix: str) -> Path:
    """A new folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    return folder


@cache
def _inputs() -> Path:
    folder = scratch("polarity-trained-")
    tiny_encoder(folder / "encoder", "bert", hidden=16)
    tiny_csv(folder / "comments.csv", 400, seed=0)
    return folder


@cache
def _run(seed: int, sets: tuple[str, ...]) -> Path:
    inputs = _inputs()
    options = {"data.source": (str(inputs / "comments.csv"), ""), "model.encoder": (str(inputs / "encoder"), "")}
    folder = scratch("polarity-run-") / f"run{seed}"
    train(resolve("small", options=options, sets=(*SETTINGS, f"train.seed={seed}", *sets)).config, str(folder), say=lambda _: None)
    return folder


def trained_run(target: Path, seed: int = 0, sets: tuple[str, ...] = ()) -> Path:
    """A copy at `target` of a tiny run, trained on `training_file()` with this seed and these settings."""
    shutil.copytree(_run(seed, sets), target, ignore=shutil.ignore_patterns("checkpoints"))
    return target


def training_file() -> Path:
    """The labelled file that the tiny runs are trained on."""
    return _inputs() / "comments.csv"
