"""Interleaved timing: in each repeat every contestant runs once, so that a slow moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict


class Spread(TypedDict):
    """The median of the repeats, and the least and greatest."""

    median: float
    low: float
    high: float


class RaceFigures(TypedDict):
    """Contestants that took turns: {name: {unit: units a second}}, polarity's speed as a ratio to each peer's, and every run."""

    rates: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread]
    runs: dict[str, list[dict[str, float]]]


class LimitFigures(TypedDict):
    """Share of the machine's matrix-product rate that training reaches (MFU), counting real tokens and all computed ones."""

    peak_flops: float
    mfu_real_tokens: Spread
    mfu_padded_tokens: Spread
    threads: int


class PointFigures(TypedDict):
    """{point: time of a step for each row as a ratio to the baseline's}."""

    step: dict[str, Spread]
    about: dict[str, str | int]


class MethodFigures(TypedDict):
    """A way to oversample or to load so many rows; `failed` alone where it did not end."""

    seconds: NotRequired[Spread]
    peak_mb: NotRequired[Spread]
    first_s: NotRequired[Spread]
    ratio: NotRequired[Spread]
    rows_per_s: NotRequired[Spread]
    out_rows: NotRequired[float]
    repeats: NotRequired[int]
    failed: NotRequired[str]


Methods = dict[str, MethodFigures]
StartupFigures = TypedDict("StartupFigures", {"polarity": dict[str, Spread], "bare TorchTrainer": Spread, "ratio": Spread})
"""Seconds of the parts of a cold start, beside an empty loop under Ray Train."""


class TrialFigures(TypedDict):
    """Seconds of a study's trials that are not training, and of training."""

    first: Spread
    next: Spread
    training: Spread
    epochs: int


class Figures(TypedDict):
    """All that `polarity benchmark` measured; a part that was not asked for is not there."""

    schema_version: int
    about: dict[str, str | int]
    training: NotRequired[RaceFigures]
    prediction: NotRequired[RaceFigures]
    checkpoint: NotRequired[RaceFigures]
    limit: NotRequired[LimitFigures]
    points: NotRequired[PointFigures]
    oversampling: NotRequired[dict[str, Methods]]
    loading: NotRequired[dict[str, Methods]]
    startup: NotRequired[StartupFigures]
    trials: NotRequired[TrialFigures]


RacePart = Literal["training", "prediction", "checkpoint"]


def spread(values: list[float]) -> Spread:
    """Of one value or more."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(value: Spread, *, percent: bool = False) -> str:
    """`1.20 [1.10, 1.30]`."""
    form = "{:.0%}" if percent else "{:.2f}"
    return f"{form.format(value['median'])} [{form.format(value['low'])}, {form.format(value['high'])}]"


@dataclass(frozen=True)
class Measured:
    """One run of a contestant: how much it did, and the seconds that count."""

    units: dict[str, float]
    """By unit, such as rows, tokens and padded_tokens."""
    seconds: float


Contestant = Callable[[], Measured]


@dataclass(frozen=True)
class Race:
    """Every contestant's runs, one a repeat."""

    runs: dict[str, list[Measured]]

    def rate(self, name: str, unit: str) -> Spread:
        """Units a second."""
        return spread([run.units[unit] / run.seconds for run in self.runs[name]])

    def speed_ratio(self, name: str, peer: str, unit: str = "rows") -> Spread:
        """How many times the peer's rate `name` has, repeat by repeat: above 1 is faster."""
        pairs = zip(self.runs[name], self.runs[peer], strict=True)
        return spread([(ours.units[unit] / ours.seconds) / (theirs.units[unit] / theirs.seconds) for ours, theirs in pairs])

    def cost(self, name: str, peer: str) -> Spread:
        """How many times the peer's time a row takes: above 1 is slower."""
        return self.speed_ratio(peer, name)

    def rates(self) -> dict[str, dict[str, Spread]]:
        """{contestant: {unit: rate a second}}."""
        return {name: {unit: self.rate(name, unit) for unit in runs[0].units} for name, runs in self.runs.items()}


def race(contestants: Mapping[str, Contestant], repeats: int, *, warm_up: bool = True) -> Race:
    """Run every contestant once in each repeat, in an order that rotates; the first round is not counted where `warm_up` is set."""
    names = list(contestants)
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for repeat in range(-1 if warm_up else 0, repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            measured = contestants[name]()
            if repeat >= 0:
                runs[name].append(measured)
    return Race(runs)


def timed(work: Callable[[], dict[str, float]], clock: Callable[[], float] = time.perf_counter) -> Contestant:
    """A contestant whose whole call counts; `work` returns the units it did. `clock` may be time.process_time, which other processes
    on the machine do not move."""

    def run() -> Measured:
        started = clock()
        units = work()
        return Measured(units, clock() - started)

    return run
