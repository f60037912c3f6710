"""`polarity doctor`, `polarity submit` and `polarity benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import ConfigFile, ConfigOption, Data, Encoder, Preset, Sets, Workers, one_file, resolved, say


def doctor(
    config: ConfigFile = None, preset: Preset = None, encoder: Encoder = None, workers: Workers = None, sets: Sets = None,
    run_dir: Annotated[str, typer.Option(help="Where runs would be kept: a folder or a URI.")] = "runs",
    working_dir: Annotated[Path | None, typer.Option(help="What `ray job submit` would send: its size is checked.")] = None,
    config_option: ConfigOption = None,
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

    chosen = resolved(one_file(config, config_option), preset, None, None, None, sets, {"--encoder": encoder, "--workers": workers})
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


_PARTS = "training,prediction,limit,checkpoint,points,oversampling,loading,startup,trials"


def benchmark(
    config: ConfigFile = None, preset: Preset = None, data: Data = None, encoder: Encoder = None, sets: Sets = None,
    quick: Annotated[bool, typer.Option("--quick", help="Training and prediction on few rows: three minutes on two cores.")] = False,
    parts: Annotated[str | None, typer.Option(help=f"Some of {_PARTS}.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats of each contestant.")] = None,
    rows: Annotated[int | None, typer.Option(min=32, help="Training rows of a repeat.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the one process that computes.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures; a page with charts is written beside it.")] = None,
    config_option: ConfigOption = None,
) -> None:  # fmt: skip
    """Speed of this machine beside transformers' Trainer, a bare loop and the machine's own limit, interleaved, as ratios.

    Examples: polarity benchmark --quick; polarity benchmark --data comments.csv --encoder intfloat/multilingual-e5-small --out speed.json
    """
    from polarity.workflows.benchmark import benchmark as run

    config = one_file(config, config_option)
    # A file of settings may name data and encoder itself; without one, what a machine without a hub has.
    own = {"--data": data, "--encoder": encoder or (None if config else "offline:minilm")}
    every = [*([] if data or config else ["data.source=sample:3000"]), *([f"cluster.cpus_per_worker={threads}"] if threads else [])]
    every += sets or []
    chosen = resolved(config, preset or "small", None, None, None, every, own)
    options = [*([str(config)] if config else []), "--preset", preset or "small"]
    options += [part for name, value in own.items() if value for part in (name, value)]
    options += [part for value in every for part in ("--set", value)]
    run(
        chosen.config, options, quick=quick, parts=parts.split(",") if parts else None, repeats=repeats, rows=rows, out=out, say=say
    )  # fmt: skip
