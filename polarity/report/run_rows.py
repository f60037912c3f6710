"""The parts of a run's report that look at single predictions: calibration, the most confident errors, likely label errors."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.evaluate.calibration import (
    Answered,
    Bin,
    CalibrationError,
    apply,
    calibration_error,
    probabilities_of,
    reliability,
    risk_coverage,
)
from polarity.evaluate.predictions import task_codes
from polarity.report.charts import Axis, PlotPoint, Series, lines, signed_short
from polarity.report.page import PageSection, columns, fragment, table
from polarity.report.record import CommentTexts, Record

BINS = 10
"""Bins of the diagrams; the calibration error is over as many as calibration.json's."""
SHOWN = 10
"""Rows listed of each kind and task."""


class TaskRows(NamedTuple):
    """One task of the heading split: labels (N,), predictions (N,), probabilities (N, K)."""

    labels: Codes
    predicted: Codes
    probabilities: Floats

    @property
    def confidence(self) -> Floats:
        """The probability of the predicted class (N,)."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]


class ShownRow(NamedTuple):
    """A row of the lists: what was predicted with which probability, the label and its probability, and the texts."""

    row_id: str
    predicted: str
    confidence: float
    label: str
    label_probability: float
    title: str
    comment: str
    words: str


def judged_tasks(record: Record) -> dict[str, TaskRows]:
    """The heading split's predictions as arrays."""
    rows = record.run.rows(record.main)
    return {
        task: TaskRows(*task_codes(rows, task, classes), probabilities_of(rows, task, classes)) for task, classes in record.labels.items()
    }


def calibration_section(record: Record) -> PageSection:
    """Reliability diagrams with the calibration error, before and after calibration, and coverage against risk."""
    diagrams, risks, cells = [], [], []
    for number, (task, judged) in enumerate(judged_tasks(record).items(), 1):
        known = judged.labels >= 0
        labels, predicted, probabilities = judged.labels[known], judged.predicted[known], judged.probabilities[known]
        bins = max(1, min(BINS, len(labels) // 10))
        series = [
            Series("confidence = accuracy", [PlotPoint(0, 0), PlotPoint(1, 1)], "flat", dashed=True),
            _dots("as trained", reliability(probabilities, labels, bins), "s1"),
        ]
        row: list[Markup | str] = [task, _error_words(calibration_error(probabilities, labels))]
        fitted = record.run.calibration.get(task)
        if fitted is not None:
            probabilities, predicted = apply(probabilities, fitted.temperature, fitted.biases)
            series.append(_dots("calibrated", reliability(probabilities, labels, bins), "s3"))
            crossed = record.calibration_record[task].get("calibration_error")
            row += [_error_words(calibration_error(probabilities, labels)), "" if crossed is None else _error_words(crossed["after"])]
            row += [f"{fitted.temperature:.3f}", _biases(record.labels[task], fitted.biases)]
        cells.append(row)
        unit = Axis("confidence (largest probability)", 0, 1)
        drawn = lines(series, x=unit, y=Axis("accuracy", 0, 1), label=f"reliability of {task}", square=True)
        diagrams.append(Markup("<h3>{}</h3>{}").format(task, drawn))
        curve = [PlotPoint(at["coverage"], at["risk"], _risk_words(task, at)) for at in risk_coverage(probabilities, predicted, labels)]
        risks.append(Series(task, curve, f"s{number}"))
    risk = lines(
        risks, x=Axis("coverage: share of rows that are answered, the most confident first", 0, 1), y=Axis("error rate among them", 0),
        label="error rate against coverage",
    )  # fmt: skip
    body = columns(*diagrams) + _calibration_table(record, cells)
    body += Markup("<h3>If the model may abstain</h3>") + risk
    return PageSection("calibration", "Calibration", body, f"How far its confidence can be trusted, on {record.called} rows.")


def _error_words(error: CalibrationError) -> str:
    low, high = error["ci95"]
    noise = "" if error["evidence"] else f"; no evidence, chance gives up to {error['noise95']:.3f}"
    return f"{error['ece']:.3f} [{low:.3f}, {high:.3f}]{noise}"


def _dots(name: str, bins: Iterable[Bin], tone: str) -> Series:
    points = []
    for found in bins:
        low, high = found["ci95"]
        words = f"{found['rows']:,} rows: confidence {found['confidence']:.3f}, accuracy {found['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        points.append(PlotPoint(found["confidence"], found["accuracy"], words, 4, low, high))
    return Series(name, points, tone)


def _risk_words(task: str, at: Answered) -> str:
    return f"{task}: {at['coverage']:.0%} answered (confidence from {at['threshold']:.3f} on), {at['risk']:.1%} of them wrong"


def _biases(classes: Sequence[str], biases: Sequence[float] | None) -> str:
    return "none" if biases is None else ", ".join(f"{name} {signed_short(bias)}" for name, bias in zip(classes, biases, strict=True))


def _calibration_table(record: Record, cells: list[list[Markup | str]]) -> Markup:
    head = ["task", "calibration error as trained"]
    note = (
        "Expected calibration error: the mean gap between confidence and accuracy, over bins of equally many rows, with its 95 % interval. "
        "It is above zero also for perfect probabilities: “no evidence” stands where chance alone gives as much in one case of twenty."
    )
    if not record.run.calibration:
        return table(head, cells, caption=note + " The run has no calibration.", narrow=True)
    if record.main == "validation":
        note += " The calibration was fitted on these very rows, so judge it by the cross-fitted figure."
    head += ["calibrated, these rows", "cross-fitted", "temperature", "class biases"]
    return table(head, cells, caption=note)


def agreement_section(record: Record) -> PageSection | None:
    """How far the annotators agree, by task and class, and how much of the errors may be the labels' own; None where one labelled."""
    if not record.agreement:
        return None
    rows, errors = [], []
    for task, found in record.agreement.items():
        against = "none" if found["one_against_rest"] is None else f"{found['one_against_rest']:.3f}"
        rows.append([task, _alpha(found["alpha"]), f"{found['shared']:,}", f"{found['disputed']:,}", f"{found['ties']:,}", against])
        rows += [[f"{task}: {name}", _alpha(value), "", "", "", ""] for name, value in found["alpha_by_class"].items()]
        for split, error in found["errors"].items():
            agreed = error["rows"] - error["disputed"]
            rates = [_rate(error["errors"] - error["errors_disputed"], agreed), _rate(error["errors_disputed"], error["disputed"])]
            errors.append([f"{task}, {split}", f"{error['errors']:,}", *rates, _rate(error["errors_voted"], error["errors"])])
    note = (
        "Krippendorff's alpha: 1 is full agreement, 0 what chance gives; a class's own takes all other classes as one. The last column: "
        "how often one annotator's vote is the majority of the others', which is as much as can be asked of a model."
    )
    head = ["", "alpha", "rows with two votes", "disputed", "ties", "one against the rest"]
    body = table(head, rows, numeric=(1, 2, 3, 4, 5), caption=note)
    head = ["", "errors", "error rate where all agree", "where they do not", "of the errors, an annotator said the same"]
    note = "Rows with two votes or more and a majority. The last column is the labels' own part."
    body += table(head, errors, numeric=(1, 2, 3, 4), caption=note)
    return PageSection("agreement", "Agreement of the annotators", body, "How sure the labels are, and how much of the error is their own.")


def _alpha(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _rate(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "none"


def surest_errors(judged: TaskRows) -> tuple[NDArray[np.int64], int]:
    """Positions of the errors that are listed, the surest first, and how many errors there are."""
    wrong = np.flatnonzero((judged.labels >= 0) & (judged.predicted != judged.labels))
    return wrong[np.argsort(-judged.confidence[wrong], kind="stable")][:SHOWN], len(wrong)


def rows_sections(record: Record, comments: CommentTexts, *, texts: bool) -> list[PageSection]:
    """The most confident errors and the likely label errors; rows of the first list are not shown again in the second."""
    errors, doubts = Markup(""), Markup("")
    for task, judged in judged_tasks(record).items():
        found = label_errors(judged.labels, judged.probabilities)
        suggested = dict(zip(found.rows.tolist(), found.suggested.tolist(), strict=True))
        first, wrong = surest_errors(judged)
        errors += _listed(record, comments, task, judged, first, {}, texts=texts, count=f"{wrong:,} errors")
        rest = np.array([row for row in found.rows if row not in set(first.tolist())][:SHOWN], np.int64)
        known = int((judged.labels >= 0).sum())
        share = f"{len(found.rows):,} of {known:,} rows ({len(found.rows) / known:.1%})"
        also = len(set(first.tolist()) & set(suggested))
        words = share + (f", {also} of them among the errors above" if also else "")
        doubts += _listed(record, comments, task, judged, rest, suggested, texts=texts, count=words)
    note = "" if texts else " Texts were left out of this page."
    note += f" {comments.missing}" if texts and comments.missing else ""
    lead = (
        f"Errors on {record.called} rows of which the model was surest. Confidence alone does not tell its errors from wrong labels: "
        f"read the comments.{note}"
    )
    doubt = (
        "Rows whose label confident learning doubts (Northcutt et al. 2021): another class is the model's choice, and more probable than "
        f"it usually is for that class's own rows. Read them again before blaming the labels: some are the model's own errors.{note}"
    )
    return [PageSection("errors", "Most confident errors", errors, lead), PageSection("labels", "Likely label errors", doubts, doubt)]


def _listed(
    record: Record, comments: CommentTexts, task: str, judged: TaskRows, rows: NDArray[np.int64], suggested: dict[int, int], *,
    texts: bool, count: str,
) -> Markup:  # fmt: skip
    part = record.run.rows(record.main).take(rows)
    ids = part["row_id"].to_pylist()
    known = comments.of(record.main, ids) if texts else {}
    names = record.labels[task]
    shown = []
    for row, row_id, title in zip(rows.tolist(), ids, part["title"].to_pylist(), strict=True):
        label, predicted = int(judged.labels[row]), suggested.get(row, int(judged.predicted[row]))
        odds = judged.probabilities[row]
        title = (title or "") if texts else ""
        chosen = (row_id, names[predicted], float(odds[predicted]), names[label], float(odds[label]))
        words = comments.words.get(task, {}).get(row_id, "") if texts and row not in suggested else ""
        shown.append(ShownRow(*chosen, title, known.get(row_id, ""), words))
    return fragment("rows.html", task=task, rows=shown, texts=texts, count=count)


class LabelErrors(NamedTuple):
    """Rows (M,) whose label is likely wrong, the least likely label first, and the class suggested for each (M,)."""

    rows: NDArray[np.int64]
    suggested: Codes


def label_errors(labels: Codes, probabilities: Floats) -> LabelErrors:
    """A row is suspect where a class other than its label is both the model's choice and confidently so.

    A class is confident at or above the mean probability that the rows labelled with it give it. Rows without a label (-1) are
    never suspect. `labels` (N,), `probabilities` (N, K).
    """
    known = labels >= 0
    classes = probabilities.shape[1]
    thresholds_K = np.full(classes, np.inf)  # a class that no row is labelled with is never confident
    for label in range(classes):
        own = probabilities[labels == label, label]
        if own.size:
            # 1e-6 as in cleanlab: where all rows of a class have one probability, rounding must not leave them below its mean.
            thresholds_K[label] = own.mean() - 1e-6
    confident_NK = probabilities >= thresholds_K
    best = np.where(confident_NK, probabilities, -1.0).argmax(axis=1)
    suspect = known & confident_NK.any(axis=1) & (best != labels) & (probabilities.argmax(axis=1) != labels)
    rows = np.flatnonzero(suspect)
    order = np.argsort(probabilities[rows, labels[rows]], kind="stable")
    return LabelErrors(rows[order], best[rows[order]])
