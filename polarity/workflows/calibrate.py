"""Fit a run's calibration on its own validation predictions, and keep it with the model."""

from collections.abc import Callable

from polarity.artifacts import CALIBRATION, PREDICTIONS, RunFolder
from polarity.errors import RunError
from polarity.evaluate.calibration import Calibration, CalibrationError, FittedTask, TestedTask, calibrate, check_on
from polarity.evaluate.predictions import Labels, of_split
from polarity.run import Run

FITTED_ON = "validation"


def calibrate_run(folder: RunFolder, say: Callable[[str], None], *, labels: Labels | None = None, whole: bool = True) -> Calibration:
    """Fit on the validation rows of the run's predictions.parquet, write model/calibration.json, and return its content.

    `labels` are the tasks with their classes, by default those of the run's config.yaml. Where there are test rows, the content says
    under `test` what the calibration does on them. `whole` says all that was found, else one plain sentence a task. Raises RunError
    where the run has no validation predictions.
    """
    labels = Run(folder).labels if labels is None else labels
    predictions = folder.read_parquet(PREDICTIONS)
    rows = of_split(predictions, FITTED_ON)
    if not rows.num_rows:
        raise RunError(f"{folder.uri}/{PREDICTIONS}: holds no validation rows, so there is nothing to calibrate on")
    content = calibrate(rows, labels, FITTED_ON)
    test = of_split(predictions, "test")
    if test.num_rows:
        content["test"] = check_on(test, labels, content["tasks"])
    folder.write_json(CALIBRATION, content)
    for task, entry in content["tasks"].items():
        say(_line(task, entry, content.get("test", {}).get(task)) if whole else _short_line(task, entry))
    return content


def _short_line(task: str, entry: FittedTask) -> str:
    if "calibration_error" not in entry:
        return f"calibration of {task}: {entry['note']}"
    kept = "; predict and evaluate shift the scores of its classes too, which helps; what follows is without" if entry["biases"] else ""
    before, after = (entry["calibration_error"]["before"]["ece"], entry["calibration_error"]["after"]["ece"])
    found = f"{after:.3f} once calibrated" if after < before else "and calibration does not show a gain on these rows"
    return f"{task}: confidence is off by {before:.3f} on average, {found}{kept}"


def _line(task: str, entry: FittedTask, test: TestedTask | None) -> str:
    if "calibration_error" not in entry:
        return f"calibration of {task}: {entry['note']}"
    errors = entry["calibration_error"]
    parts = [
        f"temperature {entry['temperature']:.2f}, calibration error {_error(errors['before'])} -> {_error(errors['after'])} (cross-fitted)"
    ]
    gain = entry.get("bias_gain")
    if gain is None:
        parts.append(entry["note"])
    elif gain["gain_ci95"] is not None:
        low, high = gain["gain_ci95"]
        parts.append(f"class biases kept: macro-F1 {gain['gain']:+.3f} [{low:+.3f}, {high:+.3f}], corrected for having been chosen")
    else:
        low, high = gain["ci95"]
        parts.append(
            f"class biases not kept: macro-F1 {gain['cross_fitted']:+.3f} [{low:+.3f}, {high:+.3f}] cross-fitted, no evidence of a gain"
        )
    if test is not None:
        errors, (low, high) = test["calibration_error"], test["macro_f1_change_ci95"]
        parts.append(f"on test: error {_error(errors['before'])} -> {_error(errors['after'])}")
        if entry["biases"] is not None:
            change = test["macro_f1_after"] - test["macro_f1_before"]
            parts[-1] += f", macro-F1 {change:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"calibration of {task}: {'; '.join(parts)}"


def _error(error: CalibrationError) -> str:
    low, high = error["ci95"]
    noise = "" if error["evidence"] else f", no evidence: chance gives up to {error['noise95']:.3f}"
    return f"{error['ece']:.3f} [{low:.3f}, {high:.3f}{noise}]"
