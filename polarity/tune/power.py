"""The smallest effect that a study can see: before it starts, from a stated spread, and after it, from the measured one."""

import math

import numpy as np
from scipy import optimize, stats

from polarity.errors import ConfigError

STATED_SEED_SD = 0.012
"""Spread over seeds of a paired difference in overall macro-F1 that is assumed before a study has measured its own."""
STATED_DISAGREEMENT = 0.15
"""Share of rows on which two arms are assumed to disagree before a study has measured it."""
_QUANTILES = 500


def stated_row_sd(rows: int) -> float:
    """The rows' part assumed for `rows` effect rows: sqrt(share of rows that disagree / rows), as for a difference of accuracies."""
    if rows < 1:
        raise ConfigError("a study needs effect rows: there are none")
    return math.sqrt(STATED_DISAGREEMENT / rows)


def detectable_effect(
    n_seeds: int, arms: int, seed_sd: float, row_sd: float, power: float = 0.8, alpha: float = 0.05, *, seed_df: float | None = None
) -> float:
    """The true difference that comes out as `helps` or `hurts` with probability `power`; fractions of macro-F1.

    Two-sided t test of a mean paired difference with se = sqrt(seed_sd^2 / n + row_sd^2), at alpha / arms: the first step of Holm's
    procedure, so a study in which other arms have effects too sees somewhat smaller ones. `arms` counts those with a reference.
    `seed_df` are the degrees of freedom of the seeds' variance, by default those of arms that share one reference, 4 A (n - 1) / (A + 3)
    (`variance.py`). Infinite for one seed, which has no spread. The power is the noncentral t's.
    """
    if n_seeds < 1 or arms < 1:
        raise ConfigError(f"a study needs at least one seed and one arm with a reference (got {n_seeds} seeds, {arms} arms)")
    if n_seeds == 1:
        return math.inf
    of_seeds = seed_sd**2 / n_seeds
    variance = of_seeds + row_sd**2
    if variance == 0:
        return 0.0
    f_s = 4 * arms * (n_seeds - 1) / (arms + 3) if seed_df is None else seed_df
    df = min(1e6, variance**2 / (of_seeds**2 / f_s)) if of_seeds else 1e6
    limit = float(stats.t.ppf(1 - alpha / arms / 2, df))
    # scipy's noncentral t gives NaN far out, so its normal is integrated over the quantiles of the estimated standard error.
    spread = np.sqrt(stats.chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, df) / df)

    def lacking(shift: float) -> float:
        return float((stats.norm.cdf(shift - limit * spread) + stats.norm.cdf(-shift - limit * spread)).mean()) - power

    return float(optimize.brentq(lacking, 0, limit * float(spread.max()) + 10)) * math.sqrt(variance)
