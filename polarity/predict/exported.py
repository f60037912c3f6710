"""What both kinds of export share: the run that is exported, how its inputs are made, the folder that appears whole or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polarity.artifacts import disk_errors, replacing
from polarity.config import MIN_COMMENT_TOKENS, Config
from polarity.errors import RunError
from polarity.model.multitask import MultitaskModel
from polarity.predict.classifier_model import load_parts
from polarity.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ABOUT, README = "export.json", "README.md"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Exported:
    """A run as an export sees it; `calibration` is {task: {"temperature", "biases"}}, empty where the run has none."""

    run: Run
    name: str
    config: Config
    model: MultitaskModel
    tokenizer: "PreTrainedTokenizerFast"
    calibration: dict[str, Any]

    @classmethod
    def load(cls, run: Run, *, raw: bool) -> "Exported":
        """A run to export, `raw` without its calibration. Raises RunError: an ensemble, or files missing or damaged."""
        if run.kind == "ensemble":
            raise RunError(f"{run.uri}: is an ensemble, and an export is one model: export its members, or `polarity soup` its runs")
        model, tokenizer = load_parts(run.folder)
        fitted = {} if raw else run.calibration
        calibration = {
            task: {"temperature": f.temperature, "biases": None if f.biases is None else list(f.biases)} for task, f in fitted.items()
        }
        return cls(run, run.name, run.config, model, tokenizer, calibration)

    @property
    def votes(self) -> str:
        """The run's own mode of multi-sample dropout: off, mean or vote."""
        return str(self.model.config.inference_mode)

    def text_settings(self) -> dict[str, Any]:
        """How two texts become one row, as export.json and config.json hold it."""
        data = self.config.data
        return {
            "lengths": {name: getattr(data, name) for name in ("order", "max_length", "max_comment", "max_title")},
            "min_comment_tokens": MIN_COMMENT_TOKENS,
            "pad_token_id": self.tokenizer.pad_token_id,
            "token_type_ids": "token_type_ids" in self.tokenizer.model_input_names,
        }

    def about(self, kind: str) -> dict[str, Any]:
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
    try:
        return version("polarity")
    except PackageNotFoundError:
        return "unknown"


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


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without transformers' bars for the writing of a few files."""
    from transformers import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def check_free(out: Path) -> None:
    """Raise RunError where `out` is a file or a folder with something in it."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RunError(f"{out}: holds something already; choose another --out, or empty it")


def write_about(folder: Path, about: dict[str, Any]) -> None:
    (folder / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config.json without the folders that it was once loaded from."""
    return {key: without_paths(value) if isinstance(value, dict) else value for key, value in config.items() if key != "_name_or_path"}


def texts_section(exported: Exported) -> str:
    """README's section on how texts are put together."""
    settings = exported.text_settings()
    lengths = settings["lengths"]
    title, comment = ("the title", "the comment") if lengths["order"] == "title_first" else ("the comment", "the title")
    caps = [f"the {name} to {lengths[f'max_{name}']} tokens" for name in ("comment", "title") if lengths[f"max_{name}"] is not None]
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
