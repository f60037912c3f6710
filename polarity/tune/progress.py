"""A study's progress: a live table of arms and seeds on a terminal, a line for each event elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polarity.train.events import clock
from polarity.tune.conductor import Watcher
from polarity.tune.record import Study, TrialRecord

_COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "running": "cyan", "pending": "dim"}


@dataclass(frozen=True)
class Pace:
    """Seconds left of a study at the pace so far; `concurrent` trials run at a time."""

    concurrent: int

    def seconds_left(self, study: Study) -> float | None:
        """From the wall time of each arm's epochs so far, of all arms' where it has none; None before anything is known.

        The confirmation of an exploring study is counted for all arms until it is known whom it needs.
        """
        spent: dict[str, list[float]] = {}
        for trial in study.trials:
            if trial.epochs:
                spent.setdefault(trial.arm, []).append(max(trial.seconds, trial.train_seconds) / trial.epochs)
        if not spent:
            return None
        means = {arm: sum(values) / len(values) for arm, values in spent.items()}
        anywhere = sum(means.values()) / len(means)
        left = [(trial.arm, trial.planned - trial.epochs) for trial in study.of(None, "pending", "running")]
        if study.of("explore") and not study.of("confirm"):
            planned = {trial.arm: trial.planned for trial in study.of("explore")}
            left += [(arm, epochs) for arm, epochs in planned.items() for _ in study.head["seeds"]["confirm"]]
        return sum(epochs * means.get(arm, anywhere) for arm, epochs in left) / self.concurrent


def counts(study: Study, pace: Pace) -> str:
    """One line: how many trials are where, the best score so far, the time left."""
    by_status = {status: len(study.of(None, status)) for status in ("finished", "running", "pending", "stopped", "failed")}
    shown = ", ".join(f"{count} {status}" for status, count in by_status.items() if count or status in ("finished", "pending"))
    best = max((t for t in study.trials if t.overall is not None), key=lambda t: t.overall or 0.0, default=None)
    left = pace.seconds_left(study)
    ends = [
        shown,
        *([f"best {best.overall:.4f} ({best.id})"] if best else []),
        f"{clock(left)} left" if left is not None else "time left: not known yet",
    ]
    return "; ".join(ends)


def event_line(study: Study, trial: TrialRecord, event: str, pace: Pace) -> str:
    """One line for one event."""
    if event == "epoch":
        now = trial.curve[-1]["overall"]
        return f"{trial.id}: epoch {trial.epochs}/{trial.planned} ({trial.progress:.0%}), overall {now:.4f}, best {trial.overall:.4f}"
    if trial.status in ("finished", "stopped"):
        return f"{trial.id}: {event} after {trial.epochs} epochs, {clock(trial.seconds)}; {counts(study, pace)}"
    return f"{trial.id}: {event}"


def progress_table(study: Study, pace: Pace) -> Table:
    """Arms down, seeds across; a cell has the state, the epochs and the best score so far."""
    table = Table(caption=counts(study, pace), caption_justify="left")
    table.add_column("arm")
    stages: list[tuple[str, int]] = [
        (stage, seed) for stage in ("explore", "screen", "confirm") for seed in study.head["seeds"].get(stage, [])
    ]
    for stage, seed in stages:
        table.add_column(f"{stage} {seed}", justify="right")
    cells: dict[tuple[str, str, int], TrialRecord] = {(t.arm, t.stage, t.seed): t for t in study.trials}
    for arm in study.arms:
        table.add_row(arm.name, *(_cell(cells.get((arm.name, stage, seed))) for stage, seed in stages))
    return table


def _cell(trial: TrialRecord | None) -> Text:
    if trial is None:
        return Text("")
    if trial.status in ("pending", "failed") and trial.overall is None:
        return Text("waits" if trial.status == "pending" else "failed", _COLOURS[trial.status])
    return Text(f"{trial.status} {trial.epochs}/{trial.planned} {trial.overall or 0:.3f}", _COLOURS[trial.status])


@contextmanager
def live_or_lines(say: Callable[[str], None], pace: Pace, console: Console | None = None) -> Iterator[Watcher]:
    """A watcher that redraws the table on a terminal; where `console` is none, it says a line for each event."""
    shown = console or Console()
    if not shown.is_terminal:
        yield lambda study, trial, event: say(event_line(study, trial, event, pace))
        return
    with Live(console=shown, auto_refresh=False) as live:

        def draw(study: Study, trial: TrialRecord, event: str) -> None:
            table: RenderableType = progress_table(study, pace)
            if event.startswith("failed"):
                live.console.print(f"{trial.id}: {event}", style="red")
            live.update(table, refresh=True)

        yield draw
