"""`polarity submit`: a job of this package on a cluster, by Ray's Jobs API: submit, follow, stop on Ctrl-C after asking, exit as it did.

Ray is imported inside the functions: whether its clients send a token is settled when it is imported (see `use_token`).
"""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from polarity.artifacts import has_secret
from polarity.errors import RunError, Say, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

JOBS = ("train", "ablate", "evaluate", "predict", "benchmark")
DOCTOR = "doctor"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TOKEN_REMEDY = (
    "give the cluster's token in RAY_AUTH_TOKEN, or the path of its file in RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
)
_END_S = 60.0
"""How long a job that was told to stop may take to end."""


def use_token() -> None:
    """Make Ray's clients send the token, where there is one and nothing else was said; to be called before Ray is imported.

    Ray itself sends it only under RAY_AUTH_MODE=token, and answers 401 to those who do not know that.
    """
    here = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or (Path.home() / ".ray" / "auth_token").is_file()
    if here and not os.environ.get("RAY_AUTH_MODE"):
        os.environ["RAY_AUTH_MODE"] = "token"


def job_server(address: str | None) -> str:
    """The address to use: the one given, else that of Ray's own variables, else this machine's dashboard."""
    if address is not None and "://" not in address:
        raise RunError(f"--address {address}: give the dashboard's address as http://HOST:8265")
    return address or next((os.environ[name] for name in _ADDRESS_VARIABLES if os.environ.get(name)), DEFAULT_ADDRESS)


def connect(address: str) -> "JobSubmissionClient":
    """A client of the cluster's job server. Raises RunError where none answers, or it wants another token; each says what to do."""
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        with _address_set(address):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise RunError(f"{address}: the cluster refuses this client ({first_line(error.message)}); {_TOKEN_REMEDY}") from error
    except (requests.RequestException, ConnectionError, RuntimeError, ValueError, KeyError, OSError) as error:
        remedy = "is the cluster up, and is this its dashboard's address (http://HOST:8265, or a port that is forwarded to it)?"
        raise RunError(f"{address}: no job server answers there ({first_line(error)}); {remedy}") from error


@contextmanager
def _address_set(address: str) -> Iterator[None]:
    """Ray prefers its environment variables to the address that it is given."""
    name = _ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def variables_of(given: list[str]) -> dict[str, str]:
    """NAME=VALUE as a mapping; a NAME alone takes the value from this environment, so that it stands in no history of commands."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals and name not in os.environ:
            raise RunError(f"--env {name}: is not set in this environment; set it, or give {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def entrypoint(job: str, arguments: list[str], root: Path) -> str:
    """The command that the cluster runs. Raises RunError: no such job there, or a password that everyone would read."""
    if job == DOCTOR:
        start = "python -m polarity doctor"
    elif job in JOBS and (root / "jobs" / f"{job}.py").is_file():
        start = f"python jobs/{job}.py"
    else:
        known = ", ".join((*JOBS, DOCTOR))
        raise RunError(f"there is no job {job!r} in {root / 'jobs'}; jobs are {known}. Give the project's folder with --root")
    if any(has_secret(argument) for argument in arguments):
        raise RunError(
            "a password or key stands in an argument, and a job's command is shown on the dashboard: send it with --env NAME instead"
        )
    return f"{start} {shlex.join(arguments)}".strip()


def submit(
    client: "JobSubmissionClient",
    job: str,
    arguments: list[str],
    *,
    root: Path,
    gpus: float,
    variables: Mapping[str, str],
    say: Say,
) -> str:
    """Submit jobs/JOB.py of the checkout `root` with `arguments`; returns the job's id.

    Values of `variables` are not printed; whoever has the cluster's token can read them with the job. Raises RunError where the job
    does not exist, the folder is too large to be code alone, or the cluster does not take it.
    """
    from polarity.ops.doctor import payload

    command = entrypoint(job, arguments, root)
    sent = payload(root)
    if sent.level != "ok":
        raise RunError(f"{sent.what}; {sent.remedy}")
    say(sent.what)
    try:
        identity = client.submit_job(
            entrypoint=command,
            runtime_env={"working_dir": str(root), "env_vars": dict(variables)},
            entrypoint_num_cpus=0,
            entrypoint_num_gpus=gpus or None,
            metadata={"polarity": job},
        )
    except (RuntimeError, OSError) as error:
        raise RunError(
            f"the cluster did not take the job ({first_line(error)}); is a node for it there? `ray status` on it says"
        ) from error
    say(f"{identity}: {command}")
    return str(identity)


def follow(client: "JobSubmissionClient", identity: str, *, ask: Callable[[str], bool], say: Say) -> "JobStatus":
    """Print the job's log until it ends; on Ctrl-C `ask` whether to stop it, else leave it running. Returns its last status.

    Raises RunError where the connection breaks: the job goes on then.
    """
    try:
        _print_log(client, identity, say)
    except KeyboardInterrupt:
        if not ask(f"stop {identity}?"):
            say(f"{identity} goes on; follow it with: ray job logs --follow {identity}")
            return client.get_job_status(identity)
        client.stop_job(identity)
        say(f"{identity}: asked to stop")
    return _ended(client, identity)


def _print_log(client: "JobSubmissionClient", identity: str, say: Say) -> None:
    import aiohttp

    logging.getLogger(type(client).__module__).setLevel(logging.WARNING)  # it tells how its connection was closed
    try:
        asyncio.run(_tail(client, identity, say))
    except (aiohttp.ClientError, RuntimeError, OSError) as error:
        raise RunError(
            f"{identity}: the connection broke ({first_line(error)}). The job itself goes on where the cluster does; follow it with: "
            f"ray job logs --follow {identity}"
        ) from error


async def _tail(client: "JobSubmissionClient", identity: str, say: Say) -> None:
    async for lines in client.tail_job_logs(identity):
        say(lines.rstrip("\n"))


def _ended(client: "JobSubmissionClient", identity: str) -> "JobStatus":
    """The status once the job has ended; after a stop it has a while for that."""
    deadline = time.monotonic() + _END_S
    while not (status := client.get_job_status(identity)).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.2)
    return status


def exit_code(client: "JobSubmissionClient", identity: str, status: "JobStatus") -> int:
    """What to exit with: 0 for success, the job's own code where it failed, 1 where it was stopped, 130 where it goes on without us."""
    from ray.job_submission import JobStatus

    if status == JobStatus.FAILED:
        return client.get_job_info(identity).driver_exit_code or 1
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 1}.get(status, 130)
