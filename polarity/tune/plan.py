"""The plan of a study: its seeds, its rungs, its trials, what it can detect and about how long it takes."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from polarity.artifacts import RunFolder
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.encoders import resolve_encoder
from polarity.environment import Environment
from polarity.errors import ConfigError
from polarity.model.multitask import MultitaskModel
from polarity.resolve import dump_config
from polarity.strategy import Settings, with_settings
from polarity.study import Arm, Asha, Detectable, Seeds, Study, StudyData, StudyFile, TrialRecord
from polarity.train.control import clock
from polarity.train.loop import Tables, Training
from polarity.train.world import World, use_threads
from polarity.tune.conductor import plan_asha, trials_of
from polarity.tune.designs import Screen
from polarity.tune.runner import PreparedStudy, pad_id, token_key
from polarity.tune.variance import Forecast, forecast_pairs, forecast_screen

_TIMED_BATCHES = 2
_START_S = 3.0
"""Seconds of a trial that are not training, as measured on two cores."""


@dataclass(frozen=True)
class StudyPlan:
    """What the user asked for. Seeds count up from 0: exploring or screening ones first, then those that confirm."""

    seeds: int = 3
    """In full: of every run of a screen, else of every confirmed arm."""
    explores: bool = True
    """First every arm with one seed under ASHA; else the full grid at once. A screen never does: each of its runs is wanted in full."""
    effects_on: str = "validation"
    keep_ahead: bool = True
    """An arm that is not behind its reference explores on; off in a search, which wants only the best."""
    screen: Screen | None = None
    confirm_seeds: int = 0
    """Of a screen's confirmation; 0: none yet."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds must be at least 1 (got {self.seeds})")
        if self.effects_on not in ("validation", "test"):
            raise ConfigError(f"--effects-on {self.effects_on}: effects are measured on validation or on test rows")

    @property
    def explore(self) -> list[int]:
        return [0] if self.explores and not self.screen else []

    @property
    def confirm(self) -> list[int]:
        first, count = (self.seeds, self.confirm_seeds) if self.screen else (len(self.explore), self.seeds)
        return list(range(first, first + count))

    def asha(self, configs: Mapping[str, Config]) -> Asha | None:
        """The rungs; None without exploration. Raises ConfigError where no epoch ends between warm-up and the end."""
        if not self.explore:
            return None
        epochs, warmups = [c.train.epochs for c in configs.values()], [c.optim.warmup_ratio for c in configs.values()]
        asha = plan_asha(epochs, warmups, keep_ahead=self.keep_ahead)
        if not asha.rungs or max(epochs) < 2:
            raise ConfigError(
                f"ASHA has no rung here: no epoch ends between the longest warm-up ({max(warmups):.0%}) and the end (epochs: "
                f"{', '.join(map(str, sorted(set(epochs))))}). Train longer, or run the full grid with --no-asha"
            )
        return asha

    def trials(self, arms: Sequence[Arm], epochs: Mapping[str, int]) -> list[TrialRecord]:
        """The trials that are known now: those that explore or screen, or the full grid where nothing does."""
        names = [arm.name for arm in arms]
        if self.screen:
            return trials_of("screen", names, range(self.seeds), epochs)
        return trials_of("explore", names, self.explore, epochs) if self.explore else trials_of("confirm", names, self.confirm, epochs)

    def forecast(self, arms: Sequence[Arm], rows: int) -> Forecast:
        """What the study can see, judged on so many rows."""
        if self.screen:
            return forecast_screen(len(self.screen.factors), len(self.screen.runs), self.seeds, rows)
        return forecast_pairs(sum(arm.reference is not None for arm in arms), self.seeds, rows)


def new_study(
    folder: RunFolder, plan: StudyPlan, arms: Sequence[Arm], prepared: PreparedStudy, *, design: str, level: str,
    command: str | None = None, environment: Environment | None = None,
) -> Study:  # fmt: skip
    """The record of a study that has not begun; `design` and `level` made its arms, `command` began it in `environment`."""
    reference, configs, rows = arms[0].name, prepared.configs, prepared.rows
    file = StudyFile(
        name=folder.root.rstrip("/").rpartition("/")[2],
        design=design,
        level=level,
        command=command,
        environment=environment or {},
        config=dump_config(configs[reference]),
        configs={name: dump_config(config) for name, config in configs.items()},
        data=StudyData(rows=rows.counts, effects_on=plan.effects_on, fingerprint=rows.fingerprint, unit=rows.unit),
        reference=reference,
        arms=list(arms),
        seeds=Seeds(explore=plan.explore, screen=list(range(plan.seeds)) if plan.screen else [], confirm=plan.confirm),
        asha=plan.asha(configs),
        detectable=Detectable(before=plan.forecast(arms, rows.counts["test"]).detectable),
        screen=plan.screen.entry() if plan.screen else None,
        trials=plan.trials(arms, {name: c.train.epochs for name, c in configs.items()}),
    )
    return Study.create(folder, file)


def trial_time(prepared: PreparedStudy, arm: str) -> tuple[float, float]:
    """Seconds of one trial, its start included, on a machine like this one, from a few timed micro-batches; and those of the frozen layers'
    output, which a process computes once for all trials.
    """
    config = prepared.configs[arm]
    encoder = resolve_encoder(config.model.encoder, config.model.revision)
    pad = pad_id(config.model.encoder, config.model.revision)
    whole = {p: Corpus.from_table(t, list(config.labels), pad) for p, t in prepared.tokens[token_key(config)].items()}
    size = config.train.micro_batch_size
    # Micro-batches alone, R-Drop from the first one, no oversampling: what a step's forward and backward pass cost.
    settings: Settings = {"train.global_batch_size": size, "train.epochs": 2, "loss.r_drop_warmup_epochs": 0, "cluster.workers": 0}
    small = with_settings(config, {**settings, "data.oversample.alpha": 0.0, "data.oversample.max_multiplier": 1.0})
    train = prepared.tokens[token_key(config)]["train"]
    rows = np.linspace(0, train.num_rows - 1, min(train.num_rows, _TIMED_BATCHES * size)).astype(np.int64)
    part = Corpus.from_table(train.take(pa.array(rows)), list(config.labels), pad)
    use_threads(config.cluster.cpus_per_worker)
    model = MultitaskModel.from_encoder(encoder.folder, config.model, config.labels, seed=0)
    begun = time.perf_counter()
    training = Training(small, Tables(part, part, None, prepared.statistics(arm)), model, World())
    features = (time.perf_counter() - begun) / (2 * part.lengths.sum()) if config.model.frozen_layers else 0.0
    training.run_epoch()  # the first one warms up
    training.state.epoch += 1
    begun = time.perf_counter()
    training.run_epoch()
    step = (time.perf_counter() - begun) / part.lengths.sum()
    begun = time.perf_counter()
    training.predict(training.validation_rows)
    predict = (time.perf_counter() - begun) / part.lengths.sum()
    tokens = {name: int(corpus.lengths.sum()) for name, corpus in whole.items()}
    grown = prepared.ledgers[arm].epoch_rows / max(1, prepared.ledgers[arm].rows)
    epoch = tokens["train"] * grown * step + tokens["validation"] * predict
    ends = (tokens["validation"] + tokens["test"]) * predict
    return float(config.train.epochs * epoch + ends + _START_S), float(sum(tokens.values()) * features)


@dataclass(frozen=True)
class Costs:
    """Seconds of one trial with everything off, with each factor alone and with all of them, on a machine like this one."""

    off: float
    factors: Mapping[str, float]
    features: float
    """Once for each process that runs trials."""

    @classmethod
    def measured(cls, off: str, factors: Sequence[str], prepared: PreparedStudy) -> "Costs":
        """From a few timed batches of each."""
        _, features = trial_time(prepared, off)  # the first one finds everything cold, and computes the frozen layers' output
        base, _ = trial_time(prepared, off)
        return cls(base, {name: trial_time(prepared, name)[0] for name in factors}, features)

    def of(self, on: Iterable[str]) -> float:
        """Of a combination: each factor multiplies the time by as much as it does alone."""
        return self.off * math.prod(self.factors[name] / self.off for name in on)


def compare_designs(screens: Mapping[str, Screen], costs: Costs, seeds: int, rows: int, concurrent: int) -> str:
    """`only`, `without` and the screens side by side: trials, hours and what they see; and with as many seeds as the first screen's hours
    pay.
    """
    names = list(costs.factors)
    every = costs.of(names)
    hours = {
        "only": costs.off + sum(costs.factors.values()),
        "without": every + sum(every * costs.off / seconds for seconds in costs.factors.values()),
        **{design: sum(costs.of(on) for on in _switched(screen)) for design, screen in screens.items()},
    }
    hours = {design: seconds / 3600 / concurrent for design, seconds in hours.items()}
    budget = seeds * hours[next(iter(screens))]
    lines = [f"{'design':<18}{'trials':>8}{'hours':>9}{'sees':>8}   for the same hours: seeds    sees"]
    at_equal_hours: dict[str, float] = {}
    for design, each in hours.items():
        runs = len(screens[design].runs) if design in screens else None
        forecast = partial(forecast_screen, len(names), runs) if runs else partial(forecast_pairs, len(names))
        own, paid = forecast(seeds, rows), int(budget / each + 1e-9)
        then = forecast(paid, rows).detectable if paid else None
        at_equal_hours[design] = math.inf if then is None else then
        lines.append(f"{design:<18}{own.trials:>8}{seeds * each:>9.2f}{_sees(own.detectable):>8}   {paid:>25}{_sees(then):>8}")
    best = min(at_equal_hours, key=lambda design: at_equal_hours[design])
    lines.append(
        "sees: the true effect, in points of overall macro-F1, found with a probability of 80 % (by the spread of earlier studies)"
    )
    if math.isfinite(at_equal_hours[best]):
        lines.append(f"recommended: --design {best}, which sees the smallest effect for the same hours")
    return "\n".join(lines)


def _switched(screen: Screen) -> list[list[str]]:
    """The factors that each run has on."""
    return [[name for name, sign in zip(screen.names, signs, strict=True) if sign > 0] for signs in screen.runs.values()]


def _sees(effect: float | None) -> str:
    return "-" if effect is None else f"{100 * effect:.1f}"


def describe(plan: StudyPlan, arms: Sequence[Arm], prepared: PreparedStudy, concurrent: int, costs: Costs | None = None) -> str:
    """The dry run in words: trials, epochs, estimated time, and what the study can detect. `costs`: of a screen's factors."""
    lines, total, features = [], 0.0, costs.features if costs else 0.0
    stages = plan.seeds + len(plan.explore)
    for arm in arms:
        on = [] if plan.screen is None else _switched(plan.screen)[list(plan.screen.runs).index(arm.name)]
        if costs and plan.screen:
            seconds = costs.of(on)
        else:
            seconds, of_features = trial_time(prepared, arm.name)
            features = max(features, of_features)
        total += seconds * stages
        against = "" if plan.screen else f", against {arm.reference}" if arm.reference else ", the reference"
        points = f", points {','.join(map(str, arm.points))}" if arm.points else ""
        lines.append(f"{arm.name}: {prepared.epochs[arm.name]} epochs, about {clock(seconds)} a trial{against}{points}")
    epochs = sum(prepared.epochs[arm.name] for arm in arms)
    asha = plan.asha(prepared.configs)
    if asha is not None:
        rungs = ", ".join(f"{rung:.0%}" for rung in asha.rungs)
        explored = f"exploration: {len(arms)} trials, at most {epochs} epochs"
        lines.append(f"{explored}, seeds {_seeds(plan.explore)}, rungs at {rungs}")
    if plan.screen:
        lines.append(f"screen: {plan.seeds * len(arms)} trials of {plan.seeds * epochs} epochs, each in full")
    else:
        lines.append(f"confirmation: at most {plan.seeds * len(arms)} trials of {plan.seeds * epochs} epochs, seeds {_seeds(plan.confirm)}")
    lines.append(f"time: at most about {clock(total / concurrent + features)} with {concurrent} trial(s) at a time like here")
    lines.append(detectable_line(plan.forecast(arms, prepared.rows.counts["test"]).detectable, plan.seeds))
    return "\n".join(lines)


def detectable_line(smallest: float | None, seeds: int) -> str:
    """What the study can see before it has begun."""
    if smallest is None:
        return f"with {seeds} seed(s) no effect can be told from the seeds' own spread"
    return (
        f"with {seeds} seeds a true difference of {100 * smallest:.1f} points of overall macro-F1 is found with a probability of 80 % "
        "(by the spread over seeds that studies with so many rows have measured; smaller ones are mostly missed)"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
