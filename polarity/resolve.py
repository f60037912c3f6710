"""The effective configuration and where each value came from.

Weakest first: the fields' defaults, a preset, a YAML file, points, short options, --set. Mappings are merged key by key, `null`
for an entry of a mapping removes it, everything else is replaced. A layer that removes a task or changes its labels takes the weaker
layers' entries for it along. A file that sets every field (as `polarity config` prints and a run saves) stands alone.

First the merging, then the checks, which walk the typed tree: is a key known, is a value allowed, and one clear line for each that is not.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from polarity.config import Config
from polarity.errors import ConfigError, nearest
from polarity.strategy import ALL_POINTS, POINTS, check_points, points_of_tiers
from polarity.yaml_text import Tree, dump_tree, parse_yaml, read_yaml_mapping, scalar, yaml_mapping

Option = str | int | bool | Path | tuple[int, int | None] | None
"""What an option of the command line may be; None: it was not given. The pair is the least and the most of workers."""
Source = str | Mapping[str, str]
"""A layer's name, or {dotted key: option} where its keys come from different options."""

DEFAULT = "baseline"
STRATEGY = "strategy"
"""The preset that is the baseline with all ten points."""
_PRESETS = files("polarity") / "presets"

_SYNONYMS = {
    "learning_rate": "lr",
    "batch_size": "global_batch_size",
    "patience": "early_stopping_patience",
    "warmup": "warmup_ratio",
    "num_epochs": "epochs",
    "gamma": "focal_gamma",
    "num_workers": "workers",
    "max_seq_length": "max_length",
}
_HINTS = {
    "string_type": "should be text; put quotes around it",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "missing": "is missing",
    "too_short": "has too few entries",
}
_PER_TASK = tuple(Config().per_task())
RETIRED: Mapping[str, str | float] = {"loss.class_weights.warn_factor": 1.5, "train.dropout_masks": "cheap"}
"""{dotted key: value} of settings that older releases had, with the value that is now everybody's. A run's own configuration may name one
with this value; with another one the run is no longer what this release would make of it, and is refused."""


def preset_names() -> list[str]:
    """All names that --preset takes, sorted."""
    return sorted([entry.name.removesuffix(".yaml") for entry in _PRESETS.iterdir() if entry.name.endswith(".yaml")] + [STRATEGY])


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
    options: Mapping[str, tuple[Option, str]] | None = None,
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
    own = DEFAULT if name == STRATEGY else name
    layers.add(yaml_mapping((_PRESETS / f"{own}.yaml").read_text("utf-8"), f"preset {own}"), f"preset {name}")
    layers.add_points(at_preset, f"preset {name}, point ")
    if file is not None:
        layers.add(read_yaml_mapping(file), f"file {file}")
    layers.add_points(at_points, "point ")
    option_tree: Tree = {}
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


def parse_sets(sets: Iterable[str]) -> Tree:
    """One tree of all `key=value` settings; the last of the same key wins."""
    tree: Tree = {}
    for text in sets:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set optim.lr=3e-5")
        _place(tree, key.strip(), parse_yaml(value, f"--set {key.strip()}"))
    return tree


def _place(tree: Tree, key: str, value: object) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        node = tree.get(section)
        if not isinstance(node, dict):
            node = tree[section] = {}
        tree = node
    tree[leaf] = value


def _mapping(tree: Tree, path: str) -> Tree:
    """The mapping at a path; an empty one where something else stands, which the final check will name."""
    found = part(tree, path)
    return found if isinstance(found, dict) else {}


@dataclass
class _Layers:
    """The merged tree so far, and each leaf's source."""

    tree: Tree = field(default_factory=lambda: Config().model_dump())
    sources: dict[str, str] = field(default_factory=lambda: dict.fromkeys(leaves(Config().model_dump()), "default"))

    def add(self, layer: Tree, source: Source) -> None:
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
            tree: Tree = {}
            for key, value in values.items():
                _place(tree, key, value)
            self.add(tree, f"{prefix}{number}")

    def _labels(self) -> Tree:
        return {name: task.get("labels") for name, task in _mapping(self.tree, "data.tasks").items() if isinstance(task, dict)}

    def _merge(self, parent: Tree, key: str, value: object, path: str, source: Source, mapping: bool) -> None:
        """Puts `value` at parent[key]; `mapping` says that parent is a free mapping, in which null removes an entry."""
        kind = _annotation(path)
        here = get_origin(kind) is dict
        if value is None and (mapping or here):
            self._forget(path)
            if here and not mapping:
                parent[key], self.sources[path] = {}, source_of(path, source)
            else:
                parent.pop(key, None)
                self._mark_empty(parent, path.rpartition(".")[0], source)
            return
        if isinstance(value, dict) and (here or _section(kind)):
            if not isinstance(parent.get(key), dict):
                parent[key] = {}
            for inner, inner_value in value.items():
                self._merge(parent[key], inner, inner_value, f"{path}.{inner}", source, mapping=here)
            self._mark_empty(parent[key], path, source)
            return
        self._forget(path)
        parent[key], self.sources[path] = value, source_of(path, source)

    def _mark_empty(self, node: Tree, path: str, source: Source) -> None:
        """An empty mapping is a leaf, one with entries is not."""
        if node:
            self.sources.pop(path, None)
        else:
            self.sources.setdefault(path, source_of(path, source))

    def _forget(self, path: str) -> None:
        for known in [known for known in self.sources if known == path or known.startswith(f"{path}.")]:
            del self.sources[known]

    def _follow_tasks(self, before: Tree, source: str) -> None:
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

    def _remove(self, path: str, node: Tree, key: str, source: str) -> None:
        self._forget(f"{path}.{key}")
        del node[key]
        self._mark_empty(node, path, source)

    def _choose_source(self, layer: Tree, source: Source) -> None:
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
    _leave_out_retired(tree, place)
    layers = _Layers()
    if isinstance(part(tree, "data.tasks"), dict):
        layers.tree["data"]["tasks"] = {}  # it names all its tasks, also where an older release wrote it, which knew fewer fields
    layers.add(tree, f"file {place}")
    return validate(layers.tree, layers.sources)


def _leave_out_retired(tree: Tree, place: str) -> None:
    """Take the settings that are gone out of what an older release wrote. Raises ConfigError where one has not the value of all."""
    for key, value in RETIRED.items():
        section, _, leaf = key.rpartition(".")
        if (had := _mapping(tree, section).pop(leaf, value)) != value:
            raise ConfigError(
                f"{place}, {key}: {had!r} is from an older release, in this one it is always {value!r} and no setting: use the release "
                "that wrote this (environment.json beside it, or the study's, says which)"
            )


def with_sets(config: Config, sets: Iterable[str]) -> Config:
    """A whole configuration with "key=value" settings on top, checked anew. Raises ConfigError for one that is not allowed."""
    layers = _Layers()
    layers.add(config.model_dump(), "the run")
    layers.add(parse_sets(sets), "--set")
    checked = validate(layers.tree, layers.sources)
    _refuse_idle_split(checked, layers.sources)
    return checked


def source_of(path: str, source: Source) -> str:
    """The name of the layer, or of the option behind a key of it."""
    if isinstance(source, str):
        return source
    while path and path not in source:
        path = path.rpartition(".")[0]
    return source.get(path) or next(iter(source.values()), "options")


def part(tree: Tree, path: str) -> Any:
    """What stands at a dotted path, or None."""
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def leaves(tree: Tree, prefix: str = "") -> Tree:
    """{dotted key: value}; an empty mapping is a leaf."""
    found: Tree = {}
    for key, value in tree.items():
        found.update(leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value})
    return found


def is_complete(tree: Tree, model: type[BaseModel]) -> bool:
    """Whether every field of the typed tree is set."""
    for name, info in model.model_fields.items():
        section = _section(info.annotation)
        if name not in tree or (section and not (isinstance(tree[name], dict) and is_complete(tree[name], section))):
            return False
    return True


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _annotation(path: str) -> Any:
    """The type at a dotted path of the tree; None where there is no such field."""
    annotation: Any = Config
    for key in path.split("."):
        section = _section(annotation)
        if section is not None:
            info = section.model_fields.get(key)
            annotation = info.annotation if info is not None else None
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            return None
    return annotation


def checked_layer(layer: Tree, model: type[BaseModel], source: Source, prefix: str = "") -> Tree:
    """The layer without sections that say nothing (`optim:` and no more). Raises ConfigError for a key that there is not."""
    cleaned: Tree = {}
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if path in RETIRED:
            raise ConfigError(
                f"{path}: is no longer a setting (from {source_of(path, source)}), it is always {RETIRED[path]}: leave it out"
            )
        if key not in model.model_fields:
            raise ConfigError(f"{path}: unknown setting (from {source_of(path, source)}); {_hint(key, model)}")
        section = _section(model.model_fields[key].annotation)
        if section is None:
            _check_entries(path, model.model_fields[key].annotation, value, source)
            cleaned[key] = value
        elif isinstance(value, dict):
            cleaned[key] = checked_layer(value, section, source, f"{path}.")
        elif value is not None:
            raise ConfigError(
                f"{path}: got {value!r} (from {source_of(path, source)}); it is a section, "
                f"set one of its keys: {', '.join(section.model_fields)}"
            )
    return cleaned


def _check_entries(path: str, annotation: Any, value: object, source: Source) -> None:
    """A mapping is one, and the sections in it (data.tasks.X) have known keys."""
    if get_origin(annotation) is dict and value is not None and not isinstance(value, dict):
        raise ConfigError(f"{path}: got {value!r}, should be a mapping (from {source_of(path, source)})")
    section = _section(get_args(annotation)[1]) if get_origin(annotation) is dict else None
    if section is not None and isinstance(value, dict):
        for name, entry in value.items():
            for key in entry if isinstance(entry, dict) else ():
                if key not in section.model_fields:
                    raise ConfigError(f"{path}.{name}.{key}: unknown setting (from {source_of(path, source)}); {_hint(key, section)}")


def _hint(key: str, model: type[BaseModel]) -> str:
    """The nearest key of the same section, or the same key elsewhere in the tree."""
    word = _SYNONYMS.get(key, key)
    if word in model.model_fields:
        return f"did you mean {word!r}?"
    elsewhere = [path for path in leaves(Config().model_dump()) if path.rpartition(".")[2] == word]
    if elsewhere:
        return "did you mean " + " or ".join(repr(path) for path in elsewhere) + "?"
    return nearest(word, model.model_fields)


def validate(tree: Tree, sources: Mapping[str, str]) -> Config:
    """The typed configuration. Raises ConfigError with a line per wrong value: key, value, what is allowed, where it came from."""
    try:
        return Config.model_validate(tree, strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(dict(item), sources) for item in error.errors())) from error


def _line(item: Tree, sources: Mapping[str, str]) -> str:
    path = ".".join(str(step) for step in item["loc"] if step != "[key]")
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        named = [key for key in dict.fromkeys(re.findall(r"[a-z_]+(?:\.\w+)+", message)) if sources.get(key, "default") != "default"]
        origin = f" ({'; '.join(f'{key} from {sources[key]}' for key in named)})" if named else ""
        return message + origin if not path or message.startswith(path.split(".")[0]) else f"{path}: {message}{origin}"
    key = path
    while key and key not in sources:
        key = key.rpartition(".")[0]
    origin = f" (from {sources[key]})" if key else ""
    allowed = _HINTS.get(item["type"], item["msg"].replace("Input should", "should"))
    return f"{path}: {allowed}{origin}" if item["type"] == "missing" else f"{path}: got {item['input']!r}, {allowed}{origin}"


class _Callable(ModuleType):
    """This module has the name of its function, so `polarity.resolve` may be either: it can be called as the function."""

    __call__ = staticmethod(resolve)


sys.modules[__name__].__class__ = _Callable
