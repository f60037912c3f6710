"""The plain sentence and the last screen: what they say follows from the numbers, and they fit a terminal of 80 x 24."""

from typing import Any, cast

import pytest

from polarity.evaluate.render import Facts, last_screen, plain_verdict
from polarity.evaluate.results import Metrics

FACTS = Facts("runs/first", "comments.csv", 5000, False, True, [0.5, 0.6, 0.61])


def part(linear: tuple[float, float], support: int = 200, title: float = 0.45, decided: tuple[str, ...] = ()) -> dict[str, Any]:
    weakest = {"label": "objective", "f1": 0.44, "ci95": [0.3, 0.5]}
    floors = {
        name: {"overall": {"macro_f1": score, "ci95": [0.1, 0.9]}, "difference": {"overall": {"difference": sum(ci) / 2, "ci95": list(ci)}}}
        for name, score, ci in (("linear", 0.64, linear), ("title", title, (0.1, 0.2)), ("majority", 0.25, (0.3, 0.4)))
    }
    task = {"weakest_class": weakest, "per_class": {"objective": {"support": support}}}
    return {
        "rows": 450,
        "overall": {"macro_f1": 0.66, "ci95": [0.62, 0.7]},
        "floors": floors,
        "tasks": {"polarization": task},
        "decided": list(decided),
    }


def screen(facts: Facts = FACTS, **given: Any) -> str:
    return last_screen(cast(Metrics, {"schema_version": 1, "test": part(**given)}), facts)


@pytest.mark.parametrize(
    ("linear", "said"),
    [((0.01, 0.05), "does better than a word-count model"), ((-0.02, 0.03), "about as well"), ((-0.09, -0.02), "do not use this one yet")],
)
def test_the_sentence_follows_the_interval(linear: tuple[float, float], said: str) -> None:
    assert said in plain_verdict(cast(Any, part(linear)))
    assert said in screen(linear=linear).replace("\n", " ")


def test_the_strongest_floor_is_the_one_that_counts() -> None:
    found = part((0.1, 0.2), title=0.7)
    found["floors"]["title"]["difference"]["overall"]["ci95"] = [-0.1, -0.01]
    assert plain_verdict(cast(Any, found)).startswith("Guessing from the title alone does better")


def test_a_model_that_does_not_beat_words_is_sent_to_best_and_not_to_use() -> None:
    assert "polarity best runs/first/config.yaml --time 2h" in screen(linear=(-0.02, 0.03)) and "polarity predict" not in screen(
        linear=(-0.02, 0.03)
    )
    assert "polarity predict runs/first" in screen(linear=(0.01, 0.05)) and "polarity best" not in screen(linear=(0.01, 0.05))


def test_few_rows_of_a_class_ask_for_labels() -> None:
    assert "'objective' has few test rows (12)" in screen(linear=(0.01, 0.05), support=12)
    assert "polarity next" not in screen(linear=(0.01, 0.05))


def test_rows_out_of_fold_are_called_so() -> None:
    metrics = {"schema_version": 1, "validation": part((0.01, 0.05), support=12) | {"out_of_fold": True}}
    shown = last_screen(cast(Metrics, metrics), FACTS)
    assert "450 out-of-fold rows; 1 is perfect" in shown and "validation" not in shown
    assert "'objective' has few out-of-fold rows (12)" in shown


def test_overfitting_and_titles_are_told() -> None:
    fell = Facts("runs/first", "comments.csv", 5000, False, True, [0.5, 0.66, 0.6, 0.58])
    assert "polarity train runs/first/config.yaml --epochs 3" in screen(fell, linear=(-0.02, 0.03))
    assert "split.kind=group" in screen(linear=(0.01, 0.05)) and "split.kind=group" not in screen(linear=(0.01, 0.05), title=0.3)


def test_rows_that_decided_are_named() -> None:
    assert "No verdict: these rows chose the epoch." in screen(linear=(0.01, 0.05), decided=("the epoch",)).replace("\n", " ")


def test_it_fits_the_smallest_terminal() -> None:
    fell = Facts("runs/first", "comments.csv", 500, False, True, [0.5, 0.66, 0.6, 0.58])
    lines = screen(fell, linear=(-0.02, 0.03), support=12, decided=("the epoch",)).splitlines()
    assert len(lines) <= 22 and max(map(len, lines)) <= 80


def test_the_plans_target_is_shown_and_not_of_made_up_rows() -> None:
    judged = part((0.01, 0.05)) | {"verdict": {"minimum": [{"metric": "overall", "target": 0.75, "verdict": "missed by 0.050"}]}}
    real = last_screen(cast(Metrics, {"schema_version": 1, "test": judged}), FACTS)
    made_up = last_screen(cast(Metrics, {"schema_version": 1, "test": judged, "data": "SYNTHETIC sample corpus"}), FACTS)
    assert "missed by 0.050; 0 of 1 targets met" in real and "target" not in made_up
