"""The jobs under `ray job submit` and `polarity submit` against a real local cluster with token authentication, results by URI."""

import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from polarity.artifacts import CONFIG, METRICS, PREDICTIONS, RunFolder
from polarity.model.multitask import load_model
from polarity.resolve import parse_config
from tests.cluster.nodes import RAY, ROOT, Cluster, free_port, run, started_cluster
from tests.tiny import tiny_csv, tiny_encoder

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SECRET = f"hf_{secrets.token_hex(16)}"
Job = tuple[int, str]
"""Exit status and log."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started_cluster(2) as found:  # one node: two of one machine would delete each other's copies of the code
        deadline = time.monotonic() + 30  # the agent that runs jobs announces itself a moment after it listens
        while "No available agent" in ray_submit(found, "true")[1] and time.monotonic() < deadline:
            time.sleep(1)
        yield found


def ray_submit(cluster: Cluster, *command: str) -> Job:
    """A job by Ray's own command, with this project's folder where the command is one of its scripts."""
    folder = ["--working-dir", str(ROOT)] if command[0] == "python" else []
    return run(cluster.client(), str(RAY), "job", "submit", *folder, "--", *command)


def polarity_submit(cluster: Cluster, *arguments: str, **changes: str) -> Job:
    """A job by our own command; its variable is a secret."""
    return run(cluster.client(**{"HF_TOKEN": SECRET, **changes}), "polarity", "submit", "--env", "HF_TOKEN", *arguments)


def side_by_side(**jobs: Callable[[], Job]) -> dict[str, Job]:
    """To save time: the most of a job is the start of Python."""
    with ThreadPoolExecutor() as pool:
        started = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: job.result() for name, job in started.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the jobs' encoder, data and results lie."""
    made = tmp_path_factory.mktemp("jobs")
    tiny_encoder(made / "encoder", "bert")
    return made


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, folder: Path) -> dict[str, Job]:
    """One job that trains and one that cannot: the first by `polarity submit`, the other by Ray's command."""
    bad = folder / "renamed.csv"
    bad.write_text("row_id,Title,Coment,Final Sentiment,Final Polarization\na,t,ayos,positive,partisan\n")
    common = ["--preset", "quickstart", "--encoder", str(folder / "encoder"), "--max-steps", "4"]
    common += ["--set", "train.resamples=100", "--set", "cluster.cpus_per_worker=0.5"]
    good = [*common, "--run-dir", f"file://{folder}/good", "--set", "data.source=sample:300"]
    wrong = [*common, "--run-dir", f"file://{folder}/bad", "--set", f"data.source={bad}"]
    return side_by_side(
        good=lambda: polarity_submit(cluster, "train", *good),
        bad=lambda: ray_submit(cluster, "python", "jobs/train.py", *wrong),
    )


def test_a_submitted_job_leaves_a_whole_run_at_its_uri(jobs: dict[str, Job], folder: Path) -> None:
    status, log = jobs["good"]
    uri = f"file://{folder}/good"
    assert status == 0, log[-4000:]
    run_folder = RunFolder.open(uri)
    metrics = run_folder.read_json(METRICS)
    assert metrics["data"] == "SYNTHETIC sample corpus" and {"validation", "test"} <= set(metrics)
    config = parse_config(run_folder.read_text(CONFIG), uri)
    assert (config.data.source, config.train.max_steps, config.cluster.workers) == ("sample:300", 4, 2)
    predictions = run_folder.read_parquet(PREDICTIONS)
    assert predictions.num_rows == 90 and len(set(predictions["row_id"].to_pylist())) == 90
    steps = [row for row in pq.read_table(folder / "good" / "history.parquet").to_pylist() if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert load_model(folder / "good" / "model").config.task_labels == config.labels
    assert f"run folder: {uri}" in log and "macro-F1" in log
    assert re.search(r"MB in \d+ files would be sent", log) and log.rstrip().endswith(": SUCCEEDED")


def test_a_job_that_cannot_run_fails_with_our_message(jobs: dict[str, Job], folder: Path) -> None:
    status, log = jobs["bad"]
    assert status != 0
    assert "error: " in log and "no column 'Comment'" in log and "did you mean 'Coment'" in log
    assert not (folder / "bad").exists()


def test_a_variable_of_the_job_is_printed_and_kept_nowhere(jobs: dict[str, Job], folder: Path) -> None:
    assert SECRET not in jobs["good"][1]
    files = [path for path in (folder / "good").rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_run_is_judged_predicted_with_and_measured_by_jobs(cluster: Cluster, jobs: dict[str, Job], folder: Path) -> None:
    """`evaluate` into a URI, `predict` with one actor of Ray, `benchmark` by its cheapest part."""
    assert jobs["good"][0] == 0, jobs["good"][1][-4000:]
    good, rows = f"file://{folder}/good", tiny_csv(folder / "new.csv", 120, seed=3)
    judged, predicted, speed = folder / "judged", folder / "predicted.csv", folder / "speed.json"
    evaluating = ["python", "jobs/evaluate.py", good, "--data", str(rows), "--out", f"file://{judged}"]
    predicting = ["python", "jobs/predict.py", good, "--data", str(rows), "--out", str(predicted), "--workers", "1"]
    measuring = ["python", "jobs/benchmark.py", "--parts", "limit", "--encoder", str(folder / "encoder"), "--rows", "64"]
    done = side_by_side(
        evaluate=lambda: ray_submit(cluster, *evaluating),
        predict=lambda: ray_submit(cluster, *predicting),
        benchmark=lambda: ray_submit(cluster, *measuring, "--repeats", "1", "--threads", "1", "--out", str(speed)),
    )
    for name, (status, log) in done.items():
        assert status == 0, f"{name}: {log[-4000:]}"
    metrics = RunFolder.open(f"file://{judged}").read_json(METRICS)
    assert metrics["evaluation"]["run"] and metrics["test"]["rows"] == 120
    assert pq.read_table(judged / PREDICTIONS).num_rows == 120
    table, given = pa_csv.read_csv(predicted), pa_csv.read_csv(rows)
    assert table["row_id"].to_pylist() == given["row_id"].to_pylist()
    assert set(table["sentiment"].to_pylist()) <= {"negative", "neutral", "positive"}
    assert "about" in json.loads(speed.read_text())


def test_a_submitted_study_is_whole(cluster: Cluster, folder: Path) -> None:
    encoder, arms, study = tiny_encoder(folder / "small", "bert", hidden=16, layers=2), folder / "arms.yaml", folder / "study"
    arms.write_text("- {name: baseline}\n- {name: weights, points: [1], reference: baseline}\n")
    options = ["--encoder", str(encoder), "--data", "sample:300", "--epochs", "1", "--design", "custom", "--arms", str(arms)]
    options += ["--seeds", "1", "--no-asha", "--study-dir", str(study)]
    status, log = ray_submit(cluster, "python", "jobs/ablate.py", "--preset", "quickstart", *options)
    assert status == 0, log
    trials = json.loads((study / "study.json").read_text())["trials"]
    assert {(trial["arm"], trial["status"]) for trial in trials} == {("baseline", "finished"), ("weights", "finished")}
    assert len(trials) == 2
    assert "weights" in pq.read_table(study / "effects.parquet")["arm"].to_pylist()
    assert (study / "report.html").is_file()


def test_who_cannot_submit_is_told_why_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    """Without a token, with a wrong one, at an address where nobody is, and by Ray's rule that RAY_ADDRESS would win over --address."""
    nobody = f"http://127.0.0.1:{free_port()}"
    stranger = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    done = side_by_side(
        missing=lambda: polarity_submit(cluster, "train", **stranger),
        wrong=lambda: polarity_submit(cluster, "train", HOME=str(tmp_path), RAY_AUTH_TOKEN=secrets.token_hex(32)),
        nobody=lambda: polarity_submit(cluster, "--address", nobody, "train"),
        failing=lambda: polarity_submit(cluster, "train", "--preset", "no_such_preset", RAY_AUTH_MODE=""),
    )
    for name, (words, remedy) in {
        "missing": ("Missing authentication token", "RAY_AUTH_TOKEN"),
        "wrong": ("Invalid authentication token", "~/.ray/auth_token"),
        "nobody": (f"{nobody}: no job server answers there", "is the cluster up"),
    }.items():
        status, log = done[name]
        errors = [line for line in log.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(errors) == 1, log
        assert words in errors[0] and remedy in errors[0] and "Traceback" not in log
    status, log = done["failing"]
    assert status == 2, "the job's own exit status"
    assert "no_such_preset" in log and log.rstrip().endswith(": FAILED")


@contextmanager
def terminal(cluster: Cluster, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`polarity submit` at a terminal of its own: the process, and what reads and writes there."""
    ours, its = os.openpty()
    command = [sys.executable, "-m", "polarity", "submit", *arguments]
    process = subprocess.Popen(command, env=cluster.client(), cwd=ROOT, stdin=its, stdout=its, stderr=its)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, words: str, seconds: float = 180) -> str:
    """What the terminal shows, up to `words`."""
    shown, deadline = "", time.monotonic() + seconds
    while words not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {words!r} within {seconds} s: {shown[-3000:]}"
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # Linux's way to say that the other side has closed
            break
    assert words in shown, shown[-3000:]
    return shown


def test_ctrl_c_asks_and_stops_the_job_only_when_told_to(cluster: Cluster, folder: Path) -> None:
    """Two jobs side by side, at a terminal each: one is stopped, and one is left."""
    options = ["--preset", "quickstart", "--encoder", str(folder / "encoder"), "--epochs", "500", "--workers", "0"]
    options += ["--set", "data.source=sample:300", "--set", "train.early_stopping_patience=null"]
    with ExitStack() as running:
        both = {
            answer: running.enter_context(terminal(cluster, "train", *options, "--run-dir", str(folder / f"long-{answer}")))
            for answer in ("y", "n")
        }
        for answer, (process, screen) in both.items():
            read_until(screen, "epoch 1")  # it follows the log
            process.send_signal(signal.SIGINT)
            identity = re.findall(r"stop (raysubmit_\w+)\?", read_until(screen, "[y/N]"))[-1]
            os.write(screen, f"{answer}\n".encode())
            last = read_until(screen, {"y": ": STOPPED", "n": ": RUNNING"}[answer])
            code = process.wait(30)
            status = run(cluster.client(), str(RAY), "job", "status", identity)[1]
            if answer == "y":
                assert code == 1 and "was stopped" in status
            else:
                assert code == 130 and "RUNNING" in status and f"ray job logs --follow {identity}" in last
                assert run(cluster.client(), str(RAY), "job", "stop", identity)[0] == 0


def test_the_doctor_sees_this_cluster(cluster: Cluster, folder: Path) -> None:
    """On a node of it, where all is well and where little is; as a job; and by the address of the job server, which nobody can join."""
    (folder / "file").write_text("no folder")
    sound = ["--preset", "small", "--encoder", str(folder / "encoder"), "--run-dir", str(folder / "runs"), "--workers", "2"]
    broken = ["--preset", "small", "--encoder", "/no/such/encoder", "--run-dir", str(folder / "file" / "runs")]
    broken += ["--set", f"data.source={folder}/none.csv"]
    done = side_by_side(
        sound=lambda: run(cluster.driver(), "polarity", "doctor", *sound, "--working-dir", str(ROOT)),
        broken=lambda: run(cluster.driver(), "polarity", "doctor", *broken),
        job=lambda: polarity_submit(cluster, "doctor", *sound),
        address=lambda: run(cluster.client(), "polarity", "doctor", *sound),
    )
    for name in ("sound", "job"):
        assert done[name][0] == 0 and "0 problem(s)" in done[name][1], done[name][1][-3000:]
    for subject in ("versions", "resources", "storage", "encoder", "dashboard", "authentication", "payload"):
        assert re.search(rf"^ok +{subject}: ", done["sound"][1], re.MULTILINE), done["sound"][1][-3000:]
    status, log = done["broken"]
    assert status == 1, log
    for subject, remedy in {"storage": "--run-dir", "encoder": "--encoder", "data": "same path on every node"}.items():
        assert re.search(rf"^problem +{subject}: .*\n +-> .*{remedy}", log, re.MULTILINE), log
    assert done["address"][0] == 1 and "polarity submit --address" in done["address"][1]
