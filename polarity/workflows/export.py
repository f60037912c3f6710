"""`polarity export`: a run as a folder that others use without this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from polarity.artifacts import STUDENT
from polarity.errors import DataError, PolarityError, RunError, nearest
from polarity.predict.exported import Exported, check_free, new_folder
from polarity.run import Run

Say = Callable[[str], None]
FORMATS = ("hf", "onnx")
_SAMPLE_ROWS = 200


def export(run: str, to: str, out: Path, *, int8: bool = False, raw: bool = False, say: Say = print) -> dict[str, Any]:
    """Export a run folder to `out` and return the content of its export.json; `raw` leaves the calibration out.

    Raises RunError: an unknown format, a folder that holds something, no run, int8 without the run's data, an ONNX model that differs.
    """
    if to not in FORMATS:
        raise RunError(f"--to {to}: {nearest(to, FORMATS)}")
    if int8 and to != "onnx":
        raise RunError("--int8 is for --to onnx")
    check_free(out)
    opened = Run.open(run)
    if opened.kind == "stack":
        if not opened.has(STUDENT):
            raise RunError(f"{opened.uri}: is a stack of models without a student, and an export is one model: make it with more --time")
        say(f"{run} is a stack; its student is exported, one model that was trained on what the stack says")
        opened = Run.open(opened.folder.inside(STUDENT))
    if to == "onnx":
        return _onnx(opened, out, int8=int8, raw=raw, say=say)
    from polarity.predict.export_hf import export_hf

    exported = Exported.load(opened, raw=raw)
    with new_folder(out) as temporary:
        about = export_hf(exported, temporary)
    say(f"exported for transformers: {out} (README.md says how to use it, and what it does not carry)")
    return about


def _onnx(run: Run, out: Path, *, int8: bool, raw: bool, say: Say) -> dict[str, Any]:
    from polarity.predict.export_onnx import MODEL_INT8, CheckRows, check_installed, export_onnx

    check_installed()
    exported = Exported.load(run, raw=raw)
    validation = _validation_rows(run, int8, say)
    texts, source = (validation, "validation rows of the run") if validation is not None else _sample()
    rows = CheckRows(_spread(texts), source, validation if int8 else None)
    if rows.validation is not None:
        say(f"the float32 and the int8 model will both score {rows.validation.num_rows:,} validation rows: some minutes on a small machine")
    with new_folder(out) as temporary:
        about = export_onnx(exported, temporary, rows, resamples=exported.config.train.resamples)
    check = about["check"]
    say(f"torch and onnxruntime agree within {check['largest_logit_difference']:.1g} on {check['texts']} texts ({source})")
    differ = {task: count for task, count in check["other_label_than_run"].items() if count}
    if differ:
        say(f"of these, other labels than the run's own: {', '.join(f'{count} of {task}' for task, count in differ.items())}")
    for line in about["not_carried"]:
        say(f"not carried: {line}")
    if int8:
        overall = about["int8"]["overall"]
        low, high = (100 * x for x in overall["ci95"])
        say(
            f"{MODEL_INT8}: {100 * overall['int8']:.1f} % overall macro-F1 on {about['int8']['rows']:,} validation rows, "
            f"{100 * overall['difference']:+.1f} points [{low:+.1f}, {high:+.1f}] against float32: {overall['verdict']}"
        )
    say(f"exported for ONNX: {out} (README.md says how to use it)")
    return about


def _validation_rows(run: Run, int8: bool, say: Say) -> pa.Table | None:
    """The run's validation rows; None, and said, where they cannot be read and int8 does not need them."""
    from polarity.workflows.read_again import read_again

    try:
        return read_again(run, lambda _: None).validation
    except PolarityError as error:
        if int8:
            raise RunError(
                f"--int8 reports what it costs on the run's validation rows, and these cannot be used: {error}. "
                "Make the data available as the run's config.yaml names it, or leave --int8 out"
            ) from error
        if not isinstance(error, DataError | RunError):
            raise
        say(f"the run's validation rows cannot be used ({error}); the check against torch takes the synthetic sample corpus")
        return None


def _sample() -> tuple[pa.Table, str]:
    from polarity.data.sample import sample_comments

    return sample_comments(_SAMPLE_ROWS), "synthetic sample corpus"


def _spread(table: pa.Table) -> pa.Table:
    """At most 200 rows, from the whole of the table."""
    from polarity.predict.export_onnx import CHECKED_ROWS

    step = max(1, -(-table.num_rows // CHECKED_ROWS))
    return table.take(pa.array(range(0, table.num_rows, step)))
