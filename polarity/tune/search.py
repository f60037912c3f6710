"""A search space in YAML: which settings are drawn, and from what, and the arms that come of it.

optim.lr: {loguniform: [1.0e-5, 1.0e-4]}
loss.focal_gamma.sentiment: {uniform: [0, 3]}
model.pooling: {choice: [mean, attention, cls]}
data.oversample.alpha: {quniform: [0, 1, 0.1]}
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarity.config import Config
from polarity.config_checks import leaves
from polarity.errors import ConfigError, nearest
from polarity.study import Arm
from polarity.yaml_text import read_yaml_mapping

BASE = "base"
_NUMBERS = {"uniform": 2, "loguniform": 2, "quniform": 3}
_KINDS = (*_NUMBERS, "choice")


@dataclass(frozen=True)
class Range:
    """Where one setting is drawn from; `values` are [low, high], [low, high, step] or the choices."""

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.RandomState) -> Any:
        """One value, by Ray Tune's own distributions; a step of whole numbers gives whole numbers."""
        from ray import tune  # slow to import, and a space is checked before anything else

        value = tune.choice(list(self.values)) if self.kind == "choice" else getattr(tune, self.kind)(*self.values)
        drawn = value.sample(random_state=rng)
        if self.kind == "choice":
            return drawn
        whole = self.kind == "quniform" and all(float(v).is_integer() for v in self.values)
        return round(float(drawn)) if whole else float(f"{float(drawn):.6g}")


Space = Mapping[str, Range]


def read_space(path: Path) -> dict[str, Range]:
    """The space of a YAML file. Raises ConfigError naming file and key: unknown setting (with the nearest), kind or values."""
    tree = read_yaml_mapping(path)
    if not tree:
        raise ConfigError(f"{path}: the space is empty; write settings such as optim.lr: {{loguniform: [1.0e-5, 1.0e-4]}}")
    return {key: _range(entry, f"{path}, {key}") for key, entry in _flat(tree) if _known(key, str(path))}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, range); sections may be nested or dotted."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and not (len(value) == 1 and next(iter(value)) in _KINDS) and _is_section(name):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _is_section(name: str) -> bool:
    return any(key.startswith(f"{name}.") for key in _settings()) or name in Config().per_task()


def _settings() -> list[str]:
    return list(leaves(Config().model_dump()))


def _known(key: str, place: str) -> bool:
    """True, or ConfigError. Below a mapping by task, tasks and classes are the configuration's own and are checked with it."""
    known = _settings()
    if key in known or any(key.startswith(f"{name}.") for name in Config().per_task()):
        return True
    raise ConfigError(f"{place}: there is no setting {key!r}; {nearest(key, known)}")


def _range(entry: Any, place: str) -> Range:
    example = "write {loguniform: [low, high]}, {uniform: [low, high]}, {quniform: [low, high, step]} or {choice: [...]}"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{place}: {example}")
    kind, values = next(iter(entry.items()))
    if kind not in _KINDS:
        raise ConfigError(f"{place}: there is no range {kind!r}; {nearest(str(kind), _KINDS)}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}: {kind} takes a list; {example}")
    if kind in _NUMBERS:
        _check_numbers(kind, values, place)
    return Range(kind, tuple(values))


def _check_numbers(kind: str, values: list[Any], place: str) -> None:
    if len(values) != _NUMBERS[kind] or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
        raise ConfigError(f"{place}: {kind} takes {_NUMBERS[kind]} numbers, got {values}")
    if values[0] >= values[1]:
        raise ConfigError(f"{place}: {kind} needs low < high, got {values[0]} and {values[1]}")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigError(f"{place}: loguniform needs low > 0, got {values[0]}")
    if kind == "quniform" and values[2] <= 0:
        raise ConfigError(f"{place}: quniform needs a step > 0, got {values[2]}")


def search_arms(space: Space, samples: int, seed: int, *, grid: bool = False) -> list[Arm]:
    """The configuration as it is, first, then `samples` random draws (the same for the same seed), or every combination of choices.

    Raises ConfigError where `grid` meets a range that is not a choice.
    """
    if grid:
        endless = [key for key, value in space.items() if value.kind != "choice"]
        if endless:
            raise ConfigError(f"--grid needs choices everywhere; {', '.join(endless)} has none: write {{choice: [...]}}")
        found = [dict(zip(space, values, strict=True)) for values in itertools.product(*(r.values for r in space.values()))]
    else:
        rng = np.random.RandomState(seed)
        found = [{key: drawn.draw(rng) for key, drawn in space.items()} for _ in range(samples)]
    distinct = {json.dumps(sets, sort_keys=True): sets for sets in found}  # coarse spaces repeat themselves
    return [Arm(BASE), *(Arm(f"sample-{number:03d}", sets=sets, reference=BASE) for number, sets in enumerate(distinct.values(), 1))]
