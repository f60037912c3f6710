"""Two nodes of one CPU each: two workers must lie on both, and the run is that of one worker."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from polarity.artifacts import HISTORY, METRICS, PREDICTIONS
from polarity.evaluate.predictions import probability_column
from tests.cluster.nodes import RAY, Cluster, run, started_cluster
from tests.tiny import DEFAULT_TASKS, tiny_csv, tiny_encoder

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started_cluster(1, 1) as found:
        yield found


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `two` (a worker on each node of the cluster) and, meanwhile, `one` (in a process without Ray)."""
    folder = tmp_path_factory.mktemp("nodes")
    encoder, rows = tiny_encoder(folder / "encoder", "bert", hidden=16), tiny_csv(folder / "rows.csv", 300)
    common = ["--preset", "small", "--data", str(rows), "--encoder", str(encoder), "--epochs", "1", "--points", "2,6,7"]
    for setting in ("train.precision=fp32", "train.resamples=100", "train.log_every=1", "optim.lr=1e-3", "cluster.cpus_per_worker=1"):
        common += ["--set", setting]
    runs = {name: [*common, "--workers", workers, "--run-dir", str(folder / name)] for name, workers in (("two", "2"), ("one", "0"))}
    with ThreadPoolExecutor() as pool:
        for status, log in pool.map(lambda command: run(cluster.driver(), "polarity", "train", *command), runs.values()):
            assert status == 0, log[-5000:]
    return folder


def test_two_nodes_train_the_run_of_one_worker(runs: Path) -> None:
    one, two = (pq.read_table(runs / name / PREDICTIONS) for name in ("one", "two"))
    assert one["row_id"].equals(two["row_id"]) and one["split"].equals(two["split"])
    for task, names in DEFAULT_TASKS.items():
        assert one[f"{task}_prediction"].equals(two[f"{task}_prediction"])
        for label in names:
            column = probability_column(task, label)
            np.testing.assert_allclose(two[column].to_numpy(), one[column].to_numpy(), atol=1e-4)
    losses = [[row["loss"] for row in pq.read_table(runs / name / HISTORY).to_pylist() if row["kind"] == "step"] for name in ("one", "two")]
    assert len(losses[0]) > 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    scores = [json.loads((runs / name / METRICS).read_text())["test"]["overall"]["macro_f1"] for name in ("one", "two")]
    assert scores[0] == scores[1]


def test_the_workers_lay_on_both_nodes(cluster: Cluster, runs: Path) -> None:
    """As Ray's own record of its actors says."""
    listing = [str(RAY), "list", "actors", "--address", cluster.jobs, "--format", "json", "--limit", "500"]
    status, output = run(cluster.client(), *listing)
    found = re.search(r"^\[\s*\{.*\]", output, re.MULTILINE | re.DOTALL)
    assert status == 0 and found, output
    actors = json.loads(found[0])
    workers = [actor for actor in actors if "TrainWorker" in actor["class_name"]]
    by_job: dict[str, list[str]] = {}
    for actor in workers:
        by_job.setdefault(actor["job_id"], []).append(actor["node_id"])
    counts = sorted((len(nodes), len(set(nodes))) for nodes in by_job.values())
    assert counts == [(2, 2)], actors


def test_a_folder_that_a_node_does_not_see_is_named_before_the_data_is_read(cluster: Cluster, runs: Path) -> None:
    """Other processes of this machine stand elsewhere, so a path by way of the own working directory leads nowhere on the other node."""
    here, unseen = "/proc/self/cwd", r"the node \S+ of the cluster does not see it"
    for encoder, place, named in ((here, "r", f"model.encoder: {here}/encoder"), (str(runs), here, f"the run folder: {here}/r")):
        options = ["--encoder", f"{encoder}/encoder", "--data", f"{here}/rows.csv", "--run-dir", f"{place}/r"]
        status, log = run(cluster.driver(), "polarity", "train", "--preset", "small", *options, cwd=runs)
        assert status == 2 and re.search(f"{named}: {unseen}", log), log
    assert not (runs / "r").exists()


def test_the_doctor_asks_every_node(cluster: Cluster, runs: Path) -> None:
    options = ["--preset", "small", "--encoder", str(runs / "encoder"), "--run-dir", str(runs / "later"), "--workers", "2"]
    status, log = run(cluster.driver(), "polarity", "doctor", *options)
    assert status == 0 and "the same on 2 node(s)" in log, log
    assert "may be another disk on each" in log and "0 problem(s)" in log
