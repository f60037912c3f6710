"""`polarity doctor` and `polarity submit`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import ConfigFile, Encoder, Preset, Sets, Workers, resolved, say


def doctor(
    config: ConfigFile = None, preset: Preset = None, encoder: Encoder = None, workers: Workers = None, sets: Sets = None,
    run_dir: Annotated[str, typer.Option(help="Where runs would be kept: a folder or a URI.")] = "runs",
    working_dir: Annotated[Path | None, typer.Option(help="What `ray job submit` would send: its size is checked.")] = None,
) -> None:  # fmt: skip
    """Is the cluster ready: versions, resources, storage, encoder, authentication; every finding with its remedy.

    Looks at the cluster that RAY_ADDRESS names, else at this machine. Example: polarity doctor --preset small --run-dir s3://bucket/runs
    """
    from polarity.ops.doctor import doctor as examine

    chosen = resolved(config, preset, None, None, None, sets, {"--encoder": encoder, "--workers": workers})
    if not examine(chosen.config, run_dir, working_dir, say):
        raise typer.Exit(1)


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="train, ablate, evaluate, predict or benchmark; its options follow.")],
    address: Annotated[str, typer.Option(help="The dashboard's address.")] = "http://127.0.0.1:8265",
    gpus: Annotated[float, typer.Option(help="GPUs of the driver itself; workers ask for their own.")] = 0.0,
    env: Annotated[list[str] | None, typer.Option(help="A variable for the job: --env HF_TOKEN=...; repeatable.")] = None,
    root: Annotated[Path, typer.Option(help="The project's folder, which is sent.")] = Path("."),
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
) -> None:
    """Submit a job to a cluster, follow its log, and exit as it did.

    Options of submit come first. Example: polarity submit --address http://head:8265 train --preset small --data /mnt/comments.csv
    """
    from ray.job_submission import JobStatus

    from polarity.errors import ConfigError
    from polarity.ops.submit import connect, follow
    from polarity.ops.submit import submit as hand_over

    variables = {}
    for given in env or []:
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--env {name}: give NAME=VALUE")
        variables[name] = value
    client = connect(address)
    identity = hand_over(client, job, context.args, root=root.resolve(), gpus=gpus, variables=variables, say=say)
    if not wait:
        return
    status = follow(client, identity, ask=lambda question: typer.confirm(question, default=False), say=say)
    say(f"{identity}: {status.value}")
    if status in (JobStatus.FAILED, JobStatus.STOPPED):
        raise typer.Exit(1)
