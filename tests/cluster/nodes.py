"""Ray nodes as processes of this machine, with a token, ended by their own ids; clients know them by their environment only."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
START_S = 90


@dataclass(frozen=True)
class Cluster:
    """A running cluster: the environment of its clients, the job server's address, and the address that nodes and drivers join."""

    environment: dict[str, str]
    jobs: str
    address: str

    def client(self, **changes: str) -> dict[str, str]:
        """The environment of a client that submits jobs."""
        return {**self.environment, "RAY_ADDRESS": self.jobs, **changes}

    def driver(self, **changes: str) -> dict[str, str]:
        """The environment of a driver that joins the cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address, **changes}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started_cluster(*cpus: int) -> Iterator[Cluster]:
    """A head with `cpus[0]` CPUs, and a further node for each number that follows."""
    home = Path(tempfile.mkdtemp(prefix="pol-", dir="/tmp" if Path("/tmp").is_dir() else None))  # short: sockets lie below it
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    paths = os.pathsep.join([str(RAY.parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token", "PATH": paths}
    port, dashboard, agent = free_port(), free_port(), free_port()
    common = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    common += ["--min-worker-port=0", "--max-worker-port=0"]  # raylets of one machine would take the same ports
    head = [*common, "--head", f"--num-cpus={cpus[0]}", f"--port={port}", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
    head += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={free_port()}", f"--temp-dir={home}/r"]
    try:
        with ExitStack() as running:
            running.enter_context(_process(head, environment, home / "head.log", [dashboard, agent]))
            for number, count in enumerate(cpus[1:]):
                listens = free_port()
                node = [*common, f"--address=127.0.0.1:{port}", f"--num-cpus={count}", f"--dashboard-agent-listen-port={listens}"]
                running.enter_context(_process(node, environment, home / f"node{number}.log", [listens]))
            yield Cluster(environment, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path, ports: list[int]) -> Iterator[None]:
    """A node, from when it listens on the ports until the block ends."""
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for port in ports:
            _wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise RuntimeError(f"the node did not start: {log.read_text()[-2000:]}")


def run(environment: dict[str, str], *command: str, timeout: float = 300, cwd: Path = ROOT) -> tuple[int, str]:
    """Exit status and output of a command in the project's folder; `polarity` is the one of this checkout."""
    words = [sys.executable, "-m", "polarity", *command[1:]] if command[0] == "polarity" else list(command)
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stderr + done.stdout
