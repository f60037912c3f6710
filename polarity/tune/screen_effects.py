"""The effects of a screen: one linear model over all its runs and seeds, with every part of the noise counted once.

For run r and seed s, on the same effect rows,

    y_rs = mu + b_s + sum_j x_rj e_j / 2 + R_r + E_rs

b_s is the seed's block, R_r what this sample of rows favours in run r whatever the seed, E_rs the trial's own luck, its luck with these
rows included. Least squares gives e = W y with one weight for each trial. Then, as in `variance.py`,

    seeds   s2, the mean square of what is left when every run has its own mean ((R - 1)(S - 1) degrees of freedom): estimates Var(E),
            whatever interactions there are. With one seed, or with a second one that has only begun, that rest has no degrees or too
            few, and the linear model's own stands for it: it holds the interactions too, and is the larger for them
    rows    c_ji = sum_t W_jt psi_ti, the influence of row i on e_j, has a part of E in it: v_j = sum_i c_ji^2 - (sum_t W_jt^2) sum_i
    s2_i, where
            s2_i is the same rest of the influences of row i. v_j estimates Var(sum_r W_jr R_r)
    se_j^2 = s2 sum_t W_jt^2 + max(0, v_j)

Where rows come in titles their influences are added by title first. Intervals, p values, Holm's family (the factors) and the words of a
verdict are those of any study. Shape suffixes: T trials, J effects, M metrics, G units (rows or titles).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polarity.arrays import Codes, Floats
from polarity.errors import DataError
from polarity.evaluate.predictions import Labels
from polarity.study import EFFECTS_SCHEMA, Contrast, Interaction
from polarity.tune import variance
from polarity.tune.designs import Screen, estimable_interactions, main_aliases, pair_columns, unused_columns
from polarity.tune.statistics import SeedRows, Trial, by_seed, effect_rows, known, mean_seconds

Value = TypeVar("Value")
_PART = 8_192
"""Rows whose influences are held at a time."""
_FEWEST_DF = 8
"""Below so many degrees of freedom the replicates' rest is not used: with 4 the true spread is within 0.6 to 2.9 times the estimate, with
8 within 0.7 to 1.9."""


@dataclass(frozen=True)
class ScreenEffects:
    """The effects table, a row per factor and metric, and what else the model says. Differences are fractions of macro-F1."""

    table: pa.Table
    interactions: list[Interaction]
    """The largest first. None is claimed."""
    contrasts: list[Contrast]
    aliased: dict[str, dict[str, float]]
    """{factor: {"a x b": correlation}} of the two-factor interactions that its effect is not clear of."""
    seed_sd: float | None
    """Spread over seeds of one trial's score."""
    row_sd: float | None
    """Root mean square over factors of the rows' part of an effect."""
    detectable: float | None
    error_df: float
    error_from: str
    """`replicates` or `linear model`."""


@dataclass(frozen=True)
class _Fit:
    """The least-squares weights of effects (J, T), and the projection (T, T) on what an error variance is estimated from, with its rank."""

    weights_JT: Floats
    rest_TT: Floats
    df: float
    error_from: str


def screen_effects(
    predictions: Mapping[Trial, pa.Table],
    screen: Screen,
    labels: Labels,
    *,
    seconds: Mapping[Trial, float] | None = None,
    by_title: bool = False,
) -> ScreenEffects:
    """The effects of a screen's factors from the predictions {(run, seed): predictions of the effect rows} of trials that ran in full.

    Trials may be missing as long as every effect can be told from the others. Raises DataError: it cannot, or rows or labels differ.
    """
    seeds, units = by_seed(predictions, labels, by_title)
    return fit_screen(seeds, units, screen, labels, seconds or {})


def fit_screen(seeds: Sequence[SeedRows], units: int, screen: Screen, labels: Labels, seconds: Mapping[Trial, float]) -> ScreenEffects:
    """`screen_effects` from class codes; `units` is the number of rows or titles over all seeds."""
    trials = [(name, rows.seed) for rows in seeds for name in rows.codes]
    judged = [variance.judge_rows(codes, [len(labels[task]) for task in codes]) for rows in seeds for codes in rows.codes.values()]
    placed = [rows.units for rows in seeds for _ in rows.codes]
    scores_TM = np.array([one.scores_M for one in judged])
    signs_TF = np.array([screen.runs[name] for name, _ in trials], dtype=np.float64)
    pairs = estimable_interactions(screen.signs_RF)
    fit = _fit(trials, signs_TF, screen)
    products = [signs_TF[:, j] * signs_TF[:, k] for j, k in (found.pair for found in pairs)]
    of_pairs_JT = np.array([_beside_mains(trials, signs_TF, product_T) for product_T in products]).reshape(len(pairs), len(trials))
    weights_JT = np.concatenate([fit.weights_JT, of_pairs_JT])
    s2_M = _mean_square(fit, scores_TM)
    v_JM, df_JM = _rows_part(weights_JT, fit, judged, placed, units)
    spread = variance.SeedSpread(s2_M, fit.df) if fit.df >= 1 else None
    factors = len(screen.factors)
    intervals = [
        variance.combine(w_T @ scores_TM, 1 / float((w_T**2).sum()), spread, v_M, df_M, factors)
        for w_T, v_M, df_M in zip(weights_JT, v_JM, df_JM, strict=True)
    ]
    adjusted = variance.holm([float(interval.p_M[0]) for interval in intervals[:factors]]) if spread else [None] * factors
    metrics = variance.metric_names(labels)
    table = pa.Table.from_pylist(
        [
            row
            for j, factor in enumerate(screen.factors)
            for row in effect_rows(
                factor, "off", "screen", intervals[j], metrics, adjusted[j], *_sides(trials, signs_TF[:, j], scores_TM, seconds)
            )
        ],
        schema=EFFECTS_SCHEMA,
    )
    found = [
        Interaction(
            factors=(screen.names[pair.pair[0]], screen.names[pair.pair[1]]),
            estimate=float(interval.mean_M[0]),
            low=known(interval.low_M[0]),
            high=known(interval.high_M[0]),
            aliases=_named(screen, pair.aliases),
        )
        for pair, interval in zip(pairs, intervals[factors:], strict=True)
    ]
    aliased = dict(zip(screen.names, main_aliases(screen.signs_RF), strict=True))
    row_sd = math.sqrt(float(np.mean(v_JM[:factors, 0])))
    return ScreenEffects(
        table,
        sorted(found, key=lambda entry: -abs(entry.estimate)),
        _contrasts(screen, trials, scores_TM[:, 0], [float(interval.mean_M[0]) for interval in intervals[:factors]]),
        {name: _named(screen, aliases) for name, aliases in aliased.items() if aliases},
        math.sqrt(float(s2_M[0])) if spread else None,
        row_sd if spread else None,
        _smallest(fit, float(s2_M[0]), row_sd, factors) if spread else None,
        fit.df,
        fit.error_from,
    )


def linear_effects(trials: Sequence[Trial], scores_T: Sequence[float], screen: Screen) -> Floats:
    """The factors' effects (F,) alone, of any score of the trials, by the same model. Raises DataError as `screen_effects`."""
    signs_TF = np.array([screen.runs[name] for name, _ in trials], dtype=np.float64)
    effects_F: Floats = _fit(trials, signs_TF, screen).weights_JT @ np.asarray(scores_T)
    return effects_F


def _fit(trials: Sequence[Trial], signs_TF: Floats, screen: Screen) -> _Fit:
    blocks_TS = _indicators([seed for _, seed in trials])
    model = np.concatenate([blocks_TS, signs_TF / 2], axis=1)
    if np.linalg.matrix_rank(model) < model.shape[1]:
        raise DataError(
            f"the {len(trials)} runs that are done cannot tell the effects of {', '.join(screen.names)} from each other: "
            "finish more of them (--resume)"
        )
    inverse = np.linalg.pinv(model)
    replicated = np.concatenate([blocks_TS, _indicators([name for name, _ in trials])], axis=1)
    df = float(len(trials) - np.linalg.matrix_rank(replicated))
    source, columns = "replicates", replicated
    if df < _FEWEST_DF:
        source, columns, df = "linear model", model, float(len(trials) - model.shape[1])
    rest = np.eye(len(trials)) - columns @ np.linalg.pinv(columns)
    return _Fit(inverse[len(blocks_TS[0]) :], rest, df, source)


def _indicators(values: npt.ArrayLike) -> Floats:
    """A column for each different value, 1 where it stands."""
    found: Floats = (np.asarray(values)[:, None] == np.unique(values)[None, :]).astype(np.float64)
    return found


def _beside_mains(trials: Sequence[Trial], signs_TF: Floats, column_T: Codes | Floats) -> Floats:
    """Weights (T,) of one more contrast, an interaction say, beside the blocks and all main effects."""
    model = np.concatenate([_indicators([seed for _, seed in trials]), signs_TF / 2, column_T[:, None] / 2], axis=1)
    weights: Floats = np.linalg.pinv(model)[-1]
    return weights


def _mean_square(fit: _Fit, values_TM: Floats) -> Floats:
    """The error variance (M,); zero where nothing is left to estimate it from."""
    rest_TM = fit.rest_TT @ values_TM
    squares_M: Floats = (rest_TM**2).sum(axis=0) / max(1.0, fit.df)
    return squares_M


def _rows_part(
    weights_JT: Floats, fit: _Fit, judged: Sequence[variance.TrialScores], placed: Sequence[Codes | None], units: int
) -> tuple[Floats, Floats]:
    """(v (J, M), its degrees of freedom (J, M)) of the module's words."""
    sums = [np.zeros((len(weights_JT), len(judged[0].scores_M))) for _ in range(2)]
    per_trial_J = (weights_JT**2).sum(axis=1)
    count = 0
    for influence_TGM in _parts(judged, placed, units):
        c_JGM = np.tensordot(weights_JT, influence_TGM, axes=1)
        rest_TGM = np.tensordot(fit.rest_TT, influence_TGM, axes=1)
        own_GM = (rest_TGM**2).sum(axis=0) / max(1.0, fit.df)
        products_JGM = c_JGM**2 - per_trial_J[:, None, None] * own_GM
        sums[0] += products_JGM.sum(axis=1)
        sums[1] += (products_JGM**2).sum(axis=1)
        count += influence_TGM.shape[1]
    v_JM = sums[0]
    return np.maximum(v_JM, 0), variance.rows_degrees(v_JM, np.maximum(sums[1] - v_JM**2 / count, 0), count)


def _parts(judged: Sequence[variance.TrialScores], placed: Sequence[Codes | None], units: int) -> Iterator[Floats]:
    """The trials' influences by unit (T, G, M): in parts where each row is a unit, at once where rows are added by title or differ."""
    if all(place is None for place in placed):
        scale = math.sqrt(units / max(1, units - 1))
        for start in range(0, units, _PART):
            yield scale * np.stack([one.influence(slice(start, start + _PART)) for one in judged])
        return
    yield np.stack([variance.by_unit(one.influence_NM, place, units) for one, place in zip(judged, placed, strict=True)])


def _sides(
    trials: Sequence[Trial], signs_T: Floats, scores_TM: Floats, seconds: Mapping[Trial, float]
) -> tuple[tuple[Floats, Floats], int, list[float | None]]:
    """Mean scores with a factor on and off, the number of seeds, and mean seconds with it on and off."""
    scores = scores_TM[signs_T > 0].mean(axis=0), scores_TM[signs_T < 0].mean(axis=0)
    costs = [mean_seconds([t for t, sign in zip(trials, signs_T, strict=True) if sign == side], seconds) for side in (1, -1)]
    return scores, len({seed for _, seed in trials}), costs


def _named(screen: Screen, of_pairs: Mapping[tuple[int, int], Value]) -> dict[str, Value]:
    """{"a x b": value} of values by two factors' indices."""
    return {f"{screen.names[j]} x {screen.names[k]}": value for (j, k), value in of_pairs.items()}


def _contrasts(screen: Screen, trials: Sequence[Trial], scores_T: Floats, effects: Sequence[float]) -> list[Contrast]:
    """The factors' effects, and as many contrasts of the same precision that no factor is in: unused columns, and in a full factorial
    pairs.
    """
    found = [Contrast(name=name, estimate=effect) for name, effect in zip(screen.names, effects, strict=True)]
    others = unused_columns(screen.signs_RF)
    if not others and not any(main_aliases(screen.signs_RF)):
        others = _named(screen, pair_columns(screen.signs_RF))
    place = {name: index for index, name in enumerate(screen.runs)}
    signs_TF = np.array([screen.runs[name] for name, _ in trials], dtype=np.float64)
    for name, column_R in others.items():
        column_T = np.array([column_R[place[run]] for run, _ in trials])
        found.append(Contrast(name=name, estimate=float(_beside_mains(trials, signs_TF, column_T) @ scores_T)))
    return found


def _smallest(fit: _Fit, s2: float, row_sd: float, factors: int) -> float | None:
    per_effect = float((fit.weights_JT**2).sum(axis=1).mean())
    smallest = variance.detectable_effect(math.sqrt(s2 * per_effect), row_sd, factors, fit.df)
    return smallest if math.isfinite(smallest) else None
