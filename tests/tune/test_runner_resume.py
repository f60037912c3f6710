"""`--resume` as a user meets it: a study cut short by its budget goes on to its end, and what cannot go on is refused with a word."""

import pyarrow.parquet as pq
import pytest

from polarity.artifacts import RunFolder
from polarity.errors import RunError
from polarity.study import Study
from polarity.tune.conductor import Budget
from polarity.tune.plan import StudyPlan
from polarity.tune.runner import Limits
from polarity.workflows import ablate as workflow
from polarity.workflows import tune as search
from tests.tune.studies import Inputs, make_inputs

ONE = Limits(max_concurrent=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("resume"), rows=300)


@pytest.fixture(scope="module")
def cut(inputs: Inputs, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A study of two arms and two seeds whose budget is that of one seed, and what it said."""
    folder = tmp_path_factory.mktemp("cut")
    arms, said = folder / "arms.yaml", list[str]()
    arms.write_text("- name: baseline\n- name: focal\n  points: [6]\n")
    question = workflow.Question(inputs.base("train.epochs=2"), "custom", custom=arms)
    limits = Limits(budget=Budget(epochs=4), max_concurrent=1)
    place = str(folder / "study")
    workflow.ablate(question, StudyPlan(seeds=2, explores=False), place, limits=limits, say=said.append)
    return place, said


def record(place: str) -> Study:
    return Study.resumed(RunFolder.create(place))


@pytest.mark.slow
def test_a_study_goes_on_where_its_budget_ended(cut: tuple[str, list[str]]) -> None:
    place, said = cut
    before = {trial.id: trial for trial in record(place).trials}
    assert [trial.status for trial in before.values()] == ["finished", "finished", "pending", "pending"]
    assert any("budget of 4 trial-epochs is used up: confirm-baseline-s1, confirm-focal-s1; go on with --resume" in line for line in said)
    assert pq.read_table(f"{place}/effects.parquet")["seeds"].unique().to_pylist() == [1]
    said = []
    study = workflow.resume(place, limits=ONE, say=said.append)
    assert "goes on with 2 trials that wait; 2 are done" in said
    assert study.file.notes == []  # nothing is missing any more
    assert {trial.status for trial in study.trials} == {"finished"} and {trial.attempts for trial in study.trials} == {1}
    for name in ("confirm-baseline-s0", "confirm-focal-s0"):
        assert study.trial(name) == before[name]  # kept as it was, times too
    effects = pq.read_table(f"{place}/effects.parquet").to_pylist()
    assert {(row["arm"], row["seeds"]) for row in effects} == {("focal", 2)} and effects[0]["low"] is not None


@pytest.mark.slow
def test_failed_trials_wait_again_only_where_that_is_asked_for(cut: tuple[str, list[str]]) -> None:
    place, _ = cut
    study = record(place)
    broken = study.trial("confirm-focal-s1")
    broken.status, broken.failures, broken.attempts, broken.error = "failed", 2, 2, "boom"
    for trial in study.of(None, "pending"):  # where this test runs alone
        trial.status = "finished"
        broken.status = "failed"
    study.save()
    kept, _ = workflow.resumed_study(place, "ablate", retry_failed=False, say=lambda line: None)
    assert kept.trial(broken.id).status == "failed" and not kept.of(None, "pending")
    again, _ = workflow.resumed_study(place, "ablate", retry_failed=True, say=lambda line: None)
    assert [(trial.id, trial.failures) for trial in again.of(None, "pending")] == [(broken.id, 0)]


@pytest.mark.slow
def test_other_data_or_another_command_is_refused(cut: tuple[str, list[str]], inputs: Inputs) -> None:
    place, _ = cut
    with pytest.raises(RunError, match="begun by polarity ablate: go on with polarity ablate --resume"):
        search.resume(place, limits=ONE, say=lambda line: None)
    text = inputs.data.read_text()
    inputs.data.write_text(text.replace("mayor opens", "mayor closes"))
    try:
        with pytest.raises(RunError, match="the data is not what the study began with"):
            workflow.resume(place, limits=ONE, say=lambda line: None)
    finally:
        inputs.data.write_text(text)
