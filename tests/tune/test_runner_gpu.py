"""Places on a cluster that says it has a GPU: for trials a whole one, a part of one, or none; for workers as the section `cluster` says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json
import ray
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
from polarity.config import ClusterConfig
from polarity.errors import PolarityError
from polarity.tune.ray_tune import place_trials
def placed(options, **cluster):
    try:
        found = place_trials(ClusterConfig(**cluster), **options)
    except PolarityError as error:
        return str(error)
    return found.concurrent, found.bundle, found.need, str(found)
half, two = {"gpus_per_trial": 0.5}, {"workers": 2}
trials = {
    "auto": placed({}, workers=1),
    "half": placed(half, workers=1),
    "quarter, at most two": placed({"gpus_per_trial": 0.25, "max_concurrent": 2}, workers=1),
    "never": placed({}, workers=1, gpu="never"),
    "never, half": placed(half, workers=1, gpu="never"),
    "two workers": placed({}, **two),
    "two workers, always": placed({}, gpu="always", **two),
    "two workers, half": placed(half, **two),
    "more than one": placed({"gpus_per_trial": 1.5}, workers=1),
}
import os, pathlib, time
from polarity.config import Config
from polarity.errors import RunError
from polarity.train import driver
from polarity.encoders import EncoderFiles
from polarity.train.control import Job
def asked(**changed):
    need = driver.scaling(ClusterConfig(**changed))
    return need.num_workers, need.use_gpu, need.resources_per_worker
found = {"gpu": [asked(gpu=g) for g in ("auto", "always", "never")]}
found["gpu of two"] = [asked(gpu=g, workers=2) for g in ("auto", "always", "never")]
found["workers"] = [asked(workers=n, gpu="never") for n in (1, 2)]
found["cpus_per_worker"] = [asked(cpus_per_worker=n, gpu="never") for n in (0.5, 1.0)]
def waited(**changed):
    cluster = ClusterConfig(workers=1, cpus_per_worker=3.0, gpu="never", **changed)
    started = time.monotonic()
    try:
        driver.wait_for_resources(cluster, driver.scaling(cluster))
    except RunError as error:
        return time.monotonic() - started, str(error)
os.environ["RAY_ADDRESS"] = "a cluster that may grow"
found["start_timeout_s"] = [waited(start_timeout_s=s) for s in (0.1, 1.5)]
class Stop(Exception): pass
seen = []
def fit(self):
    seen.append(self.run_config.failure_config.max_failures)
    raise Stop
driver.TorchTrainer.fit = fit
for failures in (0, 2):
    folder = os.environ["RUN_FOLDER"] + str(failures)
    os.makedirs(folder + "/model")
    try:
        encoder = EncoderFiles("e", pathlib.Path("e"), "", None)
        job = Job(Config.model_validate({"cluster": {"max_failures": failures}}), {}, {}, folder, encoder, pad_id=0)
        driver.fit(job, lambda _: None, resume=False)
    except Stop:
        pass
found["max_failures"] = seen
print(json.dumps({"trials": trials, "workers": found}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real Ray with two CPUs answers, which was told of a GPU."""
    folder = tmp_path_factory.mktemp("placed") / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RUN_FOLDER": str(folder)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.slow
@pytest.mark.cluster
def test_gpus_are_shared_out(found: dict[str, Any]) -> None:
    trials = found["trials"]
    assert trials["auto"] == [1, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, "1 trial at a time, 1 CPU and 1 GPU each"]
    assert trials["half"][:2] == [2, {"CPU": 1, "GPU": 0.5}]  # two trials share the one GPU
    assert trials["quarter, at most two"][:2] == [2, {"CPU": 1, "GPU": 0.25}]
    assert trials["never"][:2] == [2, {"CPU": 1}]
    assert "trials use no GPU here" in trials["never, half"]
    assert trials["two workers"][0] == 1 and trials["two workers"][2] == {"CPU": 2}  # one GPU is none for two workers
    assert "no trial can start: each needs 2 CPUs (2 free) and 2 GPUs (1 free)" in trials["two workers, always"]
    assert "a trial of one worker" in trials["two workers, half"] and "at most 1" in trials["more than one"]


@pytest.mark.slow
@pytest.mark.cluster
def test_placement_follows_the_cluster_section(found: dict[str, Any]) -> None:
    """What the worker group asks for, how long it is waited for, and how often it is restarted: each field of the section is flipped."""
    workers = found["workers"]
    assert [use for _, use, _ in workers["gpu"]] == [True, True, False]
    assert [use for _, use, _ in workers["gpu of two"]] == [False, True, False]
    assert [number for number, _, _ in workers["workers"]] == [1, 2]
    assert [resources["CPU"] for _, _, resources in workers["cpus_per_worker"]] == [0.5, 1.0]
    (short, message), (long, _) = workers["start_timeout_s"]
    assert short < 1.5 <= long and "3 CPUs (2 free)" in message and "--workers" in message
    assert workers["max_failures"] == [0, 2]
