"""`jobs/train.py` under `ray job submit` against a real local cluster with token authentication, results by URI."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from polarity.artifacts import CONFIG, METRICS, PREDICTIONS, RunFolder
from polarity.model.multitask import load_model
from polarity.resolve import parse_config
from tests.tiny import tiny_encoder

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a client of a cluster of two CPUs; its processes are ended by their own ids."""
    home = Path(tempfile.mkdtemp(prefix="pol-", dir="/tmp" if Path("/tmp").is_dir() else None))  # short: sockets lie below it
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    paths = os.pathsep.join([str(RAY.parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token", "PATH": paths}
    port, dashboard, agent = free_port(), free_port(), free_port()
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        "--include-dashboard=true",
        "--disable-usage-stats",
        f"--temp-dir={home}/r",
    ]
    with (home / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for each in (dashboard, agent):
            wait_for(each, head, home / "head.log")
        yield {**environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.terminate()
        try:
            head.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def wait_for(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and head.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise RuntimeError(f"the cluster did not start: {log.read_text()[-2000:]}")


def submit(environment: dict[str, str], *options: str, job: str = "train") -> tuple[int, str]:
    """Exit status and log of a job; the agent that runs jobs announces itself a moment after it listens."""
    command = [str(RAY), "job", "submit", "--working-dir", str(ROOT), "--", "python", f"jobs/{job}.py", "--preset", "quickstart", *options]
    for _ in range(10):
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        if "No available agent" not in done.stderr:
            break
        time.sleep(1)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def jobs(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """{name: (exit status, log, run URI)} of a job that trains and one that cannot, submitted side by side to save time."""
    folder = tmp_path_factory.mktemp("jobs")
    encoder, bad = tiny_encoder(folder / "encoder", "bert"), folder / "renamed.csv"
    bad.write_text("row_id,Title,Coment,Final Sentiment,Final Polarization\na,t,ayos,positive,partisan\n")
    common = ["--encoder", str(encoder), "--max-steps", "4", "--set", "train.resamples=100", "--set", "cluster.cpus_per_worker=0.5"]
    uris = {name: f"file://{folder / name}" for name in ("good", "bad")}
    sources = {"good": "sample:300", "bad": str(bad)}
    with ThreadPoolExecutor() as pool:
        options = {n: (*common, "--run-dir", uris[n], "--set", f"data.source={sources[n]}") for n in uris}
        started = {name: pool.submit(submit, cluster, *options[name]) for name in uris}
        return {name: (*job.result(), uris[name]) for name, job in started.items()}


def test_a_submitted_job_leaves_a_whole_run_at_its_uri(jobs: dict[str, tuple[int, str, str]]) -> None:
    status, log, uri = jobs["good"]
    assert status == 0, log[-4000:]
    folder = RunFolder.open(uri)
    metrics = folder.read_json(METRICS)
    assert metrics["data"] == "SYNTHETIC sample corpus" and {"validation", "test"} <= set(metrics)
    config = parse_config(folder.read_text(CONFIG), uri)
    assert (config.data.source, config.train.max_steps, config.cluster.workers) == ("sample:300", 4, 2)
    predictions = folder.read_parquet(PREDICTIONS)
    assert predictions.num_rows == 90 and len(set(predictions["row_id"].to_pylist())) == 90
    local = Path(uri.removeprefix("file://"))
    steps = [row for row in pq.read_table(local / "history.parquet").to_pylist() if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert load_model(local / "model").config.task_labels == config.labels
    assert f"run folder: {uri}" in log and "macro-F1" in log


def test_a_job_that_cannot_run_fails_with_our_message(jobs: dict[str, tuple[int, str, str]]) -> None:
    status, log, uri = jobs["bad"]
    assert status != 0
    assert "error: " in log and "no column 'Comment'" in log and "did you mean 'Coment'" in log
    assert not Path(uri.removeprefix("file://")).exists()


def test_a_submitted_study_is_whole(cluster: dict[str, str], tmp_path: Path) -> None:
    encoder, arms, study = tiny_encoder(tmp_path, "bert", hidden=16, layers=2), tmp_path / "arms.yaml", tmp_path / "study"
    arms.write_text("- {name: baseline}\n- {name: weights, points: [1], reference: baseline}\n")
    options = ["--encoder", str(encoder), "--data", "sample:300", "--epochs", "1", "--design", "custom", "--arms", str(arms)]
    status, log = submit(cluster, *options, "--seeds", "2", "--no-asha", "--study-dir", str(study), job="ablate")
    assert status == 0, log
    trials = json.loads((study / "study.json").read_text())["trials"]
    assert {(trial["arm"], trial["status"]) for trial in trials} == {("baseline", "finished"), ("weights", "finished")}
    assert len(trials) == 4
    assert "weights" in pq.read_table(study / "effects.parquet")["arm"].to_pylist()
    assert (study / "report.html").is_file()
