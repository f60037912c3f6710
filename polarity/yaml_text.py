"""YAML as this project reads and writes it: strict on reading (no duplicate keys, 1e-5 is a number), one leaf a line on writing."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from polarity.errors import ConfigError, first_line, nearest

Tree = dict[str, Any]
"""A mapping as YAML gives it: text keys, and values of YAML's kinds, mappings among them. Whoever takes one checks it."""


class _Loader(yaml.SafeLoader):
    """SafeLoader (no tags run code) that refuses duplicate keys and reads 1e-5 as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text: put quotes around it", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice (first in line {seen[key]})", key_node.start_mark
                )
            seen[key] = line
        return super().construct_mapping(node, deep=True)


_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
# PyYAML follows YAML 1.1, in which 1e-5 is text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, place: str) -> Any:
    """The value of one YAML document. Raises ConfigError naming `place` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}, line {mark.line + 1}" if mark is not None else place
        raise ConfigError(f"{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{place}: not YAML ({first_line(error)})") from error


def read_yaml_mapping(path: Path) -> Tree:
    """The mapping in a YAML file; an empty file is an empty one. Raises ConfigError: missing, unreadable, not a mapping."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        others = [p.name for p in path.absolute().parent.glob("*.y*ml")] if path.absolute().parent.is_dir() else []
        raise ConfigError(f"{path}: no such configuration file" + (f"; {nearest(path.name, others)}" if others else "")) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; a configuration is a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    return yaml_mapping(text, str(path))


def yaml_mapping(text: str, place: str) -> Tree:
    content = parse_yaml(text, place)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: must be a mapping of settings such as 'optim: {{lr: 1e-4}}', not {type(content).__name__}")
    return content


def dump_tree(tree: Tree, notes: Mapping[str, str] | None = None) -> str:
    """YAML with one leaf a line; `notes` ({dotted leaf: text}) follow theirs as comments."""
    rows = list(_rows(tree, "", 0))
    known = notes or {}
    width = min(max((len(line) for line, path in rows if path in known), default=0), 72)
    return "".join(f"{line:<{width}}  # {known[path]}\n" if path in known else f"{line}\n" for line, path in rows)


def _rows(tree: Tree, prefix: str, depth: int) -> list[tuple[str, str]]:
    """(line, dotted path of its leaf or "" for a heading)."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        path, indent = f"{prefix}{key}", "  " * depth
        if isinstance(value, dict) and value:
            rows.append((f"{indent}{scalar(key)}:", ""))
            rows.extend(_rows(value, f"{path}.", depth + 1))
        else:
            rows.append((f"{indent}{scalar(key)}: {scalar(value)}", path))
    return rows


_LINE_BREAK = re.compile(r"\\(n|r|x85|u2028|u2029)")
"""A line break of YAML in a value's repr; quoted twice, it is written as an escape."""


def scalar(value: object) -> str:
    """A leaf as YAML on one line."""
    style = '"' if _LINE_BREAK.search(repr(value)) else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=2**20, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip(" \n")
