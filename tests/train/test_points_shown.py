"""Which points are on is to be seen: in the ledger, in the progress line, and in the table of `polarity points`."""

from dataclasses import asdict

import pytest

from polarity.data.ledger import build_ledger
from polarity.resolve import leaves, resolve
from polarity.strategy import CLAIMS_NOTE, POINTS
from polarity.train.loop import run_training
from polarity.train.world import World
from polarity.workflows.preview import points_table, recorded_costs
from tests.tiny import tiny_comments
from tests.train.runs import Heard, configured, fresh_model, tables

ALL = tuple(range(1, 11))


@pytest.mark.parametrize(
    ("points", "shown"), [((), "none of the plan"), ((6,), "6"), ((1, 2, 10), "1, 2, 10"), (ALL, ", ".join(map(str, ALL)))]
)
def test_the_ledger_says_which_points_are_on(points: tuple[int, ...], shown: str) -> None:
    ledger = build_ledger(tiny_comments(120), configured(points))
    assert ledger.points == asdict(ledger)["points"] == list(points)
    assert f"points on: {shown}" in ledger.render().splitlines()


@pytest.mark.parametrize(("points", "shown"), [((), None), ((6,), "points 6"), ((1, 6, 8), "points 1,6,8")])
def test_the_progress_line_says_which_points_are_on(points: tuple[int, ...], shown: str | None) -> None:
    config = configured(points, train={"max_steps": 2, "log_every": 1})
    said: list[str] = []
    run_training(config, tables(config), fresh_model(config), Heard(said), world=World())
    steps = [line for line in said if "step 1/" in line or "step 2/" in line]
    assert len(steps) == 2
    for line in steps:
        assert [part for part in line.split("  ") if part.startswith("points")] == ([] if shown is None else [shown])


def test_the_points_are_shown_with_what_each_changes_its_paper_claim_and_cost() -> None:
    printed, costs, base = points_table(), recorded_costs()["step"], resolve().config
    parts = printed.split("\n\n")[1 : len(POINTS) + 1]
    for (number, point), part in zip(POINTS.items(), parts, strict=True):
        before, after = leaves(base.model_dump()), leaves(point.apply(base).model_dump())
        changed = [f"{key}={after[key]}" for key in after if before.get(key) != after[key]]
        measured = costs[str(number)]
        lines = part.splitlines()
        assert lines[0] == f"{number:>2}  {point.title} (tier {point.tier})"
        words = " ".join(part.split())
        assert changed and words.endswith(f"sets {', '.join(changed)}")
        assert " ".join(point.source.split()) in words and f"claim +{point.claim[0]:g} " in words
        assert f"x{measured['median']:.2f} [{measured['low']:.2f}, {measured['high']:.2f}]" in words
        assert 0 < measured["low"] <= measured["median"] <= measured["high"]
    words = " ".join(printed.split())
    assert CLAIMS_NOTE in words and "all ten together x" in words
