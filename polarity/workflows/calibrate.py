"""Fit a run's calibration on its own validation predictions, and keep it with the model."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import CALIBRATION, CONFIG, PREDICTIONS, RunFolder
from polarity.errors import RunError
from polarity.evaluate.calibration import calibrate, check_on
from polarity.evaluate.predictions import Labels
from polarity.resolve import parse_config

FITTED_ON = "validation"


def calibrate_run(folder: RunFolder, say: Callable[[str], None], *, labels: Labels | None = None) -> dict[str, Any]:
    """Fit on the validation rows of the run's predictions.parquet, write model/calibration.json, and return its content.

    `labels` are the tasks with their classes, by default those of the run's config.yaml. Where there are test rows, the content says
    under `test` what the calibration does on them. Raises RunError where the run has no validation predictions.
    """
    labels = parse_config(folder.read_text(CONFIG), f"{folder.uri}/{CONFIG}").labels if labels is None else labels
    predictions = folder.read_parquet(PREDICTIONS)
    rows = _of_split(predictions, FITTED_ON)
    if not rows.num_rows:
        raise RunError(f"{folder.uri}/{PREDICTIONS}: holds no validation rows, so there is nothing to calibrate on")
    content: dict[str, Any] = {"fitted_on": {"split": FITTED_ON, "rows": rows.num_rows}, **calibrate(rows, labels)}
    test = _of_split(predictions, "test")
    if test.num_rows:
        content["test"] = check_on(test, labels, content["tasks"])
    folder.write_json(CALIBRATION, content)
    for task, entry in content["tasks"].items():
        say(_line(task, entry, content.get("test", {}).get(task)))
    return content


def _of_split(predictions: pa.Table, split: str) -> pa.Table:
    return predictions.filter(pc.equal(predictions["split"], split))


def _line(task: str, entry: dict[str, Any], test: dict[str, Any] | None) -> str:
    if "ece_before" not in entry:
        return f"calibration of {task}: {entry['note']}"
    parts = [f"temperature {entry['temperature']:.2f}, error {entry['ece_before']:.3f} -> {entry['ece_after']:.3f} (cross-fitted)"]
    gain = entry.get("bias_gain")
    if gain is None:
        parts.append(entry["note"])
    else:
        kept = "kept" if gain["kept"] else "not kept"
        parts.append(f"class biases {kept}: macro-F1 {gain['gain']:+.3f} ± {gain['standard_error']:.3f} cross-fitted")
    if test is not None:
        change = f"error {test['ece_before']:.3f} -> {test['ece_after']:.3f}"
        parts.append(f"on test: {change}, macro-F1 {test['macro_f1_before']:.3f} -> {test['macro_f1_after']:.3f}")
    return f"calibration of {task}: {'; '.join(parts)}"
