"""Progress: where a training stands, how fast it is, how much of the machine it uses, and when it will end; as lines and as rows."""

import time
from functools import cache

import torch
from transformers import PreTrainedConfig

from polarity.arrays import Rows
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.errors import Say
from polarity.model.flops import peak_flops, training_flops
from polarity.model.inference import precision_here
from polarity.strategy import points_on
from polarity.train.control import Events, HistoryRow, clock, number_of
from polarity.train.world import World


class Utilisation:
    """Model FLOPs utilisation, MFU: the arithmetic of the real tokens over what the workers' matrix products reach, measured.

    It is a number for people: where the encoder's arithmetic is not known, or the measuring fails, it is None, and `say` hears why, once.
    """

    def __init__(self, encoder: PreTrainedConfig, corpus: Corpus, layers: int, precision: str, world: World, say: Say) -> None:
        self._encoder, self._lengths, self._layers = encoder, corpus.lengths, layers
        self._precision, self._world, self._say = precision, world, say
        self._share: float | None = None
        self._measured = False

    def of(self, tokens_per_s: float, passes: int) -> float | None:
        """MFU at a rate of real tokens a second over all workers; `passes` through the encoder a row (R-Drop: 2).

        The first call measures the machine, a tenth of a second.
        """
        if not self._measured:
            self._measured = True
            try:
                self._share = self._share_of_a_token()
            except Exception as error:  # whatever it is: a number for a dashboard ends no training
                self._say(f"MFU is not shown: {error}")
        return None if self._share is None else passes * self._share * tokens_per_s

    def _share_of_a_token(self) -> float:
        """Seconds of all workers' peak that a real token takes, forward and backward."""
        flops = training_flops(self._encoder, self._lengths, layers=self._layers)
        return flops / float(self._lengths.sum()) / (_peak(self._precision, self._world.device) * self._world.size)


_EMULATED = 2e9
"""Operations a second below which a short format is computed by other instructions than its own; 4e8 were measured, and 3e10 in fp32."""


@cache
def _peak(precision: str, device: torch.device) -> float:
    """A product small enough to take hundredths of a second on a CPU; the best of some: others compute on the same machine meanwhile.

    A CPU that has no instructions for a short format takes ten seconds for these products, so far smaller ones are tried first.
    """
    chosen = precision_here(precision, device)
    if device.type == "cpu" and chosen != "fp32":
        rough = max(peak_flops(chosen, device, size=256, repeats=1) for _ in range(2))
        if rough < _EMULATED:
            return rough
    return max(peak_flops(chosen, device, size=None if device.type == "cuda" else 768, repeats=1) for _ in range(4))


class Progress:
    """Tells `events` how it goes, on the first worker."""

    def __init__(self, config: Config, steps: list[int], events: Events, utilisation: Utilisation) -> None:
        self._config, self._steps, self._events, self._utilisation = config, steps, events, utilisation
        points = points_on(config)
        self._points = f"  points {','.join(map(str, points))}" if points else ""
        self._total = min(sum(steps), config.train.max_steps or sum(steps))
        self._begun: tuple[float, int] | None = None
        self._rows = self._tokens = self._epoch_tokens = 0
        self._since = time.monotonic()
        self._epoch, self._padding = 0, 0.0

    def start_epoch(self, epoch: int, padded_share: float) -> None:
        """Note the epoch, from 0, and its share of padding."""
        self._epoch, self._padding = epoch, padded_share
        self._since, self._rows, self._tokens = time.monotonic(), 0, 0

    def step(self, record: HistoryRow, rows: Rows, corpus: Corpus, passes: int) -> None:
        """Count the step that `record` tells of, and show every `train.log_every` steps."""
        now, step = time.monotonic(), int(number_of(record, "step"))
        self._begun = self._begun or (now, step)
        self._rows += len(rows)
        self._tokens += int(corpus.lengths[rows].sum())
        if step % self._config.train.log_every:
            return
        elapsed = max(now - self._since, 1e-9)
        speed: dict[str, float | None] = {"rows_per_s": self._rows / elapsed, "tokens_per_s": self._tokens / elapsed}
        tokens_per_s = self._tokens / elapsed
        mfu = self._utilisation.of(tokens_per_s, passes)
        padded = {"padded_tokens_per_s": tokens_per_s / (1.0 - self._padding), "padded_share": self._padding}
        self._since, self._rows, self._tokens = time.monotonic(), 0, 0
        self._events.record({**record, **speed, "mfu": mfu, **padded, "epochs_left": self._epochs_left(step)})
        done, spent = step - self._begun[1], now - self._begun[0]
        left = f"{clock((self._total - step) * spent / done)} left" if done else "left: not known yet"
        loss, rate, norm = (number_of(record, name) for name in ("loss", "lr", "grad_norm"))
        used = "" if mfu is None else f"  MFU {mfu:.0%}"
        self._events.say(
            f"epoch {self._epoch + 1}/{len(self._steps)}  step {step}/{self._total}  loss {loss:.4f}  lr {rate:.2e}  norm {norm:.2f}  "
            f"{speed['rows_per_s']:.1f} rows/s  {tokens_per_s:.0f} tokens/s{used}  padding {self._padding:.1%}{self._points}  {left}"
        )

    def _epochs_left(self, step: int) -> float:
        done = sum(self._steps[: self._epoch])
        return len(self._steps) - self._epoch - (step - done) / self._steps[self._epoch]

    def end_epoch(self, record: HistoryRow, scores: dict[str, float], validation_s: float, best: int) -> None:
        """Show the scores of the epoch that `record` tells of; `best` counts from 1."""
        epoch, loss, train_s = int(number_of(record, "epoch")), record["loss"], number_of(record, "seconds")
        self._events.record({**record, "validation_seconds": validation_s, "epochs_left": float(len(self._steps) - epoch)})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        mean = "none" if loss is None else f"{loss:.4f}"
        self._events.say(
            f"epoch {epoch} done: training loss {mean}; validation macro-F1: {shown}; {clock(train_s)} training, "
            f"{clock(validation_s)} validation{'; best so far' if best == epoch else f'; best was epoch {best}'}"
        )
