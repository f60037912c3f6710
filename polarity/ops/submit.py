"""`polarity submit`: a job of this package on a cluster, by Ray's Jobs API: submit, follow, stop on Ctrl-C after asking, exit as it did."""

import asyncio
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from polarity.errors import RunError

JOBS = ("train", "ablate", "evaluate", "predict", "benchmark")


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server. Raises RunError where none answers, or it asks for a token."""
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[-1]
        remedy = (
            "export RAY_AUTH_MODE=token and the cluster's token"
            if "401" in why or "nauthorized" in why
            else "is the cluster up, the address its dashboard's?"
        )
        raise RunError(f"{address}: no job server can be used there ({why}); {remedy}") from error


def submit(
    client: JobSubmissionClient,
    job: str,
    arguments: list[str],
    *,
    root: Path,
    gpus: float,
    variables: Mapping[str, str],
    say: Callable[[str], None],
) -> str:
    """Submit jobs/JOB.py of the checkout `root` with `arguments`; returns the job's id. Values of `variables` are sent, never shown."""
    script = root / "jobs" / f"{job}.py"
    if job not in JOBS or not script.is_file():
        raise RunError(f"there is no job {job!r} in {root / 'jobs'}; jobs are {', '.join(JOBS)}. Run this in the project's folder")
    entrypoint = f"python jobs/{job}.py {shlex.join(arguments)}".strip()
    identity = client.submit_job(
        entrypoint=entrypoint,
        runtime_env={"working_dir": str(root), "env_vars": dict(variables)},
        entrypoint_num_cpus=0,
        entrypoint_num_gpus=gpus or None,
        metadata={"polarity": job},
    )
    say(f"{identity}: {entrypoint}")
    return str(identity)


def follow(client: JobSubmissionClient, identity: str, *, ask: Callable[[str], bool], say: Callable[[str], None]) -> JobStatus:
    """Print the job's log until it ends; on Ctrl-C `ask` whether to stop it, else leave it running. Returns its last status."""
    try:
        asyncio.run(_tail(client, identity, say))
    except KeyboardInterrupt:
        if ask(f"stop {identity}?"):
            client.stop_job(identity)
            say(f"{identity}: asked to stop")
        else:
            say(f"{identity} goes on; follow it with: ray job logs --follow {identity}")
    return client.get_job_status(identity)


async def _tail(client: JobSubmissionClient, identity: str, say: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(identity):
        say(lines.rstrip("\n"))
