"""A study's report.html, from its artifacts only: what each arm does first, then what it rests on."""

from polarity.report.page import Section, render_page
from polarity.report.run import SYNTHETIC
from polarity.report.run_training import duration
from polarity.report.study_effects import (
    claims_section,
    classes_section,
    compute_section,
    effects_section,
    headline,
    precision_section,
)
from polarity.report.study_record import StudyRecord, read_study
from polarity.report.study_screen import confirmation_section, interactions_section
from polarity.report.study_trials import asha_section, curves_section, priors_section, reproduce_section, trials_section


def render_study(study: str) -> str:
    """The page of the study folder `study` (local or URI). Raises RunError where it holds none, or a damaged one."""
    return render_record(read_study(study))


def render_record(record: StudyRecord) -> str:
    """As `render_study`, of artifacts that were read already."""
    sections = [
        confirmation_section(record),
        effects_section(record),
        interactions_section(record),
        claims_section(),
        compute_section(record),
        classes_section(record),
        precision_section(record),
        curves_section(record),
        asha_section(record),
        priors_section(record),
        trials_section(record),
        reproduce_section(record),
    ]
    return render_page(
        title=str(record.study["name"]),
        kind="ablation study",
        headline=headline(record),
        sections=[section for section in sections if isinstance(section, Section)],
        facts=_facts(record),
        banner=SYNTHETIC if record.synthetic else None,
        notices=_notices(record),
        footer="Made by polarity from the study's own files: study.json, effects.parquet and the folders of its trials.",
    )


def _facts(record: StudyRecord) -> list[tuple[str, str]]:
    study, trials = record.study, record.trials()
    facts = [("design", f"{study['design']}, {study['level']}"), ("reference", str(study["reference"])), ("arms", str(len(study["arms"])))]
    for stage, words in (("explore", "exploring seeds"), ("screen", "screening seeds"), ("confirm", "confirming seeds")):
        seeds = study["seeds"].get(stage) or []
        if seeds:
            facts.append((words, ", ".join(map(str, seeds))))
    facts += [(words, f"{count:,}") for words, count in record.rows.items()]
    counts = {status: len(record.trials(status)) for status in ("finished", "stopped", "failed", "running", "pending")}
    facts.append(("trials", ", ".join(f"{count} {status}" for status, count in counts.items() if count)))
    facts.append(("training", duration(sum(float(trial["train_seconds"] or 0.0) for trial in trials))))
    if study.get("created"):
        facts.append(("started", str(study["created"]).replace("T", " ").replace("+00:00", " UTC")))
    return facts


def _notices(record: StudyRecord) -> list[str]:
    notices = [str(note) for note in record.study.get("notes") or []]
    open_trials = record.trials("pending", "running")
    if open_trials:
        notices.append(f"The study is not done: {len(open_trials)} trials have not ended. What follows is of those that have.")
    failed = record.trials("failed")
    if failed:
        notices.append(f"{len(failed)} trial{'s' if len(failed) > 1 else ''} failed, without which the effects were reckoned: see Trials.")
    asked = len(record.study["seeds"].get("screen" if record.screen else "confirm") or [])
    short = [row["arm"] for row in record.decided if row["seeds"] < asked]
    if short:
        notices.append(f"Fewer than the {asked} confirming seeds are paired for {', '.join(short)}.")
    return notices
