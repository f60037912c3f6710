"""`polarity ablate --design screen` as a user meets it: killed, gone on with, confirmed, and reported."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from polarity.artifacts import RunFolder
from polarity.errors import ConfigError
from polarity.report.study import render_study
from polarity.study import Study
from polarity.tune.designs import Screen
from polarity.tune.plan import StudyPlan
from polarity.tune.runner import Limits
from polarity.workflows import ablate as workflow
from tests.tune.studies import Inputs, make_inputs

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
PLAN = StudyPlan(seeds=1)


@pytest.fixture(scope="module")
def question(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> workflow.Question:
    """Two factors, of which one ruins the training: four runs of one epoch."""
    folder = tmp_path_factory.mktemp("screen")
    make_inputs(folder, rows=300)
    (folder / "factors.yaml").write_text("- {name: base}\n- {name: focal, points: [6]}\n- {name: asleep, set: {optim.lr: 1.0e-9}}\n")
    return asked(folder)


def asked(folder: Path) -> workflow.Question:
    """The question about what the fixture wrote."""
    inputs = Inputs(folder / "encoder", folder / "comments.csv")
    return workflow.Question(inputs.base("train.epochs=1"), "screen", custom=folder / "factors.yaml")


def silent(line: str) -> None:
    """Nothing."""


@pytest.fixture(scope="module")
def killed(question: workflow.Question, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A screen whose driver is killed hard when two of its four trials are done, and which has gone on from there."""
    folder = tmp_path_factory.mktemp("killed")
    place, log = folder / "study", folder / "log"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.tune.test_screen_study import PLAN, Limits, asked, workflow\n"
        "workflow.ablate(asked(Path(sys.argv[1])), PLAN, sys.argv[2], limits=Limits(max_concurrent=1))\n"
    )
    assert question.custom is not None
    with log.open("w") as to:
        arguments = [sys.executable, "-c", program, str(question.custom.parent), str(place)]
        driver = subprocess.Popen(arguments, stdout=to, stderr=to, cwd=Path(__file__).parents[2], env={**os.environ})
        try:
            deadline = time.monotonic() + 240
            while not (place / "study.json").exists() or len(Study.open(str(place)).of("screen", "finished")) < 2:
                assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.02)
        finally:
            driver.kill()
            driver.wait()
    done = Study.open(str(place)).of("screen", "finished")
    assert 2 <= len(done) < 4 and not (place / "effects.parquet").exists()
    study = workflow.resume(str(place), limits=Limits(max_concurrent=1), say=silent)
    assert [study.trial(trial.id) for trial in done] == done  # nothing ran twice
    return str(place)


def test_a_screen_killed_half_way_and_resumed_comes_to_the_same_table(question: workflow.Question, killed: str, tmp_path: Path) -> None:
    said: list[str] = []
    workflow.ablate(question, PLAN, str(tmp_path / "whole"), limits=Limits(max_concurrent=2), say=said.append)
    tables = [
        pq.read_table(f"{place}/effects.parquet").drop_columns(["seconds", "reference_seconds"]) for place in (killed, tmp_path / "whole")
    ]
    assert tables[0].equals(tables[1])
    assert [row["arm"] for row in tables[0].to_pylist() if row["metric"] == "overall"] == ["focal", "asleep"]
    assert any("focal x asleep" in line and "no aliases" in line for line in said)


def test_the_confirmation_is_run_when_it_is_asked_for_and_decides(killed: str) -> None:
    said: list[str] = []
    study = workflow.resume(killed, limits=Limits(max_concurrent=2), confirm_seeds=1, say=said.append)
    assert study.file.screen is not None
    chosen = study.file.screen.chosen
    assert chosen is not None and list(chosen.inner_effects) == ["focal", "asleep"]
    assert chosen.on == [name for name, effect in chosen.inner_effects.items() if effect > 0]
    confirmed = study.of("confirm", "finished")
    assert {trial.seed for trial in confirmed} == {1} and {"baseline", "all"} <= {trial.arm for trial in confirmed}
    table = pq.read_table(f"{killed}/effects.parquet").to_pylist()
    assert {(row["stage"], row["reference"]) for row in table} == {("screen", "off"), ("confirm", "baseline")}
    page = render_study(killed)
    assert 'id="confirmation"' in page and "half-normal" in page and "This decides; the screen does not." in page
    before = {trial.id: trial for trial in study.trials}
    again = workflow.resume(killed, limits=Limits(max_concurrent=2), confirm_seeds=1, say=silent)
    assert {trial.id: trial for trial in again.trials} == before  # nothing is run twice


def test_what_is_no_screen_has_no_confirmation_to_ask_for(question: workflow.Question, killed: str) -> None:
    study = Study.resumed(RunFolder.create(killed))
    screen = Screen.of(study)
    assert screen is not None and screen.names == ["focal", "asleep"]
    with pytest.raises(ConfigError, match="--runs 12 is the number of runs of --design screen"):
        workflow.Question(question.base, "only", runs=12)
    text = workflow.dry_run(question, PLAN, say=silent)
    assert "screen: 4 trials of 4 epochs, each in full" in text and "recommended: --design" in text
