"""Progress: where training stands, how fast it is, and when it will end; as lines, and as rows for whoever watches the run."""

import time
from collections.abc import Callable, Mapping

from polarity.config import Config
from polarity.data.batch import Corpus, Rows
from polarity.strategy import points_on


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


Record = Mapping[str, float | str | None]
"""A row of the history: `kind` is "step" or "epoch"."""

Watch = Callable[[Record], None]
"""Called on the first worker every `train.log_every` steps and after each epoch, with the history's row and what only a watcher needs:
`rows_per_s`, `tokens_per_s` and `padded_tokens_per_s` since the last call (all workers), `padded_share`, and `epochs_left` (a fraction)."""


class Progress:
    """Prints through `say` and shows rows to `watch`; None leaves either out."""

    def __init__(self, config: Config, steps: list[int], say: Callable[[str], None] | None, watch: Watch | None = None) -> None:
        self._config, self._steps, self._say, self._watch = config, steps, say, watch
        points = points_on(config)
        self._points = f"  points {','.join(map(str, points))}" if points else ""
        self._total = min(sum(steps), config.train.max_steps or sum(steps))
        self._begun: tuple[float, int] | None = None
        self._rows = self._tokens = 0
        self._since = time.monotonic()
        self._epoch, self._padding = 0, 0.0

    def start_epoch(self, epoch: int, padded_share: float) -> None:
        """Note the epoch, from 0, and its share of padding."""
        self._epoch, self._padding = epoch, padded_share
        self._since, self._rows, self._tokens = time.monotonic(), 0, 0

    def step(self, record: Record, rows: Rows, corpus: Corpus) -> None:
        """Count the step that `record` tells of, and show every `train.log_every` steps."""
        now, step = time.monotonic(), int(_number(record, "step"))
        self._begun = self._begun or (now, step)
        self._rows += len(rows)
        self._tokens += int(corpus.lengths[rows].sum())
        if step % self._config.train.log_every:
            return
        elapsed = max(now - self._since, 1e-9)
        speed = {"rows_per_s": self._rows / elapsed, "tokens_per_s": self._tokens / elapsed}
        self._since, self._rows, self._tokens = now, 0, 0
        if self._watch is not None:
            padded = {"padded_tokens_per_s": speed["tokens_per_s"] / (1.0 - self._padding), "padded_share": self._padding}
            self._watch({**record, **speed, **padded, "epochs_left": self._epochs_left(step)})
        if self._say is None:
            return
        done, spent = step - self._begun[1], now - self._begun[0]
        left = f"{clock((self._total - step) * spent / done)} left" if done else "left: not known yet"
        loss, rate, norm = (_number(record, name) for name in ("loss", "lr", "grad_norm"))
        self._say(
            f"epoch {self._epoch + 1}/{len(self._steps)}  step {step}/{self._total}  loss {loss:.4f}  lr {rate:.2e}  norm {norm:.2f}  "
            f"{speed['rows_per_s']:.1f} rows/s  {speed['tokens_per_s']:.0f} tokens/s  padding {self._padding:.1%}{self._points}  {left}"
        )

    def _epochs_left(self, step: int) -> float:
        done = sum(self._steps[: self._epoch])
        return len(self._steps) - self._epoch - (step - done) / self._steps[self._epoch]

    def end_epoch(self, record: Record, scores: dict[str, float], validation_s: float, best: int) -> None:
        """Show the scores of the epoch that `record` tells of; `best` counts from 1."""
        epoch, loss, train_s = int(_number(record, "epoch")), record["loss"], _number(record, "seconds")
        if self._watch is not None:
            self._watch({**record, "validation_seconds": validation_s, "epochs_left": float(len(self._steps) - epoch)})
        if self._say is not None:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            mean = "none" if loss is None else f"{loss:.4f}"
            self._say(
                f"epoch {epoch} done: training loss {mean}; validation macro-F1: {shown}; {clock(train_s)} training, "
                f"{clock(validation_s)} validation{'; best so far' if best == epoch else f'; best was epoch {best}'}"
            )


def _number(record: Record, name: str) -> float:
    value = record[name]
    assert value is not None
    return float(value)
