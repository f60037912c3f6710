"""The designs of a study: which points each arm has on, what it is compared with, and what the plan claims for the difference.

ladder    the plan's phases (or its points one by one), each compared with the step below
only      the baseline plus one tier or point, each compared with the baseline
without   all ten points less one tier or point, each compared with all ten
custom    a YAML list of {name, points | tiers, set, reference}
screen    a few runs, each with about half of the points on, from which the effect of every point is estimated

Screens: up to 4 factors (the tiers) take the full factorial: 2^k runs, nothing aliased. From 5 to 11 factors (the ten points) take the
design of Plackett and Burman (1946) with 12 runs; its foldover, the 12 mirrored runs added to them, makes 24 in which every main effect is
clear of all two-factor interactions (Box and Wilson 1951). The matrices are those of the library `pydoe`, turned so that a run with
everything off stands first: the baseline. The foldover's last run has everything on.

Coding: x = +1 on, -1 off, and a score is mu + sum_j x_j e_j / 2 + sum_jk x_j x_k e_jk / 2, so that e_j is the mean score with factor j on
less the mean with it off, over all settings of the others, and e_jk is half of what k on changes in the effect of j.
Two columns with the correlation r are aliased: each estimate holds r times the other's effect beside its own.
Shape suffixes: R runs, F factors.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from polarity.config import Config
from polarity.errors import ConfigError, nearest
from polarity.resolve import Option, leaves, resolve
from polarity.strategy import ALL_POINTS, PHASES, POINTS, TIERS, Settings, check_points, points_of_tiers, with_settings
from polarity.study import Arm, ScreenEntry, SharedSetting, Study
from polarity.yaml_text import Tree, parse_yaml

Design = Literal["ladder", "only", "without", "custom", "screen"]
Level = Literal["tiers", "points"]

SCREEN = "screen"
"""The design whose runs `plan_screen` makes."""
BASELINE = "baseline"
ALL = "all"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_KEYS = ("name", "points", "tiers", "set", "reference")


@dataclass(frozen=True)
class Base:
    """What a user gave for a study apart from the points: the arguments of `resolve`."""

    preset: str | None = None
    file: Path | None = None
    options: Mapping[str, tuple[Option, str]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


def design_arms(design: Design, level: Level = "tiers", custom: Path | None = None) -> list[Arm]:
    """The arms of a design, its reference first. Raises ConfigError: an unknown design or level, `custom` missing or out of place."""
    if design not in ("ladder", "only", "without", "custom"):
        raise ConfigError(f"there is no design {design!r}; {nearest(design, get_args(Design))}")
    if level not in ("tiers", "points"):
        raise ConfigError(f"there is no level {level!r}: arms are made of tiers or of points")
    if (design == "custom") != (custom is not None):
        what = "needs a YAML file of arms" if custom is None else f"takes no file of arms ({custom}); use the design custom"
        raise ConfigError(f"the design {design} {what}")
    if custom is not None:
        return read_custom(custom)
    if design == "ladder":
        if level == "tiers":
            names = (BASELINE, "points-1-3", "plus-4-5", "plus-6-7", ALL)
            return _steps(list(zip(names, (phase.points for phase in PHASES), strict=True)))
        steps = [(f"up-to-{n}", ALL_POINTS[: index + 1]) for index, n in enumerate(ALL_POINTS)]
        return _steps([(BASELINE, ()), *steps[:-1], (ALL, ALL_POINTS)])
    units = {f"tier-{n}": tier.points for n, tier in TIERS.items()} if level == "tiers" else {f"point-{n}": (n,) for n in ALL_POINTS}
    if design == "only":
        return [Arm(BASELINE), *(Arm(name, points, reference=BASELINE, claim=claim_of(points)) for name, points in units.items())]
    less = {name: tuple(n for n in ALL_POINTS if n not in points) for name, points in units.items()}
    return [
        Arm(ALL, ALL_POINTS),
        *(Arm(f"without-{name}", less[name], reference=ALL, claim=_lost(claim_of(points))) for name, points in units.items()),
    ]


def arm_config(base: Base, arm: Arm) -> Config:
    """The arm's configuration: preset, file, points, options and --set as in any run, and the arm's own settings on top.

    Raises ConfigError, naming the arm.
    """
    own = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arm.sets.items()]
    try:
        return resolve(base.preset, base.file, list(arm.points), options=base.options, sets=[*base.sets, *own]).config
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name}: {error}") from error


def arm_configs(base: Base, arms: Sequence[Arm]) -> dict[str, Config]:
    """{arm: configuration}. Refuses two arms of one configuration: their difference is zero whatever the seed, and its spread too."""
    configs: dict[str, Config] = {}
    for arm in arms:
        config = arm_config(base, arm)
        twin = next((name for name, other in configs.items() if other == config), None)
        if twin is not None:
            raise ConfigError(
                f"the arms {twin} and {arm.name} come to the same configuration: a --set, an option or the file overrides what tells "
                "them apart, or it does not apply to these tasks. Drop that setting, or name the arms to run with the design custom"
            )
        configs[arm.name] = config
    return configs


def needed_for(arms: Sequence[Arm], survivors: Iterable[str]) -> list[str]:
    """What a confirmation of `survivors` must run: they, what they are compared with, and the study's reference, in the arms' order."""
    by_name = {arm.name: arm for arm in arms}
    needed = {arms[0].name}
    for name in survivors:
        if name not in by_name:
            raise ConfigError(f"there is no arm {name!r}; {nearest(name, by_name)}")
        needed |= {name, by_name[name].reference or name}
    return [arm.name for arm in arms if arm.name in needed]


def read_custom(path: Path) -> list[Arm]:
    """The arms of a YAML list of {name, points or tiers, set: {key: value}, reference}; the first arm is the study's reference.

    `reference` names an arm above it and is the first one where it is left out. Raises ConfigError naming the file and the arm.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    entries = parse_yaml(text, str(path))
    if not isinstance(entries, list) or len(entries) < 2:
        raise ConfigError(f"{path}: must be a YAML list of at least two arms, such as\n- name: baseline\n- name: focal\n  points: [6]")
    arms: list[Arm] = []
    for index, entry in enumerate(entries):
        arms.append(_custom_arm(entry, arms, f"{path}, arm {index + 1}"))
    return arms


def _custom_arm(entry: object, before: Sequence[Arm], place: str) -> Arm:
    if not isinstance(entry, dict):
        raise ConfigError(f"{place}: must be a mapping with a name, such as {{name: focal, points: [6]}}")
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"{place}: unknown key {key!r}; {nearest(str(key), _KEYS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{place}: name must be 1 to 48 lower-case letters, digits, - and _ (it names folders), got {name!r}")
    if any(arm.name == name for arm in before):
        raise ConfigError(f"{place}: the name {name!r} stands twice")
    place = f"{place} ({name})"
    points = tuple(sorted({*check_points(_numbers(entry, "points", place)), *points_of_tiers(_numbers(entry, "tiers", place))}))
    sets = entry.get("set") or {}
    if not isinstance(sets, dict):
        raise ConfigError(f"{place}: set must be a mapping of settings, such as {{optim.lr: 3e-5}}")
    reference = _custom_reference(entry.get("reference"), before, place)
    return Arm(name, points, sets, None if reference is None else reference.name, _custom_claim(points, sets, reference))


def _custom_reference(name: object, before: Sequence[Arm], place: str) -> Arm | None:
    if not before:
        if name is not None:
            raise ConfigError(f"{place}: the first arm is the study's reference and is compared with none; leave its reference out")
        return None
    if name is None:
        return before[0]
    found = next((arm for arm in before if arm.name == name), None)
    if found is None:
        raise ConfigError(f"{place}: its reference {name!r} is no arm above it; {nearest(str(name), [arm.name for arm in before])}")
    return found


def _custom_claim(points: tuple[int, ...], sets: Settings, reference: Arm | None) -> tuple[float, float] | None:
    """The plan claims something only for whole points that are added to, or taken from, what is otherwise the same."""
    if reference is None or dict(sets) != dict(reference.sets):
        return None
    added, taken = set(points) - set(reference.points), set(reference.points) - set(points)
    if bool(added) == bool(taken):
        return None
    return claim_of(added) if added else _lost(claim_of(taken))


def _numbers(entry: Tree, key: str, place: str) -> list[int]:
    given = entry.get(key)
    given = [] if given is None else given
    if not isinstance(given, list) or any(not isinstance(n, int) or isinstance(n, bool) for n in given):
        raise ConfigError(f"{place}: {key} must be a list of numbers, such as [1, 2], got {given!r}")
    return cast(list[int], given)


def claim_of(points: Iterable[int]) -> tuple[float, float]:
    """What the plan claims for these points together: a whole tier's own claim, else the sum of its points' claims."""
    chosen = tuple(sorted(points))
    tier = next((tier for tier in TIERS.values() if tier.points == chosen), None)
    low, high = tier.claim if tier else (sum(POINTS[n].claim[0] for n in chosen), sum(POINTS[n].claim[1] for n in chosen))
    return round(low / 100, 6), round(high / 100, 6)


def _lost(claim: tuple[float, float]) -> tuple[float, float]:
    return -claim[1], -claim[0]


def _steps(steps: Sequence[tuple[str, tuple[int, ...]]]) -> list[Arm]:
    arms = [Arm(*steps[0])]
    for (below, fewer), (name, points) in itertools.pairwise(steps):
        arms.append(Arm(name, points, reference=below, claim=claim_of(set(points) - set(fewer))))
    return arms


Signs = npt.NDArray[np.int64]
Pair = tuple[int, int]
"""Two factors, by index."""
Configure = Callable[[Arm], Config]

BEST_COMBINATION = "best"

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
    names = [BASELINE if (signs < 0).all() else ALL if (signs > 0).all() else f"run-{at:02d}" for at, signs in enumerate(signs_RF, 1)]
    return Screen(tuple(factors), {name: tuple(map(int, signs)) for name, signs in zip(names, signs_RF, strict=True)}, off)


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


def unused_columns(signs_RF: Signs) -> dict[str, Signs]:
    """Contrasts that no factor uses, orthogonal to all mains: what is seen there is noise and interactions, which a half-normal plot shows.

    A design of 12 or 24 runs with fewer than 11 factors has the remaining columns of Plackett and Burman's.
    """
    runs, factors = signs_RF.shape
    if runs not in (12, 24) or factors <= _FULL_FACTORIAL:
        return {}
    whole = screening_matrix(MOST_FACTORS, runs)
    return {f"unused column {j + 1}": whole[:, j] for j in range(factors, MOST_FACTORS)}


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
    return _confirmed(screen, BEST_COMBINATION, [1 if effect > 0 else -1 for effect in effects])


def _confirmed(screen: Screen, name: str, signs: Sequence[int]) -> Arm:
    on = {n for factor, sign in zip(screen.factors, signs, strict=True) if sign > 0 for n in factor.points}
    whole = all(factor.points and not factor.sets for factor, sign in zip(screen.factors, signs, strict=True) if sign > 0)
    arm = screen.arm(name, signs, reference=next(iter(screen.runs)))
    return Arm(arm.name, arm.points, arm.sets, arm.reference, claim_of(on) if on and whole else None)
