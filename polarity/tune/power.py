"""The smallest effect that a study can see: before it starts, from the spread that earlier studies measured, and after it, from its own."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from polarity.errors import ConfigError
from polarity.tune.variance import critical

MEASURED_SEED_SD = {1495: 0.014, 300: 0.031, 150: 0.028}
"""{effect rows: spread over seeds of a paired difference in overall macro-F1}, as real studies have measured it (jobs/EXPERIMENTS.md)."""
STATED_DISAGREEMENT = 0.15
"""Share of rows on which two arms are assumed to disagree before a study has measured it."""
SCREEN_ROWS = 0.1
"""A factor's own share of the rows' variance of a pair of arms: the rest is each run's own, and averages out over the runs of a screen."""
_QUANTILES = 400


def stated_seed_sd(rows: int) -> float:
    """The spread over seeds of a paired difference that is assumed for so many effect rows.

    A power law through MEASURED_SEED_SD (least squares of the logarithms): about 3.2 points at 150 rows, 1.5 at 1,495. It is kept level
    beyond the most rows that were measured, for the luck of training does not go away with more rows to judge it on.
    """
    if rows < 1:
        raise ConfigError("a study needs effect rows: there are none")
    sizes = np.log(list(MEASURED_SEED_SD))
    slope, level = np.polyfit(sizes, np.log(list(MEASURED_SEED_SD.values())), 1)
    return float(np.exp(level + slope * min(math.log(rows), float(sizes.max()))))


def stated_row_sd(rows: int) -> float:
    """The rows' part assumed for `rows` effect rows: sqrt(share of rows that disagree / rows), as for a difference of accuracies."""
    if rows < 1:
        raise ConfigError("a study needs effect rows: there are none")
    return math.sqrt(STATED_DISAGREEMENT / rows)


def detectable_effect(seed_se: float, row_se: float, tests: int, seed_df: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true difference that comes out as `helps` or `hurts` with probability `power`; fractions of macro-F1.

    `seed_se`, `row_se`: the seeds' and the rows' part of the standard error of an effect; `seed_df`: the degrees of freedom of the former.
    The test is that of `variance.combine`, two-sided at alpha / tests: the first step of Holm's procedure, so a study with more real
    effects sees somewhat smaller ones. The seeds' variance is estimated, so the power is averaged over its chi-squared distribution; the
    rows' is taken as known. Infinite without degrees of freedom.
    """
    if tests < 1:
        raise ConfigError("a study needs at least one effect to test")
    if seed_df <= 0:
        return math.inf
    if seed_se == 0 and row_se == 0:
        return 0.0
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    of_seeds = seed_se**2 * stats.chi2.ppf(shares, seed_df) / seed_df
    of_rows, rows_df = np.full_like(of_seeds, row_se**2), np.full_like(of_seeds, 1e6)
    limit = critical(alpha / tests / 2, of_seeds, seed_df, of_rows, rows_df, tests) * np.sqrt(of_seeds + of_rows)
    truth = math.sqrt(seed_se**2 + row_se**2)

    def lacking(effect: float) -> float:
        return float((stats.norm.sf((limit - effect) / truth) + stats.norm.cdf((-limit - effect) / truth)).mean()) - power

    return float(optimize.brentq(lacking, 0, float(limit.max()) + 10 * truth))


@dataclass(frozen=True)
class Forecast:
    """What a design costs and can see: `trials` in full; `detectable` None where it can see nothing."""

    design: str
    runs: int
    seeds: int
    trials: int
    detectable: float | None


def forecast_pairs(design: str, tests: int, seeds: int, rows: int) -> Forecast:
    """A design of arms that are each compared with one of them: `tests` differences over `seeds` seeds, judged on `rows` rows."""
    sees = None
    if tests and seeds > 1:
        # The degrees of arms that share one reference; `variance.py` has the formula.
        seed_df = 4 * tests * (seeds - 1) / (tests + 3)
        sees = detectable_effect(stated_seed_sd(rows) / math.sqrt(seeds), stated_row_sd(rows), tests, seed_df)
    return Forecast(design, tests + 1, seeds, (tests + 1) * seeds, sees)


def forecast_screen(factors: int, runs: int, seeds: int, rows: int) -> Forecast:
    """A screen: each effect is the difference of two halves of all trials."""
    trials = runs * seeds
    seed_df = float((runs - 1) * (seeds - 1) if seeds > 1 else runs - 1 - factors)
    # A pair's difference has two trials' spread, an effect's variance is 4 / trials of one trial's.
    seed_se = stated_seed_sd(rows) / math.sqrt(2) * 2 / math.sqrt(trials)
    row_variance = stated_row_sd(rows) ** 2 * (SCREEN_ROWS + (1 - SCREEN_ROWS) * 2 / runs)
    sees = detectable_effect(seed_se, math.sqrt(row_variance), factors, seed_df) if seed_df > 0 else None
    return Forecast("screen", runs, seeds, trials, sees)
