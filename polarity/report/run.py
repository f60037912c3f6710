"""A run's report.html, from its artifacts only: the verdict first, then what supports it; of a stack also what each member is worth."""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from markupsafe import Markup

from polarity.best.plan import clock
from polarity.best.record import Ceiling, Gain, ceiling_lines, combination_lines
from polarity.evaluate.results import what_rows_decided
from polarity.report.charts import Effect, forest
from polarity.report.page import Section, render_page, table
from polarity.report.record import CommentTexts, Record
from polarity.report.run_rows import agreement_section, calibration_section, rows_sections
from polarity.report.run_scores import classes_section, confusion_section, headline, scores_section, slices_section, verdict_section
from polarity.report.run_training import configuration_section, curves_section, duration, ledger_section, reproduce_section

_TONES = {"gain": "good", "loss": "bad"}


def stack_section(record: Record) -> Section | None:
    """Members by their own score, with what the stack loses without each; None where the run is no finished stack."""
    outcome = None if record.best is None else record.best.outcome
    if outcome is None:
        return None
    rows = [
        [member.name, member.kind, _score(member.macro_f1, member.ci95), _worth(member.drop_one), clock(member.seconds)]
        for member in sorted(outcome.members, key=lambda each: -each.macro_f1)
    ]
    worth = [
        Effect(member.name, found.difference, *found.ci95, tone=_TONES.get(found.verdict, "flat"), note=found.verdict)
        for member in outcome.members
        if (found := member.drop_one) is not None
    ]
    body = table(["member", "kind", "alone, out of fold", "stack less the stack without it", "took"], rows, numeric=[2, 3, 4])
    if worth:
        body += forest(worth, label="what the stack loses without each member, overall macro-F1")
    body += _sentences(combination_lines(outcome))
    if outcome.ceiling is not None:
        body += _ceiling(outcome.ceiling)
    lead = "Every score here is of rows that neither trained the member nor chose weights or biases for themselves."
    return Section("members", "Members of the stack", body, lead)


def _ceiling(ceiling: Ceiling) -> Markup:
    """Rows of the learning curve, then of its extension, and what it means in words."""
    rows = [[f"{point.rows:,}", "cheap members, measured", _score(point.macro_f1, point.ci95)] for point in ceiling.curve]
    rows += [[f"{reach.rows:,}", "stack, expected", _score(reach.macro_f1, reach.ci95)] for reach in ceiling.reach]
    lines = _sentences(list(ceiling_lines(ceiling))[2:])
    return Markup("<h3>Where the ceiling is</h3>") + table(["labelled rows", "model", "overall macro-F1"], rows, numeric=[0, 2]) + lines


def _sentences(lines: Iterable[str]) -> Markup:
    return Markup("").join(Markup("<p>{}.</p>").format(line[0].upper() + line[1:]) for line in lines)


def _score(score: float, ci95: tuple[float, float]) -> str:
    return f"{score:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _worth(found: Gain | None) -> str:
    return "the only member" if found is None else f"{found.interval}, {found.verdict}"


SYNTHETIC = (
    "SYNTHETIC SAMPLE CORPUS: made-up comments. These scores say nothing of real ones. "
    "8 % of the labels are wrong on purpose: 0.92 is the most."
)
NO_COMMENTS = CommentTexts(missing="The comments were not read, so that only titles are shown.")


def render_record(record: Record, *, texts: bool, comments: CommentTexts = NO_COMMENTS) -> str:
    """The page of a run. With `texts` off neither comments, titles nor folders of this machine are in it.

    `comments` are those of the judged rows, which a run folder does not keep.
    """
    shown = (lambda text: text) if texts else short_path
    sections = [
        verdict_section(record),
        scores_section(record),
        stack_section(record),
        classes_section(record),
        confusion_section(record),
        curves_section(record),
        calibration_section(record),
        agreement_section(record),
        ledger_section(record),
        slices_section(record, texts=texts),
        *rows_sections(record, comments, texts=texts),
        configuration_section(record, shown),
        reproduce_section(record, shown),
    ]
    return render_page(
        title=_title(record),
        kind=_kind(record),
        headline=headline(record),
        sections=[section for section in sections if isinstance(section, Section)],
        facts=_facts(record, shown),
        banner=SYNTHETIC if record.run.synthetic else None,
        notices=_notices(record),
        footer=_footer(record),
    )


def _kind(record: Record) -> str:
    created = record.run.environment.get("created", "")[:10]
    return ("evaluation" if "evaluation" in record.run.metrics else "run report") + (f", {created}" if created else "")


def _title(record: Record) -> str:
    """What was learnt, and from which encoder."""
    tasks = " and ".join(task.replace("_", " ") for task in record.labels)
    encoder = f": {short_path(record.config.model.encoder)}" if record.config is not None else ""
    return f"{tasks[:1].upper()}{tasks[1:]}{encoder}"


def short_path(text: str) -> str:
    """The last part of a path on this machine; anything else (a hub's name, sample:3000) as it is."""
    return PurePosixPath(text).name if text.startswith(("/", "~", "./", "../")) else text


def _facts(record: Record, shown: Callable[[str], str]) -> list[tuple[str, str]]:
    evaluation = record.run.metrics.get("evaluation")
    if evaluation:
        return [
            ("run", shown(evaluation["run"])),
            ("judged on", shown(evaluation["data"])),
            ("calibrated", "yes" if evaluation["calibrated"] else "no"),
        ]
    facts = [("run", record.run.name)]
    facts += [(f"{name} rows", f"{count:,}") for name, count in record.run.environment.get("rows", {}).items()]
    if record.config is not None:
        facts.append(("encoder", short_path(record.config.model.encoder)))
        facts.append(("points of the plan", ", ".join(map(str, record.points)) or "none"))
        facts.append(("seed", str(record.config.train.seed)))
    epochs = record.run.epochs
    if epochs:
        facts.append(("epochs", f"{len(epochs)}, kept {record.best_epoch()}"))
        facts.append(("training", duration(sum(epoch.seconds for epoch in epochs))))
    return facts


def _notices(record: Record) -> list[str]:
    notices = []
    chose = what_rows_decided(record.split)
    if record.main == "validation" and chose:
        notices.append(f"There is no test split: the validation rows that are judged here also {chose}, so the score is too good.")
    elif record.main == "validation" and record.run.epochs and "decided" not in record.split:
        notices.append("There is no test split: the validation rows that are judged here may have chosen the epoch (an older run).")
    if "note" in record.split["intervals"]:
        notices.append(f"Intervals: {record.split['intervals']['note']}.")
    notices += record.run.metrics.get("evaluation", {}).get("notes", [])
    shifted = [task for task, found in record.calibration.items() if found.biases is not None]
    if shifted:
        named = ", ".join(shifted)
        notices.append(f"predict and evaluate shift the scores of the classes of {named} (see Calibration); the scores here are without.")
    warnings = len(record.run.ledger.warnings) if record.run.ledger else 0
    if warnings:
        notices.append(f"The class balance has {warnings} warning{'s' if warnings > 1 else ''}: see Class balance.")
    return notices


def _footer(record: Record) -> str:
    return (
        "Made by polarity from the run's own files. Its scores and their intervals were computed again from predictions.parquet and "
        "agree with metrics.json. The floors' scores are as the run recorded them."
    )
