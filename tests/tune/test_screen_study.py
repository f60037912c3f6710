"""`polarity ablate --design screen` as a user meets it: cut short, gone on with, confirmed, and reported."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from polarity.artifacts import RunFolder
from polarity.errors import ConfigError
from polarity.report.study import render_study
from polarity.study import Study
from polarity.tune.conductor import Budget
from polarity.tune.plan import StudyPlan
from polarity.tune.runner import Limits
from polarity.tune.screening import Screen
from polarity.workflows import ablate as workflow
from tests.tune.studies import make_inputs

pytestmark = pytest.mark.slow
PLAN = StudyPlan(seeds=2)


@pytest.fixture(scope="module")
def question(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> workflow.Question:
    """Two factors, of which one ruins the training: four runs of one epoch."""
    folder = tmp_path_factory.mktemp("screen")
    inputs, factors = make_inputs(folder, rows=300), folder / "factors.yaml"
    factors.write_text("- {name: base}\n- {name: focal, points: [6]}\n- {name: asleep, set: {optim.lr: 1.0e-9}}\n")
    return workflow.Question(inputs.base("train.epochs=1"), "screen", custom=factors)


def silent(line: str) -> None:
    """Nothing."""


@pytest.fixture(scope="module")
def cut(question: workflow.Question, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A screen whose budget ends after five of its eight trials, and which has gone on from there."""
    place = str(tmp_path_factory.mktemp("cut") / "study")
    study = workflow.ablate(question, PLAN, place, limits=Limits(budget=Budget(epochs=5), max_concurrent=1), say=silent)
    assert [len(study.of("screen", status)) for status in ("finished", "pending")] == [5, 3]  # type: ignore[arg-type]
    workflow.resume(place, limits=Limits(max_concurrent=1), say=silent)
    return place


def test_a_screen_that_was_cut_short_comes_to_the_same_table(question: workflow.Question, cut: str, tmp_path: Path) -> None:
    said: list[str] = []
    workflow.ablate(question, PLAN, str(tmp_path / "whole"), limits=Limits(max_concurrent=2), say=said.append)
    tables = [
        pq.read_table(f"{place}/effects.parquet").drop_columns(["seconds", "reference_seconds"]) for place in (cut, tmp_path / "whole")
    ]
    assert tables[0].equals(tables[1])
    rows = {row["arm"]: row for row in tables[0].to_pylist() if row["metric"] == "overall"}
    assert list(rows) == ["focal", "asleep"] and rows["asleep"]["difference"] < 0 and rows["focal"]["low"] is not None
    assert any("focal x asleep" in line and "no aliases" in line for line in said)


def test_the_confirmation_is_run_when_it_is_asked_for_and_decides(cut: str) -> None:
    said: list[str] = []
    study = workflow.resume(cut, limits=Limits(max_concurrent=2), confirm_seeds=2, say=said.append)
    assert study.file.screen is not None
    chosen = study.file.screen.chosen
    assert chosen is not None and "asleep" not in chosen.on and set(chosen.inner_effects) == {"focal", "asleep"}
    confirmed = study.of("confirm", "finished")
    assert {trial.seed for trial in confirmed} == {2, 3} and {"baseline", "all"} <= {trial.arm for trial in confirmed}
    table = pq.read_table(f"{cut}/effects.parquet").to_pylist()
    assert {(row["stage"], row["reference"]) for row in table} == {("screen", "off"), ("confirm", "baseline")}
    page = render_study(cut)
    assert 'id="confirmation"' in page and "half-normal" in page and "This decides; the screen does not." in page
    before = {trial.id: trial for trial in study.trials}
    again = workflow.resume(cut, limits=Limits(max_concurrent=2), confirm_seeds=2, say=silent)
    assert {trial.id: trial for trial in again.trials} == before  # nothing is run twice


def test_what_is_no_screen_has_no_confirmation_to_ask_for(question: workflow.Question, cut: str) -> None:
    study = Study.resumed(RunFolder.create(cut))
    screen = Screen.of(study)
    assert screen is not None and screen.names == ["focal", "asleep"]
    with pytest.raises(ConfigError, match="--runs 12 is the number of runs of --design screen"):
        workflow.Question(question.base, "only", runs=12)
    text = workflow.dry_run(question, PLAN, say=silent)
    assert "screen: 8 trials of 8 epochs, each in full" in text and "recommended: --design" in text
