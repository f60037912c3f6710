"""Ray on this machine, or the cluster that the environment names. It imports nothing that is slow but Ray."""

import logging
import math
import os
import sys
from collections.abc import Callable

import ray

from polarity.config import ClusterConfig
from polarity.train.watchdog import seconds

POLL_S = "0.2"
"""How often Ray Train's controller looks at its workers, in seconds; `report` waits for one look, two seconds by default."""

ELASTIC_START_S = 30.0
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def start_ray(cluster: ClusterConfig, say: Callable[[str], None]) -> None:
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
    if not address:  # no other node can be taken away from this machine; the watcher is one more process to start
        os.environ.setdefault(PREEMPTION_WATCHER, "0")
    context = ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING)
    url = context.dashboard_url
    where = f"cluster {address}" if address else "Ray on this machine"
    say(f"{where}: {describe_resources()}{f'; dashboard http://{url}' if url else ''}")


def describe_resources() -> str:
    """The cluster's CPUs and GPUs in words."""
    have = ray.cluster_resources()
    return f"{have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs on {len([n for n in ray.nodes() if n['Alive']])} node(s)"
