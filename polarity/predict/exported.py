"""What both kinds of export share: the run that is exported, how its inputs are made, its folder, and the source that it carries.

`standalone` makes one self-contained Python file out of chosen parts of this package's modules: what an export carries is the source that
ran. Imports of the package vanish, because what they name stands in the file; other imports are kept where a kept part uses them.
"""

import ast
import inspect
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NotRequired, TypedDict

from polarity.artifacts import disk_errors, replacing
from polarity.config import MIN_COMMENT_TOKENS, Config
from polarity.encoders import HfConfig
from polarity.environment import installed_versions
from polarity.errors import RunError
from polarity.evaluate.results import Difference
from polarity.model.multitask import MultitaskModel
from polarity.predict.scorers import load_parts
from polarity.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class ModulePart:
    """A module's share: `only` these top-level names (None: all), `without` these, where `Class.method` drops a method."""

    module: ModuleType
    only: Collection[str] | None = None
    without: Collection[str] = ()


def standalone(parts: Sequence[ModulePart], header: str, aliases: Sequence[str] = ()) -> str:
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


def _kept(tree: ast.Module, part: ModulePart) -> Iterator[ast.stmt]:
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


def _dropped(node: ast.stmt, part: ModulePart) -> list[ast.stmt]:
    """The methods of a class that the part leaves out."""
    if not isinstance(node, ast.ClassDef):
        return []
    return [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and f"{node.name}.{inner.name}" in part.without]


def _uses(node: ast.stmt, part: ModulePart) -> set[str]:
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


def _text(source: str, node: ast.stmt, part: ModulePart) -> str:
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


ABOUT, README = "export.json", "README.md"
SCHEMA_VERSION = 1


class Lengths(TypedDict):
    """Settings of `data.` by which two texts are cut."""

    order: str
    max_length: int
    max_comment: int | None
    max_title: int | None


class TextSettings(TypedDict):
    """How two texts become one row, in export.json and config.json."""

    lengths: Lengths
    min_comment_tokens: int
    pad_token_id: int
    token_type_ids: bool


class Constants(TypedDict):
    """A task's calibration."""

    temperature: float
    biases: list[float] | None


class OnnxCheck(TypedDict):
    """How far onnxruntime and torch agree: texts, the largest difference of a logit, and {task: labels that are not the run's own}."""

    texts: int
    source: str
    largest_logit_difference: float
    other_label_than_run: dict[str, int]


class Int8Overall(Difference):
    """Overall macro-F1 of both models, and int8 less float32."""

    float32: float
    int8: float


class Int8Cost(TypedDict):
    """What int8 weights cost on the run's own rows."""

    rows: int
    split: str
    overall: Int8Overall
    tasks: dict[str, Difference]
    bytes: dict[str, int]


class About(TypedDict):
    """export.json; `models` and `votes` of folders for transformers, `outputs`, `check` and `int8` of an ONNX folder."""

    schema_version: int
    format: str
    made_by: str
    run: str
    labels: dict[str, list[str]]
    inputs: TextSettings
    calibration: dict[str, Constants]
    votes: NotRequired[str]
    models: NotRequired[dict[str, str]]
    outputs: NotRequired[dict[str, str]]
    not_carried: NotRequired[list[str]]
    check: NotRequired[OnnxCheck]
    int8: NotRequired[Int8Cost]


@dataclass(frozen=True)
class Exported:
    """A run as an export sees it; `calibration` is {task: {"temperature", "biases"}}, empty where the run has none."""

    run: Run
    name: str
    config: Config
    model: MultitaskModel
    tokenizer: "PreTrainedTokenizerFast"
    calibration: dict[str, Constants]

    @classmethod
    def load(cls, run: Run, *, raw: bool) -> "Exported":
        """A run to export, `raw` without its calibration. Raises RunError: an ensemble, or files missing or damaged."""
        if run.kind == "ensemble":
            raise RunError(f"{run.uri}: is an ensemble, and an export is one model: export its members, or `polarity soup` its runs")
        model, tokenizer = load_parts(run.folder)
        fitted = {} if raw else run.calibration
        calibration: dict[str, Constants] = {
            task: {"temperature": f.temperature, "biases": None if f.biases is None else list(f.biases)} for task, f in fitted.items()
        }
        return cls(run, run.name, run.config, model, tokenizer, calibration)

    @property
    def votes(self) -> str:
        """The run's own mode of multi-sample dropout: off, mean or vote."""
        return str(self.model.config.inference_mode)

    def text_settings(self) -> TextSettings:
        """How two texts become one row, as export.json and config.json hold it."""
        data = self.config.data
        return {
            "lengths": {"order": data.order, "max_length": data.max_length, "max_comment": data.max_comment, "max_title": data.max_title},
            "min_comment_tokens": MIN_COMMENT_TOKENS,
            "pad_token_id": self.tokenizer.pad_token_id,
            "token_type_ids": "token_type_ids" in self.tokenizer.model_input_names,
        }

    def about(self, kind: str) -> About:
        """What export.json starts with."""
        return {
            "schema_version": SCHEMA_VERSION,
            "format": kind,
            "made_by": f"polarity {package_version()}",
            "run": self.name,
            "labels": self.config.labels,
            "inputs": self.text_settings(),
            "calibration": self.calibration,
        }


def package_version() -> str:
    """This package's version, or `unknown` where it runs uninstalled."""
    return installed_versions().get("polarity", "unknown")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well. Raises RunError where `out` holds something."""
    out = out.expanduser().absolute()
    check_free(out)
    with disk_errors(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.mkdir()
            yield temporary


def check_free(out: Path) -> None:
    """Raise RunError where `out` is a file or a folder with something in it."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(f"{out}: holds something already; choose another --out, or empty it")


def write_about(folder: Path, about: About) -> None:
    (folder / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_paths(config: HfConfig) -> HfConfig:
    """A model's config.json without the folders that it was once loaded from."""
    return {key: without_paths(value) if isinstance(value, dict) else value for key, value in config.items() if key != "_name_or_path"}


def texts_section(exported: Exported) -> str:
    """README's section on how texts are put together."""
    settings = exported.text_settings()
    lengths = settings["lengths"]
    title, comment = ("the title", "the comment") if lengths["order"] == "title_first" else ("the comment", "the title")
    most = {"comment": lengths["max_comment"], "title": lengths["max_title"]}
    caps = [f"the {name} to {tokens} tokens" for name, tokens in most.items() if tokens is not None]
    if lengths["order"] == "title_first":
        rule = (
            "the comment is cut to what the title leaves; where that is below "
            f"{MIN_COMMENT_TOKENS} tokens, the comment keeps {MIN_COMMENT_TOKENS} (or all it has) and the title is cut instead"
        )
    else:
        rule = "the title is cut to what the comment leaves; the comment is cut only where it fills the row alone"
    types = "`token_type_ids` as the tokenizer gives them for a pair" if settings["token_type_ids"] else "no `token_type_ids`"
    return f"""## How texts are put together

The code in this folder does this; it matters where you write your own.

- A row is a pair: first {title}, then {comment}, with the tokenizer's own special tokens around and between them; {types}.
- A row has at most {lengths["max_length"]} tokens, special tokens included. Both texts are tokenized without special tokens and
  cut on the right: {f"first {' and '.join(caps)}; then " if caps else ""}{rule}.
- A row without a title (none given, or no token of it left) is the comment alone, with the special tokens of a single text.
- Rows are padded on the right with the id {settings["pad_token_id"]}; `attention_mask` is 0 there.
- Nothing is done to a text before the tokenizer: no lower case, no cleaning, except what the tokenizer itself does.
"""


def calibration_section(exported: Exported) -> str:
    """README's sentence on calibration."""
    if not exported.calibration:
        return "Probabilities are the model's own: the run was not calibrated, or was exported with `--raw`.\n"
    biased = [task for task, fitted in exported.calibration.items() if fitted["biases"] is not None]
    chosen = f" For {', '.join(biased)} the class also heeds biases, so that it may differ from the most probable one." if biased else ""
    return (
        "Probabilities are calibrated: softmax(log p / temperature) per task. The class is the largest of log p / temperature + bias."
        f"{chosen} `classify(..., raw=True)` leaves this out.\n"
    )


def labels_section(exported: Exported) -> str:
    """README's list of tasks and classes."""
    lines = [
        f"- **{task}**: {', '.join(f'{index} {name}' for index, name in enumerate(names))}"
        for task, names in exported.config.labels.items()
    ]
    return "## Tasks and classes\n\n" + "\n".join(lines) + "\n"
