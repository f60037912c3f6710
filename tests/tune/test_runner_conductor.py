"""The course of a study without Ray: order, stops, retries, budget, and the same answers after a resume."""

from pathlib import Path

import pytest

from polarity.artifacts import RunFolder
from polarity.errors import ConfigError
from polarity.study import Arm, Asha, Study, TrialRecord
from polarity.tune.conductor import Budget, Conductor, parse_budget, trials_of
from tests.tune.studies import record

ARMS = [Arm("baseline"), Arm("good", reference="baseline"), Arm("bad", reference="baseline"), Arm("step", (1,), reference="good")]
EPOCHS = {"baseline": 2, "good": 4, "bad": 2, "step": 4}
SCORES = {"baseline": 0.5, "good": 0.6, "bad": 0.1, "step": 0.7}


def conductor(folder: Path, *, explore: int = 1, concurrent: int = 1, budget: Budget | None = None) -> Conductor:
    names = [arm.name for arm in ARMS]
    trials = trials_of("explore", names, range(explore), EPOCHS) if explore else trials_of("confirm", names, [7, 8], EPOCHS)
    file = record(ARMS, trials, range(explore), [7, 8], asha=Asha((0.5,)) if explore else None)
    study = Study.create(RunFolder.create(folder), file)
    return again(study, concurrent=concurrent, budget=budget)


def again(study: Study, *, concurrent: int = 1, budget: Budget | None = None) -> Conductor:
    return Conductor(study, EPOCHS, study.file.asha, concurrent, budget or Budget(), lambda study, trial, event: None)


def train(course: Conductor, name: str) -> bool:
    """The trial's epochs, its score always the same; whether it ran to its end."""
    trial = course.study.trial(name)
    for epoch in range(1, trial.planned + 1):
        metrics = {"epoch": epoch, "seconds": 1.0, "validation_overall": SCORES[trial.arm]}
        if not course.report(name, epoch / trial.planned, metrics):
            return False
    course.finish(name)
    return True


def run(course: Conductor, most: int = 100) -> list[str]:
    """Trials in the order of their start, one at a time."""
    started: list[str] = []
    while len(started) < most and (name := course.next()):
        started.append(name)
        train(course, name)
    return started


def states(study: Study) -> dict[str, str]:
    return {trial.id: trial.status for trial in study.trials}


def test_explores_with_the_reference_first_and_confirms_the_survivors_over_fresh_seeds(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study")
    started = run(course)
    assert started[:4] == ["explore-baseline-s0", "explore-good-s0", "explore-bad-s0", "explore-step-s0"]
    confirmed = [f"confirm-{arm}-s{seed}" for seed in (7, 8) for arm in ("baseline", "good", "step")]
    assert started[4:] == confirmed
    assert states(course.study)["explore-bad-s0"] == "stopped"
    assert course.study.trial("explore-bad-s0").rung == 0.5 and course.study.trial("explore-bad-s0").epochs == 1
    assert course.next() is False


def test_what_a_survivor_is_compared_with_is_confirmed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "good", 0.2)  # the step's reference is stopped, the step itself is not
    course = conductor(tmp_path / "study")
    assert "confirm-good-s7" in run(course)
    assert states(course.study)["explore-good-s0"] == "stopped"


def test_without_exploration_the_grid_runs_whole(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study", explore=0)
    assert run(course) == [f"confirm-{arm}-s{seed}" for seed in (7, 8) for arm in EPOCHS]
    assert set(states(course.study).values()) == {"finished"}


def test_confirming_trials_and_the_reference_are_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "baseline", 0.01)
    course = conductor(tmp_path / "study", explore=2)
    run(course)
    assert all(trial.status == "finished" for trial in course.study.trials if trial.arm == "baseline" or trial.stage == "confirm")


def test_no_more_at_a_time_than_there_is_room_for(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study", concurrent=2)
    first, second = course.next(), course.next()
    assert (first, second) == ("explore-baseline-s0", "explore-good-s0")
    assert course.next() is None
    train(course, "explore-baseline-s0")
    assert course.next() == "explore-bad-s0"


def test_confirmation_waits_for_the_last_exploring_trial(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study", concurrent=9)
    names = [course.next() for _ in range(4)]
    assert course.next() is None
    for name in names:
        train(course, str(name))
    assert course.next() == "confirm-baseline-s7"


def test_a_failed_trial_is_next_again_and_then_given_up(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study")
    for attempt in (1, 2):
        assert course.next() == "explore-baseline-s0"
        course.fail("explore-baseline-s0", "boom", retry=True)
        trial = course.study.trial("explore-baseline-s0")
        assert (trial.attempts, trial.status, trial.error) == (attempt, "failed" if attempt == 2 else "pending", "boom")
    assert course.next() == "explore-good-s0"
    course.fail("explore-good-s0", "wrong", retry=False)  # what a user must mend is not tried again
    assert states(course.study)["explore-good-s0"] == "failed"


@pytest.mark.parametrize(("budget", "epochs"), [("12e", 11), ("2e", 2), ("1e", 0)])
def test_a_budget_of_epochs_is_kept(tmp_path: Path, budget: str, epochs: int) -> None:
    course = conductor(tmp_path / "study", budget=parse_budget(budget))
    run(course)
    assert sum(trial.epochs for trial in course.study.trials) == epochs
    assert course.closed is not None and "budget" in course.closed
    assert course.study.of(None, "pending")


def test_a_budget_of_minutes_ends_the_launching(tmp_path: Path) -> None:
    course = conductor(tmp_path / "study", budget=Budget(minutes=1e-9))
    assert course.next() is False


@pytest.mark.parametrize(("text", "minutes", "epochs"), [("30m", 30, None), ("1.5h", 90, None), ("200e", None, 200)])
def test_budgets_are_read(text: str, minutes: float | None, epochs: int | None) -> None:
    assert (parse_budget(text).minutes, parse_budget(text).epochs) == (minutes, epochs)


@pytest.mark.parametrize("text", ["30", "m", "-3m", "0e", "ten"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="30m"):
        parse_budget(text)


@pytest.mark.parametrize("cut", range(10))
def test_a_study_cut_off_anywhere_goes_on_to_the_same_end(tmp_path: Path, cut: int) -> None:
    whole = conductor(tmp_path / "whole")
    run(whole)
    broken = conductor(tmp_path / "broken")
    run(broken, most=cut)
    name = broken.next()
    if name:
        broken.report(name, 0.25, {"epoch": 1, "seconds": 1.0, "validation_overall": 0.0})  # killed in the middle of it
    resumed = again(Study.resumed(RunFolder.create(tmp_path / "broken")))
    started = run(resumed)
    assert name in started or not name

    def told(trials: list[TrialRecord]) -> list[tuple[object, ...]]:
        return [(t.id, t.status, t.rung, t.overall, t.points) for t in trials]

    assert told(resumed.study.trials) == told(whole.study.trials)
