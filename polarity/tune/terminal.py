"""A study on the terminal: the effects table when it has ended, and its progress while it runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from polarity import tables
from polarity.errors import Say
from polarity.strategy import CLAIMS_NOTE
from polarity.study import (
    OVERALL,
    Detectable,
    EffectRow,
    Interaction,
    ScreenEntry,
    SharedSetting,
    Stage,
    Study,
    TrialRecord,
    excludes_zero,
)
from polarity.train.control import clock
from polarity.tune.conductor import Watcher

WIDE = 106
"""Columns of the whole table; where there are fewer, it says what decides."""
_WHOLE = ("difference [95 %]", "verdict", "plan claims", "seconds")


def render_effects(
    table: pa.Table, *, width: int | None = None, detectable: Detectable | None = None, screen: ScreenEntry | None = None
) -> str:
    """An effects table (EFFECTS_SCHEMA) as text of `width` columns (the terminal's by default), in points of macro-F1 (hundredths).

    `detectable`, `screen`: study.json's entries.
    """
    console = tables.console(max(width or tables.width(), tables.LEAST))
    rows = table.to_pylist()
    decided = [row for row in rows if row["metric"] == OVERALL]
    if not decided:
        console.print("No arm has finished together with its reference: there are no effects to show.")
        return tables.text_of(console)
    for stage, title in _STAGES.items():
        of_stage = [row for row in rows if row["stage"] == stage]
        if of_stage:
            if screen is not None:
                console.print(title)
            console.print(_overall([row for row in of_stage if row["metric"] == OVERALL], wide=console.width >= WIDE))
            console.print()
            console.print(_by_task(of_stage) if console.width >= WIDE else "Tasks, classes, scores and seconds: in the report.\n")
            console.print()
    for line in screen_notes(screen) if screen else []:
        console.print(Text(line, "dim"))
    console.print()
    for line in _notes(decided, detectable or Detectable()):
        console.print(Text(line, "dim"))
    return tables.text_of(console)


_STAGES = {
    "screen": "The screen: each factor on, less off, over all settings of the others",
    "confirm": "The confirmation over fresh seeds, which decides",
}
_SHOWN = 5


def screen_notes(screen: ScreenEntry) -> list[str]:
    """What a screen adds to its table, in lines: shared settings, what its effects are not clear of, and the largest interactions."""
    lines = shared_notes(screen.shared)
    if screen.aliased:
        lines.append(
            "With these runs an effect is not clear of the interactions of two other factors: a third of each is in it, or taken from it."
        )
    found = screen.interactions[:_SHOWN]
    if found:
        lines.append("Largest interactions of two factors (points; aliases in brackets; none is claimed):")
    return lines + [f"  {interaction_words(entry)}" for entry in found]


def shared_notes(shared: Sequence[SharedSetting]) -> list[str]:
    """What a setting that several factors make is in each run, a line each."""
    return [f"Shared setting {entry.setting}: {shared_words(entry)}" for entry in shared]


def shared_words(entry: SharedSetting) -> str:
    """A shared setting's meaning in every run."""
    alone = ", ".join(f"{value} with {name} alone" for name, value in entry.alone.items())
    return f"{alone}; {entry.together} with {' and '.join(entry.alone)} on."


def interaction_words(entry: Interaction) -> str:
    """An interaction's estimate, and what else its estimate holds."""
    limits = "" if entry.low is None else f" [{points(entry.low)}, {points(entry.high)}]"
    return f"{' x '.join(entry.factors)} {points(entry.estimate)}{limits} ({alias_words(entry.aliases)})"


def alias_words(aliases: Mapping[str, float]) -> str:
    """The aliases by name where they are few, else the first of them and how many there are."""
    if not aliases:
        return "no aliases"
    names = [f"{value:+.2f} {name}" for name, value in aliases.items()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def points(value: float | None, sign: bool = True) -> str:
    """A fraction as points with one decimal; `-` where it is unknown."""
    if value is None:
        return "-"
    shown = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") and sign else shown


def _overall(rows: list[EffectRow], *, wide: bool) -> Table:
    more = ["against", "score", "seeds", "seconds"] if wide else []
    shown = _table("arm", *more, "difference [95 %]", "p Holm", "verdict", "plan claims")
    for row in rows:
        cost = _cost(row["seconds"], row["reference_seconds"])
        shown.add_row(
            Text(row["arm"], "bold"),
            *([row["reference"], points(row["score"], sign=False), str(row["seeds"]), cost] if wide else []),
            _difference(row),
            "-" if row["p_holm"] is None else "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
            row["verdict"] or "",
            _claim(row["claim_low"], row["claim_high"]),
        )
    return shown


def _by_task(rows: list[EffectRow]) -> Table:
    """Differences in each task's macro-F1, followed by those in its classes' F1: a row per arm."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows if row["metric"] != OVERALL))
    tasks = [metric for metric in metrics if "/" not in metric]
    ordered = [metric for task in tasks for metric in metrics if metric == task or metric.startswith(f"{task}/")]
    of = {(row["arm"], row["metric"]): row for row in rows}
    names = [Text(metric.rpartition("/")[2], "bold" if metric in tasks else "") for metric in ordered]
    shown = _table("difference in", *names)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = [points(of[arm, metric]["difference"]) + _mark(of[arm, metric]) for metric in ordered]
        shown.add_row(Text(arm, "bold"), *cells)
    return shown


def _notes(rows: list[EffectRow], detectable: Detectable) -> list[str]:
    lines = [
        "Points of macro-F1 (hundredths), arm less reference, same seeds and rows. A verdict needs Holm's p below 0.05.",
        "By task (macro-F1) and then its classes (F1): * a 95 % interval of its own that excludes zero. Nothing is "
        "corrected there for the number of comparisons, so these are hints.",
    ]
    if all(row["low"] is None for row in rows):
        lines.append("One seed shows no spread over seeds, so there are no intervals and no verdicts: run at least two, better five.")
    sizes = [("before", detectable.before), ("after", detectable.after)]
    known = [f"{points(size, sign=False)} {when} the study" for when, size in sizes if size is not None]
    if known:
        lines.append(f"Smallest effect seen with a power of 80 %, in points: {', '.join(known)}.")
    if any(row["claim_low"] is not None for row in rows):
        lines.append(CLAIMS_NOTE)
    return lines


def _mark(row: EffectRow) -> str:
    return "*" if excludes_zero(row) else " "


def _difference(row: EffectRow) -> str:
    limits = "" if row["low"] is None else f" [{points(row['low'])}, {points(row['high'])}]"
    return points(row["difference"]) + limits


def _claim(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{points(low)} to {points(high)}"


def _cost(seconds: float | None, reference: float | None) -> str:
    if seconds is None:
        return "-"
    factor = f" {seconds / reference:.1f}x" if reference else ""
    return f"{seconds:,.0f}{factor}"


def _table(first: str, *columns: str | Text) -> Table:
    made = tables.table(first, *columns, left=("against", "verdict"), gap=1)
    for column in made.columns:  # where it is too wide, names fold and numbers stay whole
        column.no_wrap = str(column.header) in _WHOLE
    return made


_STATUS_COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "running": "cyan", "pending": "dim"}


def seconds_left(study: Study, concurrent: int) -> float | None:
    """Seconds until the study ends with so many trials at a time, from the wall time of each arm's epochs so far, of all arms' where it has
    none; None before anything is known. The confirmation of an exploring study is counted for all arms until it is known whom it needs.
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
        left += [(arm, epochs) for arm, epochs in planned.items() for _ in study.file.seeds.confirm]
    return sum(epochs * means.get(arm, anywhere) for arm, epochs in left) / concurrent


def counts(study: Study, concurrent: int) -> str:
    """One line: how many trials are where, the best score so far, the time left."""
    by_status = {status: len(study.of(None, status)) for status in ("finished", "running", "pending", "stopped", "failed")}
    shown = ", ".join(f"{count} {status}" for status, count in by_status.items() if count or status in ("finished", "pending"))
    best = max((t for t in study.trials if t.overall is not None), key=lambda t: t.overall or 0.0, default=None)
    left = seconds_left(study, concurrent)
    ends = [
        shown,
        *([f"best {best.overall:.4f} ({best.id})"] if best else []),
        f"{clock(left)} left" if left is not None else "time left: not known yet",
    ]
    return "; ".join(ends)


def event_line(study: Study, trial: TrialRecord, event: str, concurrent: int) -> str:
    """One line for one event."""
    if event == "epoch":
        now = trial.curve[-1]["overall"]
        return f"{trial.id}: epoch {trial.epochs}/{trial.planned} ({trial.progress:.0%}), overall {now:.4f}, best {trial.overall:.4f}"
    if trial.status in ("finished", "stopped"):
        return f"{trial.id}: {event} after {trial.epochs} epochs, {clock(trial.seconds)}; {counts(study, concurrent)}"
    return f"{trial.id}: {event}"


def progress_table(study: Study, concurrent: int) -> Table:
    """Arms down, seeds across; a cell has the state, the epochs and the best score so far."""
    table = Table(caption=counts(study, concurrent), caption_justify="left")
    table.add_column("arm")
    seeds = study.file.seeds
    of_stage: dict[Stage, list[int]] = {"explore": seeds.explore, "screen": seeds.screen, "confirm": seeds.confirm}
    stages = [(stage, seed) for stage, own in of_stage.items() for seed in own]
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
        return Text("waits" if trial.status == "pending" else "failed", _STATUS_COLOURS[trial.status])
    return Text(f"{trial.status} {trial.epochs}/{trial.planned} {trial.overall or 0:.3f}", _STATUS_COLOURS[trial.status])


@contextmanager
def live_or_lines(say: Say, concurrent: int, console: Console | None = None) -> Iterator[Watcher]:
    """A watcher that redraws the table on a terminal; where `console` is none, it says a line for each event."""
    shown = console or Console()
    if not shown.is_terminal:
        yield lambda study, trial, event: say(event_line(study, trial, event, concurrent))
        return
    with Live(console=shown, auto_refresh=False) as live:

        def draw(study: Study, trial: TrialRecord, event: str) -> None:
            table: RenderableType = progress_table(study, concurrent)
            if event.startswith("failed"):
                live.console.print(f"{trial.id}: {event}", style="red")
            live.update(table, refresh=True)

        yield draw
