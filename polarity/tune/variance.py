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
    mean_a +- c_a se_a,     c_a = t(0.975, df_a),  df_a = se_a^4 / ((s2 / S_a)^2 / f_s + v_a^2 / f_a)     (Satterthwaite 1946)

Satterthwaite's degrees put the estimated s2 where the true one should stand: with few f_s a small s2 by luck takes many degrees from the
rows' part, and a single arm over 2, 3 and 5 seeds gets 10, 7 and 6 % false verdicts. There (`cautious`) c_a is Cochran's,

    c_a = ((s2 / S_a) t(0.975, f_s) + v_a t(0.975, f_a)) / se_a^2                                        (Cochran and Cox 1950)

which never errs above the level (Mickey and Brown 1966): 2 to 5 %. With four arms or more Holm's smaller level leaves room enough for
Satterthwaite.

One variance for all arms is wrong for an arm that is noisier than the others. The noisiest arm's own s2 is put to an F test against the
others'; below 10 % it has its own variance with its S - 1 degrees, and below 1 % the others' pool leaves it out. An arm with three times
the others' spread is so covered in 88 to 92 % and not in 78 to 84 (3 and 5 seeds, 4 and 10 arms); where all arms are alike this costs one
to four points of power.

f_s, the degrees of freedom of s2. Arms share references (in a study `only` all share the baseline), so their differences are
correlated and A arms are worth fewer than A (S - 1) degrees. With C = B B' the covariance of the differences for equal, independent
noise in each arm (B: +1 for the arm, -1 for its reference) and P the centring by arm, the sum of squares has f_s = tr(PC)^2 / tr((PC)^2):
for `only` with A arms 4 A (S - 1) / (A + 3), for a ladder 2 A^2 (S - 1) / (3 A - 1).
Pooling the *differences* and not the arms' own scores keeps a reference that is noisier than its arms in every arm's variance.
f_a, those of the rows' part, follows from the spread of the rows' products q_i (v_a = sum_i q_i): f_a = 2 v_a^2 / (sum q_i^2 - v_a^2 / N).
Few rows that decide (a class with ten rows) so mean few degrees.

The influence of row i on a score is the score's derivative by the row's weight, at weight 1. The sum of squared influences is the
infinitesimal jackknife's variance, which a bootstrap of the rows approaches as its resamples grow (Efron 1982, chapter 6); with rows that
come in groups (titles), a group's influences are added first, as the cluster bootstrap draws whole groups.

What the interval speaks of: other seeds, and other rows like these; the training rows are held fixed.
Shape suffixes: A arms with a reference, N rows, K classes, M metrics (overall, then each task, then each task's classes), G units (rows
or titles).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from scipy import optimize, special, stats

from polarity.arrays import Codes, Floats
from polarity.errors import ConfigError
from polarity.evaluate.metrics import class_scores, confusion_matrix
from polarity.evaluate.predictions import Labels
from polarity.study import OVERALL

TaskCodes = Mapping[str, tuple[Codes, Codes]]
"""{task: (label, prediction)}, class indices (N,), -1 for a missing label."""


@dataclass(frozen=True)
class TrialScores:
    """One trial's scores (M,), and per task its codes and what a row of a label and a prediction moves (K + 1, K, 1 + K)."""

    scores_M: Floats
    tasks: tuple[tuple[Codes, Codes, Floats], ...]

    @property
    def influence_NM(self) -> Floats:
        """Influences of all rows."""
        return self.influence(slice(None))

    def influence(self, rows: slice) -> Floats:
        """Influences of some rows (n, M): with many rows and trials they are made in parts."""
        of_rows = [table[label[rows], predicted[rows]] for label, predicted, table in self.tasks]
        macro_nT = np.concatenate([values[:, :1] for values in of_rows], axis=1)
        return np.concatenate([macro_nT.mean(axis=1, keepdims=True), macro_nT, *(values[:, 1:] for values in of_rows)], axis=1)


def metric_names(labels: Labels) -> list[str]:
    """`overall`, each task, and each `task/class`: the order of M."""
    return [OVERALL, *labels, *(f"{task}/{name}" for task, names in labels.items() for name in names)]


def judge_rows(codes: TaskCodes, classes: Sequence[int]) -> TrialScores:
    """Scores and influences of one trial; `classes` holds each task's K, in the order of `codes`.

    F1 = 2 TP / (P + S) with P predicted and S labelled rows of a class, so a row moves it by
    (2 [hit] - F1 ([predicted] + [labelled])) / (P + S); macro-F1 is the mean over the classes that have a labelled row, as
    everywhere, and overall the mean over tasks. A row without a label moves nothing.
    """
    f1, macro, tables = [], [], []
    for (label, predicted), count in zip(codes.values(), classes, strict=True):
        task_f1_K, moves_KKK = _f1_moves(confusion_matrix(label, predicted, count))
        occurs = np.unique(label[label >= 0]) if (label >= 0).any() else np.arange(count)
        with_macro = np.concatenate([moves_KKK[..., occurs].mean(axis=-1, keepdims=True), moves_KKK], axis=-1)
        f1.append(task_f1_K)
        macro.append(task_f1_K[occurs].mean())
        # A further row of zeros for the label -1 of rows that have none.
        tables.append((label, predicted, np.concatenate([with_macro, np.zeros((1, count, count + 1))])))
    macro_T = np.array(macro)
    return TrialScores(np.concatenate([[macro_T.mean()], macro_T, *f1]), tuple(tables))


def by_unit(influence_NM: Floats, unit_N: Codes | None, units: int) -> Floats:
    """Influences summed by unit (G = `units`, M), times sqrt(g / (g - 1)) for the g units that have rows, as a sample variance.

    `unit_N` is None where each row is a unit.
    """
    summed, present = influence_NM, units
    if unit_N is not None:
        summed, present = np.zeros((units, influence_NM.shape[1])), len(np.unique(unit_N))
        np.add.at(summed, unit_N, influence_NM)
    scaled: Floats = summed * np.sqrt(present / max(1, present - 1))
    return scaled


def _f1_moves(confusion_KK: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(F1 (K,), what a row with this label and this prediction does to each F1 (K, K, K)) of one task."""
    f1_K = class_scores(confusion_KK).f1
    below_K = (confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)).astype(np.float64)
    one_hot = np.eye(len(f1_K))
    is_label, is_predicted = one_hot[:, None, :], one_hot[None, :, :]
    change = 2 * is_label * is_predicted - f1_K * (is_label + is_predicted)
    return f1_K, np.divide(change, below_K, out=np.zeros_like(change), where=below_K > 0)


FEWEST_SEEDS = 2
_OWN_VARIANCE, _LEAVES_THE_POOL = 0.1, 0.01
_FEWEST_DF, _FEW_DF, _MANY_TESTS = 3, 9, 4
"""When Cochran's limit is taken; found by simulation over 1 to 10 arms and 2 to 10 seeds."""
_BISECTIONS = 60
_LEAST_TAIL = -100.0  # a power of ten: beyond, limits are no longer finite
_NORMAL_DF = 1e9


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
        return np.maximum(v_M, 0), rows_degrees(v_M, noise_M, len(products))


def rows_degrees(v_M: Floats, noise_M: Floats, units: int) -> Floats:
    """f_a, 2 v^2 over the noise of v, at least 1 and at most what so many units (rows, or few titles) can have."""
    df_M = np.divide(2 * v_M**2, noise_M, out=np.full_like(v_M, _NORMAL_DF), where=noise_M > 0)
    clipped: Floats = np.clip(df_M, 1, max(1, units - 1))
    return clipped


@dataclass(frozen=True)
class SeedSpread:
    """A variance over seeds (M,) and its degrees of freedom."""

    variance_M: Floats
    df: float


@dataclass(frozen=True)
class ArmSpreads:
    """The variance over seeds of paired differences: pooled over the arms, and the own one of an arm that is noisier than the others."""

    pooled: SeedSpread
    own: Mapping[str, SeedSpread]

    def of(self, arm: str) -> SeedSpread:
        return self.own.get(arm, self.pooled)


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference, its 95 % limits and two-sided p, each (M,)."""

    mean_M: Floats
    low_M: Floats
    high_M: Floats
    p_M: Floats


def arm_spreads(differences: Mapping[str, Mapping[int, Floats]], references: Mapping[str, str]) -> ArmSpreads | None:
    """s2 and f_s of the module's words, from {arm: {seed: difference (M,)}} and {arm: its reference}; None where no arm has two seeds."""
    replicated = {arm: by_seed for arm, by_seed in differences.items() if len(by_seed) >= FEWEST_SEEDS}
    if not replicated:
        return None
    pooled = _pooled(replicated, references)
    noisy = _noisiest(replicated, references)
    if noisy is None:
        return ArmSpreads(pooled, {})
    arm, p, own = noisy
    if p < _LEAVES_THE_POOL:
        pooled = _pooled({name: by_seed for name, by_seed in replicated.items() if name != arm}, references)
    return ArmSpreads(pooled, {arm: SeedSpread(np.maximum(own.variance_M, pooled.variance_M), own.df)})


def _pooled(differences: Mapping[str, Mapping[int, Floats]], references: Mapping[str, str]) -> SeedSpread:
    values = [np.stack(list(by_seed.values())) for by_seed in differences.values()]
    squares_M = np.sum([((own - own.mean(axis=0)) ** 2).sum(axis=0) for own in values], axis=0)
    pairs = [(arm, seed) for arm, by_seed in differences.items() for seed in by_seed]
    return SeedSpread(squares_M / sum(len(own) - 1 for own in values), seed_degrees(pairs, references))


def _noisiest(differences: Mapping[str, Mapping[int, Floats]], references: Mapping[str, str]) -> tuple[str, float, SeedSpread] | None:
    """(arm, p, its own spread) of the arm whose overall score varies most beside the others', where the F test says so."""
    found = []
    for arm in differences if len(differences) > 1 else ():
        own = _pooled({arm: differences[arm]}, references)
        others = _pooled({name: by_seed for name, by_seed in differences.items() if name != arm}, references)
        if others.variance_M[0] > 0:
            found.append((float(special.fdtrc(own.df, others.df, own.variance_M[0] / others.variance_M[0])), arm, own))
    if not found:
        return None
    p, arm, own = min(found, key=lambda entry: entry[0])
    return (arm, p, own) if p < _OWN_VARIANCE else None


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


def combine(mean_M: Floats, seeds: float, spread: SeedSpread | None, rows_M: Floats, rows_df_M: Floats, tests: int = 1) -> MeanDifference:
    """Interval and p of one arm's mean difference over `seeds` seeds, by the formulas above; `tests` is the size of Holm's family.

    Without a `spread` over seeds nothing is known but the mean: all else is NaN.
    """
    if spread is None:
        unknown_M = np.full(len(mean_M), np.nan)
        return MeanDifference(mean_M, unknown_M, unknown_M, unknown_M)
    of_seeds_M = spread.variance_M / seeds
    error_M = np.sqrt(of_seeds_M + rows_M)
    # Without any spread (an arm that always predicts as its reference) a zero difference is no evidence.
    ratio_M = np.divide(np.abs(mean_M), error_M, out=np.where(mean_M == 0, 0.0, np.inf), where=error_M > 0)
    parts = (of_seeds_M, spread.df, rows_M, rows_df_M)
    cautious_M = cautious(spread.df, rows_df_M, rows_M, tests)
    reach_M = critical(0.025, *parts, tests) * error_M
    p_M = 2 * special.stdtr(_satterthwaite_df(*parts), -ratio_M)
    if cautious_M.any():
        p_M = np.where(cautious_M, 2 * _cochran_tail(ratio_M, *parts), p_M)
    return MeanDifference(mean_M, mean_M - reach_M, mean_M + reach_M, p_M)


def cautious(seed_df: float, rows_df_M: Floats, rows_M: Floats, tests: int) -> npt.NDArray[np.bool_]:
    """Where Cochran's limit stands for Satterthwaite's (M,): few degrees for the seeds, or for the rows (few titles)."""
    few_rows: npt.NDArray[np.bool_] = (rows_df_M < _FEW_DF) & (rows_M > 0)
    return few_rows | (seed_df < _FEWEST_DF) | (tests < _MANY_TESTS and seed_df < _FEW_DF)


def critical(tail: float, of_seeds_M: Floats, seed_df: float, rows_M: Floats, rows_df_M: Floats, tests: int) -> Floats:
    """The limit, in standard errors, that is passed with the probability `tail` on each side (M,)."""
    parts = (of_seeds_M, seed_df, rows_M, rows_df_M)
    satterthwaite_M = -special.stdtrit(_satterthwaite_df(*parts), tail)
    limits: Floats = np.where(cautious(seed_df, rows_df_M, rows_M, tests), _cochran(tail, *parts), satterthwaite_M)
    return limits


def _satterthwaite_df(of_seeds_M: Floats, seed_df: float, rows_M: Floats, rows_df_M: Floats) -> Floats:
    share_M = of_seeds_M**2 / seed_df + rows_M**2 / rows_df_M
    df_M: Floats = np.divide((of_seeds_M + rows_M) ** 2, share_M, out=np.full_like(share_M, _NORMAL_DF), where=share_M > 0)
    return df_M


def _cochran(tail: float | Floats, of_seeds_M: Floats, seed_df: float, rows_M: Floats, rows_df_M: Floats) -> Floats:
    whole_M = of_seeds_M + rows_M
    share_M = np.divide(of_seeds_M, whole_M, out=np.ones_like(whole_M), where=whole_M > 0)
    limits: Floats = -share_M * special.stdtrit(seed_df, tail) - (1 - share_M) * special.stdtrit(rows_df_M, tail)
    return limits


def _cochran_tail(ratio_M: Floats, of_seeds_M: Floats, seed_df: float, rows_M: Floats, rows_df_M: Floats) -> Floats:
    """The tail whose Cochran limit is the ratio, by bisection of its logarithm."""
    low_M, high_M = np.full_like(ratio_M, _LEAST_TAIL), np.full_like(ratio_M, np.log10(0.5))
    for _ in range(_BISECTIONS):
        middle_M = (low_M + high_M) / 2
        beyond_M = _cochran(10.0**middle_M, of_seeds_M, seed_df, rows_M, rows_df_M) > ratio_M
        low_M, high_M = np.where(beyond_M, middle_M, low_M), np.where(beyond_M, high_M, middle_M)
    tail_M: Floats = 10.0**high_M
    return tail_M


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), in the given order: the family-wise error stays below the level under any dependence."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(order))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]


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

    trials: int
    detectable: float | None


def forecast_pairs(tests: int, seeds: int, rows: int) -> Forecast:
    """A design of arms that are each compared with one of them: `tests` differences over `seeds` seeds, judged on `rows` rows."""
    sees = None
    if tests and seeds > 1:
        seed_df = 4 * tests * (seeds - 1) / (tests + 3)  # the degrees of arms that share one reference, see above
        sees = detectable_effect(stated_seed_sd(rows) / math.sqrt(seeds), stated_row_sd(rows), tests, seed_df)
    return Forecast((tests + 1) * seeds, sees)


def forecast_screen(factors: int, runs: int, seeds: int, rows: int) -> Forecast:
    """A screen: each effect is the difference of two halves of all trials."""
    trials = runs * seeds
    seed_df = float((runs - 1) * (seeds - 1) if seeds > 1 else runs - 1 - factors)
    # A pair's difference has two trials' spread, an effect's variance is 4 / trials of one trial's.
    seed_se = stated_seed_sd(rows) / math.sqrt(2) * 2 / math.sqrt(trials)
    row_variance = stated_row_sd(rows) ** 2 * (SCREEN_ROWS + (1 - SCREEN_ROWS) * 2 / runs)
    sees = detectable_effect(seed_se, math.sqrt(row_variance), factors, seed_df) if seed_df > 0 else None
    return Forecast(trials, sees)
