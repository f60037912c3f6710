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
    """Is the cluster ready: versions, resources, storage, encoder, data, dashboard, authentication; every finding with its remedy.

    Looks at the cluster that RAY_ADDRESS names (HOST:6379, on one of its nodes), else at this machine; exits with 1 where a problem stands
    in the way. From elsewhere, send it as a job.

    Examples: polarity doctor --preset small --run-dir s3://bucket/runs;
    polarity submit --address http://head:8265 doctor --preset small --run-dir s3://bucket/runs
    """
    from polarity.ops.submit import use_token

    use_token()  # before Ray is imported
    from polarity.ops.doctor import doctor as examine

    chosen = resolved(config, preset, None, None, None, sets, {"--encoder": encoder, "--workers": workers})
    if not examine(chosen.config, run_dir, working_dir, say):
        raise typer.Exit(1)


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="train, ablate, evaluate, predict, benchmark or doctor; its options follow.")],
    address: Annotated[str | None, typer.Option(help="The dashboard's address; default RAY_ADDRESS, else http://127.0.0.1:8265.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of the driver itself; workers ask for their own.")] = 0.0,
    env: Annotated[list[str] | None, typer.Option(help="A variable for the job: NAME=VALUE, or NAME to pass yours on; repeatable.")] = None,
    root: Annotated[Path, typer.Option(help="The project's folder, which is sent.")] = Path("."),
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
) -> None:
    """Submit a job to a cluster, follow its log, and exit as it did.

    Ctrl-C asks whether to stop the job. Exit status: 0 success, the job's own where it failed, 1 stopped, 130 left running.

    Options of submit come first. Example: polarity submit --address http://head:8265 train --preset small --data /mnt/comments.csv
    """
    from polarity.ops import submit as ops

    ops.use_token()  # before Ray is imported
    variables = ops.variables_of(env or [])
    client = ops.connect(ops.job_server(address))
    identity = ops.submit(client, job, context.args, root=root.resolve(), gpus=gpus, variables=variables, say=say)
    if not wait:
        return
    status = ops.follow(client, identity, ask=_confirmed, say=say)
    say(f"{identity}: {status.value}")
    code = ops.exit_code(client, identity, status)
    if code:
        raise typer.Exit(code)


def _confirmed(question: str) -> bool:
    """The answer; a second Ctrl-C, or nobody there to answer, is a no: what runs goes on."""
    try:
        return typer.confirm(question, default=False)
    except typer.Abort:
        return False
