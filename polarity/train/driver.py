"""Ray Train around the loop: a group of workers under DDP, started again from the newest checkpoint where one fails.

First what the driver does, then what runs on every worker of the group, then how a request to stop reaches the workers: from the driver
through an actor, from a node that goes as a signal. The model and transformers take seconds to import: only workers do.

Checkpoints are written by the first worker, not by Ray's `report`: so they are whole or not there on a local disk, they count as soon as
they are written (Ray registers one when its controller next looks, and a worker may be killed before), and what is damaged is passed over.
"""

import logging
import os
import signal
import sys
import threading
from asyncio import Event
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polarity.artifacts import CHECKPOINTS, RunFolder
from polarity.config import ClusterConfig
from polarity.errors import PolarityError, RunError, Say, nothing
from polarity.quiet import MARK, importing
from polarity.train.cluster import PREEMPTION_WATCHER, takes_gpus, wait_until_fits
from polarity.train.control import Control, Job, Listener, checkpoint_names, on_sigterm, seconds, watchdog

RESIZE_S = 30.0
"""Seconds between two looks whether the group can grow, unless POLARITY_RESIZE_S says otherwise: each growth repeats what was done since
the last checkpoint."""
TERMINATED = 143
"""Exit status of a process that SIGTERM ended."""
_heard, _training = threading.Event(), threading.Event()


def scaling(cluster: ClusterConfig) -> ScalingConfig:
    """What the worker group asks for; `gpu: auto` takes GPUs where there is one for every worker."""
    number: Any = cluster.workers if cluster.max_workers is None else (cluster.workers, cluster.max_workers)
    return ScalingConfig(  # type: ignore[call-arg]  # Ray's types are those of its older trainers
        num_workers=number,
        use_gpu=takes_gpus(cluster, cluster.workers),
        resources_per_worker={"CPU": cluster.cpus_per_worker},
        elastic_resize_monitor_interval_s=float(os.environ.get("POLARITY_RESIZE_S", RESIZE_S)),
    )


def wait_for_resources(cluster: ClusterConfig, need: ScalingConfig) -> None:
    """Wait until the group fits; raises RunError with what is lacking."""
    gpus = {"GPU": float(cluster.workers)} if need.use_gpu else {}
    wait_until_fits(cluster, {"CPU": cluster.workers * cluster.cpus_per_worker, **gpus}, f"{cluster.workers} worker(s) need")


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
    """A worker's part of a run; returns a refusal that no restart can mend, as text, or the first worker's last metrics.

    `given` is the driver's `train_loop_config`.
    """
    with importing():
        from polarity.train.ray_metrics import run_tags
        from polarity.train.worker import launch
        from polarity.train.world import World

    job: Job = replace(given["job"], parts={name: ray.get(ref) for name, ref in given["parts"].items()})
    listener, cluster = given["listener"], job.config.cluster
    # It prints every report. Ray names this logger after its file.
    logging.getLogger(str(Path(ray.__file__).parent / "train/v2/_internal/execution/context.py")).setLevel(logging.WARNING)
    alone = listener is None  # a study reports epochs, and keeps or repeats its trials itself
    say = _say if alone else nothing  # a study tells of its trials itself, and draws its own table
    watcher = preemption if alone and os.environ.get(PREEMPTION_WATCHER) != "0" else None
    control = Control(seconds(cluster.checkpoint_minutes) if alone else None, watcher)
    world = World.current(get_device(), control)
    listen_for_stop(given["desk"], control, first=world.is_first)

    def epoch_ended(metrics: Mapping[str, float]) -> None:
        ray.train.report(dict(metrics))
        if listener is not None:
            listener(metrics)

    with watchdog(control, seconds(cluster.stall_minutes) if alone else None):
        try:
            with stop_on_sigterm(control, cluster.grace_s):
                return launch(job, world, say=say, resume=True, epoch_ended=epoch_ended, gauges=given["tags"] or run_tags(job))
        except PolarityError as error:
            return str(error)


def preemption() -> str | None:
    """Which nodes of this group are about to be taken away; every worker must ask, for Ray makes them agree."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"preemption: {len(info.preempted_node_ids)} node(s) with worker(s) {', '.join(map(str, info.preempted_ranks))} will go"


def _say(line: str) -> None:
    print("\n".join(f"{MARK}{part}" for part in line.splitlines()), flush=True)


@ray.remote(num_cpus=0)
class StopDesk:
    """Where the driver leaves the request to stop and the first worker waits for it."""

    def __init__(self) -> None:
        self._asked, self._reason = Event(), ""

    async def stop(self, reason: str) -> None:
        """The driver: save and end."""
        self._reason = reason
        self._asked.set()

    async def wait(self) -> str:
        """The first worker: the reason, once there is one."""
        await self._asked.wait()
        return self._reason


def listen_for_stop(desk: Any, control: Control, *, first: bool) -> None:
    """On the first worker, pass the driver's request on whenever it comes."""

    def wait() -> None:
        try:
            control.request_stop(ray.get(desk.wait.remote()))
        except RayError:  # the driver has ended, and its desk with it
            return

    if first:
        threading.Thread(target=wait, name="polarity-stop", daemon=True).start()


@contextmanager
def stop_on_sigterm(control: Control, grace_s: float) -> Iterator[None]:
    """While the block runs, this worker's SIGTERM is a request to stop; where it was heard, the process ends after the checkpoint, and
    after `grace_s` seconds at the latest. So Ray sees a dead worker, and starts the group again from that checkpoint.
    """
    done = threading.Event()

    def pass_on() -> None:
        while not done.is_set():
            if _heard.wait(0.2):
                control.request_stop("SIGTERM to a worker")
                if not done.wait(grace_s):
                    os._exit(TERMINATED)
                return

    _training.set()
    threading.Thread(target=pass_on, name="polarity-sigterm", daemon=True).start()
    try:
        yield
    except RunError as error:
        if _heard.is_set():
            print(f"{MARK}{error}; this worker ends", file=sys.stderr, flush=True)
            os._exit(TERMINATED)
        raise
    finally:
        _training.clear()
        done.set()


def install_handler() -> None:
    """In a worker's main thread: the first SIGTERM of a training is noted, any other ends the process at once."""

    def note(number: int, frame: Any) -> None:
        if _heard.is_set() or not _training.is_set():
            os._exit(TERMINATED)
        _heard.set()

    _heard.clear()
    signal.signal(signal.SIGTERM, note)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray does not export torch's backend
    """Torch's process group, and our handler of SIGTERM: the training itself runs in a thread, which cannot set one."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(install_handler)


@dataclass
class _Config(TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def torch_config(stall_s: float | None) -> TorchConfig:
    """The process group's settings. Its own timeout comes after the watchdog's, which knows what the worker was doing."""
    return _Config() if stall_s is None else _Config(timeout_s=int(2 * stall_s) + 60)
