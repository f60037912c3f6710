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
from polarity.report.study_screen import confirmation_section, interactions_section
from polarity.report.study_trials import asha_section, curves_section, priors_section, reproduce_section, trials_section
from polarity.study import Status, Study


def render_study(place: str) -> str:
    """The page of the study folder `place` (local or URI). Raises RunError where it holds none, or a damaged one."""
    study = Study.open(place)
    sections = [
        confirmation_section(study),
        effects_section(study),
        interactions_section(study),
        claims_section(),
        compute_section(study),
        classes_section(study),
        precision_section(study),
        curves_section(study),
        asha_section(study),
        priors_section(study),
        trials_section(study),
        reproduce_section(study),
    ]
    return render_page(
        title=_title(study),
        kind=f"{'search' if study.file.design == 'search' else 'study'}, {study.file.created[:10]}" if study.file.created else "study",
        headline=headline(study),
        sections=[section for section in sections if isinstance(section, Section)],
        facts=_facts(study),
        banner=SYNTHETIC if study.synthetic else None,
        notices=_notices(study),
        footer="Made by polarity from the study's own files: study.json, effects.parquet and the folders of its trials.",
    )


def _title(study: Study) -> str:
    """What the study asks, in words."""
    names = {row["arm"] for row in study.decided}
    level = "points" if names and all(name.startswith("point-") for name in names) else study.file.level
    subject = {"points": "points of the plan", "tiers": "tiers of the plan"}.get(level, "changes")
    asked = {
        "search": "Which settings are best",
        "ladder": f"What each step of the {subject} adds",
        "without": f"What is lost without each of the {subject}",
    }
    return asked.get(study.file.design, f"Which {subject} help")


def _facts(study: Study) -> list[tuple[str, str]]:
    file, seeds_of = study.file, study.file.seeds
    facts = [("study", file.name), ("design", f"{file.design}, {file.level}"), ("reference", file.reference), ("arms", str(len(file.arms)))]
    stages = ((seeds_of.explore, "exploring seeds"), (seeds_of.screen, "screening seeds"), (seeds_of.confirm, "confirming seeds"))
    for seeds, words in stages:
        if seeds:
            facts.append((words, ", ".join(map(str, seeds))))
    facts += [(words, f"{count:,}") for words, count in study.rows.items()]
    statuses: tuple[Status, ...] = ("finished", "stopped", "failed", "running", "pending")
    counts = {status: len(study.of(None, status)) for status in statuses}
    facts.append(("trials", ", ".join(f"{count} {status}" for status, count in counts.items() if count)))
    facts.append(("training", duration(sum(trial.train_seconds for trial in study.trials))))
    if file.created:
        facts.append(("started", file.created.replace("T", " ").replace("+00:00", " UTC")))
    return facts


def _notices(study: Study) -> list[str]:
    notices = list(study.file.notes)
    open_trials = study.of(None, "pending", "running")
    if open_trials:
        notices.append(f"The study is not done: {len(open_trials)} trials have not ended. What follows is of those that have.")
    failed = study.of(None, "failed")
    if failed:
        notices.append(f"{len(failed)} trial{'s' if len(failed) > 1 else ''} failed, without which the effects were reckoned: see Trials.")
    asked = len(study.file.seeds.screen if study.file.screen else study.file.seeds.confirm)
    short = [row["arm"] for row in study.decided if row["seeds"] < asked]
    if short:
        notices.append(f"Fewer than the {asked} confirming seeds are paired for {', '.join(short)}.")
    return notices
