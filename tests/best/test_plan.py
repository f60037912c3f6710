"""The plan for a budget: what is bought first, what is left out and said, and times as people write them."""

import pytest

from polarity.best.plan import LADDER, RESERVE, Plan, Speed, make_plan, parse_time
from polarity.errors import ConfigError

SMALL = Speed(encoder="e5", seconds_per_row=0.08, layers=12)
"""An encoder of 27 M parameters on one core of a small machine."""


def step(plan: Plan) -> int:
    """Where the plan's first training stands on the ladder, from the worst (0: none) to the best."""
    if not plan.trainings:
        return 0
    first = plan.trainings[0]
    places = [(folds, round(frozen * SMALL.layers), epochs) for folds, frozen, epochs in LADDER]
    return len(LADDER) - places.index((plan.folds, first.frozen_layers, first.epochs))


def test_two_hours_on_two_cores_fine_tune_the_whole_encoder_and_teach_a_student_within_the_budget() -> None:
    plan = make_plan(7200, 8470, [SMALL], workers=2, cheap_seconds=400)
    first = plan.trainings[0]
    assert (plan.folds, first.encoder, first.frozen_layers, first.epochs) == (4, "e5", 0, 4) and plan.student is not None
    assert plan.seconds <= RESERVE * 7200


def test_more_time_never_buys_less() -> None:
    plans = [make_plan(h * 3600, 8470, [SMALL], workers=2, cheap_seconds=400, student=False) for h in (0.1, 0.5, 1, 2, 4, 8)]
    steps = [step(plan) for plan in plans]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == len(LADDER)
    assert all(plan.seconds <= max(RESERVE * plan.budget, plan.cheap_seconds) for plan in plans)


def test_few_rows_are_left_to_the_cheap_members_and_a_second_encoder_takes_what_is_left() -> None:
    few = make_plan(7200, 200, [SMALL], workers=2, cheap_seconds=60)
    assert not few.trainings and few.frozen == ["e5"] and "too few to fine-tune" in few.left_out[0]
    second = Speed(encoder="large", seconds_per_row=2.0, layers=24)
    both = make_plan(4 * 3600, 8470, [SMALL, second], workers=2, cheap_seconds=400)
    assert [t.encoder for t in both.trainings] == ["e5"] and both.left_out == ["large: does not fit into the budget; give more --time"]


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "two hours", "2h30", "-1h", "0m", "1h 30m x"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time"):
        parse_time(text)
