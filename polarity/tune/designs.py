"""The arms of an ablation: which points each has on, what it is compared with, and what the plan claims for the difference.

ladder    the plan's phases (or its points one by one), each compared with the step below
only      the baseline plus one tier or point, each compared with the baseline
without   all ten points less one tier or point, each compared with all ten
custom    a YAML list of {name, points | tiers, set, reference}
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from polarity.config import Config
from polarity.errors import ConfigError, nearest
from polarity.resolve import Option, resolve
from polarity.strategy import ALL_POINTS, PHASES, POINTS, TIERS, Settings, check_points, points_of_tiers
from polarity.study import Arm
from polarity.yaml_text import Tree, parse_yaml

Design = Literal["ladder", "only", "without", "custom", "screen"]
Level = Literal["tiers", "points"]

SCREEN = "screen"
"""The design whose runs `screening.py` makes."""
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
        return _ladder() if level == "tiers" else _ladder_by_points()
    return _only(level) if design == "only" else _without(level)


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


def _ladder() -> list[Arm]:
    names = (BASELINE, "points-1-3", "plus-4-5", "plus-6-7", ALL)
    return _steps(list(zip(names, (phase.points for phase in PHASES), strict=True)))


def _ladder_by_points() -> list[Arm]:
    steps = [(f"up-to-{n}", ALL_POINTS[: index + 1]) for index, n in enumerate(ALL_POINTS)]
    return _steps([(BASELINE, ()), *steps[:-1], (ALL, ALL_POINTS)])


def _steps(steps: Sequence[tuple[str, tuple[int, ...]]]) -> list[Arm]:
    arms = [Arm(*steps[0])]
    for (below, fewer), (name, points) in itertools.pairwise(steps):
        arms.append(Arm(name, points, reference=below, claim=claim_of(set(points) - set(fewer))))
    return arms


def _units(level: Level) -> dict[str, tuple[int, ...]]:
    if level == "tiers":
        return {f"tier-{n}": tier.points for n, tier in TIERS.items()}
    return {f"point-{n}": (n,) for n in ALL_POINTS}


def _only(level: Level) -> list[Arm]:
    added = [Arm(name, points, reference=BASELINE, claim=claim_of(points)) for name, points in _units(level).items()]
    return [Arm(BASELINE), *added]


def _without(level: Level) -> list[Arm]:
    return [
        Arm(ALL, ALL_POINTS),
        *(
            Arm(f"without-{name}", tuple(n for n in ALL_POINTS if n not in points), reference=ALL, claim=_lost(claim_of(points)))
            for name, points in _units(level).items()
        ),
    ]
