"""Ray Train around the loop: a group of workers under DDP, checkpoints on the run's storage, restarts from the newest one."""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from polarity.artifacts import CHECKPOINTS, RunFolder
from polarity.config import ClusterConfig
from polarity.errors import PolarityError, RunError
from polarity.train.loop import Say
from polarity.train.worker import Job, newest_checkpoint, use_threads, work
from polarity.train.world import World

POLL_S = "0.2"
"""How often Ray Train's controller looks at its workers, in seconds; `report` waits for one look, two seconds by default."""

Listener = Callable[[dict[str, float]], None]


def start_ray(cluster: ClusterConfig, say: Say) -> None:
    """Join the cluster that RAY_ADDRESS names (as in a submitted job), or start one on this machine."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every worker's line twice
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and timings are in Ray's log files
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that we draw our own
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # no escape codes in a file
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # "local": without it Ray would join, or wait for, whatever cluster was last started on this machine.
    context = ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING)
    url = context.dashboard_url
    where = f"cluster {address}" if address else "Ray on this machine"
    say(f"{where}: {describe_resources()}{f'; dashboard http://{url}' if url else ''}")


def describe_resources() -> str:
    """The cluster's CPUs and GPUs in words."""
    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs on {len([n for n in ray.nodes() if n['Alive']])} node(s)"


def scaling(cluster: ClusterConfig) -> ScalingConfig:
    """What the worker group asks for; `gpu: auto` takes GPUs where there is one for every worker."""
    gpus = ray.cluster_resources().get("GPU", 0)
    use_gpu = cluster.gpu == "always" or (cluster.gpu == "auto" and gpus >= cluster.workers)
    return ScalingConfig(num_workers=cluster.workers, use_gpu=use_gpu, resources_per_worker={"CPU": cluster.cpus_per_worker})


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


def fit(job: Job, say: Say, *, resume: bool, listener: Listener | None = None) -> None:
    """Train on the cluster's workers; the first one writes the results into the run folder.

    `listener` is called with each epoch's metrics on every worker, after Ray has them; what it raises, a PolarityError, ends training.
    Raises `RunError` for what stopped training, with the worker's own words.
    """
    cluster = job.config.cluster
    need = scaling(cluster)
    wait_for_resources(cluster, need)
    folder = RunFolder.open(job.run_dir)
    storage = folder.uri if folder.local is None else str(folder.local)
    say(f"starting {cluster.workers} worker(s), {cluster.cpus_per_worker:g} CPU{' and a GPU' if need.use_gpu else ''} each")
    trainer = TorchTrainer(
        _train_on_worker,  # type: ignore[arg-type]
        train_loop_config={
            "parts": {name: ray.put(table) for name, table in job.parts.items()},
            "job": replace(job, parts={}, run_dir=storage),
            "resume": resume,
            "listener": listener,
        },
        scaling_config=need,
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # Ray's own log files keep everything
        ),
    )
    try:
        result: Any = trainer.fit()  # its return_value is missing from the public type
    except ray.train.TrainingFailedError as error:
        raise RunError(_why(error)) from error
    if result.return_value is not None:
        raise RunError(str(result.return_value))


def _why(error: ray.train.TrainingFailedError) -> str:
    """The first worker's own error; Ray's wraps it in pages."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    rank, cause = next(iter(sorted(failures.items())), (None, error))
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    what = lines[-1] if lines else repr(cause)
    return (
        f"training failed{'' if rank is None else f' on worker {rank}'}: {what}. The run folder's checkpoints stand: continue with --resume"
    )


def _train_on_worker(given: dict[str, Any]) -> str | None:
    """The function that Ray Train runs on every worker; returns a refusal that no restart can mend, else None."""
    job: Job = replace(given["job"], parts={name: ray.get(ref) for name, ref in given["parts"].items()})
    use_threads(job.config.cluster.cpus_per_worker)
    with tempfile.TemporaryDirectory(prefix="polarity-resume-") as temporary:
        try:
            resume = _newest(job, given["resume"], Path(temporary))
            work(job, _Report(given["listener"]), world=World.current(get_device()), say=_say, resume=resume)
        except PolarityError as error:
            return str(error)
    return None


def _newest(job: Job, resume: bool, target: Path) -> Path | None:
    """Ray's newest registered checkpoint (after a restart of the workers), else, when resuming, the run folder's."""
    registered = ray.train.get_checkpoint()
    if registered is not None:
        return Path(registered.to_directory(str(target / "registered")))
    return newest_checkpoint(RunFolder.open(job.run_dir), target) if resume else None


@dataclass(frozen=True)
class _Report:
    """The loop's report: metrics and checkpoint go to Ray, then the metrics to the listener."""

    listener: Listener | None

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, name: str) -> None:
        held = None if checkpoint is None else Checkpoint.from_directory(str(checkpoint))
        ray.train.report(metrics, checkpoint=held, checkpoint_dir_name=name)
        if self.listener is not None:
            self.listener(metrics)


def _say(line: str) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        print(line, flush=True)
