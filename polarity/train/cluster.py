"""Ray on this machine, or the cluster that the environment names. It imports nothing that is slow but Ray."""

import logging
import math
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import grpc
import ray
from ray._private import worker
from ray._private.gcs_utils import create_gcs_channel
from ray._private.ray_logging import global_worker_stdstream_dispatcher as worker_lines
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polarity.artifacts import RunFolder
from polarity.config import ClusterConfig, Config
from polarity.errors import ConfigError, RunError, Say, first_line
from polarity.paths import DATA_KEYS, is_local_data, is_local_encoder, with_absolute_paths
from polarity.quiet import MARK, hush_loggers, own_line, verbose
from polarity.train.control import seconds

POLL_S = "0.2"
"""How often Ray Train's controller looks at its workers, in seconds; `report` waits for one look, two seconds by default."""

UNSET = "start that cluster, or unset RAY_ADDRESS to run on this machine"
QUIET_S = 5.0
"""How long a cluster may take to answer before a line says that it is waited for."""
SOCKET_BYTES = len("/ray/session_2026-11-27_15-00-00_000000_4194304/sockets/plasma_store.10")
ELASTIC_START_S = 30.0
ASK_S = 120.0
"""How long the nodes have to say what they see."""
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def start_ray(cluster: ClusterConfig, say: Say) -> None:
    """Join the cluster that RAY_ADDRESS names (as in a submitted job), or start one on this machine."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    # After a node's death Ray counts on its CPUs for a while, and waits so long for a group that is too large.
    patience = cluster.start_timeout_s if cluster.max_workers is None else min(cluster.start_timeout_s, ELASTIC_START_S)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience)
    # A worker whose process stands still cannot end itself, but it does not answer either.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(seconds(cluster.stall_minutes) or math.inf)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every worker's line twice
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # no escape codes in a file
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # "local": without it Ray would join, or wait for, whatever cluster was last started on this machine.
    if not address:  # no other node can be taken away from this machine; the watcher is one more process to start
        os.environ.setdefault(PREEMPTION_WATCHER, "0")
    if address:
        _reach(address, cluster.start_timeout_s, say)
    else:
        _short_sockets(say)
    try:
        context = _init(say, address=address or "local")
    except Exception as error:  # Ray raises a bare Exception where its processes do not start in time
        reason = first_line(error)
        if address:
            raise ConfigError(f"RAY_ADDRESS={address}: cannot be joined ({reason}): {UNSET}") from error
        raise RunError(
            f"Ray cannot start on this machine ({reason}): try again when it is less busy, or without Ray: --workers 0"
        ) from error
    url = context.dashboard_url
    where = f"cluster {address}" if address else "Ray on this machine"
    say(f"{where}: {describe_resources()}{f'; dashboard http://{url}' if url else ''}")


def _init(say: Say, **options: Any) -> Any:
    """`ray.init` without Ray's own lines, and `say` for ours of all workers; options and returned context are Ray's."""
    loud = verbose()
    options |= {"log_to_driver": True, "logging_level": logging.WARNING if loud else logging.CRITICAL}
    connect = worker.connect
    if not loud:
        # The driver's part in C++ prints errors of what it retries on standard error. Only this process is to be silent: Ray's other
        # processes have been started by the time it connects, and keep their level.
        worker.connect = partial(_with_level, connect)
    try:
        context = ray.init(**options)
    finally:
        worker.connect = connect
    worker_lines.remove_handler("ray_print_logs")
    worker_lines.add_handler("ray_print_logs", _print_all if loud else partial(_print_own, say))
    if not loud:
        hush_loggers()
    return context


def _with_level(connect: Any, *arguments: Any, **options: Any) -> Any:
    name = "RAY_BACKEND_LOG_LEVEL"
    before, screen = os.environ.get(name), os.dup(2)
    os.environ[name] = before or "fatal"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # that it has read the variable is told there, too
    try:
        return connect(*arguments, **options)
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)
        if before is None:
            del os.environ[name]


class WorkerLines(TypedDict, total=False):
    """What a handler of workers' lines gets from Ray, in part."""

    lines: list[str]
    is_err: bool


def _print_own(say: Say, data: WorkerLines) -> None:
    for line in data.get("lines", ()):
        found = own_line(line)
        if found is not None:
            say(found)


def _print_all(data: WorkerLines) -> None:
    batch: Any = {**data, "lines": [line.removeprefix(MARK) for line in data.get("lines", ())]}
    worker.print_worker_logs(batch, sys.stderr if data.get("is_err") else sys.stdout)


def _reach(address: str, patience: float, say: Say) -> None:
    """Wait until a cluster answers at HOST:PORT, then return. Raises ConfigError after `patience` seconds: Ray would wait for minutes."""
    if "://" in address or not re.fullmatch(r".+:\d+", address):
        if address.startswith(("http://", "https://")):
            raise ConfigError(f"RAY_ADDRESS={address}: is a job server, which takes jobs (polarity submit) but cannot be joined: {UNSET}")
        return  # "auto", "local", ray://: Ray says by itself, soon
    channel = create_gcs_channel(address)
    ready = grpc.channel_ready_future(channel)
    try:
        try:
            ready.result(timeout=min(QUIET_S, patience))
        except grpc.FutureTimeoutError:
            say(f"RAY_ADDRESS={address}: no cluster answers there yet; waits {patience:g} s (cluster.start_timeout_s)")
            ready.result(timeout=max(0.0, patience - QUIET_S))
    except grpc.FutureTimeoutError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no cluster answered there within {patience:g} s (cluster.start_timeout_s): {UNSET}"
        ) from error
    finally:
        ready.cancel()
        channel.close()


def _short_sockets(say: Say) -> None:
    """Have Ray keep its sockets in a folder whose name is short enough: a socket's path may have 107 bytes (103 on a Mac)."""
    most = (103 if sys.platform == "darwin" else 107) - SOCKET_BYTES
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        if len(os.fsencode(os.path.abspath(chosen))) > most:
            raise ConfigError(f"RAY_TMPDIR={chosen}: is too long for Ray's sockets: name a folder of at most {most} bytes, such as /tmp")
        return
    folder = os.environ.get("TMPDIR", "") if sys.platform.startswith("linux") else ""
    if folder and len(os.fsencode(os.path.abspath(folder))) > most:
        if not os.access("/tmp", os.W_OK | os.X_OK):
            raise ConfigError(f"TMPDIR={folder}: is too long for Ray's sockets: set RAY_TMPDIR to a folder of at most {most} bytes")
        os.environ["RAY_TMPDIR"] = "/tmp"
        say("TMPDIR is too long for Ray's sockets: Ray's own files go to /tmp (set RAY_TMPDIR to another short folder)")


def describe_resources() -> str:
    """The cluster's CPUs and GPUs in words."""
    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs on {len([n for n in ray.nodes() if n['Alive']])} node(s)"


LOCAL_PATIENCE_S = 5.0
"""A local cluster cannot grow; what has just ended there gives its CPUs back within seconds."""


def takes_gpus(cluster: ClusterConfig, workers: int) -> bool:
    """Whether so many workers get a GPU each; `gpu: auto` takes them where there is one for every worker."""
    return cluster.gpu == "always" or (cluster.gpu == "auto" and ray.cluster_resources().get("GPU", 0) >= workers)


def wait_until_fits(cluster: ClusterConfig, need: Mapping[str, float], what: str) -> int:
    """How many times the resources `need` are free; waits until they are so once: `cluster.start_timeout_s`, on a local cluster 5 s.

    Then raises RunError with what is lacking, which begins with `what`: Ray itself would wait for ever.
    """
    deadline = time.monotonic() + (cluster.start_timeout_s if os.environ.get("RAY_ADDRESS") else LOCAL_PATIENCE_S)
    while True:
        free = ray.available_resources()
        fits = min(int(free.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
        if fits >= 1:
            return fits
        if time.monotonic() > deadline:
            raise RunError(lacking(cluster, need, what))
        time.sleep(0.5)


def lacking(cluster: ClusterConfig, need: Mapping[str, float], what: str) -> str:
    """What is needed beside what there is, and what to do."""
    free = ray.available_resources()
    wanted = " and ".join(f"{amount:g} {name}s ({free.get(name, 0.0):g} free)" for name, amount in need.items())
    more = ", or raise cluster.start_timeout_s if nodes are still coming" if os.environ.get("RAY_ADDRESS") else ""
    return (
        f"{what} {wanted}, a worker's share on one node; the cluster has {describe_resources()}. Lower --workers or "
        f"cluster.cpus_per_worker ({cluster.cpus_per_worker:g}), or free what other jobs hold{more}"
    )


def check_nodes(configs: Iterable[Config], folder: RunFolder | None, say: Say, *, with_data: bool, shards: RunFolder | None = None) -> None:
    """Raise ConfigError where a node of the cluster does not see a local place that a worker on it needs: now, not after minutes.

    These are folders of encoders, the run's (or study's) folder, that of the `shards`, where there are any, and, `with_data`, the data,
    which Ray Data reads on any node. A cluster of this machine alone is not asked; a node that does not answer is told of.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] != here and n["Resources"].get("CPU", 0) >= 1]
    if not others:
        return
    places: dict[str, str] = {}
    for config in map(with_absolute_paths, configs):
        if is_local_encoder(config.model.encoder):
            places[config.model.encoder] = "model.encoder"
        data = {key: getattr(config.data, key.removeprefix("data.")) for key in DATA_KEYS}
        places |= {place: key for key, place in data.items() if with_data and place is not None and is_local_data(place)}
    with _mark(folder) as mark, _mark(shards) as other:
        places |= {made: key for made, key in ((mark, "the run folder"), (other, "data.shard_dir")) if made is not None}
        asked = [(str(n["NodeManagerAddress"]), ask_node(n["NodeID"], _unseen, list(places))) for n in others]
        unseen = [(place, name) for name, reference in asked for place in _answer(name, reference, say)]
    for place, name in unseen:
        more = len({other for which, other in unseen if which == place}) - 1
        also = f" and {more} more" if more else ""
        shown = str(Path(place).parent) if place in (mark, other) else place
        raise ConfigError(
            f"{places[place]}: {shown}: the node {name}{also} of the cluster does not see it, and a worker may start there. Put it where "
            "every node sees it (a shared disk, the nodes' image, or a URI such as s3:// for run and shards), or use one machine"
        )


@contextmanager
def _mark(folder: RunFolder | None) -> Iterator[str | None]:
    """A new file in a local folder, so that a node's own folder of the same name is not taken for it; None for a remote one."""
    if folder is None or folder.local is None:
        yield None
        return
    name = f".node-check-{uuid.uuid4().hex[:8]}"
    folder.write_bytes(name, b"polarity")
    try:
        yield folder.path(name)
    finally:
        folder.filesystem.delete_file(folder.path(name))


def ask_node(node_id: str, answer: Callable[..., Any], *what: Any, **options: Any) -> Any:
    """A reference to what `answer(*what)` returns on a node; `options` are Ray's."""
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(answer).options(num_cpus=0, scheduling_strategy=strategy, **options).remote(*what)


def _answer(name: str, reference: "ray.ObjectRef[list[str]]", say: Say) -> list[str]:
    try:
        return ray.get(reference, timeout=ASK_S)
    except ray.exceptions.RayError as error:  # it may have gone, and another may come: the training will see
        say(f"node {name}: does not say what it sees ({type(error).__name__})")
        return []


def _unseen(places: list[str]) -> list[str]:
    return [place for place in places if not os.path.exists(place)]
