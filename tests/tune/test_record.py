"""study.json: what is written is what is read, and a study that was cut off goes on from it."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from polarity.artifacts import STUDY, RunFolder
from polarity.errors import RunError
from polarity.study import Arm, Study, TrialRecord, new_trial, open_study_folder, study_schema
from polarity.tune.findings import missing
from tests.tune.studies import record

ARMS = [Arm("baseline"), Arm("tier-1", (1, 2, 3), reference="baseline", claim=(0.08, 0.10)), Arm("tier-2", (4, 5), reference="baseline")]


def epoch(number: int, score: float) -> dict[str, float]:
    return {"epoch": number, "step": 10.0 * number, "seconds": 2.0, "validation_overall": score, "validation_sentiment": score / 2}


def study_in(folder: Path, trials: list[TrialRecord]) -> Study:
    return Study.create(RunFolder.create(folder), record(ARMS, trials, [0], [1]))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    trial = new_trial("tier-1", 3, "explore", 4)
    study = study_in(tmp_path / "study", [trial, new_trial("baseline", 3, "confirm", 6)])
    trial.add_point(0.25, epoch(1, 0.4))
    trial.add_point(0.5, epoch(2, 0.3))
    trial.status, trial.rung = "stopped", 0.5
    study.save()
    again = Study.resumed(RunFolder.create(tmp_path / "study"))
    assert again.trials == study.trials and again.arms == ARMS
    assert again.trial("explore-tier-1-s3").curve[1] == {
        "progress": 0.5, "epoch": 2, "overall": 0.3, "sentiment": 0.15, "seconds": 4.0,
    }  # fmt: skip
    assert again.trial("explore-tier-1-s3").overall == 0.4
    content = json.loads((tmp_path / "study" / STUDY).read_text())
    assert content["schema_version"] == 1 and content["created"]
    assert not list((tmp_path / "study").glob(".*"))


@pytest.mark.parametrize(("waiting", "named"), [(3, "baseline-s2, confirm-baseline-s3"), (60, "baseline-s3 and 57 more")])
def test_what_was_not_run_is_counted_and_the_first_named(tmp_path: Path, waiting: int, named: str) -> None:
    study = study_in(tmp_path / "study", [new_trial("baseline", seed, "confirm", 4) for seed in range(waiting + 1)])
    study.trials[0].status = "finished"
    (line,) = missing(study, None)
    assert line.startswith(f"{waiting} of {waiting + 1} trials are not run, as the study was interrupted: confirm-baseline-s1, ")
    assert f"{named}; go on with --resume" in line


def test_a_trial_that_ran_when_the_driver_died_waits_again(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", [new_trial(arm.name, 0, "explore", 4) for arm in ARMS])
    for trial, status in zip(study.trials, ("finished", "running", "pending"), strict=True):
        trial.status = status  # type: ignore[assignment]
    study.save()
    again = Study.resumed(RunFolder.create(tmp_path / "study"))
    assert [trial.status for trial in again.trials] == ["finished", "pending", "pending"]


def test_a_trial_that_starts_again_writes_its_curve_anew() -> None:
    trial = new_trial("baseline", 0, "explore", 4)
    for number, score in ((1, 0.2), (2, 0.9), (3, 0.5)):
        trial.add_point(number / 4, epoch(number, score))
    trial.add_point(0.5, epoch(2, 0.3))  # it went on from a checkpoint of epoch 1
    assert [point["epoch"] for point in trial.curve] == [1, 2]
    assert (trial.overall, trial.epochs, trial.progress, trial.train_seconds) == (0.3, 2, 0.5, 4.0)


def test_who_survives_an_exploration(tmp_path: Path) -> None:
    trials = [new_trial(arm.name, seed, "explore", 4) for seed in (0, 1) for arm in ARMS]
    states = ("stopped", "stopped", "finished", "failed", "finished", "stopped")
    for trial, status in zip(trials, states, strict=True):
        trial.status = status  # type: ignore[assignment]
    # The reference stays whatever happened to it; tier-1 and tier-2 finished in one of two seeds.
    assert study_in(tmp_path / "a", trials).survivors() == ["baseline", "tier-1", "tier-2"]
    trials[4].status = "stopped"
    assert study_in(tmp_path / "b", trials).survivors() == ["baseline", "tier-2"]


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no study to resume"):
        open_study_folder(str(tmp_path / "new"), resume=True)
    study_in(tmp_path / "old", [])
    with pytest.raises(RunError, match="already holds a study"):
        open_study_folder(str(tmp_path / "old"), resume=False)
    (tmp_path / "old" / STUDY).write_text('{"schema_version": 1, "trials": [{"id": "x"}]}')
    with pytest.raises(RunError, match="trials are not what polarity writes"):
        Study.resumed(open_study_folder(str(tmp_path / "old"), resume=True))


def test_the_published_schema_is_that_of_the_types_and_takes_what_is_written(tmp_path: Path) -> None:
    published = json.loads(files("polarity").joinpath("study.schema.json").read_text("utf-8"))
    assert published == study_schema(), "write json.dumps(study_schema(), indent=1) into polarity/study.schema.json"
    study_in(tmp_path / "study", [new_trial("baseline", 3, "confirm", 6)])
    jsonschema.validate(json.loads((tmp_path / "study" / STUDY).read_text()), published)
