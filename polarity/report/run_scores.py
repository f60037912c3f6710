"""The parts of a run's report that hold its scores: the verdict, the floors, the classes, the confusions, the slices."""

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from polarity.evaluate import results
from polarity.evaluate.judge import BASELINE, PLAN_CLASSES, TARGETS, WEAKEST
from polarity.evaluate.render import FLOORS, plain_verdict
from polarity.report.charts import Band, Bar, Effect, Mark, bars, confusion, forest, fraction, signed
from polarity.report.page import PageSection, columns, details, table, verdict_pill
from polarity.report.record import Record
from polarity.strategy import PHASES, POINTS

TITLES_SHOWN = 12
_SHORT = {"linear": "counts of words", "title": "the title alone", "majority": "the most frequent class"}


def headline(record: Record) -> Markup:
    """The verdict in two or three sentences: the score, whether it beats the strongest floor, and the plan's targets."""
    split = record.split
    overall = split["overall"]
    lines = [
        Markup('<p class="plain"><strong>{}</strong></p>').format(plain_verdict(record.split)),
        Markup('<p>Overall macro-F1 <strong class="score">{}</strong> {} on {:,} {} rows.</p>').format(
            fraction(overall["macro_f1"]), interval(overall["ci95"]), split["rows"], record.called
        ),
    ]
    if split.get("out_of_fold"):
        lines.append(Markup("<p>Out of fold: these are all labelled rows, and each was scored by models that had not seen it.</p>"))
    chose = results.what_rows_decided(record.split)
    if chose:
        told = Markup("<p>The {} rows {}. So the score is too good, and there is no verdict on it.</p>")
        lines.append(told.format(record.called, chose))
    if "optimism" in record.run.metrics:
        found = record.run.metrics["optimism"]
        shown = score(found["difference"], found["ci95"], signed)
        lines.append(
            Markup("<p>The score on the validation rows, which {}, less that on the test rows: {}</p>").format(
                results.what_rows_decided(record.run.metrics["validation"]), shown
            )
        )
    floors = results.floors_of(split)
    if floors:
        name = max(floors, key=lambda floor: floors[floor]["overall"]["macro_f1"])
        difference = floors[name]["difference"]["overall"]
        shown = score(difference["difference"], difference["ci95"], signed)
        lines.append(
            Markup("<p>Against the {} floor, {}: {} {}</p>").format(
                name, FLOORS.get(name, "another model"), shown, verdict_pill(difference["verdict"])
            )
        )
    if record.planned:
        lines.append(_plan_sentence(results.verdict_of(split)))
    return Markup("").join(lines)


def _plan_sentence(verdict: results.Verdict) -> Markup:
    withheld = {entry["verdict"] for entry in verdict["minimum"]} & set(results.WITHHELD)
    if withheld:
        return Markup("<p>The plan's minimum targets: no verdict {}</p>").format(verdict_pill(withheld.pop()))
    words = [entry["verdict"].split(" ")[0] for entry in verdict["minimum"]]
    met, missed, total = words.count("met"), words.count("missed"), len(words)
    noise = f", {total - met - missed} within noise" if total > met + missed else ""
    tone = verdict_pill("met" if met == total else "missed" if missed else "within noise")
    return Markup("<p>The plan's minimum targets: {} of {} met, {} missed{} {}</p>").format(met, total, missed, noise, tone)


def verdict_section(record: Record) -> PageSection:
    """Every judged metric, and what the plan projects."""
    verdict = results.verdict_of(record.split)
    body = Markup("")
    if record.planned:
        body += _targets(verdict) + Markup('<p class="muted">{}</p>').format(projection(record.points)[1])
        body += details("Beside the plan's mBERT baseline", _beside_baseline(record))
    checks = _checks(verdict)
    if checks:
        body += Markup("<h3>Floors and stability</h3>") + table(["check", "value", "target", "verdict"], checks)
    lead = "A target is met only where the whole 95 % interval lies above it, and missed only where it lies below."
    return PageSection("verdict", "Verdict", body, lead)


def _targets(verdict: results.Verdict) -> Markup:
    """The plan's targets, minimum and stretch side by side."""
    stretch = {entry["metric"]: entry for entry in verdict["stretch"]}
    rows: list[list[Markup | str]] = []
    for entry in verdict["minimum"]:
        further = stretch[entry["metric"]]
        level = Markup('<span class="score-ci">≥ {} {}</span>')
        levels = [level.format(fraction(each["target"]), verdict_pill(each["verdict"])) for each in (entry, further)]
        rows.append([entry["metric"], score(entry["value"], entry["ci95"]), *levels])
    return table(["the plan's targets, F1", "this run", "minimum", "stretch"], rows)


def _checks(verdict: results.Verdict) -> list[list[Markup | str]]:
    rows: list[list[Markup | str]] = []
    by_floor = {entry["floor"]: entry for entry in verdict["floors"]}
    for name in results.strongest_first(by_floor):
        entry = by_floor[name]
        shown = score(entry["difference"], entry["difference_ci95"], signed)
        what = f"overall, this run less the {name} floor ({_SHORT.get(name, 'another model')})"
        rows.append([what, shown, "above 0", verdict_pill(entry["verdict"])])
    for stable in verdict["stability"]:
        whole = isinstance(stable["value"], int)
        value = "not known" if stable["value"] is None else f"{stable['value']:,}" if whole else signed(stable["value"])
        rows.append([stable["metric"], value, "0" if whole else "below 0", verdict_pill(stable["verdict"])])
    return rows


def _beside_baseline(record: Record) -> Markup:
    entries = {entry["metric"]: entry for entry in results.verdict_of(record.split)["baseline"]}
    rows: list[list[Markup | str]] = []
    for name in BASELINE:
        if name in entries:
            entry = entries[name]
            rows.append([name, fraction(entry["baseline"]), score(entry["value"], entry["ci95"]), verdict_pill(entry["verdict"])])
    note = "Other rows than the plan's 1,495 test rows, so not paired: above and below describe, they claim no gain."
    return table(["metric", "baseline", "this run", ""], rows, caption=note)


def projection(points: tuple[int, ...]) -> tuple[tuple[float, float] | None, str]:
    """The range of overall macro-F1 that the plan projects for these points (fractions), and a sentence on it."""
    if not points:
        return None, "No point of the plan is on, so the plan projects no gain over its baseline of 0.607 for this run."
    named = ", ".join(map(str, points))
    for phase in PHASES:
        if phase.points == points and phase.claim is not None:
            low, high = (claim / 100 for claim in phase.claim)
            return (low, high), f"The plan projects {low:.2f} to {high:.2f} overall for points {named} (its phase “{phase.title}”)."
    low, high = (BASELINE["overall"] + sum(POINTS[point].claim[end] for point in points) / 100 for end in (0, 1))
    words = f"The plan's claims for points {named}, added to its baseline of 0.607, come to {low:.3f} to {high:.3f} overall"
    return (low, high), f"{words}; they are claims for single points, and the plan's own totals are lower than their sum."


def scores_section(record: Record) -> PageSection:
    """The model beside its floors on each judged split, and the paired differences."""
    parts = []
    for name in record.splits:
        part = record.run.metrics[name]
        chose = results.what_rows_decided(part)
        named = f"{results.part_called(name, part)}{f': {chose}' if chose else ''}, {part['rows']:,} rows"
        heading = Markup("<h3>{}</h3>").format(named) if len(record.splits) > 1 else Markup("")
        parts.append(heading + _split_scores(record, name))
    lead = (
        f"Macro-F1 with {results.how_intervals(record.split['intervals'])}; overall is the mean of the tasks. "
        "A difference is a gain only where its paired interval excludes zero."
    )
    defined = Markup("").join(
        Markup("<li><strong>{} floor</strong>: {}</li>").format(floor, FLOORS.get(floor, "another model"))
        for floor in results.floors_of(record.split)
    )
    floors = Markup('<p>A floor is a model that costs nothing, scored on the same rows:</p><ul class="plain">{}</ul>').format(defined)
    return PageSection("scores", "Scores beside the floors", (floors if defined else Markup("")) + Markup("").join(parts), lead)


def _split_scores(record: Record, name: results.PartName) -> Markup:
    split = record.run.metrics[name]
    floors = results.floors_of(split)
    rows: list[Bar | str] = []
    effects = []
    for scope in ("overall", *split["tasks"]):
        own = results.score_of(split, scope)
        rows.append(scope)
        low, high = own["ci95"]
        claim = projection(record.points)[0] if record.planned and scope == "overall" else None
        bands = () if claim is None else (Band(*claim, "the plan's projection"),)
        rows.append(Bar("this run", own["macro_f1"], low, high, marks=_task_marks(record, scope), bands=bands))
        for floor, judged in floors.items():
            value, difference = results.score_of(judged, scope), results.difference_of(judged["difference"], scope)
            low, high = value["ci95"]
            rows.append(Bar(f"{floor} floor", value["macro_f1"], low, high, tone="flat"))
            tone = {"gain": "good", "loss": "bad"}.get(difference["verdict"], "flat")
            low, high = difference["ci95"]
            effects.append(Effect(f"less the {floor} floor", difference["difference"], low, high, tone=tone, group=scope))
    called = results.part_called(name, split)
    shown = bars(rows, label=f"macro-F1 on {called} rows, the run and its floors")
    if effects:
        chart = forest(effects, label=f"paired differences on {called} rows")
        shown += details("The paired differences, run less floor", chart, opened=name == record.main)
    return shown


def _task_marks(record: Record, scope: str) -> tuple[Mark, ...]:
    if not record.planned or scope not in BASELINE:
        return ()
    return (
        Mark(BASELINE[scope], "the plan's baseline", "baseline"),
        Mark(TARGETS["minimum"][scope], "minimum target", "target"),
        Mark(TARGETS["stretch"][scope], "stretch target", "stretch"),
    )


def classes_section(record: Record) -> PageSection:
    """F1 of each class as bars with its references, and precision and recall in a table."""
    rows: list[Bar | str] = []
    cells: list[list[Markup | str]] = []
    linear = record.split.get("floors", {}).get("linear")
    for task, scores in record.split["tasks"].items():
        rows.append(task)
        for label, of_class in scores["per_class"].items():
            floor = linear["tasks"][task]["per_class"][label]["f1"] if linear else None
            marks = _class_marks(record, task, label, floor)
            low, high = of_class["ci95"]
            rows.append(Bar(label, of_class["f1"], low, high, note=f"{of_class['support']:,} rows", marks=marks))
            cells.append(
                [f"{task}, {label}", score(of_class["f1"], of_class["ci95"]), fraction(of_class["precision"]), fraction(of_class["recall"]),
                 f"{of_class['support']:,}", "" if floor is None else fraction(floor)]
            )  # fmt: skip
    body = bars(rows, label="F1 of each class")
    listed = table(["class", "F1", "precision", "recall", "rows", "linear's F1"], cells, numeric=(2, 3, 4, 5))
    accuracies = ", ".join(f"{task} {fraction(scores['accuracy'])}" for task, scores in record.split["tasks"].items())
    lead = f"F1 on {record.called} rows. Accuracy: {accuracies}."
    return PageSection("classes", "Classes", body + details("Precision and recall", listed, opened=True), lead)


def _class_marks(record: Record, task: str, label: str, floor: float | None) -> tuple[Mark, ...]:
    marks = [] if floor is None else [Mark(floor, "linear floor", "floor")]
    if record.planned and label in PLAN_CLASSES.get(task, ()):
        weakest = f"{task}, {WEAKEST}"
        marks.append(Mark(BASELINE[f"{task}, {label}"], "the plan's baseline", "baseline"))
        marks.append(Mark(TARGETS["minimum"][weakest], "minimum for the weakest class", "target"))
        marks.append(Mark(TARGETS["stretch"][weakest], "stretch for every class", "stretch"))
    return tuple(marks)


def confusion_section(record: Record) -> PageSection:
    """A confusion matrix a task."""
    tasks = record.split["tasks"]
    shown = [
        Markup("<h3>{}</h3>{}").format(task, confusion(list(scores["per_class"]), scores["confusion"], label=f"confusions of {task}"))
        for task, scores in tasks.items()
    ]
    lead = f"A row is a label, a column what was predicted; counts of {record.called} rows, and the share of the row."
    return PageSection("confusion", "Confusions", columns(*shown), lead)


def slices_section(record: Record, *, texts: bool) -> PageSection | None:
    """Scores of parts of the split; titles are texts too and have numbers where texts are left out."""
    slices: results.Slices = record.split.get("slices", {"title": [], "within": []})
    body = Markup("")
    if slices.get("within"):
        body += Markup("<h3>Within the other task's classes</h3>") + _within(slices["within"])
    if titles := slices.get("title"):
        names = [entry["title"] if texts else f"title {number}" for number, entry in enumerate(titles, 1)]
        body += Markup("<h3>By title</h3>") + _slice_table(record, "title", names, titles)
    if languages := slices.get("language"):
        body += Markup("<h3>By language</h3>") + _slice_table(record, "language", [entry["language"] for entry in languages], languages)
    lead = "Macro-F1 over the classes that occur in a slice: compare slices with each other, not with the headline."
    return PageSection("slices", "Slices", body, lead) if body else None


def _within(entries: Iterable[results.ClassSlice]) -> Markup:
    rows: list[Bar | str] = []
    heading = ""
    for entry in entries:
        ((other, label),) = entry["within"].items()
        if heading != f"{entry['task']} where {other} is":
            heading = f"{entry['task']} where {other} is"
            rows.append(heading)
        low, high = entry["ci95"]
        rows.append(Bar(label, entry["macro_f1"], low, high, note=f"{entry['labelled']:,} rows", tone="s1"))
    return bars(rows, label="macro-F1 within the classes of the other task")


def _slice_table(record: Record, key: str, names: list[str], entries: Sequence[results.TitleSlice | results.LanguageSlice]) -> Markup:
    head = [key, "rows", *(f"{task} macro-F1" for task in record.labels), *(f"{task} accuracy" for task in record.labels)]
    rows: list[list[Markup | str]] = []
    for name, entry in zip(names, entries, strict=True):
        tasks = [entry["tasks"].get(task) for task in record.labels]
        shown: list[Markup | str] = [score(task["macro_f1"], task["ci95"]) if task else "" for task in tasks]
        rows.append([name, f"{entry['rows']:,}", *shown, *(fraction(task["accuracy"]) if task else "" for task in tasks)])
    numeric = (1, *range(2 + len(record.labels), 2 + 2 * len(record.labels)))
    first = table(head, rows[:TITLES_SHOWN], numeric=numeric)
    more = rows[TITLES_SHOWN:]
    return first + (details(f"{len(more)} more", table(head, more, numeric=numeric)) if more else Markup(""))


def interval(ci95: Iterable[float], number: Any = fraction) -> Markup:
    """`[0.649, 0.693]`, in the colour of lesser things."""
    low, high = ci95
    return Markup('<span class="ci">[{}, {}]</span>').format(number(low), number(high))


def score(value: float, ci95: Iterable[float], number: Any = fraction) -> Markup:
    """A score and its interval."""
    return Markup('<span class="score-ci"><b>{}</b> {}</span>').format(number(value), interval(ci95, number))
