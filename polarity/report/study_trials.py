"""How a study went: learning curves, rungs and what ASHA saved, effective priors, every trial, and how to repeat them."""

from markupsafe import Markup

from polarity.report.charts import Axis, Point, Series, heat_map, lines
from polarity.report.page import Section, columns, details, table, verdict_pill
from polarity.report.run import short_path
from polarity.report.run_training import duration
from polarity.report.study_effects import Cells, points
from polarity.study import Stage, Study, TrialRecord

STAGES: dict[Stage, str] = {"explore": "Exploration", "screen": "Screen", "confirm": "Confirmation"}
_TONES = 6


def curves_section(study: Study) -> Section | None:
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
    return Section("curves", "Learning curves by progress", charts, lead)


def _curves(study: Study, trials: list[TrialRecord], rungs: list[float]) -> Markup:
    tones = {arm: index for index, arm in enumerate(study.arm_names)}
    series = []
    for trial in sorted(trials, key=lambda t: tones[t.arm]):
        dots = [
            Point(point["progress"], point["overall"], f"{trial.id}, epoch {point['epoch']}: {points(point['overall'], sign=False)}")
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


def asha_section(study: Study) -> Section | None:
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
    return Section("asha", "What ASHA did", columns(*parts), lead)


def priors_section(study: Study) -> Section | None:
    """Each arm's effective priors: the class balance that its loss sees."""
    if not study.ledgers:
        return None
    arms = [arm for arm in study.arm_names if arm in study.ledgers]
    charts = []
    for task, entries in study.ledgers[arms[0]]["tasks"].items():
        names = [entry["name"] for entry in entries]
        values = [[entry["effective_prior"] for entry in study.ledgers[arm]["tasks"][task]] for arm in arms]
        shares = [entry["share"] for entry in entries]
        shown, words = [shares, *values], f"{task}: share of the loss"
        chart = heat_map(["in the data", *arms], names, shown, shades=shown, label=words, number=lambda v: f"{v:.0%}")
        charts.append(Markup("<h3>{}</h3>").format(task) + chart)
    warned: Cells = [[arm, warning] for arm in arms for warning in study.ledgers[arm].get("warnings", [])]
    notes = details(f"{len(warned)} warnings about the class balance", table(["arm", "warning"], warned)) if warned else Markup("")
    lead = "Each class's share of the loss after oversampling and class weights. Corrections multiply: an arm may turn the balance over."
    return Section("priors", "Effective priors", columns(*charts) + notes, lead)


def trials_section(study: Study) -> Section:
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
    parts += details(f"All {len(study.trials)} trials", every, opened=not lost)
    lead = "A stopped trial's best is what it had when it was stopped: not comparable with a trial that ran in full."
    return Section("trials", "Trials", parts, lead)


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


def reproduce_section(study: Study) -> Section:
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
    return Section("reproduce", "How to reproduce", Markup("").join(parts), lead)


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
