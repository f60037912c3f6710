"""Walking the typed tree: is a key known, is a value allowed, and one clear line for each that is not."""

import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from polarity.config import Config
from polarity.errors import ConfigError, nearest

Source = str | Mapping[str, str]
"""A layer's name, or {dotted key: option} where its keys come from different options."""

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


def source_of(path: str, source: Source) -> str:
    """The name of the layer, or of the option behind a key of it."""
    if isinstance(source, str):
        return source
    while path and path not in source:
        path = path.rpartition(".")[0]
    return source.get(path) or next(iter(source.values()), "options")


def part(tree: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path, or None."""
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value})
    return found


def is_complete(tree: Mapping[str, Any], model: type[BaseModel]) -> bool:
    """Whether every field of the typed tree is set."""
    for name, info in model.model_fields.items():
        section = _section(info.annotation)
        if name not in tree or (section and not (isinstance(tree[name], Mapping) and is_complete(tree[name], section))):
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


def is_mapping(path: str) -> bool:
    """Whether a mapping with free keys is at this path."""
    return get_origin(_annotation(path)) is dict


def is_section(path: str) -> bool:
    """Whether a section with fixed keys is at this path."""
    return _section(_annotation(path)) is not None


def checked_layer(layer: dict[str, Any], model: type[BaseModel], source: Source, prefix: str = "") -> dict[str, Any]:
    """The layer without sections that say nothing (`optim:` and no more). Raises ConfigError for a key that there is not."""
    cleaned: dict[str, Any] = {}
    for key, value in layer.items():
        path = f"{prefix}{key}"
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


def validate(tree: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
    """The typed configuration. Raises ConfigError with a line per wrong value: key, value, what is allowed, where it came from."""
    try:
        return Config.model_validate(tree, strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(dict(item), sources) for item in error.errors())) from error


def _line(item: dict[str, Any], sources: Mapping[str, str]) -> str:
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
