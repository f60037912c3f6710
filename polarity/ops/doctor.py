"""`polarity doctor`: what would stop a run on this cluster, found before it starts. Every finding comes with its remedy."""

import logging
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

import ray

from polarity.config import Config
from polarity.encoders import resolve_encoder
from polarity.environment import installed_versions
from polarity.errors import PolarityError, Say, first_line
from polarity.paths import OFFLINE_PREFIX, absolute, is_local_data, is_local_encoder, with_absolute_paths
from polarity.train.cluster import ask_node, start_ray

Severity = Literal["ok", "warning", "problem"]
COMPARED = ("python", "polarity", "ray", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "numpy")
"""Versions that must agree on all nodes: they decide numbers or the format of what is sent."""
_NODE_TIMEOUT_S = 60.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NodeReport(TypedDict, total=False):
    """What a node says of itself, or `error` alone: why it does not."""

    error: str
    versions: dict[str, str]
    storage: str
    """Why it cannot write there, or nothing; so of the encoder."""
    encoder: str
    missing: list[str]


Reports = dict[str, NodeReport]
"""By the node's name."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `what` was found, and the `remedy` where it is not in order."""

    level: Severity
    subject: str
    what: str
    remedy: str = ""


def examine(config: Config, storage: str, working_dir: Path | None) -> list[Finding]:
    """Look at the cluster that Ray is connected to; `storage` is a run's folder or URI, `working_dir` what a job would send."""
    reports = ask_nodes(config, storage)
    findings = [*_versions(reports), _resources(config), *_storage(reports, storage), *_encoder(config, reports), *_data(reports)]
    findings += [_dashboard(), _authentication()]
    if working_dir is not None:
        findings.append(payload(working_dir))
    return findings


def ask_nodes(config: Config, storage: str) -> Reports:
    """What every node says of itself; all are asked at once."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    # several nodes on one machine have one address
    names = [a if addresses.count(a) == 1 else f"{a} ({node['NodeID'][:6]})" for a, node in zip(addresses, nodes, strict=True)]
    config = with_absolute_paths(config)  # processes on other nodes stand in other folders
    data, encoder = config.data, config.model.encoder
    what = (absolute(storage), encoder, config.model.revision)
    local = [source for source in data.sources if is_local_data(source)]
    asked = [ask_node(node["NodeID"], _look, *what, local, max_retries=0) for node in nodes]
    return {name: _answer(reference) for name, reference in zip(names, asked, strict=True)}


def _answer(reference: Any) -> NodeReport:
    """What a node says, or {"error"} where it does not answer in time."""
    try:
        found: NodeReport = ray.get(reference, timeout=_NODE_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return {"error": str(error).strip().splitlines()[-1]}
    return found


def _look(storage: str, encoder: str, revision: str | None, sources: list[str]) -> NodeReport:
    """Runs on a node: its versions, and what it cannot write or read."""
    from polarity.artifacts import RunFolder

    name = f"doctor-{uuid.uuid4().hex[:8]}"
    try:
        RunFolder.create(f"{storage.rstrip('/')}/{name}").remove_if_empty()
        written = ""
    except PolarityError as error:
        written = str(error)
    versions = {"python": platform.python_version(), **installed_versions()}
    missing = [s for s in sources if not Path(s).exists()]
    return {"versions": versions, "storage": written, "encoder": _encoder_here(encoder, revision), "missing": missing}


def _encoder_here(name: str, revision: str | None) -> str:
    """Why this node cannot load the encoder, or "". Of the hub's encoders only the small configuration is fetched."""
    if is_local_encoder(name) or name.startswith(OFFLINE_PREFIX):
        try:
            resolve_encoder(name, revision)
        except PolarityError as error:
            return str(error)
        return ""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(name, "config.json", revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        return f"{name} is no folder here, and the hub does not give it ({first_line(error)})"
    return ""


def _versions(reports: Reports) -> list[Finding]:
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


def _storage(reports: Reports, storage: str) -> list[Finding]:
    failed = {address: report["storage"] for address, report in reports.items() if report.get("storage")}
    if failed:
        remedy = "give a --run-dir that every node can write: a shared file system or a URI such as s3://bucket/runs, with its credentials"
        return [Finding("problem", "storage", f"{address}: {why}", remedy) for address, why in failed.items()]
    if len(reports) > 1 and "://" not in storage:
        remedy = "make sure that this is a shared file system, or use a URI such as s3://bucket/runs"
        words = f"{storage} can be written on {len(reports)} nodes, but a local path may be another disk on each"
        return [Finding("warning", "storage", words, remedy)]
    return [Finding("ok", "storage", f"{storage}: every node can write there")]


def _encoder(config: Config, reports: Reports) -> list[Finding]:
    remedy = "name another encoder with --encoder, put its folder where every node sees it, or set HF_TOKEN for a private one"
    failed = {node: report["encoder"] for node, report in reports.items() if report.get("encoder")}
    if failed:
        return [Finding("problem", "encoder", f"{node}: {why}", remedy) for node, why in failed.items()]
    try:
        files = resolve_encoder(config.model.encoder, config.model.revision)
    except PolarityError as error:
        return [Finding("problem", "encoder", str(error), remedy)]
    return [Finding("ok", "encoder", f"{files.name}: there on every node, sha256 {files.sha256[:12]}")]


def _data(reports: Reports) -> list[Finding]:
    remedy = "put the file under the same path on every node: rows are read by whichever node is free"
    return [
        Finding("problem", "data", f"{node}: has no {' and no '.join(report['missing'])}", remedy)
        for node, report in reports.items()
        if report.get("missing")
    ]


def _dashboard() -> Finding:
    address = dashboard_address()
    if not address:
        remedy = "start the head with --include-dashboard=true (pip install 'ray[default]'): jobs are submitted there"
        return Finding("warning", "dashboard", "none runs, so no job can be submitted", remedy)
    host = urlsplit(f"//{address}").hostname or ""
    if host in _LOOPBACK:
        return Finding("ok", "dashboard", f"http://{address}, from this machine only; from elsewhere through SSH or kubectl port-forward")
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        remedy = "start the head with --dashboard-host=127.0.0.1, close the port, or set RAY_AUTH_MODE=token: who reaches it runs any code"
        return Finding("problem", "dashboard", f"http://{address} is reachable from other machines without a token", remedy)
    return Finding("ok", "dashboard", f"http://{address}")


def dashboard_address() -> str:
    """HOST:PORT of the dashboard of the cluster that Ray is connected to, or ""."""
    return str(ray.init(ignore_reinit_error=True, logging_level=logging.CRITICAL).dashboard_url or "")


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


def doctor(config: Config, storage: str, working_dir: Path | None, say: Say) -> bool:
    """Print the findings; returns whether nothing stands in the way."""
    refusal = join(config, say)
    findings = [refusal] if refusal else examine(config, storage, working_dir)
    for finding in findings:
        say(f"{finding.level:8} {finding.subject}: {finding.what}")
        if finding.remedy:
            say(f"         -> {finding.remedy}")
    problems = sum(finding.level == "problem" for finding in findings)
    say(f"{problems} problem(s), {sum(f.level == 'warning' for f in findings)} warning(s)")
    return not problems


def join(config: Config, say: Say) -> Finding | None:
    """Join the cluster that RAY_ADDRESS names, or start one here; what stands in the way of that, or None."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        remedy = f"run the doctor there: polarity submit --address {address} doctor ...; or set RAY_ADDRESS=HOST:6379 on one of its nodes"
        return Finding("problem", "cluster", f"RAY_ADDRESS={address} is a job server, which takes jobs but cannot be joined", remedy)
    try:
        start_ray(config.cluster, say)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        remedy = "is RAY_ADDRESS the head's HOST:6379, this machine one of the cluster's nodes, and its token in ~/.ray/auth_token?"
        return Finding("problem", "cluster", f"{address or 'Ray on this machine'} cannot be joined ({first_line(error)})", remedy)
    return None
