"""What a run comes to in plain words: a sentence for report, card and terminal, and the last screen with what to do next."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polarity.evaluate.results import JudgedRows, Metrics, PartResult, what_rows_decided

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


def judged_part(metrics: Metrics) -> tuple[str, PartResult]:
    """The part that a run is judged by: test where there is one, else validation, else whatever was judged."""
    parts: Mapping[str, Any] = metrics
    name = next(name for name in ("test", "validation", "unchecked", "seen") if name in parts)
    return name, parts[name]


def plain_verdict(part: JudgedRows) -> str:
    """The verdict on a part in a sentence: the model beside its strongest floor; and another one where the rows can give no verdict."""
    chose = what_rows_decided(part)
    return _beside_floors(part) + (f" No verdict: these rows {chose}." if chose else "")


def _beside_floors(part: Mapping[str, Any]) -> str:
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


def last_screen(metrics: Metrics, facts: Facts) -> str:
    """What a run comes to and what to do next, on at most 24 lines of 80 columns (long paths apart)."""
    name, part = judged_part(metrics)
    overall = part["overall"]
    lines = ["━" * WIDTH, *textwrap.wrap(plain_verdict(part), WIDTH), ""]
    lines.append(_line("macro-F1", overall["macro_f1"], overall["ci95"], f"{part['rows']:,} {name} rows; 1 is perfect"))
    for floor in ("linear", "title", "majority"):
        if floor in part.get("floors", {}):
            found = part["floors"][floor]
            difference = found["difference"]["overall"]
            low, high = difference["ci95"]
            shown = f"model {difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            lines.append(f"  {f'{floor} floor':18}{found['overall']['macro_f1']:.3f}                 {shown}")
    # What the plan wants of real comments says nothing of made-up ones.
    lines += [] if "data" in metrics else _targets(part)
    task, weakest = _weakest(part)
    support = part["tasks"][task]["per_class"][weakest["label"]]["support"]
    lines.append(_line("weakest class", weakest["f1"], weakest["ci95"], f"{task}: {weakest['label']}, {support:,} rows"))
    lines += ["", "Next:"]
    for why, command in next_steps(metrics, facts)[:3]:
        lines += [f"  {why}", f"    {command}"]
    return "\n".join(lines)


def _line(what: str, value: float, ci95: Sequence[float], note: str) -> str:
    return f"{what:20}{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]  {note}"[:WIDTH]


def _weakest(part: PartResult) -> tuple[str, Any]:
    found = {task: scores["weakest_class"] for task, scores in part["tasks"].items()}
    task = min(found, key=lambda task: found[task]["f1"])
    return task, found[task]


def _targets(part: PartResult) -> list[str]:
    minimum: Sequence[Mapping[str, Any]] = part.get("verdict", {}).get("minimum", [])
    overall = next((entry for entry in minimum if entry["metric"] == "overall"), None)
    if overall is None:
        return []
    met = sum(entry["verdict"] == "met" for entry in minimum)
    return [f"{'target':20}{overall['target']:.3f}                 {overall['verdict']}; {met} of {len(minimum)} targets met"[:WIDTH]]


def next_steps(metrics: Metrics, facts: Facts) -> list[tuple[str, str]]:
    """(why, command) of what to do next, the most useful first, as the numbers say."""
    _, part = judged_part(metrics)
    floors = part.get("floors", {})
    linear = floors["linear"]["difference"]["overall"]["ci95"] if "linear" in floors else [1.0, 1.0]
    task, weakest = _weakest(part)
    support = part["tasks"][task]["per_class"][weakest["label"]]["support"]
    steps = []
    scores = list(facts.epoch_scores)
    if scores and max(scores) - scores[-1] > OVERFIT and scores.index(max(scores)) < len(scores) - 2:
        best = scores.index(max(scores)) + 1
        steps.append((f"It was best after epoch {best} and then got worse: train shorter.", f"polarity train ... --epochs {best + 1}"))
    if linear[0] <= 0 and facts.source:
        steps.append(("A word-count model is as good: let words and encoders vote.", f"polarity best {facts.source} --time 2h"))
    if facts.training_rows < FEW_TRAINING_ROWS or support < FEW_OF_CLASS:
        few = (
            f"{support} rows of {weakest['label']!r} are few"
            if support < FEW_OF_CLASS
            else f"{facts.training_rows:,} training rows are few"
        )
        steps.append((f"{few}: label more, these first.", f"polarity next {facts.folder} --data UNLABELLED.csv --out to_label.csv"))
    if facts.with_titles and not facts.grouped and facts.source and _titles_tell(part):
        steps.append(
            ("Titles tell much. Are tomorrow's posts as easy?", f"polarity train ... --data {facts.source} --set data.split.kind=group")
        )
    if linear[0] > 0:
        steps.insert(0, ("Use it.", f"polarity predict {facts.folder} --data NEW.csv --out predicted.csv"))
    return steps or [("Look at what it gets wrong.", f"polarity report {facts.folder}")]


def _titles_tell(part: PartResult) -> bool:
    floors = part.get("floors", {})
    if not {"title", "majority"} <= set(floors):
        return False
    return bool(floors["title"]["overall"]["macro_f1"] - floors["majority"]["overall"]["macro_f1"] > 0.1)
