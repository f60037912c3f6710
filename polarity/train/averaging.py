"""The weights that are judged and kept: each epoch's own, or the mean over the newest epochs.

The mean of weights along one training is often better, and steadier from seed to seed, than any of them (Izmailov et al. 2018, "Averaging
weights leads to wider optima and better generalization"; over a window of the latest: Kaddour 2022). The training itself never sees it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from polarity.train.checkpoints import Weights, host_copy


class EpochAverage:
    """Keeps, in the host's memory, the weights after each of the newest `epochs` epochs; of 1 it keeps none."""

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
