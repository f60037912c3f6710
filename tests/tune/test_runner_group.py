"""Trials of several workers: Ray Tune over Ray Train, where a stop must end the whole group."""

import time
from pathlib import Path

import pytest
import ray

from polarity.tune.conductor import Budget
from polarity.tune.plan import StudyPlan
from polarity.tune.runner import Limits, run_study
from tests.tune.studies import ARMS, begun, make_inputs, prepared


@pytest.mark.slow
def test_a_stopped_group_ends_and_gives_its_cpus_back(tmp_path: Path, ray_cluster: None) -> None:
    inputs, arms = make_inputs(tmp_path, workers=2), ARMS[:2]
    ready = prepared(inputs, arms)
    study = begun(tmp_path / "study", ready, StudyPlan(seeds=1), arms)
    closed = run_study(study, ready, Limits(budget=Budget(epochs=8)), lambda line: None)
    first, second = study.of("explore")
    assert (first.status, first.epochs) == ("finished", 4), first.error
    assert (second.status, second.epochs, second.rung) == ("stopped", 1, 0.25), second.error
    assert closed is not None  # four epochs of the first and one of the second leave too few of eight for another
    assert (tmp_path / "study" / first.run_dir / "metrics.json").is_file()
    for trial in (first, second):
        assert not (tmp_path / "study" / trial.run_dir / "checkpoints").exists()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == 2.0
