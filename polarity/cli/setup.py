"""What to do before and beside training: `init`, `data`, `doctor`, `submit` and `benchmark`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from polarity.cli.options import (
    ConfigFile,
    ConfigOption,
    Data,
    Encoder,
    Points,
    Preset,
    Seed,
    Sets,
    Test,
    Train,
    Validation,
    Workers,
    one_file,
    resolved,
    say,
)

app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")


@app.command("check")
def data_check(
    file: Annotated[str | None, typer.Argument(help="CSV, Parquet, JSON Lines, Excel, a datasets folder, hf:NAME or sample.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings (columns, tasks, split).")] = None,
    preset: Preset = None, train: Train = None, validation: Validation = None, test: Test = None, encoder: Encoder = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """Counts, bad rows, duplicates, conflicts, lengths, and what would leak across the split.

    Examples: polarity data check comments.csv; polarity data check --train train.csv --validation val.csv
    """
    import json

    from polarity.data.check import check_source, render
    from polarity.encoders import load_tokenizer, resolve_encoder
    from polarity.errors import ConfigError

    given = {"--data": file, "--train": train, "--validation": validation, "--test": test}
    chosen = resolved(config, preset, None, None, None, sets, given).config.data
    parts = {name: path for name in ("train", "validation", "test") if (path := getattr(chosen, name))}
    source = parts or chosen.source
    if not source:
        raise ConfigError("no data: give a FILE, or --train FILE --validation FILE")
    tokenizer = load_tokenizer(resolve_encoder(encoder).folder) if encoder else None  # tokens are counted where an encoder is given
    found = check_source(source, chosen, tokenizer, partial(typer.echo, err=True))
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else render(found))


@app.command("oversample")
def data_oversample(
    file: Annotated[str, typer.Argument(help="The labelled file.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    preset: Preset = None, points: Points = None, seed: Seed = None, sets: Sets = None,
    epoch: Annotated[int, typer.Option(min=1, help="Which epoch's table.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:  # fmt: skip
    """Write one epoch's oversampled table with the column `multiplicity`, through Ray Data.

    Example: polarity data oversample comments.csv --points 2 --out epoch1.parquet
    """
    from polarity.data.oversample_file import write_oversampled
    from polarity.data.split import check_columns
    from polarity.train.cluster import start_ray

    chosen = resolved(config, preset, points, None, None, sets, {"--seed": seed}).config
    check_columns(chosen.data.model_copy(update={"source": file}))
    start_ray(chosen.cluster, say)
    write_oversampled(file, chosen.data, out, seed=chosen.train.seed, epoch=epoch - 1, say=say, overwrite=overwrite)


def init(
    file: Annotated[str, typer.Argument(help="CSV, TSV, Parquet, JSON Lines or Excel, with labels.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="YAML file to write; default: the file's name with .yaml, in this folder.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text; default: guessed.")] = None,
    title: Annotated[str | None, typer.Option(help="Column of the title; - for none.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="Column that identifies a row; - to number them.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Column of labels. Repeatable.")] = None,
    encoder: Encoder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take the guesses and ask nothing, for scripts.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the YAML file if it is there.")] = False,
) -> None:
    """Look at a file of your own, guess its columns and classes, and write the configuration that `polarity train` takes.

    It asks before it writes; --yes takes the guesses, and says what it cannot decide.

    Examples: polarity init reviews.xlsx; polarity init comments.csv --text body --label stance --yes --out stance.yaml
    """
    import sys

    from polarity.errors import ConfigError
    from polarity.workflows.init import Wanted
    from polarity.workflows.init import init as write

    if not yes and not sys.stdin.isatty():
        raise ConfigError("nobody is there to answer questions: give --yes to take the guesses")
    ask = None if yes else (lambda question, default: str(typer.prompt(question, default=default)))
    place = out or Path(f"{Path(file.rstrip('/')).name.split('.')[0]}.yaml")
    wanted = Wanted(text, title, row_id, tuple(label or ()))
    write(file, place, wanted, encoder=encoder or "intfloat/multilingual-e5-small", overwrite=overwrite, ask=ask, say=say)


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
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the log until the job ends.")] = False,
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
    if no_wait:
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


_PARTS = "training, prediction, limit, checkpoint, points, oversampling, loading, startup, trials"


def benchmark(
    config: ConfigFile = None, preset: Preset = None, data: Data = None, encoder: Encoder = None, sets: Sets = None,
    quick: Annotated[bool, typer.Option("--quick", help="Training and prediction on few rows: three minutes on two cores.")] = False,
    parts: Annotated[str | None, typer.Option(help=f"Some of {_PARTS}: with commas, no spaces.")] = None,
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
