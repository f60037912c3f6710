"""Studies on Ray for real: stops, processes, retries, a killed driver, and what is said where nothing can start."""

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle

from polarity.config import ClusterConfig
from polarity.errors import RunError
from polarity.model.multitask import MultitaskModel
from polarity.study import Arm, Asha, Study
from polarity.tune.conductor import Budget, Conductor
from polarity.tune.findings import conclude
from polarity.tune.plan import StudyPlan
from polarity.tune.ray_tune import Placement, place_trials, run_trials
from polarity.tune.runner import Limits, PreparedStudy, make_run_folder, run_study, token_key, trial_specs
from polarity.tune.trial import StudyTrial, begin_alone
from tests.tune.studies import ARMS, Inputs, begun, make_inputs, prepared

ONE = Limits(max_concurrent=1)
PLAN = StudyPlan(seeds=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="module")
def ready(inputs: Inputs, ray_cluster: None) -> PreparedStudy:
    return prepared(inputs)


PUT: list[pa.Table] = []
"""Tables that the undisturbed study put into the object store."""


@pytest.fixture(scope="module")
def undisturbed(ready: PreparedStudy, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three arms explored and the survivors confirmed, one trial at a time."""
    study, put = begun(tmp_path_factory.mktemp("whole") / "study", ready, PLAN), ray.put

    def noted(value: Any, **more: Any) -> Any:
        PUT.extend([value] if isinstance(value, pa.Table) else [])
        return put(value, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "put", noted)
        assert run_study(study, ready, ONE, lambda line: None) is None
    return study


@pytest.mark.slow
def test_when_the_second_of_three_stops_the_third_starts(undisturbed: Study) -> None:
    first, second, third = undisturbed.of("explore")
    assert (first.status, second.status, third.status) == ("finished", "stopped", "finished")
    assert second.rung == 0.25 and second.epochs == 1 and second.progress == pytest.approx(0.25, abs=0.02)
    assert [trial.id for trial in undisturbed.of("confirm", "finished")] == ["confirm-baseline-s1", "confirm-twin-s1"]
    assert undisturbed.folder.local is not None
    of = {trial.id: undisturbed.folder.local / trial.run_dir for trial in undisturbed.trials}
    assert not (of[second.id] / "predictions.parquet").exists()
    for trial in (first, third, *undisturbed.of("confirm")):
        for name in ("config.yaml", "ledger.json", "metrics.json", "history.parquet", "predictions.parquet"):
            assert (of[trial.id] / name).is_file(), (trial.id, name)
        assert not (of[trial.id] / "model").exists() and not (of[trial.id] / "checkpoints").exists()
    same_rows = [pq.read_table(of[trial.id] / "predictions.parquet")["row_id"].to_pylist() for trial in undisturbed.of("confirm")]
    assert same_rows[0] == same_rows[1]


@pytest.mark.slow
def test_tokens_are_put_into_the_object_store_once(undisturbed: Study, ready: PreparedStudy) -> None:
    """Five trials of three arms, which cut texts alike: three tables; what a trial is sent names them and holds none."""
    (tokens,) = ready.tokens.values()
    assert len(undisturbed.trials) == 5
    assert sorted(table.num_rows for table in PUT) == sorted(table.num_rows for table in tokens.values())
    fresh = begun(Path(str(undisturbed.folder.local)).parent / "specs", ready, PLAN)
    fresh.file.precision = "fp32"
    spec = trial_specs(fresh, ready)["explore-baseline-s0"]
    assert spec.tokens in ready.tokens and len(cloudpickle.dumps(spec)) < tokens["train"].nbytes


@pytest.mark.slow
def test_only_confirming_trials_are_effects_and_what_asha_saved_is_counted(undisturbed: Study, ready: PreparedStudy) -> None:
    table = conclude(undisturbed, ready.configs)
    (overall,) = [row for row in table.to_pylist() if row["metric"] == "overall"]
    assert (overall["arm"], overall["seeds"], overall["difference"], overall["verdict"]) == ("twin", 1, 0.0, "no evidence")
    assert set(undisturbed.file.scores) == {"baseline", "twin"}  # the exploring seed is in none of it, the stopped arm neither
    assert {name: entry.seeds for name, entry in undisturbed.file.scores.items()} == {"baseline": 1, "twin": 1}
    savings = undisturbed.file.savings
    assert savings is not None
    assert (savings.explore_epochs_run, savings.explore_epochs_planned, savings.explore_trials_stopped) == (4 + 1 + 4, 12, 1)
    assert (savings.trial_epochs_run, savings.trial_epochs_full) == (9 + 8, 12)
    assert undisturbed.file.asha_replay is None  # a replay needs the full grid


@pytest.mark.slow
def test_a_trial_in_the_same_process_costs_little_to_start(undisturbed: Study) -> None:
    """All but the first trial find the process, the libraries and the tables there."""
    for trial in undisturbed.trials[2:]:
        assert trial.seconds - trial.train_seconds < 6, (trial.id, trial.seconds, trial.train_seconds)  # 3 s where nothing else runs


def models_in_memory() -> int:
    gc.collect()
    return sum(type(thing) is MultitaskModel for thing in gc.get_objects())


@pytest.mark.slow
def test_a_stopped_trial_computes_nothing_and_holds_nothing(ready: PreparedStudy, tmp_path: Path) -> None:
    """The process that Tune keeps, driven here by hand: it is reset while its first trial waits after an epoch."""
    study = begun(tmp_path / "study", ready, PLAN)
    study.file.precision = "fp32"
    for trial in study.trials:
        make_run_folder(study, ready, trial)
    specs, before = trial_specs(study, ready), models_in_memory()
    tables = {key: {part: ray.put(table) for part, table in parts.items()} for key, parts in ready.tokens.items()}
    process = object.__new__(StudyTrial)
    process.setup({"trial": "explore-baseline-s0"}, begin=begin_alone, specs=specs, tables=tables)
    assert models_in_memory() == before  # nothing begins before Tune asks for an epoch
    assert process.step()["epoch"] == 1
    assert models_in_memory() == before + 1
    assert process.reset_config({"trial": "explore-twin-s0"})
    assert models_in_memory() == before
    assert process.step()["epoch"] == 1
    process.cleanup()
    assert models_in_memory() == before


class Murderous(Conductor):
    """Kills the process of one arm's first attempt after its first epoch."""

    def report(self, name: str, progress: float, metrics: dict[str, float]) -> bool:
        trial = self.study.trial(name)
        if trial.arm == "twin" and trial.attempts == 1:
            os.kill(int(metrics["pid"]), signal.SIGKILL)
        return super().report(name, progress, metrics)


@pytest.mark.slow
def test_a_dead_process_is_tried_again_and_a_mistake_is_reported_while_others_go_on(
    inputs: Inputs, ray_cluster: None, tmp_path: Path
) -> None:
    arms = [Arm("baseline"), Arm("wrong", sets={"model.frozen_layers": 9}, reference="baseline"), ARMS[2]]
    ready = prepared(inputs, arms, "train.epochs=2")
    study = begun(tmp_path / "study", ready, StudyPlan(seeds=1, explores=False), arms)
    study.file.precision = "fp32"
    cluster = ready.configs["baseline"].cluster
    course = Murderous(study, ready.epochs, None, 1, Budget(), lambda study, trial, event: None)
    place = Placement(1, {"CPU": 1.0}, {"CPU": 1.0})
    course.prepare = lambda trial: make_run_folder(study, ready, trial)
    run_trials(course, trial_specs(study, ready), ready.tokens, place, cluster)
    first, wrong, twin = study.trials
    assert first.status == "finished"
    assert (wrong.status, wrong.attempts) == ("failed", 1)
    assert wrong.error is not None and "model.frozen_layers" in wrong.error
    assert (twin.status, twin.attempts, twin.failures, twin.epochs) == ("finished", 2, 1, 2)
    assert [point["epoch"] for point in twin.curve] == [1, 2]
    assert (tmp_path / "study" / wrong.run_dir / "error.txt").read_text()


@pytest.mark.slow
def test_what_no_cluster_has_is_named(ray_cluster: None) -> None:
    with pytest.raises(RunError, match=r"no trial can start: each needs 64 CPUs \(.* free\)"):
        place_trials(ClusterConfig(workers=1, cpus_per_worker=64))
    with pytest.raises(RunError, match=r"1 GPUs \(0 free\)"):
        place_trials(ClusterConfig(workers=1, gpu="always"))


@pytest.mark.slow
def test_trials_that_wait_for_ever_end_the_study_with_a_word(ready: PreparedStudy, tmp_path: Path) -> None:
    """As where nodes go away between the plan and the start."""
    study = begun(tmp_path / "study", ready, PLAN)
    course = Conductor(study, ready.epochs, Asha((0.25,)), 1, Budget(), lambda study, trial, event: None)
    gone = Placement(1, {"CPU": 64.0}, {"CPU": 64.0})
    with pytest.raises(RunError, match="no trial can start: each needs 64 CPUs"):
        run_trials(course, {}, ready.tokens, gone, ClusterConfig(workers=1, start_timeout_s=2))
    assert {trial.status for trial in study.trials} == {"pending"}


@pytest.mark.slow
def test_places_follow_from_the_cluster(ray_cluster: None) -> None:
    assert place_trials(ClusterConfig(workers=1)).concurrent == 2
    assert place_trials(ClusterConfig(workers=1), max_concurrent=1).concurrent == 1
    group = place_trials(ClusterConfig(workers=2))
    assert group.concurrent == 1 and group.bundle["CPU"] == 0  # it must not use up what its own workers need


def test_arms_share_tokens_where_they_cut_alike(ready: PreparedStudy) -> None:
    assert len({token_key(config) for config in ready.configs.values()}) == len(ready.tokens) == 1
