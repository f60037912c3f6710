"""The fields of the cluster section that are about faults: what each changes, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from polarity.config import ClusterConfig, Config
from polarity.train import driver
from polarity.train.checkpoints import fingerprint
from polarity.train.cluster import start_ray
from tests.train.runs import configured, tables


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})


def test_an_elastic_group_asks_for_a_range_and_waits_for_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ClusterConfig(workers=2, max_workers=4)
    need = driver.scaling(cluster)
    assert need.num_workers == (2, 4) and need.use_gpu
    monkeypatch.setattr(driver.ray, "available_resources", lambda: {"CPU": 2.0, "GPU": 2.0})
    driver.wait_for_resources(cluster, need)
    assert driver.scaling(ClusterConfig(workers=2)).num_workers == 2
    monkeypatch.setenv("POLARITY_RESIZE_S", "7")
    assert driver.scaling(cluster).elastic_resize_monitor_interval_s == 7.0


@pytest.mark.parametrize("wrong", [{"workers": 3, "max_workers": 2}, {"workers": 0, "max_workers": 2}])
def test_a_range_must_be_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"cluster\.max_workers"):
        ClusterConfig(**wrong)


def test_every_worker_of_the_largest_group_needs_a_micro_batch() -> None:
    train = {"global_batch_size": 12, "micro_batch_size": 4}
    Config.model_validate({"train": train, "cluster": {"workers": 2, "max_workers": 3}})
    with pytest.raises(ValidationError, match=r"cluster\.max_workers \(4\) is more than the micro-batches"):
        Config.model_validate({"train": train, "cluster": {"workers": 2, "max_workers": 4}})


@pytest.mark.parametrize("minutes", [0.5, None])
def test_the_stall_limit_reaches_ray_and_torch(minutes: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.ray, "is_initialized", lambda: True)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "1")
    start_ray(ClusterConfig(stall_minutes=minutes), lambda _: None)
    assert float(os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"]) == (30.0 if minutes else float("inf"))
    assert driver.torch_config(30.0).timeout_s == 120 and driver.torch_config(None).timeout_s == 1800


def test_none_of_them_decides_a_number(tmp_path: Path) -> None:
    """A run may be resumed with others."""
    plain = configured()
    changed = configured(cluster={"max_workers": 2, "stall_minutes": 1.0, "checkpoint_minutes": 1.0, "grace_s": 5.0})
    corpora = (tables(plain).train, tables(plain).validation)
    assert fingerprint(plain, corpora, "") == fingerprint(changed, corpora, "")
