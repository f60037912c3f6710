"""A cluster of two nodes on this machine, by Ray's own `cluster_utils`, with a home of its own; processes are known by their parents."""

import os
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Any

FAST_DEATH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 6}
"""A node that does not answer for six seconds is lost; Ray's own patience is longer."""


def own_home(folder: Path) -> None:
    """Points this process, and those it will start, to a home, a token and Ray folders below `folder`; before Ray is imported."""
    (folder / "home" / ".ray").mkdir(parents=True)
    (folder / "ray").mkdir()
    token = folder / "home" / ".ray" / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        os.environ.pop(name, None)
    package = str(Path(__file__).parents[3])  # the nodes' workers must find this package, installed or not
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    os.environ.update(
        HOME=str(folder / "home"), XDG_CACHE_HOME=str(folder / "home"), RAY_TMPDIR=str(folder / "ray"), RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0", RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0", OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1", POLARITY_RESIZE_S="3",
    )  # fmt: skip


class LocalCluster:
    """A head node with one CPU, where the drivers run, and further nodes with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # The dashboard serves the State API, without which Ray's own controller waits in vain at the end of every group.
        head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": free_port(), "_system_config": FAST_DEATH}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second: Any = None
        self.add()

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return str(self._cluster.address)

    def add(self) -> None:
        """A second node, where there is none."""
        if self.second is None:
            self.second = self._cluster.add_node(num_cpus=1)

    def lose(self) -> None:
        """The second node is gone at once, with its workers."""
        self._cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def drain(self, seconds: float) -> None:
        """Tell Ray that the second node will be taken away, as a cloud does with a spot node."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
        from ray.core.generated import autoscaler_pb2

        deadline = int((time.time() + seconds) * 1000)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]
        accepted, why = GcsClient(address=self.address).drain_node(self.second.node_id, reason, "faults", deadline)
        if not accepted:
            raise RuntimeError(f"the node could not be drained: {why}")

    def workers(self) -> list[int]:
        """Process ids of the training workers, those of the head node first."""
        nodes = [node for node in (self._cluster.head_node, self.second) if node is not None]
        return [pid for node in nodes for pid in self._workers(node)]

    def workers_of_second(self) -> list[int]:
        """Process ids of the second node's training workers."""
        return self._workers(self.second)

    def _workers(self, node: Any) -> list[int]:
        raylet = node.all_processes["raylet"][0].process.pid
        return [pid for pid in children(raylet) if "RayTrainWorker" in command(pid)]

    def close(self) -> None:
        """End every process of the cluster."""
        self._cluster.shutdown()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(parent: int) -> list[int]:
    """Process ids of a process's direct children, in the order of their start."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)


def command(pid: int) -> str:
    """A process's command line, or its title; empty where it has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send(pid: int, what: signal.Signals) -> bool:
    """Send a signal; False where the process is no more."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True
