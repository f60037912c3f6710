"""Ratios are taken repeat by repeat, and every contestant meets every repeat."""

import pytest

from polarity.benchmark.timing import Measured, Spread, race


def test_ratios_pair_the_runs_of_one_repeat() -> None:
    """A machine that is three times slower in one repeat slows both contestants: their ratio stays."""
    slow = iter([1.0, 3.0, 1.0, 1.0])
    pace = {"now": 1.0}

    def one() -> Measured:
        pace["now"] = next(slow)
        return Measured({"rows": 10.0}, pace["now"])

    def two() -> Measured:
        return Measured({"rows": 10.0}, 2 * pace["now"])

    # The order rotates, so the contestants are run here by hand in pairs.
    from polarity.benchmark.timing import Race

    done = Race({"one": [], "two": []})
    for _ in range(4):
        done.runs["one"].append(one())
        done.runs["two"].append(two())
    assert done.speed_ratio("one", "two") == Spread(median=2.0, low=2.0, high=2.0)
    assert done.cost("one", "two") == Spread(median=0.5, low=0.5, high=0.5)
    assert done.rate("one", "rows") == Spread(median=10.0, low=pytest.approx(10 / 3), high=10.0)


def test_a_race_runs_each_contestant_once_a_repeat_and_leaves_out_the_warm_up() -> None:
    calls: list[str] = []

    def contestant(name: str):  # type: ignore[no-untyped-def]
        def run() -> Measured:
            calls.append(name)
            return Measured({"rows": 1.0}, 1.0)

        return run

    done = race({name: contestant(name) for name in "abc"}, 3)
    assert {name: len(runs) for name, runs in done.runs.items()} == {"a": 3, "b": 3, "c": 3}
    assert sorted(calls) == sorted("abc" * 4)
    firsts = [calls[at] for at in range(3, 12, 3)]
    assert sorted(firsts) == ["a", "b", "c"], "each goes first once"
