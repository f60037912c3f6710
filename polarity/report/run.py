"""A run's report.html, from its artifacts only: the verdict first, then what supports it; of a stack also what each member is worth.

Below the page stand its parts on how the run was made: learning curves, the ledger, the configuration, how to reproduce it.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from polarity.best.plan import clock
from polarity.best.record import Ceiling, ceiling_lines, combination_lines
from polarity.data.ledger import Ledger
from polarity.environment import Environment
from polarity.evaluate.results import what_rows_decided
from polarity.report.charts import Axis, Bar, Effect, Mark, PlotPoint, Series, bars, forest, lines, short
from polarity.report.page import PageSection, columns, details, render_page, table
from polarity.report.record import CommentTexts, Record
from polarity.report.run_rows import agreement_section, calibration_section, rows_sections
from polarity.report.run_scores import classes_section, confusion_section, headline, scores_section, slices_section, verdict_section
from polarity.resolve import leaves, preset_names, resolve

_TONES = {"gain": "good", "loss": "bad"}


def stack_section(record: Record) -> PageSection | None:
    """Members by their own score, with what the stack loses without each; None where the run is no finished stack."""
    outcome = None if record.best is None else record.best.outcome
    if outcome is None:
        return None
    rows = []
    for member in sorted(outcome.members, key=lambda each: -each.macro_f1):
        gain = "the only member" if member.drop_one is None else f"{member.drop_one.interval}, {member.drop_one.verdict}"
        rows.append([member.name, member.kind, _score(member.macro_f1, member.ci95), gain, clock(member.seconds)])
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
    return PageSection("members", "Members of the stack", body, lead)


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
    kind = "evaluation" if "evaluation" in record.run.metrics else "run report"
    return render_page(
        title=_title(record),
        kind=", ".join(filter(None, [kind, record.run.environment.get("created", "")[:10]])),
        headline=headline(record),
        sections=[section for section in sections if isinstance(section, PageSection)],
        facts=_facts(record, shown),
        banner=SYNTHETIC if record.run.synthetic else None,
        notices=_notices(record),
        footer="Made by polarity from the run's own files. Its scores and their intervals were computed again from predictions.parquet and "
        "agree with metrics.json. The floors' scores are as the run recorded them.",
    )


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
    shifted = [task for task, found in record.run.calibration.items() if found.biases is not None]
    if shifted:
        named = ", ".join(shifted)
        notices.append(f"predict and evaluate shift the scores of the classes of {named} (see Calibration); the scores here are without.")
    warnings = len(record.run.ledger.warnings) if record.run.ledger else 0
    if warnings:
        notices.append(f"The class balance has {warnings} warning{'s' if warnings > 1 else ''}: see Class balance.")
    return notices


CURVE_POINTS = 150
_PLACES = ("data.source", "data.train", "data.validation", "data.test", "model.encoder")


def curves_section(record: Record) -> PageSection | None:
    """Loss, validation macro-F1, learning rate and gradient norm; None where nothing was trained."""
    epochs = record.run.epochs
    if not epochs:
        return None
    assert record.run.history is not None
    steps = record.run.history.filter(pc.equal(record.run.history["kind"], "step"))
    best = record.best_epoch()
    tasks = [task for task in epochs[0].scores if task != "overall"]
    loss = [_smooth(steps, "loss", "training loss", "s1")]
    loss += [_smooth(steps, f"loss_{task}", task, f"s{n}") for n, task in enumerate(tasks, 2) if f"loss_{task}" in steps.column_names]
    starts = [0, *(epoch.step for epoch in epochs[:-1])]
    middles = [
        PlotPoint((start + epoch.step) / 2, epoch.loss, f"epoch {epoch.number}: {epoch.loss:.4f}", 4)
        for start, epoch in zip(starts, epochs, strict=True)
        if epoch.loss is not None
    ]
    loss.append(Series("mean of the epoch", middles, "flat", dots=True, line=False))
    ends = [(epoch.step, f"epoch {epoch.number}") for epoch in epochs if epoch.number == best]
    scores = [Series("overall", [PlotPoint(epoch.number, epoch.scores["overall"]) for epoch in epochs], "s1")]
    for n, task in enumerate(tasks, 2):
        scores.append(Series(task, [PlotPoint(epoch.number, epoch.scores[task]) for epoch in epochs], f"s{n}", dashed=True, dots=True))
    chosen = [(best, "the epoch that was kept")] if best else []
    left = lines(loss, x=Axis("step"), y=Axis("loss", 0), label="training loss", verticals=ends)
    right = lines(
        scores, x=Axis("epoch", whole=True), y=Axis("validation macro-F1"), label="validation macro-F1 by epoch", verticals=chosen
    )
    rate = lines([_smooth(steps, "lr", "", "s1")], x=Axis("step"), y=Axis("learning rate", 0), label="learning rate")
    norm = lines(
        [_smooth(steps, "grad_norm", "", "s1")], x=Axis("step"), y=Axis("gradient norm, before clipping", 0), label="gradient norm"
    )
    seconds = sum(epoch.seconds for epoch in epochs)
    count = f"{len(epochs)} epoch{'s' if len(epochs) > 1 else ''}"
    lead = f"{count}, {epochs[-1].step:,} steps, {duration(seconds)} of training; epoch {best} was kept (dashed upright)."
    return PageSection("curves", "Learning curves", columns(left, right) + columns(rate, norm), lead)


def _smooth(steps: pa.Table, column: str, label: str, tone: str) -> Series:
    """The column's values in at most CURVE_POINTS means of consecutive steps."""
    known = steps.select(["step", column]).drop_null()
    values = np.column_stack([known["step"].to_numpy(), known[column].to_numpy()])
    parts = np.array_split(values, min(CURVE_POINTS, len(values))) if len(values) else []
    return Series(label, [PlotPoint(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts], tone, dots=False)


def ledger_section(record: Record) -> PageSection | None:
    """What each class weighs after oversampling and class weights, with the ledger's warnings; None where there is no ledger."""
    ledger = record.run.ledger
    if ledger is None:
        return None
    rows: list[Bar | str] = []
    cells: list[list[Markup | str]] = []
    for task, entries in ledger.tasks.items():
        rows.append(task)
        for entry in entries:
            share = Mark(entry.share, "share of the rows", "baseline")
            rows.append(Bar(entry.name, entry.effective_prior, note=f"{entry.rows:,} rows", tone="s1", marks=(share,)))
            capped = f"cap binds on {entry.uncapped_weight:.2f}" if entry.weight_capped else ""
            shares = [f"{entry.share:.1%}", f"{entry.sampled_share:.1%}", f"{entry.class_weight:.3f}", f"{entry.effective_prior:.1%}"]
            cells.append([f"{task}, {entry.name}", f"{entry.rows:,}", *shares, capped])
    warnings = Markup("").join(Markup('<p class="notice">{}</p>').format(words) for words in ledger.warnings)
    chart = bars(rows, label="share of the loss of each class", number=_percent, axis=_percent)
    head = ["class", "rows", "share", "share of an epoch", "class weight", "share of the loss", ""]
    body = warnings + chart + table(head, cells, numeric=(1, 2, 3, 4, 5)) + details("Oversampling by label combination", _strata(ledger))
    lead = (
        f"{ledger.rows:,} training rows, an epoch has {ledger.epoch_rows:,.0f}. The bars show each class's share of the loss after "
        "oversampling and class weights, before focal loss."
    )
    return PageSection("ledger", "Class balance", body, lead)


def _strata(ledger: Ledger) -> Markup:
    tasks = list(ledger.tasks)
    rows: list[list[Markup | str]] = []
    for stratum in sorted(ledger.strata, key=lambda each: each.rows)[:60]:
        names = [stratum.labels.get(task) or "no label" for task in tasks]
        capped = f"cap binds ({stratum.uncapped:.2f} before it)" if stratum.capped else ""
        rows.append([*names, f"{stratum.rows:,}", f"{stratum.multiplicity:.2f}", f"{stratum.sampled_rows:,.0f}", capped])
    count = len(tasks)
    return table([*tasks, "rows", "times", "rows of an epoch", ""], rows, numeric=range(count, count + 3))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}".replace(".0%", "%")


def configuration_section(record: Record, shown: Callable[[str], str]) -> PageSection | None:
    """What differs from the nearest preset, and the whole configuration folded; `shown` may shorten paths."""
    if record.config is None:
        return None
    preset, changed = nearest_preset(record)
    rows: list[list[Markup | str]] = []
    for key, (before, after) in changed.items():
        rows.append([Markup("<code>{}</code>").format(key), shown(_plain(after)), _plain(before)])
    listed = table(["setting", "this run", f"preset {preset}"], rows) if rows else Markup("<p>Nothing differs.</p>")
    text = record.run.config_text
    for key in _PLACES:
        value = leaves(record.config.model_dump()).get(key)
        if isinstance(value, str):
            text = text.replace(value, shown(value))
    body = listed + details("The whole configuration", Markup("<pre>{}</pre>").format(text))
    points = ", ".join(map(str, record.points)) or "none"
    lead = f"What differs from the nearest preset, {preset}. Points of the plan that are on: {points}."
    return PageSection("configuration", "Configuration", body, lead)


def nearest_preset(record: Record) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The preset with the fewest settings that differ, and these: {key: (preset's value, the run's)}. A run does not record its preset."""
    assert record.config is not None
    after = leaves(record.config.model_dump())
    best: tuple[str, dict[str, tuple[Any, Any]]] | None = None
    for name in preset_names():
        before = leaves(resolve(name).config.model_dump())
        keys = [*after, *(key for key in before if key not in after)]
        changed = {key: (before.get(key), after.get(key)) for key in keys if _differs(before.get(key), after.get(key))}
        if best is None or len(changed) < len(best[1]):
            best = (name, changed)
    assert best is not None
    return best


def _differs(before: Any, after: Any) -> bool:
    """An empty mapping has a key of its own, which goes when entries come: not a setting that changed."""
    return bool(before != after) and not (before in ({}, None) and after in ({}, None))


def _plain(value: Any) -> str:
    return "not set" if value is None else short(value) if isinstance(value, float) and abs(value) < 1000 else str(value)


def reproduce_section(record: Record, shown: Callable[[str], str]) -> PageSection:
    """The command, the commit, seeds, versions, and the hashes of data and encoder."""
    environment = record.run.environment
    commands = ""
    if record.config is not None:
        commands = f"polarity train {shown(record.run.uri)}/config.yaml --run-dir runs/again\n"
    evaluation = record.run.metrics.get("evaluation")
    if evaluation:
        commands = f"polarity evaluate {shown(evaluation['run'])} --data {shown(evaluation['data'])} --out {shown(record.run.uri)}\n"
    commands += f"polarity report {shown(record.run.uri)}"
    rows: list[list[Markup | str]] = [[name, value] for name, value in _origin(environment)]
    for source, digest in environment.get("data", {}).items():
        known = f"sha256 {digest}" if digest else "made or fetched by name: no hash"
        rows.append([f"data {shown(source)}", Markup("<code>{}</code>").format(known)])
    encoder = environment.get("encoder")
    if encoder:
        rows.append([f"encoder {shown(encoder['name'])}", Markup("<code>sha256 {}</code>").format(encoder["sha256"])])
    packages = table(["package", "version"], ([name, found] for name, found in environment.get("packages", {}).items()), narrow=True)
    body = Markup("<pre>{}</pre>").format(commands) + table(["", ""], rows) + details("Versions of packages", packages)
    lead = "On one machine and the same versions the numbers are the same to the last digit; elsewhere rounding differs a little."
    return PageSection("reproduce", "How to reproduce", body, lead)


def _origin(environment: Environment) -> Iterable[tuple[str, str]]:
    git = environment.get("git")
    if git:
        yield "commit", f"{git['commit']}{', with uncommitted changes' if git['dirty'] else ''}"
    else:
        yield "commit", "not a git checkout: an installed package, see its version"
    for name, seed in environment.get("seeds", {}).items():
        yield f"seed of the {name}", str(seed)
    if environment.get("python"):
        yield "Python", environment["python"]
    if environment.get("platform"):
        yield "platform", f"{environment['platform']['system']}, {environment['platform']['cpus']} CPUs"
    yield "GPUs", ", ".join(environment.get("gpus", [])) or "none"
    rows = environment.get("rows", {})
    if rows:
        yield "rows", ", ".join(f"{name} {count:,}" for name, count in rows.items())
    dropped = environment.get("dropped_from_train", {}).get("rows")
    if dropped is not None:
        yield "training rows dropped", f"{dropped:,}, as duplicates of held-out rows"


def duration(seconds: float) -> str:
    """`47 s`, `12 min`, `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
