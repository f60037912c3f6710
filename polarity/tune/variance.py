"""The variance of a seed-averaged paired difference: seeds and rows, each counted once.

For arm a, seed s and the same rows on both sides let D_as = score(a, s) - score(reference of a, s). Over seeds and over rows,

    D_as = theta_a + R_a + E_as        Var(mean over S_a seeds) = Var(R_a) + Var(E) / S_a

R_a is what this sample of rows favours whatever the seed; E_as is the seed's own part, together with the luck that this seed has
with these rows (seed x row). Over seeds, on fixed rows, D_as varies by E alone, so

    seeds   s2 = sum_a sum_s (D_as - mean_a)^2 / sum_a (S_a - 1)         pooled over the arms, estimates Var(E), seed x row included
    rows    v_a = mean over pairs of seeds s != t of sum_i psi_asi psi_ati,   estimates Var(R_a) alone

where psi_asi is row i's influence on D_as. A bootstrap of the rows of the seed-averaged difference has the variance
sum_i (mean_s psi_asi)^2, which holds v_a *and* the seed x row part divided by S_a: adding it to s2 / S_a would count that part twice.
The products of different seeds leave it out. Hence

    se_a^2 = s2 / S_a + max(0, v_a)
    mean_a +- t(0.975, df_a) se_a,     df_a = se_a^4 / ((s2 / S_a)^2 / f_s + v_a^2 / f_a)     (Satterthwaite 1946)

f_s, the degrees of freedom of s2. Arms share references (in a study `only` all share the baseline), so their differences are
correlated and A arms are worth fewer than A (S - 1) degrees. With C = B B' the covariance of the differences for equal, independent
noise in each arm (B: +1 for the arm, -1 for its reference) and P the centring by arm, the sum of squares has f_s = tr(PC)^2 / tr((PC)^2):
for `only` with A arms 4 A (S - 1) / (A + 3), for a ladder 2 A^2 (S - 1) / (3 A - 1).
Pooling the *differences* and not the arms' own scores keeps a reference that is noisier than its arms in every arm's variance.
f_a, those of the rows' part, follows from the spread of the rows' products q_i (v_a = sum_i q_i): f_a = 2 v_a^2 / (sum q_i^2 - v_a^2 / N).
Few rows that decide (a class with ten rows) so mean few degrees.

What the interval speaks of: other seeds, and other rows like these; the training rows are held fixed.
Shape suffixes: A arms with a reference, M metrics, G units (rows or titles).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from polarity.evaluate.predictions import Floats

FEWEST_SEEDS = 2


@dataclass
class PairedRows:
    """Running sums over the seeds of one arm's influences: enough for the products of different seeds."""

    total_GM: Floats
    squares_GM: Floats
    seeds: int = 0

    @classmethod
    def empty(cls, units: int, metrics: int) -> "PairedRows":
        return cls(np.zeros((units, metrics)), np.zeros((units, metrics)))

    def add(self, influence_GM: Floats) -> None:
        """Adds one seed's influences on the difference."""
        self.total_GM += influence_GM
        self.squares_GM += influence_GM**2
        self.seeds += 1

    def variance(self) -> tuple[Floats, Floats]:
        """(v (M,), its degrees of freedom (M,)): v is 0 where the rows' part cannot be told from nothing."""
        if self.seeds < FEWEST_SEEDS:
            # One seed has no pairs: its own squares hold the seed x row part too, but there is no seed variance to add to either.
            products = self.squares_GM
        else:
            products = (self.total_GM**2 - self.squares_GM) / (self.seeds * (self.seeds - 1))
        v_M = products.sum(axis=0)
        noise_M = np.maximum((products**2).sum(axis=0) - v_M**2 / len(products), 0)
        df_M = np.divide(2 * v_M**2, noise_M, out=np.full_like(v_M, np.inf), where=noise_M > 0)
        return np.maximum(v_M, 0), np.maximum(df_M, 1)


@dataclass(frozen=True)
class SeedSpread:
    """Pooled variance over seeds of a paired difference (M,) and its degrees of freedom; None where no arm has two seeds."""

    variance_M: Floats
    df: float


@dataclass(frozen=True)
class Interval:
    """Mean difference, 95 % limits, standard error and two-sided p, each (M,)."""

    mean_M: Floats
    low_M: Floats
    high_M: Floats
    p_M: Floats


def pooled_seeds(differences: Mapping[str, Mapping[int, Floats]], references: Mapping[str, str]) -> SeedSpread | None:
    """s2 and f_s of the module's words, from {arm: {seed: difference (M,)}} and {arm: its reference}."""
    squares, count = None, 0
    for by_seed in differences.values():
        if len(by_seed) < FEWEST_SEEDS:
            continue
        values = np.stack(list(by_seed.values()))
        own = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        squares = own if squares is None else squares + own
        count += len(by_seed) - 1
    if squares is None:
        return None
    pairs = [(arm, seed) for arm, by_seed in differences.items() if len(by_seed) >= FEWEST_SEEDS for seed in by_seed]
    return SeedSpread(squares / count, seed_degrees(pairs, references))


def seed_degrees(pairs: Sequence[tuple[str, int]], references: Mapping[str, str]) -> float:
    """f_s for the (arm, seed) pairs that have a difference: tr(PC)^2 / tr((PC)^2)."""
    arms = [arm for arm, _ in pairs]
    seeds = np.array([seed for _, seed in pairs])
    names = sorted({*arms, *(references[arm] for arm in arms)})
    signs = np.zeros((len(pairs), len(names)))
    for row, arm in enumerate(arms):
        signs[row, names.index(arm)] += 1
        signs[row, names.index(references[arm])] -= 1
    covariance = (signs @ signs.T) * (seeds[:, None] == seeds[None, :])
    codes = np.array([names.index(arm) for arm in arms])
    same = (codes[:, None] == codes[None, :]).astype(np.float64)
    centred = covariance - (same / same.sum(axis=1, keepdims=True)) @ covariance
    return float(np.trace(centred) ** 2 / np.trace(centred @ centred))


def combine(mean_M: Floats, seeds: int, spread: SeedSpread, rows_M: Floats, rows_df_M: Floats) -> Interval:
    """Interval and p of one arm's mean difference over `seeds` seeds, by the formula above."""
    of_seeds_M = spread.variance_M / seeds
    variance_M = of_seeds_M + rows_M
    share_M = of_seeds_M**2 / spread.df + rows_M**2 / rows_df_M
    df_M = np.divide(variance_M**2, share_M, out=np.full_like(mean_M, np.inf), where=share_M > 0)
    error_M = np.sqrt(variance_M)
    reach_M = stats.t.ppf(0.975, df_M) * error_M
    # Without any spread (an arm that always predicts as its reference) a zero difference is no evidence.
    ratio_M = np.divide(np.abs(mean_M), error_M, out=np.where(mean_M == 0, 0.0, np.inf), where=error_M > 0)
    return Interval(mean_M, mean_M - reach_M, mean_M + reach_M, 2 * stats.t.sf(ratio_M, df_M))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), in the given order: the family-wise error stays below the level under any dependence."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(order))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]
