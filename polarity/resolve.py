"""The effective configuration and where each value came from.

Weakest first: the fields' defaults, a preset, a YAML file, points, short options, --set. Mappings are merged key by key, `null`
for an entry of a mapping removes it, everything else is replaced. A layer that removes a task or changes its labels takes the weaker
layers' entries for it along. A file that sets every field (as `polarity config` prints and a run saves) stands alone.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from polarity.config import Config
from polarity.config_checks import Source, checked_layer, is_complete, is_mapping, is_section, leaves, part, source_of, validate
from polarity.errors import ConfigError, nearest
from polarity.presets import DEFAULT, STRATEGY, preset_names, preset_text
from polarity.strategy import ALL_POINTS, POINTS, check_points, points_of_tiers
from polarity.yaml_text import dump_tree, parse_yaml, read_yaml_mapping, scalar, yaml_mapping

_PER_TASK = tuple(Config().per_task())


@dataclass(frozen=True)
class Resolved:
    """A checked configuration and the source of each leaf, by dotted key."""

    config: Config
    sources: dict[str, str]


def resolve(
    preset: str | None = None,
    file: Path | None = None,
    points: list[int] | None = None,
    tiers: list[int] | None = None,
    without: list[int] | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
    sets: Iterable[str] = (),
) -> Resolved:
    """Merges the layers, weakest first, and checks the result.

    `options`: {dotted key: (value, option name)}; `sets`: "key=value" with the value as YAML. `without` alone starts from all ten.
    Raises ConfigError: an unknown preset, key or point, a value that is not allowed, settings that contradict each other.
    """
    at_preset, at_points = _chosen_points(preset, points, tiers, without)
    layers = _Layers()
    name = preset or DEFAULT
    if name not in preset_names():
        raise ConfigError(f"there is no preset {name!r}; {nearest(name, preset_names())}")
    text_name = DEFAULT if name == STRATEGY else name
    layers.add(yaml_mapping(preset_text(text_name), f"preset {text_name}"), f"preset {name}")
    layers.add_points(at_preset, f"preset {name}, point ")
    if file is not None:
        layers.add(read_yaml_mapping(file), f"file {file}")
    layers.add_points(at_points, "point ")
    option_tree: dict[str, Any] = {}
    for key, (value, _) in (options or {}).items():
        _place(option_tree, key, value)
    layers.add(option_tree, {key: option for key, (_, option) in (options or {}).items()})
    layers.add(parse_sets(sets), "--set")
    config = validate(layers.tree, layers.sources)
    _refuse_idle_split(config, layers.sources)
    return Resolved(config, {**dict.fromkeys(leaves(config.model_dump()), "default"), **layers.sources})


def _refuse_idle_split(config: Config, sources: Mapping[str, str]) -> None:
    """A cut that is asked for beside files that are the split already would do nothing. (A study's inner split takes the seed.)"""
    idle = [key for key, source in sources.items() if key.startswith("data.split.") and source == "--set" and key != "data.split.seed"]
    if config.data.train and idle:
        raise ConfigError(
            f"{', '.join(idle)}: does nothing beside data.train and data.validation, which are the split; leave it out, or give all rows "
            "as one data.source (--data)"
        )


def _chosen_points(
    preset: str | None, points: list[int] | None, tiers: list[int] | None, without: list[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(points of the preset, points of the command line)."""
    strategy, given = preset == STRATEGY, points is not None or tiers is not None
    if strategy and given:
        raise ConfigError(
            f"--preset {STRATEGY} already has all ten points: choose some with --preset {DEFAULT} --points, or leave some out by --without"
        )
    asked = ALL_POINTS if not given else check_points([*(points or ()), *points_of_tiers(tiers or ())])
    left_out = check_points(without or ())
    for number in left_out:
        if number not in asked:
            raise ConfigError(f"--without {number}: point {number} is not among --points and --tiers, so leaving it out does nothing")
    kept = tuple(number for number in asked if number not in left_out)
    if strategy:
        return kept, ()
    return (), kept if given or without else ()


def parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    """One tree of all `key=value` settings; the last of the same key wins."""
    tree: dict[str, Any] = {}
    for text in sets:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set optim.lr=3e-5")
        _place(tree, key.strip(), parse_yaml(value, f"--set {key.strip()}"))
    return tree


def _place(tree: dict[str, Any], key: str, value: object) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        node = tree.get(section)
        if not isinstance(node, dict):
            node = tree[section] = {}
        tree = node
    tree[leaf] = value


def _mapping(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The mapping at a path; an empty one where something else stands, which the final check will name."""
    found = part(tree, path)
    return found if isinstance(found, dict) else {}


@dataclass
class _Layers:
    """The merged tree so far, and each leaf's source."""

    tree: dict[str, Any] = field(default_factory=lambda: Config().model_dump())
    sources: dict[str, str] = field(default_factory=lambda: dict.fromkeys(leaves(Config().model_dump()), "default"))

    def add(self, layer: dict[str, Any], source: Source) -> None:
        """Merges a stronger layer; `source` names it, by key where it differs."""
        layer = checked_layer(layer, Config, source)
        if is_complete(layer, Config):
            self.tree, self.sources = layer, {path: source_of(path, source) for path in leaves(layer)}
            return
        tasks_before = self._labels()
        tasks = part(layer, "data.tasks")
        if isinstance(tasks, dict):
            self._merge(self.tree["data"], "tasks", tasks, "data.tasks", source, mapping=True)
            self._follow_tasks(tasks_before, source_of("data.tasks", source))
            layer = {**layer, "data": {key: value for key, value in layer["data"].items() if key != "tasks"}}
        self._choose_source(layer, source)
        for key, value in layer.items():
            self._merge(self.tree, key, value, key, source, mapping=False)

    def add_points(self, numbers: Iterable[int], prefix: str) -> None:
        """Merges what each point sets on the configuration below it."""
        for number in numbers:
            # Not checked here: a stronger layer may yet mend what contradicts itself below.
            labels = {task: names for task, names in self._labels().items() if isinstance(names, list)}
            values = POINTS[number].values_for(labels, {path: _mapping(self.tree, path) for path in _PER_TASK})
            tree: dict[str, Any] = {}
            for key, value in values.items():
                _place(tree, key, value)
            self.add(tree, f"{prefix}{number}")

    def _labels(self) -> dict[str, Any]:
        return {name: task.get("labels") for name, task in _mapping(self.tree, "data.tasks").items() if isinstance(task, dict)}

    def _merge(self, parent: dict[str, Any], key: str, value: object, path: str, source: Source, mapping: bool) -> None:
        """Puts `value` at parent[key]; `mapping` says that parent is a free mapping, in which null removes an entry."""
        here = is_mapping(path)
        if value is None and (mapping or here):
            self._forget(path)
            if here and not mapping:
                parent[key], self.sources[path] = {}, source_of(path, source)
            else:
                parent.pop(key, None)
                self._mark_empty(parent, path.rpartition(".")[0], source)
            return
        if isinstance(value, dict) and (here or is_section(path)):
            if not isinstance(parent.get(key), dict):
                parent[key] = {}
            for inner, inner_value in value.items():
                self._merge(parent[key], inner, inner_value, f"{path}.{inner}", source, mapping=here)
            self._mark_empty(parent[key], path, source)
            return
        self._forget(path)
        parent[key], self.sources[path] = value, source_of(path, source)

    def _mark_empty(self, node: dict[str, Any], path: str, source: Source) -> None:
        """An empty mapping is a leaf, one with entries is not."""
        if node:
            self.sources.pop(path, None)
        else:
            self.sources.setdefault(path, source_of(path, source))

    def _forget(self, path: str) -> None:
        for known in [known for known in self.sources if known == path or known.startswith(f"{path}.")]:
            del self.sources[known]

    def _follow_tasks(self, before: dict[str, Any], source: str) -> None:
        """Drops weaker layers' entries for tasks and classes that are gone; moves the split's task to one that is there."""
        labels = self._labels()
        for path in _PER_TASK:
            node = _mapping(self.tree, path)
            for task in [task for task in node if task in before]:
                kept = labels.get(task)
                classes = kept if isinstance(kept, list) else []
                inner = node[task]
                gone = [name for name in inner if name not in classes] if isinstance(inner, dict) else []
                if task not in labels or (gone and len(gone) == len(inner)):
                    self._remove(path, node, task, source)
                elif kept != before[task]:
                    for name in gone:
                        self._remove(f"{path}.{task}", inner, name, source)
        split = self.tree["data"]["split"]
        if labels and split["stratify"] in [task for task in before if task not in labels]:
            split["stratify"] = next(iter(labels))
            self.sources["data.split.stratify"] = source

    def _remove(self, path: str, node: dict[str, Any], key: str, source: str) -> None:
        self._forget(f"{path}.{key}")
        del node[key]
        self._mark_empty(node, path, source)

    def _choose_source(self, layer: dict[str, Any], source: Source) -> None:
        """A layer that gives one source replaces a weaker layer's own split, and the other way round."""
        data = layer.get("data")
        given = {key for key in ("source", "train", "validation", "test") if isinstance(data, dict) and data.get(key) is not None}
        replaced = (
            {"train", "validation", "test"} if "source" in given else {"source"} if "train" in given or "validation" in given else set()
        )
        for key in replaced - given:
            if self.tree["data"][key] is not None:
                self.tree["data"][key] = None
                self.sources[f"data.{key}"] = source_of(f"data.{next(iter(sorted(given)))}", source)


def render(resolved: Resolved) -> str:
    """The configuration as YAML, each leaf followed by its source as a comment."""
    return dump_tree(resolved.config.model_dump(), resolved.sources)


def dump_config(config: Config, typed: Mapping[str, str | None] | None = None) -> str:
    """The whole configuration as plain YAML; `typed` ({dotted key: what the user gave}) stand beside the places they were resolved to."""
    return dump_tree(config.model_dump(), {key: f"typed: {scalar(given)}" for key, given in (typed or {}).items()})


def parse_config(text: str, place: str) -> Config:
    """The configuration that `dump_config` or `render` wrote; fields that are left out have their defaults. `place` is for messages."""
    tree = yaml_mapping(text, place)
    layers = _Layers()
    if isinstance(part(tree, "data.tasks"), dict):
        layers.tree["data"]["tasks"] = {}  # it names all its tasks, also where an older release wrote it, which knew fewer fields
    layers.add(tree, f"file {place}")
    return validate(layers.tree, layers.sources)


def with_sets(config: Config, sets: Iterable[str]) -> Config:
    """A whole configuration with "key=value" settings on top, checked anew. Raises ConfigError for one that is not allowed."""
    layers = _Layers()
    layers.add(config.model_dump(), "the run")
    layers.add(parse_sets(sets), "--set")
    checked = validate(layers.tree, layers.sources)
    _refuse_idle_split(checked, layers.sources)
    return checked


class _Callable(ModuleType):
    """This module has the name of its function, so `polarity.resolve` may be either: it can be called as the function."""

    __call__ = staticmethod(resolve)


sys.modules[__name__].__class__ = _Callable
