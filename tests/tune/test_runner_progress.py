"""What is shown while a study runs: the table, the lines, and the time left."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from polarity.artifacts import RunFolder
from polarity.study import Arm, Study, new_trial
from polarity.tune.terminal import event_line, live_or_lines, progress_table, seconds_left
from tests.tune.studies import record

ARMS = [Arm("baseline"), Arm("tier-1", reference="baseline")]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two arms explored (4 and 8 epochs), the second one stopped after two epochs; one seed to confirm, not planned yet."""
    trials = [new_trial("baseline", 0, "explore", 4), new_trial("tier-1", 0, "explore", 8)]
    for trial, epochs, status in zip(trials, (4, 2), ("finished", "stopped"), strict=True):
        for epoch in range(1, epochs + 1):
            trial.add_point(epoch / trial.planned, {"epoch": epoch, "seconds": 1.0, "validation_overall": 0.1 * epoch})
        trial.status, trial.seconds = status, 2.0 * epochs  # type: ignore[assignment]
    trials[1].rung = 0.25
    return Study.create(RunFolder.create(tmp_path / "study"), record(ARMS, trials, [0], [1]))


def test_time_left_is_epochs_times_their_wall_time(study: Study) -> None:
    assert seconds_left(study, 1) == pytest.approx((4 + 8) * 2.0)  # both arms may yet be confirmed
    assert seconds_left(study, 2) == pytest.approx((4 + 8) * 2.0 / 2)
    study.trials.append(new_trial("baseline", 1, "confirm", 4))
    assert seconds_left(study, 1) == pytest.approx(4 * 2.0)  # now it is known who is
    for trial in study.trials:
        trial.epochs = 0
    assert seconds_left(study, 1) is None


def test_lines_say_what_happened_and_what_is_left(study: Study) -> None:
    line = event_line(study, study.trials[1], "stopped at the rung of 25% of its schedule", 1)
    for words in ("explore-tier-1-s0: stopped at the rung of 25%", "after 2 epochs", "1 finished", "1 stopped", "best 0.4000", "0:24 left"):
        assert words in line
    assert "epoch 4/4 (100%), overall 0.4000" in event_line(study, study.trials[0], "epoch", 1)


def test_the_table_has_arms_and_seeds(study: Study) -> None:
    out = StringIO()
    Console(file=out, width=120).print(progress_table(study, 1))
    shown = out.getvalue()
    for words in ("explore 0", "confirm 1", "finished 4/4 0.400", "stopped 2/8 0.200", "tier-1"):
        assert words in shown


def test_a_terminal_gets_the_table_and_a_file_gets_lines(study: Study) -> None:
    lines: list[str] = []
    with live_or_lines(lines.append, 1, Console(file=StringIO())) as watch:
        watch(study, study.trials[0], "finished")
    assert len(lines) == 1
    out = StringIO()
    with live_or_lines(lines.append, 1, Console(file=out, force_terminal=True, width=120)) as watch:
        watch(study, study.trials[1], "failed for good: boom")
    assert len(lines) == 1 and "boom" in out.getvalue() and "stopped 2/8" in out.getvalue()
