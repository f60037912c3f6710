"""Time of a checkpoint: the loop's own, into a run folder, beside `torch.save` of the same weights and optimizer into one file.

The loop's is measured twice: how long the training stands still for it, and how long it takes until it is on the disk.
"""

import tempfile
import time
from pathlib import Path

import torch

from polarity.artifacts import RunFolder
from polarity.benchmark.setting import Setting
from polarity.benchmark.timing import Contestant, Measured, timed
from polarity.train.loop import Training
from polarity.train.worker import RunEvents


def checkpoint_contestants(setting: Setting, folder: Path) -> dict[str, Contestant]:
    """Each writes one whole checkpoint below `folder`, of a model after one step; units are checkpoints and MB on disk.

    Of "polarity" only the time counts during which no step can be taken, of "polarity, until it is on disk" all of it.
    """
    run = RunFolder.create(folder / "run")
    events = RunEvents(run, lambda line: None, lambda row: None, lambda metrics: None)
    training = Training(setting.config, setting.tables(), setting.model(), setting.world, events, precision=setting.precision)
    training.step(torch.arange(min(4, len(setting.corpus))).numpy(), 0.0)
    training.state.history.append({"kind": "epoch", "epoch": 1})

    def ours(*, whole: bool) -> Measured:
        training.state.epoch += 1  # of which none was validated: the weights are copied, as after an epoch that is not the best
        started = time.perf_counter()
        training.save()
        still = time.perf_counter() - started
        training.background.wait()
        seconds = time.perf_counter() - started if whole else still
        newest = folder / "run" / "checkpoints" / training.state.name()
        return Measured({"checkpoints": 1.0, "mb": sum(f.stat().st_size for f in newest.iterdir()) / 1e6}, seconds)

    def bare() -> dict[str, float]:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".pt") as file:
            torch.save({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, file)
            file.flush()
            return {"checkpoints": 1.0, "mb": Path(file.name).stat().st_size / 1e6}

    return {
        "polarity": lambda: ours(whole=False),
        "polarity, until it is on disk": lambda: ours(whole=True),
        "torch.save": timed(bare),
    }
