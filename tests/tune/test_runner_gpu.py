"""Places on a cluster that says it has a GPU: a whole one a trial, a part of one, or none, and what cannot be is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json
import ray
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
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
print(json.dumps({
    "auto": placed({}, workers=1),
    "half": placed(half, workers=1),
    "quarter, at most two": placed({"gpus_per_trial": 0.25, "max_concurrent": 2}, workers=1),
    "never": placed({}, workers=1, gpu="never"),
    "never, half": placed(half, workers=1, gpu="never"),
    "two workers": placed({}, **two),
    "two workers, always": placed({}, gpu="always", **two),
    "two workers, half": placed(half, **two),
    "more than one": placed({"gpus_per_trial": 1.5}, workers=1),
}))
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_gpus_are_shared_out() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["auto"] == [1, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, "1 trial at a time, 1 CPU and 1 GPU each"]
    assert found["half"][:2] == [2, {"CPU": 1, "GPU": 0.5}]  # two trials share the one GPU
    assert found["quarter, at most two"][:2] == [2, {"CPU": 1, "GPU": 0.25}]
    assert found["never"][:2] == [4, {"CPU": 1}]
    assert "trials use no GPU here" in found["never, half"]
    assert found["two workers"][0] == 2 and found["two workers"][2] == {"CPU": 2}  # one GPU is none for two workers
    assert "no trial can start: each needs 2 CPUs (4 free) and 2 GPUs (1 free)" in found["two workers, always"]
    assert "a trial of one worker" in found["two workers, half"] and "at most 1" in found["more than one"]
