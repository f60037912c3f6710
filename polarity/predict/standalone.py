"""One self-contained Python file out of chosen parts of this package's modules: what an export carries is the source that ran.

Imports of the package vanish, because what they name stands in the file; other imports are kept where a kept part uses them.
"""

import ast
import inspect
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Part:
    """A module's share: `only` these top-level names (None: all), `without` these, where `Class.method` drops a method."""

    module: ModuleType
    only: Collection[str] | None = None
    without: Collection[str] = ()


def standalone(parts: Sequence[Part], header: str, aliases: Sequence[str] = ()) -> str:
    """The file's text: `header` as its docstring, the imports, `aliases` (lines of code), and the parts in order.

    Raises ValueError for a name that a part does not define, one that two parts define, and one of this package that is used but
    stands in no part: each is a mistake of the caller, not of the user.
    """
    imports: dict[str, str] = {}
    bodies: list[str] = []
    defined: dict[str, str] = {name: "aliases" for line in aliases for name in _defines(ast.parse(line).body[0])}
    wanted: dict[str, str] = {}
    for part in parts:
        source = inspect.getsource(part.module)
        tree = ast.parse(source)
        kept = list(_kept(tree, part))
        for name in (name for node in kept for name in _defines(node)):
            if name in defined:
                raise ValueError(f"{part.module.__name__} and {defined[name]} both define {name!r}")
            defined[name] = part.module.__name__
        used = {name for node in kept for name in _uses(node, part)}
        for line, name, inside in _imports(tree):
            if name in used:
                (wanted if inside else imports)[name] = line
        bodies.append(f"# From {part.module.__name__}.\n\n\n" + "\n\n\n".join(_text(source, node, part) for node in kept))
    lacking = sorted(set(wanted) - set(defined))
    if lacking:
        raise ValueError(f"used but in no part: {', '.join(lacking)}")
    first = f'"""{header}"""\n\n' + _sorted_imports(imports.values())
    return "\n\n\n".join(["\n\n".join([first, *aliases]), *bodies]) + "\n"


def _kept(tree: ast.Module, part: Part) -> Iterator[ast.stmt]:
    """Definitions and assignments that the part takes. Expressions are docstrings and registrations: neither belongs into an export."""
    found = {name for node in tree.body for name in _defines(node)}
    missing = sorted((set(part.only or ()) | {name.partition(".")[0] for name in part.without}) - found)
    if missing:
        raise ValueError(f"{part.module.__name__} defines no {', '.join(missing)}")
    for node in tree.body:
        names = _defines(node)
        if names and (part.only is None or set(names) & set(part.only)) and not set(names) & set(part.without):
            yield node


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _dropped(node: ast.stmt, part: Part) -> list[ast.stmt]:
    """The methods of a class that the part leaves out."""
    if not isinstance(node, ast.ClassDef):
        return []
    return [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and f"{node.name}.{inner.name}" in part.without]


def _uses(node: ast.stmt, part: Part) -> set[str]:
    left_out = {id(inner) for method in _dropped(node, part) for inner in ast.walk(method)}
    kept = [inner for inner in ast.walk(node) if id(inner) not in left_out]
    quoted = {
        inner.value for inner in kept if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier()
    }
    return {inner.id for inner in kept if isinstance(inner, ast.Name)} | quoted  # an annotation may be a name in quotes


def _imports(tree: ast.Module) -> Iterator[tuple[str, str, bool]]:
    """(line of code, name that it binds, whether it is of this package) of each top-level import, those for type checkers included."""
    blocks = [node.body for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in (inner for block in [tree.body, *blocks] for inner in block):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            renamed = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
            name = (alias.asname or alias.name).partition(".")[0]
            if isinstance(node, ast.ImportFrom):
                yield f"from {node.module} import {renamed}", name, str(node.module).partition(".")[0] == _PACKAGE
            else:
                yield f"import {renamed}", name, False


def _sorted_imports(lines: Collection[str]) -> str:
    """Each module once, the standard library before the rest."""
    merged: dict[str, list[str]] = {}
    for line in sorted(set(lines)):
        before, _, name = line.partition(" import ")
        merged.setdefault(before, []).append(name)
    found: tuple[list[str], list[str]] = ([], [])
    for before, names in sorted(merged.items(), key=lambda item: (item[0].startswith("from"), item[0])):
        module = before.split()[1].partition(".")[0]
        found[module not in sys.stdlib_module_names].append(f"{before} import {', '.join(names)}" if names != [""] else before)
    return "\n\n".join("\n".join(group) for group in found if group)


def _text(source: str, node: ast.stmt, part: Part) -> str:
    """The node's own lines, with decorators and the comment above it, less the methods that are left out."""
    lines = source.splitlines()
    first = _first_line(node, lines)
    gone = {number for method in _dropped(node, part) for number in range(_first_line(method, lines), int(method.end_lineno or 0))}
    kept = [lines[number] for number in range(first, int(node.end_lineno or 0)) if number not in gone]
    return "\n".join(kept).rstrip()


def _first_line(node: ast.stmt, lines: list[str]) -> int:
    """Index of the first line: of the decorators, and of the comment lines right above them."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return int(first)
