"""`polarity doctor`: what would stop a run on this cluster, found before it starts. Every finding comes with its remedy."""

import os
import platform
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polarity.config import Config
from polarity.encoders import resolve_encoder
from polarity.environment import installed_versions
from polarity.errors import PolarityError

Level = Literal["ok", "warning", "problem"]
COMPARED = ("python", "polarity", "ray", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "numpy")
"""Versions that must agree on all nodes: they decide numbers or the format of what is sent."""
_NODE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `what` was found, and the `remedy` where it is not in order."""

    level: Level
    subject: str
    what: str
    remedy: str = ""


def examine(config: Config, storage: str, working_dir: Path | None) -> list[Finding]:
    """Look at the cluster that Ray is connected to; `storage` is a run's folder or URI, `working_dir` what a job would send."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    reports = {node["NodeManagerAddress"]: _ask(node["NodeID"], storage) for node in nodes}
    findings = [*_versions(reports), _resources(config), *_storage(reports, storage, len(nodes)), _encoder(config), _authentication()]
    if working_dir is not None:
        findings.append(payload(working_dir))
    return findings


def _ask(node_id: str, storage: str) -> dict[str, Any]:
    """What a node says of itself, or {"error"} where it does not answer in time."""
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    answer = ray.remote(_look).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0).remote(storage)
    try:
        found: dict[str, Any] = ray.get(answer, timeout=_NODE_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return {"error": str(error).strip().splitlines()[-1]}
    return found


def _look(storage: str) -> dict[str, Any]:
    """Runs on a node: its versions, and whether it can write to the storage."""
    from polarity.artifacts import RunFolder

    name = f"doctor-{uuid.uuid4().hex[:8]}"
    try:
        RunFolder.create(f"{storage.rstrip('/')}/{name}").remove_if_empty()
        written = ""
    except PolarityError as error:
        written = str(error)
    return {"versions": {"python": platform.python_version(), **installed_versions()}, "storage": written}


def _versions(reports: dict[str, dict[str, Any]]) -> list[Finding]:
    silent = [
        Finding("problem", f"node {address}", f"does not answer: {report['error']}", "look at its logs in the dashboard; restart the node")
        for address, report in reports.items()
        if "error" in report
    ]
    answering = {address: report["versions"] for address, report in reports.items() if "error" not in report}
    here = {"python": platform.python_version(), **installed_versions()}
    for address, versions in answering.items():
        differing = [
            f"{name} {versions.get(name, 'missing')} (here {here.get(name, 'missing')})"
            for name in COMPARED
            if versions.get(name) != here.get(name)
        ]
        if differing:
            remedy = "install the same versions on every node: one image for all (cluster/Dockerfile)"
            silent.append(Finding("problem", f"node {address}", f"other versions than here: {', '.join(differing)}", remedy))
    if silent:
        return silent
    listed = ", ".join(f"{name} {here[name]}" for name in ("python", "ray", "torch") if name in here)
    return [Finding("ok", "versions", f"the same on {len(answering)} node(s): {listed}")]


def _resources(config: Config) -> Finding:
    have, free, cluster = ray.cluster_resources(), ray.available_resources(), config.cluster
    words = ", ".join(f"{free.get(name, 0):g} of {have.get(name, 0):g} {name}s free" for name in ("CPU", "GPU"))
    needed = {"CPU": cluster.workers * cluster.cpus_per_worker, "GPU": float(cluster.workers if cluster.gpu == "always" else 0)}
    lacking = [f"{amount:g} {name}s" for name, amount in needed.items() if have.get(name, 0) < amount]
    if lacking:
        remedy = "lower --workers or cluster.cpus_per_worker, or add nodes (an autoscaling cluster adds them when the job asks)"
        return Finding("warning", "resources", f"{words}; {cluster.workers} worker(s) need {' and '.join(lacking)}", remedy)
    return Finding("ok", "resources", f"{words}; enough for {cluster.workers} worker(s)")


def _storage(reports: dict[str, dict[str, Any]], storage: str, nodes: int) -> list[Finding]:
    failed = {address: report["storage"] for address, report in reports.items() if report.get("storage")}
    if failed:
        remedy = "give a --run-dir that every node can write: a shared file system or a URI such as s3://bucket/runs, with its credentials"
        return [Finding("problem", "storage", f"{address}: {why}", remedy) for address, why in failed.items()]
    if nodes > 1 and "://" not in storage:
        remedy = "make sure that this is a shared file system, or use a URI such as s3://bucket/runs"
        return [
            Finding(
                "warning", "storage", f"{storage} can be written on {nodes} nodes, but a local path may be another disk on each", remedy
            )
        ]
    return [Finding("ok", "storage", f"{storage}: every node can write there")]


def _encoder(config: Config) -> Finding:
    try:
        files = resolve_encoder(config.model.encoder, config.model.revision)
    except PolarityError as error:
        return Finding("problem", "encoder", str(error), "name another encoder with --encoder, or set HF_TOKEN for a private one")
    return Finding("ok", "encoder", f"{files.name}: there, sha256 {files.sha256[:12]}")


def _authentication() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "token (Ray's default)")
    if mode == "disabled":
        remedy = "unset RAY_AUTH_MODE or set it to token: whoever reaches Ray's ports can run any code on the cluster"
        return Finding("warning", "authentication", "is switched off", remedy)
    return Finding("ok", "authentication", f"mode {mode}; job clients need RAY_AUTH_MODE=token and the cluster's token")


def payload(folder: Path, *, limit_mb: float = 100.0) -> Finding:
    """The size of what `--working-dir` would send, by .gitignore and .rayignore; Ray itself refuses 500 MB and more."""
    from ray._private.runtime_env.packaging import _dir_travel  # the walk by which Ray chooses the files

    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[str(path.relative_to(folder))] = path.stat().st_size

    _dir_travel(folder, [], note, include_gitignore=True)
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name], default="none")
    words = f"{folder}: {total / 1e6:.1f} MB in {len(sizes)} files would be sent"
    if sizes:
        words += f"; the largest is {largest} ({sizes[largest] / 1e6:.1f} MB)"
    if total > limit_mb * 1e6:
        return Finding("problem", "payload", words, "name data, runs and environments in .rayignore: code is sent, data is not")
    return Finding("ok", "payload", words)


def doctor(config: Config, storage: str, working_dir: Path | None, say: Callable[[str], None]) -> bool:
    """Print the findings; returns whether nothing stands in the way."""
    from polarity.train.driver import start_ray

    start_ray(config.cluster, say)
    findings = examine(config, storage, working_dir)
    for finding in findings:
        say(f"{finding.level:8} {finding.subject}: {finding.what}")
        if finding.remedy:
            say(f"         -> {finding.remedy}")
    problems = sum(finding.level == "problem" for finding in findings)
    say(f"{problems} problem(s), {sum(f.level == 'warning' for f in findings)} warning(s)")
    return not problems
