"""Events: the one channel out of a training. Lines for people, rows of the history for trackers, scores of epochs, checkpoints to keep.

Light to import: what only listens needs no torch.
"""

from collections.abc import Mapping

from polarity.artifacts import Fill

Record = Mapping[str, float | str | None]
"""A row of the history: `kind` is "step" or "epoch"."""


class Events:
    """What a training tells whoever started it; each method does nothing unless it is overridden."""

    def say(self, line: str) -> None:
        """On every worker: a line for people. Whoever wants the first worker's alone leaves out the others'."""

    def record(self, row: Record) -> None:
        """On the first worker, every `train.log_every` steps and after each epoch: the history's row, and what only a watcher needs:
        `rows_per_s`, `padded_tokens_per_s`, `padded_share`, `epochs_left` (a fraction), `validation_seconds`, and F1 of each class."""

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """On every worker, after each epoch; what it raises, a PolarityError, ends the training."""

    def save(self, name: str, write: Fill) -> None:
        """On the first worker, in a thread beside the training: keep the checkpoint `name`, whose files `write` writes."""


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
