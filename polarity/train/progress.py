"""Progress lines: where training stands, how fast it is, and when it will end."""

import time
from collections.abc import Callable

from polarity.config import Config
from polarity.data.batch import Corpus, Rows
from polarity.strategy import points_on


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Prints through `say`, or not at all where it is None."""

    def __init__(self, config: Config, steps: list[int], say: Callable[[str], None] | None) -> None:
        self._config, self._steps, self._say = config, steps, say
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

    def step(self, step: int, loss: float, rate: float, norm: float, rows: Rows, corpus: Corpus) -> None:
        """Count a step, and print every `train.log_every` steps; `step` is the number of steps done."""
        now = time.monotonic()
        self._begun = self._begun or (now, step)
        self._rows += len(rows)
        self._tokens += int(corpus.lengths[rows].sum())
        if self._say is None or step % self._config.train.log_every:
            return
        elapsed = max(now - self._since, 1e-9)
        done, spent = step - self._begun[1], now - self._begun[0]
        left = f"{clock((self._total - step) * spent / done)} left" if done else "left: not known yet"
        self._say(
            f"epoch {self._epoch + 1}/{len(self._steps)}  step {step}/{self._total}  loss {loss:.4f}  lr {rate:.2e}  norm {norm:.2f}  "
            f"{self._rows / elapsed:.1f} rows/s  {self._tokens / elapsed:.0f} tokens/s  padding {self._padding:.1%}{self._points}  {left}"
        )
        self._since, self._rows, self._tokens = now, 0, 0

    def end_epoch(self, epoch: int, loss: float | None, scores: dict[str, float], train_s: float, total_s: float, best: int) -> None:
        """Print an epoch's scores; `epoch` and `best` count from 1."""
        if self._say is not None:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            mean = "none" if loss is None else f"{loss:.4f}"
            self._say(
                f"epoch {epoch} done: training loss {mean}; validation macro-F1: {shown}; {clock(train_s)} training, "
                f"{clock(total_s - train_s)} validation{'; best so far' if best == epoch else f'; best was epoch {best}'}"
            )
