"""Ray Train around the loop: a group of workers under DDP, checkpoints on the run's storage, restarts from the newest one.

Checkpoints are written by the first worker, not by Ray's `report`: so they are whole or not there on a local disk, they count as soon as
they are written (Ray registers one when its controller next looks, and a worker may be killed before), and what is damaged is passed over.
"""

import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polarity.artifacts import CHECKPOINTS, RunFolder
from polarity.config import ClusterConfig
from polarity.errors import PolarityError, RunError
from polarity.train.loop import Say
from polarity.train.ray_metrics import LastValues, publish, watched
from polarity.train.stop import StopDesk, hear, heed_sigterm, torch_config
from polarity.train.watchdog import Pulse, on_sigterm, seconds, watched_pulse
from polarity.train.worker import FolderReport, Job, checkpoint_names, newest_checkpoint, use_threads, work
from polarity.train.world import World

POLL_S = "0.2"
"""How often Ray Train's controller looks at its workers, in seconds; `report` waits for one look, two seconds by default."""

RESIZE_S = 30.0
"""Seconds between two looks whether the group can grow, unless POLARITY_RESIZE_S says otherwise: each growth repeats what was done since
the last checkpoint."""

ELASTIC_START_S = 30.0

Listener = Callable[[dict[str, float]], None]


def start_ray(cluster: ClusterConfig, say: Say) -> None:
    """Join the cluster that RAY_ADDRESS names (as in a submitted job), or start one on this machine."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    # After a node's death Ray counts on its CPUs for a while, and waits so long for a group that is too large.
    patience = cluster.start_timeout_s if cluster.max_workers is None else min(cluster.start_timeout_s, ELASTIC_START_S)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
    # A worker whose process stands still cannot end itself, but it does not answer either.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(seconds(cluster.stall_minutes) or math.inf)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
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
            "parts": {name: ray.put(table) for name, table in job.parts.items()},
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


def _train_on_worker(given: dict[str, Any]) -> str | LastValues | None:
    """What Ray Train runs on every worker; returns a refusal that no restart can mend, or the first worker's last metrics."""
    job: Job = replace(given["job"], parts={name: ray.get(ref) for name, ref in given["parts"].items()})
    listener, cluster = given["listener"], job.config.cluster
    use_threads(cluster.cpus_per_worker)
    # It prints every report. Ray names this logger after its file.
    logging.getLogger(str(Path(ray.__file__).parent / "train/v2/_internal/execution/context.py")).setLevel(logging.WARNING)
    alone = listener is None  # a study reports epochs, and keeps or repeats its trials itself
    pulse = Pulse(seconds(cluster.checkpoint_minutes) if alone else None, preemption if alone else None)
    world = World.current(get_device(), pulse)
    hear(given["desk"], pulse, first=world.is_first)
    with (
        tempfile.TemporaryDirectory(prefix="polarity-resume-") as temporary,
        watched_pulse(pulse, seconds(cluster.stall_minutes) if alone else None),
    ):
        try:
            resume = _newest(job, world, Path(temporary))
            report = _Report(RunFolder.open(job.run_dir), world, listener)
            with heed_sigterm(pulse, cluster.grace_s), watched(job, world, tags=given["tags"], resume=resume) as watch:
                work(job, report, world=world, say=_say, resume=resume, watch=watch)
            return None if watch is None else watch.last_values()
        except PolarityError as error:
            return str(error)


def _newest(job: Job, world: World, target: Path) -> Path | None:
    """The run folder's newest whole checkpoint; the first worker chooses for all. A new run's folder has none."""
    folder, found, problem = RunFolder.open(job.run_dir), None, None
    if world.is_first:
        try:
            found = newest_checkpoint(folder, target, _say)
        except PolarityError as error:
            problem = str(error)
    world.raise_together(problem)
    name = world.gather(None if found is None else found.name)[0]
    if name is None or found is not None:
        return found
    return folder.fetch_folder(f"{CHECKPOINTS}/{name}", target)


def preemption() -> str | None:
    """Which nodes of this group are about to be taken away; every worker must ask, for Ray makes them agree."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"preemption: {len(info.preempted_node_ids)} node(s) with worker(s) {', '.join(map(str, info.preempted_ranks))} will go"


@dataclass(frozen=True)
class _Report:
    """The loop's report: the checkpoint goes into the run folder, then the metrics to Ray, and then to the listener."""

    folder: RunFolder
    world: World
    listener: Listener | None

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, name: str) -> None:
        problem = None
        try:
            FolderReport(self.folder)(metrics, checkpoint, name)
        except PolarityError as error:
            problem = str(error)
        self.world.raise_together(problem)  # the other workers would wait for the one whose disk is full
        if not metrics:  # a checkpoint inside an epoch
            return
        ray.train.report(metrics)
        if self.listener is not None:
            self.listener(metrics)


def _say(line: str) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        print(line, flush=True)
