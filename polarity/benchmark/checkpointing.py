"""Time of a checkpoint: the loop's own, into a run folder, beside `torch.save` of the same weights and optimizer into one file."""

import tempfile
from pathlib import Path

import torch

from polarity.artifacts import RunFolder
from polarity.benchmark.setting import Setting
from polarity.benchmark.timing import Contestant, timed
from polarity.train.loop import Training
from polarity.train.worker import FolderReport


def checkpoint_contestants(setting: Setting, folder: Path) -> dict[str, Contestant]:
    """Each writes one whole checkpoint below `folder`, of a model after one step; units are checkpoints and MB on disk."""
    training = Training(setting.config, setting.tables(), setting.model(), setting.world, lambda line: None, precision=setting.precision)
    training.step(torch.arange(min(4, len(setting.corpus))).numpy(), 0.0)
    training.state.history.append({"kind": "epoch", "epoch": 1})
    report = FolderReport(RunFolder.create(folder / "run"))
    training.state.best_epoch, training.state.epoch = 0, 0

    def ours() -> dict[str, float]:
        training.state.epoch += 1
        training.state.best_epoch = training.state.epoch - 1
        training.save(report)
        newest = folder / "run" / "checkpoints" / f"epoch_{training.state.epoch:04d}"
        return {"checkpoints": 1.0, "mb": sum(f.stat().st_size for f in newest.iterdir()) / 1e6}

    def bare() -> dict[str, float]:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".pt") as file:
            torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, file)
            file.flush()
            return {"checkpoints": 1.0, "mb": Path(file.name).stat().st_size / 1e6}

    return {"polarity": timed(ours), "torch.save": timed(bare)}
