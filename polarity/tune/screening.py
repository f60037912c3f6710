"""Screening designs: a few runs, each with about half of the points on, from which the effect of every point is estimated.

Up to 4 factors (the tiers) take the full factorial: 2^k runs, nothing aliased. From 5 to 11 factors (the ten points) take the design of
Plackett and Burman (1946) with 12 runs; its foldover, the 12 mirrored runs added to them, makes 24 in which every main effect is clear of
all two-factor interactions (Box and Wilson 1951). The matrices are those of the library `pydoe`, turned so that a run with everything off
stands first: the baseline. The foldover's last run has everything on.

Coding: x = +1 on, -1 off, and a score is mu + sum_j x_j e_j / 2 + sum_jk x_j x_k e_jk / 2, so that e_j is the mean score with factor j on
less the mean with it off, over all settings of the others, and e_jk is half of what k on changes in the effect of j.
Two columns with the correlation r are aliased: each estimate holds r times the other's effect beside its own.
Shape suffixes: R runs, F factors.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polarity.config import Config
from polarity.errors import ConfigError
from polarity.resolve import leaves
from polarity.strategy import with_settings
from polarity.study import Arm, ScreenEntry, SharedSetting, Study
from polarity.tune.designs import ALL, BASELINE, Level, claim_of, design_arms, read_custom
from polarity.yaml_text import Tree

Signs = npt.NDArray[np.int64]
Pair = tuple[int, int]
"""Two factors, by index."""
Configure = Callable[[Arm], Config]

BEST = "best"

MOST_FACTORS = 11
_FULL_FACTORIAL = 4
_ALIASED = 1e-9


@dataclass(frozen=True)
class Screen:
    """`factors` are what a run may have on (arms of one point, tier or setting); `runs` {arm: signs (F,)}, the baseline first."""

    factors: tuple[Arm, ...]
    runs: Mapping[str, tuple[int, ...]]
    off: Arm = field(default_factory=lambda: Arm(BASELINE))
    """What every run has on: nothing, unless a file of arms says otherwise."""

    @property
    def names(self) -> list[str]:
        return [factor.name for factor in self.factors]

    @property
    def signs_RF(self) -> Signs:
        """+1 on, -1 off."""
        return np.array(list(self.runs.values()), dtype=np.int64)

    def arms(self) -> list[Arm]:
        """The runs as arms of a study. None has a reference: effects come from all of them together."""
        return [self.arm(name, signs) for name, signs in self.runs.items()]

    def arm(self, name: str, signs: Sequence[int], reference: str | None = None) -> Arm:
        """The arm that has on what `signs` say."""
        on = [factor for factor, sign in zip(self.factors, signs, strict=True) if sign > 0]
        sets: Tree = dict(self.off.sets)
        for factor in on:
            sets |= factor.sets
        points = tuple(sorted({*self.off.points, *(number for factor in on for number in factor.points)}))
        return Arm(name, points, sets, reference)

    def entry(self) -> ScreenEntry:
        """The entry `screen` of study.json."""
        return ScreenEntry(factors=list(self.factors), runs=dict(self.runs), off=self.off)

    @classmethod
    def of(cls, study: Study) -> "Screen | None":
        """A study's screening design, where it has one."""
        entry = study.file.screen
        return None if entry is None else cls(tuple(entry.factors), entry.runs, entry.off)


def plan_screen(level: Level, runs: int | None = None, custom: Path | None = None) -> Screen:
    """The screen of a level, or of the factors of a file of arms (its first arm is what all runs have on, each further one a factor).

    `runs`: 12 or 24 for 5 to 11 factors (default 24), 2^k for fewer. Raises ConfigError: another number, or too many factors.
    """
    off, *factors = read_custom(custom) if custom is not None else design_arms("only", level)
    _check_factors(off, factors, custom)
    signs_RF = screening_matrix(len(factors), runs)
    return Screen(tuple(factors), {_run_name(number, signs): tuple(map(int, signs)) for number, signs in enumerate(signs_RF)}, off)


def _run_name(number: int, signs: Signs) -> str:
    return BASELINE if (signs < 0).all() else ALL if (signs > 0).all() else f"run-{number + 1:02d}"


def _check_factors(off: Arm, factors: Sequence[Arm], custom: Path | None) -> None:
    owner: dict[str, str] = {}
    for factor in factors:
        if factor.reference != off.name:
            raise ConfigError(
                f"{custom}: a screen's factors are all switched on top of {off.name}; leave out the reference of {factor.name}"
            )
        own = [*factor.sets, *(f"point {number}" for number in set(factor.points) - set(off.points))]
        if not own:
            raise ConfigError(f"{custom}: the factor {factor.name} switches nothing on that {off.name} has not on already")
        for key in own:
            if key in owner:
                raise ConfigError(
                    f"{custom}: the factors {owner[key]} and {factor.name} both set {key}: with both on, one would undo the other"
                )
            owner[key] = factor.name


def screening_matrix(factors: int, runs: int | None = None) -> Signs:
    """Signs (R, F) of the design for so many factors, everything off first. Raises ConfigError as `plan_screen`."""
    if not 2 <= factors <= MOST_FACTORS:
        raise ConfigError(f"a screen takes 2 to {MOST_FACTORS} factors, got {factors}: put some together, or use the design only")
    full = factors <= _FULL_FACTORIAL
    from pydoe import ff2n, pbdesign  # a second to import, with scipy

    allowed = (2**factors,) if full else (12, 24)
    if runs is not None and runs not in allowed:
        raise ConfigError(f"--runs {runs}: a screen of {factors} factors has {' or '.join(map(str, allowed))} runs")
    if full:
        return np.asarray(ff2n(factors)).astype(np.int64)
    half = -np.asarray(pbdesign(MOST_FACTORS)).astype(np.int64)[::-1, :factors]  # its last run has all on: turned, it is the baseline
    return half if runs == 12 else np.vstack([half, -half[::-1]])


@dataclass(frozen=True)
class Estimable:
    """Two factors (indices), and the other two-factor interactions that its estimate holds a share of: {(j, k): correlation}."""

    pair: Pair
    aliases: Mapping[Pair, float]


def _correlations(column_R: Signs, others: Mapping[Pair, Signs]) -> dict[Pair, float]:
    """Those of `others` that are aliased with a column."""
    found = {name: float(column_R @ other) / len(column_R) for name, other in others.items()}
    return {name: value for name, value in found.items() if abs(value) > _ALIASED}


def pair_columns(signs_RF: Signs) -> dict[Pair, Signs]:
    """{(j, k): x_j x_k} of all pairs of factors."""
    return {(j, k): signs_RF[:, j] * signs_RF[:, k] for j, k in itertools.combinations(range(signs_RF.shape[1]), 2)}


def main_aliases(signs_RF: Signs) -> list[dict[Pair, float]]:
    """For each factor the two-factor interactions that its effect is aliased with; none in a foldover or a full factorial."""
    pairs = pair_columns(signs_RF)
    return [_correlations(column_R, pairs) for column_R in signs_RF.T]


def estimable_interactions(signs_RF: Signs) -> list[Estimable]:
    """The two-factor interactions that are clear of all main effects, each with its aliases among themselves."""
    pairs = pair_columns(signs_RF)
    clear = [pair for pair, column_R in pairs.items() if not (np.abs(signs_RF.T @ column_R) > _ALIASED).any()]
    return [Estimable(p, _correlations(pairs[p], {other: pairs[other] for other in pairs if other != p})) for p in clear]


def unused_columns(signs_RF: Signs) -> dict[str, npt.NDArray[np.float64]]:
    """Contrasts that no factor uses, orthogonal to all mains: what is seen there is noise and interactions, which a half-normal plot shows.

    A design of 12 or 24 runs with fewer than 11 factors has the remaining columns of Plackett and Burman's.
    """
    runs, factors = signs_RF.shape
    if runs not in (12, 24) or factors <= _FULL_FACTORIAL:
        return {}
    whole = screening_matrix(MOST_FACTORS, runs)
    return {f"unused column {j + 1}": whole[:, j].astype(np.float64) for j in range(factors, MOST_FACTORS)}


Changes = Tree
"""What a factor changes in a configuration: the tree of its changed settings alone."""


def factor_changes(screen: Screen, configure: Configure) -> dict[str, Changes]:
    """{factor: what it changes alone}; `configure` makes an arm's configuration. Options and --set that win over a factor are left out.

    Every run must come of these changes put together in the factors' order, so that a factor means the same in each. Raises ConfigError:
    a factor that changes nothing alone or with all others on, or one whose settings depend on the others.
    """
    off = configure(screen.off)
    found = {factor.name: _changed(off.model_dump(), configure(factor_alone(screen, factor)).model_dump()) for factor in screen.factors}
    every = put_together(off, found.values())
    for name in screen.names:
        where = "alone" if not found[name] else "with all others on"
        if not found[name] or put_together(off, [change for other, change in found.items() if other != name]) == every:
            raise ConfigError(
                f"{name} changes nothing {where}: a --set, an option or the file overrides it, or it does not apply to these tasks. "
                "Drop that setting, or name the factors to screen in a file with --arms"
            )
    for arm, signs in zip(screen.arms(), screen.runs.values(), strict=True):
        on = [found[name] for name, sign in zip(screen.names, signs, strict=True) if sign > 0]
        if put_together(off, on) != configure(arm):
            raise ConfigError(
                f"{arm.name}: what a factor sets here depends on the others, so that it means another thing in each run; use --design only"
            )
    return found


def factor_alone(screen: Screen, factor: Arm) -> Arm:
    """The arm that has this factor on and nothing else."""
    return screen.arm(factor.name, [1 if other is factor else -1 for other in screen.factors])


def _changed(old: Tree, new: Tree) -> Changes:
    found: Changes = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = _changed(before, value)
            if inner:
                found[key] = inner
        elif key not in old or value != before:
            found[key] = value
    return found


def put_together(off: Config, changes: Iterable[Changes]) -> Config:
    """The configuration of some factors on: their changes on top of everything off, the last one wins where two share a setting."""
    config = off
    for change in changes:
        config = with_settings(config, change)
    return config


def shared_settings(changes: Mapping[str, Changes]) -> list[SharedSetting]:
    """Settings that more than one factor changes; the last of them in order wins."""
    alone: dict[str, Tree] = {}
    for name, change in changes.items():
        for key, value in leaves(change).items():
            alone.setdefault(key, {})[name] = value
    return [
        SharedSetting(setting=key, alone=values, together=list(values.values())[-1]) for key, values in alone.items() if len(values) > 1
    ]


def everything_on(screen: Screen) -> Arm:
    """The arm `all`, compared with the baseline: a confirmation runs it beside the best combination."""
    return _confirmed(screen, ALL, [1] * len(screen.factors))


def best_combination(screen: Screen, effects: Sequence[float]) -> Arm:
    """The arm `best`: every factor on whose effect (F,) is above zero, the combination that the main effects predict to be the best."""
    return _confirmed(screen, BEST, [1 if effect > 0 else -1 for effect in effects])


def _confirmed(screen: Screen, name: str, signs: Sequence[int]) -> Arm:
    on = {n for factor, sign in zip(screen.factors, signs, strict=True) if sign > 0 for n in factor.points}
    whole = all(factor.points and not factor.sets for factor, sign in zip(screen.factors, signs, strict=True) if sign > 0)
    arm = screen.arm(name, signs, reference=next(iter(screen.runs)))
    return Arm(arm.name, arm.points, arm.sets, arm.reference, claim_of(on) if on and whole else None)
