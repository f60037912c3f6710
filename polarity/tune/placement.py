"""Where trials run: how many at a time, and what each reserves, from what the cluster has; never a wait without an end or a word."""

import os
import time
from dataclasses import dataclass

import ray

from polarity.config import ClusterConfig
from polarity.errors import ConfigError, RunError
from polarity.train.cluster import describe_resources

_LOCAL_PATIENCE_S = 5.0  # a local cluster cannot grow; what has just ended there gives its CPUs back within seconds
_HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Placement:
    """`concurrent` trials at a time; `bundle` is what the process of a trial reserves, `need` what the whole trial takes."""

    concurrent: int
    bundle: dict[str, float]
    need: dict[str, float]

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in self.need.items())
        return f"{self.concurrent} trial{'s' if self.concurrent > 1 else ''} at a time, {each} each"


def place_trials(cluster: ClusterConfig, *, gpus_per_trial: float | None = None, max_concurrent: int | None = None) -> Placement:
    """Place trials of `cluster.workers` workers each (0 counts as 1) on the running Ray cluster.

    A trial of one worker is one process with its CPUs and, where GPUs are wanted, one GPU or `gpus_per_trial` of one; with more workers it
    is a process on the head node that reserves nothing and a group of Ray Train beside it, so that waiting trials cannot use up what their
    own workers need. Waits `cluster.start_timeout_s` (on a local cluster 5 s) for the first trial to fit, then raises RunError with
    what is lacking. ConfigError: `gpus_per_trial` where it does not apply.
    """
    workers = max(1, cluster.workers)
    share = _gpu_share(cluster, workers, gpus_per_trial)
    need = {"CPU": workers * cluster.cpus_per_worker, **({"GPU": workers * share} if share else {})}
    fits = _wait_until_one_fits(cluster, need)
    if max_concurrent is not None and max_concurrent < 1:
        raise ConfigError(f"--max-concurrent must be at least 1 (got {max_concurrent})")
    concurrent = min(fits, max_concurrent or fits)
    return Placement(concurrent, dict(need) if workers == 1 else {"CPU": 0, _HEAD: 0.001}, need)


def _gpu_share(cluster: ClusterConfig, workers: int, gpus_per_trial: float | None) -> float:
    there = ray.cluster_resources().get("GPU", 0.0)
    wanted = cluster.gpu == "always" or (cluster.gpu == "auto" and there >= workers)
    if gpus_per_trial is None:
        return 1.0 if wanted else 0.0
    if not 0 < gpus_per_trial <= 1 or workers > 1:
        raise ConfigError(
            f"--gpus-per-trial is the part of one GPU that a trial of one worker takes, above 0 and at most 1 (got {gpus_per_trial:g})"
        )
    if not wanted:
        raise ConfigError("--gpus-per-trial is given, but trials use no GPU here: the cluster has none, or cluster.gpu is never")
    return gpus_per_trial


def _wait_until_one_fits(cluster: ClusterConfig, need: dict[str, float]) -> int:
    deadline = time.monotonic() + (cluster.start_timeout_s if os.environ.get("RAY_ADDRESS") else _LOCAL_PATIENCE_S)
    while True:
        free = ray.available_resources()
        fits = min(int(free.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
        if fits >= 1:
            return fits
        if time.monotonic() > deadline:
            raise RunError(lacking(cluster, need))
        time.sleep(0.5)


def lacking(cluster: ClusterConfig, need: dict[str, float]) -> str:
    """What a trial needs beside what there is, and what to do."""
    free = ray.available_resources()
    wanted = " and ".join(f"{amount:g} {name}s ({free.get(name, 0.0):g} free)" for name, amount in need.items())
    return (
        f"no trial can start: each needs {wanted}, a worker's share on one node; the cluster has {describe_resources()}. Lower "
        f"--workers or cluster.cpus_per_worker ({cluster.cpus_per_worker:g}), free what other jobs hold, or raise "
        "cluster.start_timeout_s if nodes are still coming"
    )
