"""A study's report.html: its screen, learning curves, rungs and what ASHA saved, effective priors, every trial, and how to repeat them."""

from markupsafe import Markup
from scipy.stats import norm

from polarity.report.charts import Axis, PlotPoint, Series, heat_map, lines
from polarity.report.page import PageSection, columns, details, render_page, table, verdict_pill
from polarity.report.run import SYNTHETIC, duration, short_path
from polarity.report.study_effects import (
    Cells,
    between,
    claims_section,
    classes_section,
    compute_section,
    effects_section,
    effects_table,
    forest_of,
    headline,
    points,
    precision_section,
)
from polarity.study import Contrast, Interaction, ScreenEntry, Stage, Status, Study, TrialRecord

STAGES: dict[Stage, str] = {"explore": "Exploration", "screen": "Screen", "confirm": "Confirmation"}
_TONES = 6


def curves_section(study: Study) -> PageSection | None:
    """A chart per stage: a line per trial, over the share of its own schedule, with ASHA's rungs as uprights."""
    charts = Markup("")
    for stage, title in STAGES.items():
        trials = [trial for trial in study.of(stage) if trial.curve]
        if trials:
            charts += Markup("<h3>{}</h3>").format(title) + _curves(study, trials, _rungs(study) if stage == "explore" else [])
    if not charts:
        return None
    lead = (
        "Overall macro-F1 on the inner validation rows, which chose the epoch and what ASHA stops; effects are measured on others. "
        "A line ends where its trial ended."
    )
    return PageSection("curves", "Learning curves by progress", charts, lead)


def _curves(study: Study, trials: list[TrialRecord], rungs: list[float]) -> Markup:
    tones = {arm: index for index, arm in enumerate(study.arm_names)}
    series = []
    for trial in sorted(trials, key=lambda t: tones[t.arm]):
        dots = [
            PlotPoint(point["progress"], point["overall"], f"{trial.id}, epoch {point['epoch']}: {points(point['overall'], sign=False)}")
            for point in trial.curve
        ]
        # More arms than tones: the second round is dashed.
        series.append(Series(trial.arm, dots, f"s{tones[trial.arm] % _TONES + 1}", dashed=tones[trial.arm] >= _TONES))
    marks = [(rung, f"rung at {rung:.0%} of a schedule") for rung in rungs]
    progress = Axis("share of the arm's own schedule", 0, 1, number=lambda v: f"{v:.0%}")
    scores = Axis("overall macro-F1, points", number=lambda v: points(v, sign=False))
    return lines(series, x=progress, y=scores, label="learning curves", verticals=marks)


def _rungs(study: Study) -> list[float]:
    return list(study.file.asha.rungs) if study.file.asha else []


def asha_section(study: Study) -> PageSection | None:
    """The rungs with who was stopped there, trial-epochs against the full grid, and the replay on a grid that ran in full."""
    rungs, saved, replay = _rungs(study), study.file.savings, study.file.asha_replay
    if not rungs and not saved and not replay:
        return None
    parts = []
    if rungs:
        stopped = study.of("explore", "stopped")
        explored = study.of("explore")
        rows: Cells = []
        for rung in rungs:
            here = [trial for trial in stopped if trial.rung is not None and abs(trial.rung - rung) < 1e-6]
            reached = sum(trial.progress >= rung - 0.01 for trial in explored)
            rows.append([f"{rung:.0%}", str(reached), str(len(here)), ", ".join(f"{t.arm} (seed {t.seed})" for t in here)])
        parts.append(Markup("<h3>Rungs</h3>") + table(["at", "reached", "stopped", "which"], rows, numeric=(0, 1, 2)))
    for title, account in (("Against the full grid", saved), ("ASHA's decisions replayed on the full grid", replay)):
        if account:
            entries: Cells = [
                [_words(key), f"{value:.0%}" if key == "saved" else _value(value)]
                for key, value in account.model_dump(exclude_none=True).items()
            ]
            parts.append(Markup("<h3>{}</h3>").format(title) + table(["", ""], entries, numeric=(1,), narrow=True))
    lead = (
        "Stopped trials were never compared by their last score: only trials that ran in full over the confirming seeds enter the effects."
        if rungs
        else "No trial was stopped early by design: the study had no ASHA."
    )
    return PageSection("asha", "What ASHA did", columns(*parts), lead)


def priors_section(study: Study) -> PageSection | None:
    """Each arm's effective priors: the class balance that its loss sees."""
    if not study.ledgers:
        return None
    arms = [arm for arm in study.arm_names if arm in study.ledgers]
    charts = []
    for task, entries in study.ledgers[arms[0]].tasks.items():
        names = [entry.name for entry in entries]
        values = [[entry.effective_prior for entry in study.ledgers[arm].tasks[task]] for arm in arms]
        shares = [entry.share for entry in entries]
        shown, words = [shares, *values], f"{task}: share of the loss"
        chart = heat_map(["in the data", *arms], names, shown, shades=shown, label=words, number=lambda v: f"{v:.0%}")
        charts.append(Markup("<h3>{}</h3>").format(task) + chart)
    warned: Cells = [[arm, warning] for arm in arms for warning in study.ledgers[arm].warnings]
    notes = details(f"{len(warned)} warnings about the class balance", table(["arm", "warning"], warned)) if warned else Markup("")
    lead = "Each class's share of the loss after oversampling and class weights. Corrections multiply: an arm may turn the balance over."
    return PageSection("priors", "Effective priors", columns(*charts) + notes, lead)


MOST_UNFOLDED = 30
"""Trials of a table that is open when the page is."""


def trials_section(study: Study) -> PageSection:
    """Stopped and failed trials first, with where they got to and why; then all."""
    lost = study.of(None, "stopped", "failed")
    head = ["trial", "seed", "stage", "status", "progress", "epochs", "time", "best", "stopped at"]
    parts = Markup("")
    if lost:
        parts += Markup("<h3>Stopped and failed</h3>") + table(head, (_trial(t) for t in lost), numeric=(1, 4, 5, 6, 7, 8))
        for trial in lost:
            if trial.error:
                parts += Markup('<p class="notice"><b>{}</b> after {} attempts: {}</p>').format(trial.id, trial.attempts, trial.error)
    every = table(head, (_trial(t) for t in study.trials), numeric=(1, 4, 5, 6, 7, 8))
    parts += details(f"All {len(study.trials)} trials", every, opened=not lost and len(study.trials) <= MOST_UNFOLDED)
    lead = "A stopped trial's best is what it had when it was stopped: not comparable with a trial that ran in full."
    return PageSection("trials", "Trials", parts, lead)


def _trial(trial: TrialRecord) -> list[Markup | str]:
    return [
        trial.id,
        str(trial.seed),
        trial.stage,
        verdict_pill(trial.status),
        f"{trial.progress:.0%}",
        str(trial.epochs),
        duration(trial.seconds),
        points(trial.overall, sign=False),
        "" if trial.rung is None else f"{trial.rung:.0%}",
    ]


def reproduce_section(study: Study) -> PageSection:
    """The study's command, and one for each trial."""
    command = study.file.command
    whole = Markup("<pre>{}</pre>").format(command) if command else Markup("<p>The study does not record its command.</p>")
    rows: Cells = []
    for trial in study.trials:
        own = f"polarity train {trial.run_dir}/config.yaml --run-dir runs/{trial.id}"
        rows.append([trial.id, Markup("<code>{}</code>").format(own)])
    listed = details("Each trial", table(["trial", "command, from the study's folder"], rows))
    parts = [whole, listed]
    if study.file.config:
        parts.append(details("The configuration that all arms start from", Markup("<pre>{}</pre>").format(study.file.config)))
    if study.file.environment:
        entries: Cells = [[_words(key), _value(value)] for key, value in study.file.environment.items()]
        parts.append(details("Versions and machine", table(["", ""], entries)))
    lead = (
        "The study's command runs the same trials on the same rows. A trial's configuration given to polarity train is the arm with its "
        "seed; in the study a part of its training rows was held back for early stopping."
    )
    return PageSection("reproduce", "How to reproduce", Markup("").join(parts), lead)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{short_path(str(key))} {_value(item)}" for key, item in value.items())
    return short_path(str(value))


def confirmation_section(study: Study) -> PageSection | None:
    """What the best predicted combination and everything on do over fresh seeds; None where the study is no screen."""
    if not study.file.screen:
        return None
    if not study.confirmed:
        words = "A screen says which factors to look at. What they come to together is decided by a confirmation over fresh seeds: "
        again = Markup("<p>{}<code>polarity ablate --resume --study-dir STUDY --confirm</code></p>").format(words)
        return PageSection("confirmation", "Confirmation", again)
    chosen = study.file.screen.chosen
    on = ", ".join(chosen.on if chosen else []) or "everything off"
    lead = (
        f"The combination that the screen predicts to be the best ({on}), everything on, and the baseline, in full over fresh seeds. The "
        "choice was made on the inner validation rows, so the rows that judge it here have decided nothing. This decides; "
        "the screen does not."
    )
    return PageSection("confirmation", "Confirmation", forest_of(study.confirmed) + effects_table(study.confirmed), lead)


def interactions_section(study: Study) -> PageSection | None:
    """The half-normal plot, the interactions that can be estimated, and what each run has on."""
    screen = study.file.screen
    if not screen or not screen.contrasts:
        return None
    parts = [half_normal(screen.contrasts), _interactions(screen)]
    if screen.shared:
        parts.append(Markup("<h3>Shared settings</h3>") + table(["setting", "what it is in a run"], _shared(screen)))
    names = [factor.name for factor in screen.factors]
    runs: Cells = [[run, *("+" if sign > 0 else "\N{MINUS SIGN}" for sign in signs)] for run, signs in screen.runs.items()]
    parts.append(details(f"The {len(screen.runs)} runs", columns(table(["run", *names], runs))))
    return PageSection("interactions", "Noise and interactions", Markup("").join(parts), _lead(screen))


def _lead(screen: ScreenEntry) -> str:
    basis = "differences between seeds of the same run" if screen.error_from == "replicates" else "what the linear model leaves"
    words = (
        f"The noise is estimated from {basis}, with {screen.error_df or 0:.0f} degrees of freedom. In the half-normal plot effects "
        "that are only noise lie on a line through zero; what stands out above it is more."
    )
    if screen.aliased:
        words += (
            " With these runs an effect is not clear of interactions: a third of the interaction of any two other factors is in it, "
            "or taken from it. The foldover (--runs 24) is clear of them."
        )
    return words


def half_normal(contrasts: list[Contrast]) -> Markup:
    """Sizes of contrasts over the quantiles of the half-normal distribution (Daniel 1959)."""
    ordered = sorted(contrasts, key=lambda entry: abs(entry.estimate))
    count = len(ordered)
    of_factors, others = list[PlotPoint](), list[PlotPoint]()
    for rank, entry in enumerate(ordered):
        quantile, name = float(norm.ppf(0.5 + 0.5 * (rank + 0.5) / count)), entry.name
        dot = PlotPoint(quantile, abs(entry.estimate), f"{name}: {points(entry.estimate)}", 4.0)
        (others if name.startswith("unused") or " x " in name else of_factors).append(dot)
    series = [Series("factor", of_factors, "s1", dots=True, line=False)]
    if others:
        series.append(Series("no factor: noise and interactions", others, "s4", dots=True, line=False))
    sizes = Axis("size of the effect, points", 0.0, number=lambda v: points(v, sign=False))
    return lines(series, x=Axis("half-normal quantile", 0.0), y=sizes, label="half-normal plot of the effects")


def _interactions(screen: ScreenEntry) -> Markup:
    found = screen.interactions
    if not found:
        return Markup("<p>No interaction of two factors can be told from the effects with these runs.</p>")
    rows: Cells = [[" \N{MULTIPLICATION SIGN} ".join(e.factors), points(e.estimate), between(e.low, e.high), _aliases(e)] for e in found]
    head = ["interaction", "points", "95 % interval", "its estimate also holds"]
    note = (
        '<p class="muted">Half of what one factor changes in the other\N{RIGHT SINGLE QUOTATION MARK}s effect. None is claimed: the '
        "intervals are not corrected for their number, and an estimate holds the shown shares of its aliases.</p>"
    )
    first, rest = rows[:8], rows[8:]
    more = details(f"The other {len(rest)}", table(head, rest, numeric=(1, 2))) if rest else Markup("")
    return Markup("<h3>Interactions of two factors</h3>") + Markup(note) + table(head, first, numeric=(1, 2)) + more


def _aliases(entry: Interaction) -> Markup | str:
    shares = entry.aliases
    if not shares:
        return "nothing else"
    words = ", ".join(f"{value:+.2f} {name.replace('point-', '')}" for name, value in shares.items())
    return words if len(shares) <= 4 else details(f"parts of {len(shares)} other interactions", Markup("<p>{}</p>").format(words))


def _shared(screen: ScreenEntry) -> Cells:
    rows: Cells = []
    for entry in screen.shared:
        alone = ", ".join(f"{value} with {name} alone" for name, value in entry.alone.items())
        rows.append([entry.setting, f"{alone}; {entry.together} with {' and '.join(entry.alone)} on"])
    return rows


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
        sections=[section for section in sections if isinstance(section, PageSection)],
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
