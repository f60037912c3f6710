"""The effects table of a study: each arm against its reference, with intervals right for few seeds; `variance.py` has the formulas."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.errors import DataError
from polarity.evaluate.predictions import Labels, check_predictions, task_codes
from polarity.study import EFFECTS_SCHEMA, HELPS, HURTS, NO_EVIDENCE, OVERALL, Arm, EffectRow, Stage
from polarity.tune import variance

Trial = tuple[str, int]
"""(arm, seed)."""

LEVEL = 0.05


@dataclass(frozen=True)
class StudyEffects:
    """The effects table and what the study measured about its own precision (None where a single seed shows no spread)."""

    table: pa.Table
    seed_sd: float | None
    """Pooled SD over seeds of a paired difference in overall macro-F1."""
    row_sd: float | None
    """Root mean square over arms of the rows' part."""
    detectable: float | None
    """The effect that such a study sees with a power of 80 %."""
    noisy: tuple[str, ...] = ()
    """Arms with a seed variance of their own, for theirs is larger than the others'."""


@dataclass(frozen=True)
class SeedRows:
    """One seed's trials on the same rows: per arm the class codes, and each row's unit, numbered alike in all seeds (N,).

    `units` is None where every row is a unit and all seeds have the same rows in the same order.
    """

    seed: int
    codes: Mapping[str, variance.TaskCodes]
    units: Codes | None


@dataclass
class ArmPairs:
    """What was gathered about one arm against its reference."""

    differences: dict[int, Floats]
    scores: list[Floats]
    reference_scores: list[Floats]
    rows: variance.PairedRows


def study_effects(
    predictions: Mapping[Trial, pa.Table],
    arms: Sequence[Arm],
    labels: Labels,
    *,
    seconds: Mapping[Trial, float] | None = None,
    by_title: bool = False,
) -> StudyEffects:
    """Each arm's paired difference to its reference in every metric, with 95 % intervals, and verdicts on the overall one.

    `predictions`: {(arm, seed): predictions of the effect rows}, of trials that ran in full. Arm and reference are paired on the seeds
    that both have; a trial that is absent costs its pair. Rows of a seed must be the same in all arms, those of two seeds may differ.
    `by_title`: titles are the units of the rows' variance, for a split grouped by title. `seconds`: training seconds of a trial.
    `verdict`: `helps` or `hurts` where Holm's p over the arms is below 0.05, else `no evidence`; null for the other metrics, whose
    intervals are 95 % each and decide nothing. One seed has no interval. Raises DataError: rows or labels differ between arms.
    """
    seeds, units = by_seed(predictions, labels, by_title)
    return compare(seeds, units, arms, labels, seconds or {})


def compare(seeds: Sequence[SeedRows], units: int, arms: Sequence[Arm], labels: Labels, seconds: Mapping[Trial, float]) -> StudyEffects:
    """`study_effects` from class codes; `units` is the number of rows or titles over all seeds."""
    references = {arm.name: arm.reference for arm in arms if arm.reference is not None}
    metrics = variance.metric_names(labels)
    found = {name: ArmPairs({}, [], [], variance.PairedRows.empty(units, len(metrics))) for name in references}
    for rows in seeds:
        judged = {name: variance.judge_rows(codes, [len(labels[task]) for task in codes]) for name, codes in rows.codes.items()}
        for name, reference in references.items():
            if name in judged and reference in judged:
                _add(found[name], rows, judged[name], judged[reference], units)
    found = {name: compared for name, compared in found.items() if compared.differences}
    spread = variance.arm_spreads({name: compared.differences for name, compared in found.items()}, references)
    intervals = {name: _interval(compared, spread.of(name) if spread else None, len(found)) for name, compared in found.items()}
    adjusted = dict(zip(found, variance.holm([float(intervals[name].p_M[0]) for name in found]), strict=True)) if spread else {}
    rows_of_table = [
        row
        for arm in arms
        if arm.name in found
        for row in _rows(arm, found[arm.name], intervals[arm.name], metrics, adjusted.get(arm.name), seconds)
    ]
    table = pa.Table.from_pylist(rows_of_table, schema=EFFECTS_SCHEMA)
    return _with_precision(table, found, spread)


def _add(compared: ArmPairs, rows: SeedRows, arm: variance.TrialScores, reference: variance.TrialScores, units: int) -> None:
    compared.differences[rows.seed] = arm.scores_M - reference.scores_M
    compared.scores.append(arm.scores_M)
    compared.reference_scores.append(reference.scores_M)
    compared.rows.add(variance.by_unit(arm.influence_NM - reference.influence_NM, rows.units, units))


def _interval(compared: ArmPairs, spread: variance.SeedSpread | None, tests: int) -> variance.MeanDifference:
    mean_M = np.mean(list(compared.differences.values()), axis=0)
    return variance.combine(mean_M, len(compared.differences), spread, *compared.rows.variance(), tests)


def _rows(
    arm: Arm, pairs: ArmPairs, difference: variance.MeanDifference, metrics: Sequence[str], p_holm: float | None,
    seconds: Mapping[Trial, float],
) -> list[EffectRow]:  # fmt: skip
    scores = np.mean(pairs.scores, axis=0), np.mean(pairs.reference_scores, axis=0)
    costs = [mean_seconds([(name, seed) for seed in pairs.differences], seconds) for name in (arm.name, str(arm.reference))]
    return effect_rows(arm, str(arm.reference), "confirm", difference, metrics, p_holm, scores, len(pairs.differences), costs)


def effect_rows(
    arm: Arm, reference: str, stage: Stage, interval: variance.MeanDifference, metrics: Sequence[str], p_holm: float | None,
    scores: tuple[Floats, Floats], seeds: int, seconds: Sequence[float | None],
) -> list[EffectRow]:  # fmt: skip
    """An arm's rows of the effects table, one a metric; only the overall one has a verdict and a claim.

    `scores`, each (M,), and `seconds` are the arm's and the reference's.
    """
    rows: list[EffectRow] = []
    for m, metric in enumerate(metrics):
        decides = metric == OVERALL
        claim = arm.claim if decides and arm.claim else (None, None)
        rows.append(
            {
                "arm": arm.name,
                "reference": reference,
                "metric": metric,
                "difference": float(interval.mean_M[m]),
                "low": known(interval.low_M[m]),
                "high": known(interval.high_M[m]),
                "p": known(interval.p_M[m]),
                "p_holm": p_holm if decides else None,
                "verdict": verdict(float(interval.mean_M[m]), p_holm) if decides else None,
                "score": float(scores[0][m]),
                "reference_score": float(scores[1][m]),
                "seeds": seeds,
                "seconds": seconds[0],
                "reference_seconds": seconds[1],
                "claim_low": claim[0],
                "claim_high": claim[1],
                "stage": stage,
            }
        )
    return rows


def verdict(difference: float, p_holm: float | None) -> str:
    if p_holm is None or p_holm >= LEVEL:
        return NO_EVIDENCE
    return HELPS if difference > 0 else HURTS


def known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def mean_seconds(trials: Iterable[Trial], seconds: Mapping[Trial, float]) -> float | None:
    """Seconds of training a trial, of those that are known."""
    given = [seconds[trial] for trial in trials if trial in seconds]
    return float(np.mean(given)) if given else None


def _with_precision(table: pa.Table, found: Mapping[str, ArmPairs], spread: variance.ArmSpreads | None) -> StudyEffects:
    if spread is None:
        return StudyEffects(table, None, None, None)
    seed_sd = math.sqrt(float(spread.pooled.variance_M[0]))
    row_sd = math.sqrt(float(np.mean([compared.rows.variance()[0][0] for compared in found.values()])))
    seeds = min(len(compared.differences) for compared in found.values())
    smallest = variance.detectable_effect(seed_sd / math.sqrt(seeds), row_sd, len(found), spread.pooled.df)
    return StudyEffects(table, seed_sd, row_sd, smallest if math.isfinite(smallest) else None, tuple(spread.own))


def by_seed(predictions: Mapping[Trial, pa.Table], labels: Labels, by_title: bool) -> tuple[list[SeedRows], int]:
    """The trials by seed, rows in the order of their ids, and the number of units over all seeds."""
    tables = {trial: _checked(trial, table, labels) for trial, table in predictions.items()}
    first = {seed: (arm, table) for (arm, seed), table in reversed(tables.items())}
    key, known = _units([table for _, table in first.values()], by_title)
    seeds = []
    for seed in sorted(first):
        of_arm, rows = first[seed]
        codes = {arm: _codes(table, labels) for (arm, other), table in tables.items() if other == seed}
        for arm in codes:
            _same_rows(seed, (of_arm, rows, codes[of_arm]), (arm, tables[arm, seed], codes[arm]))
        values = _text(rows, key)
        as_known = len(values) == len(known) and bool((values == known).all())
        seeds.append(SeedRows(seed, codes, None if as_known else np.searchsorted(known, values).astype(np.int64)))
    return seeds, len(known)


def _units(tables: Sequence[pa.Table], by_title: bool) -> tuple[str, NDArray[np.str_]]:
    """(column, its values over all seeds) of the units; a single title cannot vary, so its rows do, as in `intervals.unit_of`."""
    for key in ("title", "row_id") if by_title else ("row_id",):
        known = np.unique(np.concatenate([_text(table, key) for table in tables])) if tables else np.array([], dtype=np.str_)
        if len(known) > 1:
            break
    return key, known


def _checked(trial: Trial, table: pa.Table, labels: Labels) -> pa.Table:
    place = f"arm {trial[0]}, seed {trial[1]}"
    try:
        check_predictions(table, labels)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    if not table.num_rows:
        raise DataError(f"{place}: there are no effect rows to judge")
    if len(pc.unique(table["split"])) > 1:
        raise DataError(f"{place}: effects are judged on one split, this table has {', '.join(pc.unique(table['split']).to_pylist())}")
    return table.sort_by("row_id")


def _codes(table: pa.Table, labels: Labels) -> dict[str, tuple[Codes, Codes]]:
    return {task: task_codes(table, task, classes) for task, classes in labels.items()}


def _text(table: pa.Table, column: str) -> NDArray[np.str_]:
    return np.array(table[column].to_pylist(), dtype=np.str_)


def _same_rows(seed: int, a: tuple[str, pa.Table, variance.TaskCodes], b: tuple[str, pa.Table, variance.TaskCodes]) -> None:
    names = f"seed {seed}: the arms {a[0]} and {b[0]}"
    ids_a, ids_b = _text(a[1], "row_id"), _text(b[1], "row_id")
    if len(ids_a) != len(ids_b) or (ids_a != ids_b).any():
        odd = sorted(set(ids_a.tolist()) ^ set(ids_b.tolist()))
        raise DataError(f"{names} were judged on different rows ({len(odd)} rows are in one only, e.g. {odd[0]!r}): they cannot be paired")
    for task in a[2]:
        differ: NDArray[np.bool_] = a[2][task][0] != b[2][task][0]
        if differ.any():
            row = str(ids_a[int(differ.argmax())])
            raise DataError(f"{names} give row {row!r} different labels of {task} ({int(differ.sum())} rows differ)")
