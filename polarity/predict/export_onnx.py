"""A run as an ONNX model with dynamic axes, and its int8 copy; nothing is called exported that torch does not agree with.

Shapes: B rows, L tokens, K classes.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polarity.data import tokenize
from polarity.errors import RunError
from polarity.evaluate import build_predictions, evaluate_split, paired_difference
from polarity.model.inference import score
from polarity.model.multitask import MultitaskModel
from polarity.predict import portable
from polarity.predict.export_hf import FRAME_NAMES, SETTINGS, TEXT_NAMES, TEXT_PARTS
from polarity.predict.exported import (
    README,
    About,
    Exported,
    Int8Cost,
    ModulePart,
    OnnxCheck,
    calibration_section,
    labels_section,
    package_version,
    standalone,
    texts_section,
    write_about,
)
from polarity.predict.portable import OnnxClassifier, encode_texts, pad_rows

MODEL, MODEL_INT8, RUNNER = "model.onnx", "model.int8.onnx", "polarity_onnx.py"
TOLERANCE = 1e-3
CHECKED_ROWS = 200
_BATCH = 16

Logits = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CheckRows:
    """Comments tables: `texts` for the check against torch (from `source`), `validation` for int8's cost, or None without int8."""

    texts: pa.Table
    source: str
    validation: pa.Table | None


def check_installed() -> None:
    """Raise RunError where the extra `onnx` is not installed."""
    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise RunError(f"--to onnx needs {', '.join(lacking)}: pip install 'polarity[onnx]'")


def export_onnx(exported: Exported, folder: Path, rows: CheckRows, *, resamples: int) -> About:
    """Write the export into the empty `folder`; returns what export.json holds.

    Raises RunError where onnxruntime and torch differ by more than 1e-3 in a logit of `rows.texts`. With `rows.validation` there is an
    int8 copy too, and what it costs in macro-F1 on these rows.
    """
    tasks, settings = list(exported.config.labels), exported.text_settings()
    exported.tokenizer.save_pretrained(folder)
    (folder / RUNNER).write_text(runner_source(), encoding="utf-8")
    write_graph(exported.model, folder / MODEL, tasks, types=settings["token_type_ids"])
    about = exported.about("onnx")
    about["outputs"] = {task: f"logits_{task}" for task in tasks}
    about["not_carried"] = ["what the run folder says of the model's quality: its scores, intervals and report"]
    if exported.votes != "off":
        dropout = f"the run's own prediction by {exported.votes} of dropout samples: this is one pass without dropout"
        about["not_carried"].insert(0, dropout)
    write_about(folder, about)  # the runner, which the check runs, reads it
    about["check"] = check_against_torch(exported, OnnxClassifier(folder), rows)
    if rows.validation is not None:
        quantize(folder)
        about["int8"] = int8_cost(exported, folder, rows.validation, resamples)
    write_about(folder, about)
    (folder / README).write_text(_readme(exported, about), encoding="utf-8")
    return about


def runner_source() -> str:
    """The text of polarity_onnx.py."""
    header = (
        f"Written by `polarity export --to onnx` (polarity {package_version()}, Apache-2.0): texts in, labels out, with onnxruntime,\n"
        "tokenizers and numpy. Do not edit: export again."
    )
    parts = [*TEXT_PARTS, ModulePart(tokenize, only=FRAME_NAMES), ModulePart(portable, only=(*TEXT_NAMES, "Classified", "OnnxClassifier"))]
    return standalone(parts, header, aliases=[SETTINGS])


class _Flat(nn.Module):
    """The model as ONNX wants it: tensors in, a tuple of logits (B, K) out, in the order of `tasks`."""

    def __init__(self, model: MultitaskModel, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tuple(tasks)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        logits = self.model(input_ids, attention_mask, token_type_ids)
        return tuple(logits[task][0] for task in self.tasks)


def write_graph(model: MultitaskModel, path: Path, tasks: Sequence[str], *, types: bool) -> None:
    """Write the model's graph with free numbers of rows and tokens; weights stand inside the file."""
    ids_BL = torch.full((2, 11), 1, dtype=torch.long)  # 0 and 1 would be taken for constants
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[1, 7:] = 0
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL} | ({"token_type_ids": torch.zeros_like(ids_BL)} if types else {})
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    with _quiet("torch.onnx"):  # it remarks on torchvision, which is not needed, and on names of axes
        program = torch.onnx.export(
            _Flat(model, tasks).eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, axes),
            input_names=list(inputs),
            output_names=[f"logits_{task}" for task in tasks],
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export gave no program")
        program.save(str(path), external_data=False)


@contextmanager
def _quiet(name: str | None = None) -> Iterator[None]:
    """Without warnings, and with the errors alone of a logger (the root one by default)."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def check_against_torch(exported: Exported, onnx: OnnxClassifier, rows: CheckRows) -> OnnxCheck:
    """Largest difference of a logit between torch and onnxruntime on the rows, and how many labels differ from the run's own.

    Raises RunError where it is above 1e-3.
    """
    comments, titles = rows.texts["comment"].to_pylist(), rows.texts["title"].to_pylist()
    settings = exported.text_settings()
    encoded = encode_texts(tokenize.plain_backend(exported.tokenizer), comments, titles, exported.config.data)
    own: dict[str, list[Any]] = {task: [] for task in exported.config.labels}
    voted: dict[str, list[Any]] = {task: [] for task in exported.config.labels}
    for start in range(0, len(encoded), _BATCH):
        arrays = pad_rows(encoded[start : start + _BATCH], settings["pad_token_id"], types=settings["token_type_ids"])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for task, logits in exported.model(**batch).items():
            own[task].append(logits[0].numpy())
        for task, scores in score(exported.model, batch).items():
            voted[task].append(scores.predicted.numpy())
    expected: Logits = {task: np.concatenate(parts) for task, parts in own.items()}
    found = onnx.logits(comments, titles, batch_size=_BATCH + 7)  # other batches than torch's: padding must not matter either
    largest = max(float(np.abs(found[task] - expected[task]).max()) for task in expected)
    if not largest <= TOLERANCE:
        raise RunError(
            f"the ONNX model differs from torch by {largest:.2g} in a logit ({len(comments)} texts, {rows.source}), "
            f"more than {TOLERANCE:g}: nothing was written. Please report this with the encoder's name"
        )
    differ = {task: int((found[task].argmax(1) != np.concatenate(voted[task])).sum()) for task in expected}
    return {"texts": len(comments), "source": rows.source, "largest_logit_difference": largest, "other_label_than_run": differ}


def quantize(folder: Path) -> None:
    """Write model.int8.onnx: weights of matrix products and embeddings in int8, activations quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():  # it recommends a preprocessing that the exporter has done
        quantize_dynamic(folder / MODEL, folder / MODEL_INT8, weight_type=QuantType.QInt8, per_channel=True)


def int8_cost(exported: Exported, folder: Path, validation: pa.Table, resamples: int) -> Int8Cost:
    """Macro-F1 of both ONNX models on the validation rows, and the paired difference int8 - float32 with its interval."""
    labels = exported.config.labels
    by_title, decided = exported.run.by_title("validation"), exported.run.decided.get("validation", ())
    tables = [_predicted(OnnxClassifier(folder, file), validation, labels) for file in (MODEL, MODEL_INT8)]
    scores = [evaluate_split(table, labels, resamples=1, by_title=by_title, with_slices=False)["overall"]["macro_f1"] for table in tables]
    difference = paired_difference(tables[1], tables[0], labels, resamples=resamples, by_title=by_title, decided=decided)
    sizes = [(folder / file).stat().st_size for file in (MODEL, MODEL_INT8)]
    return {
        "rows": validation.num_rows,
        "split": "validation",
        "overall": {"float32": scores[0], "int8": scores[1], **difference["overall"]},
        "tasks": difference["tasks"],
        "bytes": {"float32": sizes[0], "int8": sizes[1]},
    }


def _predicted(onnx: OnnxClassifier, table: pa.Table, labels: dict[str, list[str]]) -> pa.Table:
    found = onnx.classify(table["comment"].to_pylist(), table["title"].to_pylist())
    codes = {task: np.array([labels[task].index(name) for name in found[task]["labels"]]) for task in labels}
    return build_predictions("validation", table, {task: found[task]["probabilities"] for task in labels}, labels, codes)


def _readme(exported: Exported, about: About) -> str:
    check, left_out = about["check"], "\n".join(f"- {line}" for line in about["not_carried"])
    int8 = ""
    if "int8" in about:
        overall = about["int8"]["overall"]
        low, high = (100 * x for x in overall["ci95"])
        int8 = (
            f"\n`{MODEL_INT8}` is the same model with int8 weights ({about['int8']['bytes']['int8'] / 1e6:.0f} MB instead of "
            f"{about['int8']['bytes']['float32'] / 1e6:.0f}). On the run's {about['int8']['rows']:,} validation rows it scores "
            f"{100 * overall['int8']:.1f} % overall macro-F1 where the float32 model scores {100 * overall['float32']:.1f} "
            f"(difference {100 * overall['difference']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}).\n"
        )
    in_runner = f"It is done by `{RUNNER}` with the numbers in `export.json`, not by the graph.\n" if exported.calibration else ""
    outputs = ", ".join(f"`{name}`" for name in about["outputs"].values())
    types = ", `token_type_ids`" if about["inputs"]["token_type_ids"] else ""
    return f"""# {exported.name}: a comment classifier in ONNX, exported by polarity {package_version()}

```python
from {RUNNER.removesuffix(".py")} import OnnxClassifier  # in this folder; needs onnxruntime, tokenizers and numpy

model = OnnxClassifier(".")
model.classify(["the comment"], ["the post that it answers"])
# {{task: {{"labels": [...], "probabilities": array}}}}
```

Inputs: `input_ids`, `attention_mask`{types}, int64 (rows, tokens), both free. Outputs: {outputs}, float32 (rows, classes).
Checked at export against torch on {check["texts"]} texts ({check["source"]}): the largest difference of a logit was
{check["largest_logit_difference"]:.1g}. `export.json` holds all of this for programs.
{int8}
{calibration_section(exported)}{in_runner}

{labels_section(exported)}
{texts_section(exported)}
## What this folder does not carry

{left_out}
"""
