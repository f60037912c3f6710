"""Ray Train around the loop: a group of workers under DDP, started again from the newest checkpoint where one fails."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polarity.artifacts import CHECKPOINTS, RunFolder
from polarity.config import ClusterConfig
from polarity.errors import RunError, Say
from polarity.train.cluster import describe_resources
from polarity.train.control import on_sigterm, seconds
from polarity.train.importing import importing
from polarity.train.job import Job, Listener, checkpoint_names
from polarity.train.stop import StopDesk, torch_config

RESIZE_S = 30.0
"""Seconds between two looks whether the group can grow, unless POLARITY_RESIZE_S says otherwise: each growth repeats what was done since
the last checkpoint."""


def scaling(cluster: ClusterConfig) -> ScalingConfig:
    """What the worker group asks for; `gpu: auto` takes GPUs where there is one for every worker."""
    gpus = ray.cluster_resources().get("GPU", 0)
    use_gpu = cluster.gpu == "always" or (cluster.gpu == "auto" and gpus >= cluster.workers)
    number: Any = cluster.workers if cluster.max_workers is None else (cluster.workers, cluster.max_workers)
    return ScalingConfig(  # type: ignore[call-arg]  # Ray's types are those of its older trainers
        num_workers=number,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cluster.cpus_per_worker},
        elastic_resize_monitor_interval_s=float(os.environ.get("POLARITY_RESIZE_S", RESIZE_S)),
    )


def wait_for_resources(cluster: ClusterConfig, need: ScalingConfig) -> None:
    """Wait until the group fits, for `cluster.start_timeout_s` at most, then say what is lacking: Ray itself would wait for ever.

    A local cluster cannot grow, so there the answer is immediate.
    """
    want = {"CPU": cluster.workers * cluster.cpus_per_worker, "GPU": float(cluster.workers if need.use_gpu else 0)}
    patience = cluster.start_timeout_s if os.environ.get("RAY_ADDRESS") else 5.0
    more = ", or raise cluster.start_timeout_s if nodes are still coming" if os.environ.get("RAY_ADDRESS") else ""
    deadline = time.monotonic() + patience
    while True:
        have = ray.available_resources()
        lacking = [f"{amount:g} {name}s ({have.get(name, 0):g} free)" for name, amount in want.items() if have.get(name, 0) < amount]
        if not lacking:
            return
        if time.monotonic() > deadline:
            raise RunError(
                f"{cluster.workers} worker(s) need {' and '.join(lacking)}; the cluster has {describe_resources()}. Lower "
                f"cluster.workers (--workers) or cluster.cpus_per_worker{more}"
            )
        time.sleep(0.5)


def fit(job: Job, say: Say, *, resume: bool, listener: Listener | None = None, tags: Mapping[str, str] | None = None) -> None:
    """Train on the cluster's workers; the first one writes the results into the run folder.

    `listener` is called with each epoch's metrics on every worker, after Ray has them; what it raises, a PolarityError, ends training.
    `tags` are those of the run's metrics (`ray_metrics.RUN_TAGS`), by default its folder's name and its seed.
    Raises `RunError` for what stopped training, with the worker's own words.
    """
    cluster = job.config.cluster
    if listener is not None:  # a study counts on the workers that it has reserved
        cluster = cluster.model_copy(update={"max_workers": None})
    need = scaling(cluster)
    wait_for_resources(cluster, need)
    folder = RunFolder.open(job.run_dir)
    if not resume and checkpoint_names(folder):
        raise RunError(f"{folder.uri}: holds checkpoints of a run; continue it with --resume or choose another --run-dir")
    storage = folder.uri if folder.local is None else str(folder.local)
    place, name = _train_run(storage)
    more = "" if cluster.max_workers is None else f" to {cluster.max_workers}"
    say(f"starting {cluster.workers}{more} worker(s), {cluster.cpus_per_worker:g} CPU{' and a GPU' if need.use_gpu else ''} each")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # other nodes may go
    desk = StopDesk.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        _train_on_worker,  # type: ignore[arg-type]
        train_loop_config={
            "parts": {name: ray.put(part) for name, part in job.parts.items()},
            "job": replace(job, parts={}, run_dir=storage),
            "listener": listener,
            "tags": tags,
            "desk": desk,
        },
        torch_config=torch_config(seconds(cluster.stall_minutes)),
        scaling_config=need,
        run_config=RunConfig(
            name=name,
            storage_path=place,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # Ray's own log files keep everything
        ),
    )
    late = RunError(f"SIGTERM: no step ended in time for a last checkpoint; continue with --resume from the one before ({folder.uri})")
    try:
        with on_sigterm(lambda: desk.stop.remote("SIGTERM"), cluster.grace_s, lambda: late):
            result: Any = trainer.fit()  # its return_value is missing from the public type
    except ray.train.TrainingFailedError as error:
        raise RunError(_why(error)) from error
    if isinstance(result.return_value, tuple):
        from polarity.train.ray_metrics import publish  # slow to import, and not needed before

        publish(*result.return_value)
    elif result.return_value is not None:
        raise RunError(str(result.return_value))


def _train_run(storage: str) -> tuple[str, str]:
    """Ray Train keeps its record in RUN/checkpoints: as (storage path, name), the name with the run's, by which Ray's metrics call it."""
    path, mark, query = storage.partition("?") if "://" in storage else (storage, "", "")
    parent, _, run = path.rstrip("/").rpartition("/")
    if not parent or parent.endswith((":/", "://")):  # the root of a disk or a bucket
        return storage, CHECKPOINTS
    return parent + mark + query, f"{run}/{CHECKPOINTS}"


def _why(error: ray.train.TrainingFailedError) -> str:
    """The first worker's own error; Ray's wraps it in pages."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    rank, cause = next(iter(sorted(failures.items())), (None, error))
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    what = lines[-1] if lines else repr(cause)
    return (
        f"training failed{'' if rank is None else f' on worker {rank}'}: {what}. The run folder's checkpoints stand: continue with --resume"
    )


def _train_on_worker(given: dict[str, Any]) -> object:
    """What Ray Train runs on every worker; see `ray_worker`."""
    with importing():
        from polarity.train.ray_worker import train_on_worker

    return train_on_worker(given)
