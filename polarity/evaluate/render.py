"""metrics.json for people: a sentence in plain words with what to do next, and the tables of the terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from polarity import tables
from polarity.evaluate import results
from polarity.evaluate.judge import BASELINE, PLAN_CLASSES

WIDTH = 80
FEW_TRAINING_ROWS = 1500
FEW_OF_CLASS = 30
OVERFIT = 0.02
"""A fall of the validation score behind the best epoch that is more than its usual wobble."""

FLOORS = {
    "linear": "a word-count model (logistic regression on words and letter groups, which knows no word order)",
    "title": "the most frequent class of each title, without reading the comment",
    "majority": "the most frequent class of all, for every comment",
}
"""What each floor is."""
_SHORT = {"linear": "word-count model", "title": "title alone", "majority": "commonest class"}
"""The floors' names on the last screen, which has no room to say what a floor is."""
_DOERS = {"linear": "A word-count model", "title": "Guessing from the title alone", "majority": "Always guessing the most frequent class"}


@dataclass(frozen=True)
class Facts:
    """What the last screen knows of a run besides its metrics."""

    folder: str
    source: str | None
    """The one labelled file, where there is one; None for a split of the user's own."""
    training_rows: int
    grouped: bool
    """Whether no title of the judged rows was trained on."""
    with_titles: bool
    epoch_scores: Sequence[float]
    """Validation macro-F1 after each epoch."""

    @property
    def settings(self) -> str:
        """The file that `train` and `best` take for the same rows and settings; of a run on object storage it is to be fetched first."""
        return "config.yaml" if "://" in self.folder else f"{self.folder}/config.yaml"


JUDGED_BY: tuple[results.PartName, ...] = ("test", "validation", "unchecked", "seen")


def judged_part(metrics: results.Metrics) -> tuple[results.PartName, results.PartResult]:
    """The part that a run is judged by: test where there is one, else validation, else whatever was judged."""
    parts = dict(results.judged_parts(metrics))
    name = next(name for name in JUDGED_BY if name in parts)
    return name, parts[name]


def plain_verdict(part: results.PartResult) -> str:
    """The verdict on a part in a sentence: the model beside its strongest floor; and another one where the rows can give no verdict."""
    chose = results.what_rows_decided(part)
    return _beside_floors(part) + (f" No verdict: these rows {chose}." if chose else "")


def _beside_floors(part: results.PartResult) -> str:
    floors = part.get("floors", {})
    if not floors:
        return "Nothing was judged beside this model, so that its score stands alone."
    name = max(floors, key=lambda floor: floors[floor]["overall"]["macro_f1"])
    low, high = floors[name]["difference"]["overall"]["ci95"]
    doer = _DOERS.get(name, f"The {name} floor")
    if low > 0:
        return f"This model does better than {doer[0].lower()}{doer[1:]} on these rows, by more than chance explains."
    if high < 0:
        return f"{doer} does better on these rows: do not use this one yet."
    return f"{doer} does about as well on these rows: this model has not shown that it is worth its cost."


def last_screen(metrics: results.Metrics, facts: Facts) -> str:
    """What a run comes to and what to do next, on at most 24 lines of 80 columns (long paths apart)."""
    name, part = judged_part(metrics)
    overall = part["overall"]
    lines = ["━" * WIDTH, *textwrap.wrap(plain_verdict(part), WIDTH), ""]
    lines.append(
        _line("macro-F1", overall["macro_f1"], overall["ci95"], f"{part['rows']:,} {results.part_called(name, part)} rows; 1 is perfect")
    )
    for floor, found in results.floors_of(part).items():
        difference = found["difference"]["overall"]
        low, high = difference["ci95"]
        shown = f"model {difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"  {_SHORT.get(floor, floor):18}{found['overall']['macro_f1']:.3f}                 {shown}")
    # What the plan wants of real comments says nothing of made-up ones.
    lines += [] if "data" in metrics else _targets_in_words(part)
    task, weakest = _weakest(part)
    support = part["tasks"][task]["per_class"][weakest["label"]]["support"]
    lines.append(_line("weakest class's F1", weakest["f1"], weakest["ci95"], f"{task}: {weakest['label']}, {support:,} rows"))
    lines += ["", "Next:"]
    for why, command in next_steps(metrics, facts)[:3]:
        lines += [f"  {why}", f"    {command}"]
    return "\n".join(lines)


def _line(what: str, value: float, ci95: Sequence[float], note: str) -> str:
    return f"{what:20}{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]  {note}"[:WIDTH]


def _weakest(part: results.PartResult) -> tuple[str, results.WeakestClass]:
    found = {task: scores["weakest_class"] for task, scores in part["tasks"].items()}
    task = min(found, key=lambda task: found[task]["f1"])
    return task, found[task]


def _targets_in_words(part: results.PartResult) -> list[str]:
    minimum = results.verdict_of(part)["minimum"]
    overall = next((entry for entry in minimum if entry["metric"] == "overall"), None)
    if overall is None:
        return []
    met = sum(entry["verdict"] == "met" for entry in minimum)
    goal = "the plan's target"
    return [f"{goal:20}{overall['target']:.3f}                 {overall['verdict']}; {met} of {len(minimum)} targets met"[:WIDTH]]


def next_steps(metrics: results.Metrics, facts: Facts) -> list[tuple[str, str]]:
    """(why, command) of what to do next, the most useful first, as the numbers say."""
    name, part = judged_part(metrics)
    floors = part.get("floors", {})
    linear = floors["linear"]["difference"]["overall"]["ci95"] if "linear" in floors else [1.0, 1.0]
    task, weakest = _weakest(part)
    support = part["tasks"][task]["per_class"][weakest["label"]]["support"]
    steps = []
    scores = list(facts.epoch_scores)
    if scores and max(scores) - scores[-1] > OVERFIT and scores.index(max(scores)) < len(scores) - 2:
        best = scores.index(max(scores)) + 1
        steps.append(
            (f"It was best after epoch {best} and then got worse: train shorter.", f"polarity train {facts.settings} --epochs {best + 1}")
        )
    if linear[0] <= 0 and facts.source:
        steps.append(("A word-count model is no worse: let words and encoders vote.", f"polarity best {facts.settings} --time 2h"))
    if facts.training_rows < FEW_TRAINING_ROWS or support < FEW_OF_CLASS:
        few = (
            f"{weakest['label']!r} has few {results.part_called(name, part)} rows ({support})"
            if support < FEW_OF_CLASS
            else f"{facts.training_rows:,} training rows are few"
        )
        steps.append((f"{few}: label more, these first.", f"polarity next {facts.folder} --data UNLABELLED.csv --out to_label.csv"))
    score = {name: floor["overall"]["macro_f1"] for name, floor in floors.items()}
    titles_tell = {"title", "majority"} <= set(score) and score["title"] - score["majority"] > 0.1
    if facts.with_titles and not facts.grouped and facts.source and titles_tell:
        steps.append(("Titles tell much. Are tomorrow's posts as easy?", f"polarity train {facts.settings} --set data.split.kind=group"))
    if linear[0] > 0:
        steps.insert(0, ("Use it.", f"polarity predict {facts.folder} --data NEW.csv --out predicted.csv"))
    return steps or [("Look at what it gets wrong.", f"polarity report {facts.folder}")]


WIDE = 106
"""Columns of the widest table with the plan's tasks; where there are fewer, it is printed without its last ones."""
_COLOURS = {"met": "green", "gain": "green", "above": "green", "missed": "red", "loss": "red", "below": "red"}


def render_metrics(metrics: results.Metrics, *, width: int | None = None, colour: bool = False) -> str:
    """Metrics as `build_metrics` returns them, as text for a terminal of `width` columns (this one's by default); `colour` adds codes."""
    console = tables.console(max(width or tables.width(), tables.LEAST), colour=colour)
    for name, part in results.judged_parts(metrics):
        _print_split(console, name, part, synthetic="data" in metrics)
    if "optimism" in metrics:
        shown = _signed(metrics["optimism"]["difference"], metrics["optimism"]["ci95"])
        console.print(Text.assemble("Validation less test, overall: ", shown, " (what choosing made better, and chance)"))
    return tables.text_of(console)


def _print_split(console: Console, name: results.PartName, split: results.PartResult, *, synthetic: bool) -> None:
    about = split["intervals"]
    chose = results.what_rows_decided(split)
    called = results.part_called(name, split)
    console.rule(Text(f"{called}{f': {chose}' if chose else ''}, {split['rows']:,} rows", "bold"), align="left", characters="━")
    console.print(f"Scores are fractions with {results.how_intervals(about)}.", style="dim")
    if chose:
        console.print(f"{called}: {chose}. So the scores are too good, and there is no verdict on them.", style="yellow")
    if "note" in about:
        console.print(f"Note: {about['note']}.", style="yellow")
    for task, scores in split["tasks"].items():
        if "absent_classes" in scores:
            named = " or ".join(scores["absent_classes"])
            console.print(f"Note: no row of {task} is {named}: its macro-F1 is the mean over the other classes.", style="yellow")
    verdict = results.verdict_of(split)
    # On made-up comments a comparison with what the plan's model reached on real ones would say nothing.
    baseline = [] if synthetic else _baseline(verdict)
    for part in (
        _against_floors(split, 1 if console.width < WIDE else 2), _per_class(split, synthetic), _confusions(split),
        *(() if synthetic else _targets(verdict, console.width >= WIDE)), *_checks(verdict), *baseline,
    ):  # fmt: skip
        console.print()
        console.print(part)
    console.print()


def _table(*columns: str, right: Iterable[str] = (), gap: int = 2) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), show_edge=False)
    for index, column in enumerate(columns):  # where it is too wide, names fold and numbers stay whole
        table.add_column(column, justify="right" if column in right else "left", no_wrap=index > 0, overflow="fold")
    return table


def _against_floors(split: results.PartResult, gap: int) -> RenderableType:
    """For overall and each task the model, and below it each floor with the paired difference."""
    floors = results.floors_of(split)
    table = _table("macro-F1", "", "score", *(["model - floor", ""] if floors else []), gap=gap)
    for scope in ("overall", *split["tasks"]):
        own = results.score_of(split, scope)
        table.add_section()
        table.add_row(Text(scope, "bold"), Text("model", "bold"), _score(own["macro_f1"], own["ci95"], "bold"))
        for name, floor in floors.items():
            score, difference = results.score_of(floor, scope), results.difference_of(floor["difference"], scope)
            words = difference["verdict"]
            shown = _signed(difference["difference"], difference["ci95"])
            table.add_row("", f"{name} floor", _score(score["macro_f1"], score["ci95"]), shown, _verdict(words))
    return table


def _per_class(split: results.PartResult, synthetic: bool) -> RenderableType:
    has_linear = "linear" in split.get("floors", {})
    has_plan = not synthetic and any(_is_plan(task, scores) for task, scores in split["tasks"].items())
    columns = ["class", "F1", "precision", "recall", "rows"]
    columns += (["linear's F1"] if has_linear else []) + (["plan's baseline"] if has_plan else [])
    table = _table(*columns, right=columns[2:])
    for task, scores in split["tasks"].items():
        table.add_section()
        table.add_row(Text(task, "bold"), f"accuracy {scores['accuracy']:.3f}", "", "", f"{scores['labelled']:,}")
        for label, of_class in scores["per_class"].items():
            f1 = _score(of_class["f1"], of_class["ci95"]) if of_class["support"] else Text("no such rows", "yellow")
            cells: list[str | Text] = [f"  {label}", f1]
            cells += [f"{of_class['precision']:.3f}", f"{of_class['recall']:.3f}", f"{of_class['support']:,}"]
            if has_linear:
                cells.append(f"{split['floors']['linear']['tasks'][task]['per_class'][label]['f1']:.3f}")
            if has_plan:
                cells.append(f"{BASELINE[f'{task}, {label}']:.3f}" if _is_plan(task, scores) else "")
            table.add_row(*cells)
    return table


def _confusions(split: results.PartResult) -> RenderableType:
    """Counts, the tasks' tables side by side where they fit."""
    tables = [Padding(_confusion(task, scores), (0, 4, 1, 0)) for task, scores in split["tasks"].items()]
    return Group(Text("Confusions: a row is a label, a column what was predicted.", "dim"), Columns(tables, padding=(0, 0)))


def _confusion(task: str, scores: results.TaskResult) -> Table:
    labels = list(scores["per_class"])
    table = _table(task, *labels, right=labels)
    for row, label in enumerate(labels):
        counts = scores["confusion"][row]
        table.add_row(label, *(Text(f"{count:,}", "bold" if row == column else "") for column, count in enumerate(counts)))
    return table


def _targets(verdict: results.Verdict, wide: bool) -> list[RenderableType]:
    """The plan's targets, minimum and, where it is `wide` enough, stretch; nothing where the tasks are not the plan's."""
    if not verdict["minimum"]:
        return []
    stretch = {entry["metric"]: entry for entry in verdict["stretch"]}
    table = _table("the plan's targets", "F1", "minimum", "", *(["stretch", ""] if wide else []))
    for entry in verdict["minimum"]:
        further = stretch[entry["metric"]]
        second: list[str | Text] = [f"≥ {further['target']:.3f}", _verdict(further["verdict"])]
        table.add_row(
            entry["metric"],
            _score(entry["value"], entry["ci95"]),
            f"≥ {entry['target']:.3f}",
            _verdict(entry["verdict"]),
            *(second if wide else []),
        )
    return [table]


def _checks(verdict: results.Verdict) -> list[RenderableType]:
    """Floors and stability."""
    table = _table("checks", "value", "target", "verdict")
    by_floor = {entry["floor"]: entry for entry in verdict["floors"]}
    for name in results.strongest_first(by_floor):
        entry = by_floor[name]
        shown = _signed(entry["difference"], entry["difference_ci95"])
        table.add_row(f"overall, model - {name} floor", shown, "> 0", _verdict(entry["verdict"]))
    for stable in verdict["stability"]:
        whole = isinstance(stable["value"], int)
        shown = Text("-" if stable["value"] is None else f"{stable['value']:{'d' if whole else '+.3f'}}")
        table.add_row(stable["metric"], shown, "0" if whole else "< 0", _verdict(stable["verdict"]))
    return [table] if table.row_count else []


def _baseline(verdict: results.Verdict) -> list[RenderableType]:
    found = {entry["metric"]: entry for entry in verdict["baseline"]}
    shown = [name for name in ("overall", *PLAN_CLASSES) if name in found]
    if not shown:
        return []
    line = Text("Beside the plan's mBERT baseline (other rows, so not paired and no claim of a gain): ", "dim")
    for name in shown:
        line.append(f"{name} {found[name]['baseline']:.3f}, ")
        line.append_text(_verdict(found[name]["verdict"]))
        line.append("; " if name != shown[-1] else ".")
    return [line]


def _is_plan(task: str, scores: results.TaskResult) -> bool:
    return set(PLAN_CLASSES.get(task, ())) == set(scores["per_class"])


def _score(value: float, ci95: list[float], style: str = "") -> Text:
    return Text.assemble((f"{value:.3f}", style), (f" [{ci95[0]:.3f}, {ci95[1]:.3f}]", "dim"))


def _signed(value: float, ci95: list[float]) -> Text:
    return Text.assemble(f"{value:+.3f}", (f" [{ci95[0]:+.3f}, {ci95[1]:+.3f}]", "dim"))


def _verdict(words: str) -> Text:
    return Text(words, _COLOURS.get(words.split(" ")[0], "yellow"))
