"""`polarity train`: check the data, show the ledger, train, judge beside the floors, and write the run folder."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity import artifacts
from polarity.artifacts import CONFIG, RunFolder
from polarity.config import Config
from polarity.data.annotators import votes_column, votes_of
from polarity.data.batch import Shards
from polarity.data.ledger import Ledger, build_ledger
from polarity.data.seen import SeenRows
from polarity.data.shards import Preparation, shard_place
from polarity.data.split import Splits, check_columns, in_shards, load_splits
from polarity.data.tokenize import tokenize_parts
from polarity.encoders import EncoderFiles, load_tokenizer, pinned, require_encoders, resolve_encoder
from polarity.environment import describe_environment, source_hashes
from polarity.errors import ConfigError, RunError, Say
from polarity.evaluate import Metrics, build_metrics, render_metrics
from polarity.evaluate.agreement import Agreement, agreement, error_of_labels, in_words
from polarity.evaluate.calibration import Calibration, CalibrationError, FittedTask, TestedTask, calibrate, check_on
from polarity.evaluate.drift import describe_tokens
from polarity.evaluate.predictions import Labels, of_split, task_codes
from polarity.evaluate.render import Facts, last_screen
from polarity.evaluate.results import SYNTHETIC
from polarity.paths import DATA_KEYS, is_local_data, is_sample, typed, with_absolute_paths
from polarity.quiet import importing, verbose
from polarity.report.record import CommentTexts
from polarity.resolve import Option, dump_config
from polarity.run import Run
from polarity.train.trackers import check_trackers
from polarity.workflows.report import report_run

MOST_IDS = 1000
"""Rows dropped from training that environment.json names; it counts all."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first step."""

    splits: Splits
    encoder: EncoderFiles
    tokens: dict[str, pa.Table]
    ledger: Ledger
    pad_id: int
    unknown_id: int | None
    """The tokenizer's padding and unknown tokens."""
    shards: dict[str, Shards] | None = None
    """What a worker maps in place of the `tokens`, where they lie in shards."""


def train(config: Config, run_dir: str, *, resume: bool = False, verbose: bool = False, say: Say = print) -> Metrics:
    """Train as `config` says into the folder `run_dir` (a local path or a URI), and return the content of metrics.json.

    `verbose` says all tables of scores too, which are in the report in any case. Raises `PolarityError` for everything a user can
    mend; then nothing is left behind but a finished part of a run.
    """
    require_data(config)
    require_encoders([config])
    with new_or_resumed(run_dir, resume) as folder:
        prepared = _start_and_prepare(config, folder, say)
        given, config = config, pinned(config, prepared.encoder)
        if resume:
            _refuse_other_inputs(folder, config, prepared)
        else:
            _describe(folder, config, prepared, typed(given, config))
    _fit(config, folder, prepared, say, resume=resume)
    return finish(config, folder, prepared.splits, say, verbose=verbose)


def finish(config: Config, folder: RunFolder, splits: Splits, say: Say, *, verbose: bool = False) -> Metrics:
    """Judge a trained run beside the floors, calibrate it, and write its report; returns the content of metrics.json."""
    metrics = judge(config, folder, splits, say)
    if verbose:
        say(render_metrics(metrics))
    calibrate_run(folder, say, labels=config.labels, whole=verbose)
    _record_agreement(config, folder, splits, say)
    try:
        report_run(folder, say=say, comments=CommentTexts(splits.held_out))
    except Exception as error:  # whatever it is: the run is finished and judged, and its page can be made again
        say(f"report: not written ({type(error).__name__}: {error}); polarity report {folder.uri} makes it")
    say(last_screen(metrics, _facts(config, folder, splits)))
    say(f"run folder: {folder.uri}")
    return metrics


def _record_agreement(config: Config, folder: RunFolder, splits: Splits, say: Say) -> None:
    """Where several annotators labelled: how far they agree, and how the model's errors lie to their votes, as agreement.json."""
    voted = [task for task in config.data.tasks if any(votes_column(task) in table.column_names for table in splits.votes.values())]
    if not voted:
        return
    predictions = folder.read_parquet(artifacts.PREDICTIONS)
    found: dict[str, Agreement] = {}
    for task in voted:
        classes = config.labels[task]
        found[task] = agreement(np.concatenate([votes_of(table, task) for table in splits.votes.values()]), classes)
        found[task]["soft"], found[task]["errors"] = config.data.tasks[task].soft, {}
        for split in splits.held_out:
            rows, votes = of_split(predictions, split), splits.votes[split]
            places = pc.index_in(rows["row_id"], votes["row_id"].combine_chunks())
            found[task]["errors"][split] = error_of_labels(votes_of(votes.take(places), task), *task_codes(rows, task, classes))
    folder.write_json(artifacts.AGREEMENT, {"tasks": found})
    for line in in_words(found):
        say(line)


def _facts(config: Config, folder: RunFolder, splits: Splits) -> Facts:
    return Facts(
        folder=folder.uri.removeprefix("file://"),
        source=config.data.source,
        training_rows=splits.train.num_rows,
        grouped=config.data.split.kind == "group" and config.data.source is not None,
        with_titles=config.data.title_column is not None,
        epoch_scores=[epoch.scores["overall"] for epoch in Run(folder).epochs],
    )


def train_on(config: Config, run_dir: str, splits: Splits, *, say: Say = print) -> RunFolder:
    """Train in this process on rows that are given, and predict the held-out ones; nothing is judged, no report is written.

    A training that was killed goes on from its newest checkpoint, and one that is finished is left as it is.
    """
    folder = RunFolder.at(run_dir)
    if folder.exists(artifacts.PREDICTIONS):  # what is written last
        return folder
    resume = folder.exists(artifacts.CONFIG)  # what is written last before the first step
    prepared = prepare(config, say, through_ray=False, splits=splits)
    config = pinned(config, prepared.encoder)
    if not resume:
        _describe(folder, config, prepared, {})
    _fit(config, folder, prepared, say, resume=resume)
    if folder.exists(artifacts.CHECKPOINTS):
        folder.delete_folder(artifacts.CHECKPOINTS)
    return folder


def _start_and_prepare(config: Config, folder: RunFolder, say: Say) -> Prepared:
    """Start Ray, where there are workers, and prepare; small data meanwhile, for either takes seconds and leaves a core idle."""
    if not config.cluster.workers:
        return prepare(config, say)
    from polarity.train.cluster import check_nodes, start_ray  # Ray is slow to import and not needed without workers

    # Most of what either does is to import.
    with importing(), ThreadPoolExecutor(max_workers=1) as pool:  # Ray wants the main thread, for its signal handlers
        preparing = pool.submit(_prepare_here, config, say)
        start_ray(config.cluster, say)
        shards = shard_place(config.data) if in_shards(config.data) else None
        check_nodes([config], folder, say, with_data=False, shards=shards)
        prepared = preparing.result()
    if prepared is not None:
        return prepared
    check_nodes([config], folder, say, with_data=True)
    return prepare(config, say)


class _NotReady(Exception):
    """Ray Data is to make the shards."""


def _prepare_here(config: Config, say: Say) -> Prepared | None:
    """What is prepared in seconds; None where Ray Data is to make shards first."""
    try:
        prepared = prepare(config, say, through_ray=False, if_ready=True)
    except _NotReady:
        return None
    import polarity.train.driver  # noqa: F401  # torch and Ray Train, which come next, take seconds to import

    return prepared


def prepare(config: Config, say: Say, *, through_ray: bool = True, splits: Splits | None = None, if_ready: bool = False) -> Prepared:
    """Read, check, split and tokenize the data, and draw up the ledger; `through_ray`: shards are made with Ray Data, where Ray is running.

    `splits`, where given, are the rows, and no data is read. `if_ready`: raise `_NotReady` where shards are to be made first.
    """
    check_trackers(config.tracking)
    encoder = resolve_encoder(config.model.encoder, config.model.revision)
    tokenizer = load_tokenizer(encoder.folder)
    from polarity.model.encoder import check_length  # torch takes seconds to import

    check_length(config.data, encoder.folder)
    if config.model.frozen_layers:
        from polarity.model.frozen import check_frozen_layers

        check_frozen_layers(config.model.frozen_layers, config.model.pooling, _encoder_config(encoder.folder))
    shards = None
    if splits is None and in_shards(config.data):
        preparation = Preparation(config.data, tokenizer)
        if if_ready and not preparation.ready():
            raise _NotReady
        made = preparation.open(say, through_ray=through_ray)
        splits, tokens, shards = made.splits, made.tokens, made.shards
    splits = splits or load_splits(config.data, say)
    if any(map(is_sample, config.data.sources)):
        say("the data is the SYNTHETIC sample corpus: its scores say nothing of real comments")
    ledger = build_ledger(splits.train, config)
    say(ledger.render(whole=verbose()))
    if shards is None:
        tokens = tokenize_parts(splits.parts, tokenizer, config.data, say)
    return Prepared(splits, encoder, tokens, ledger, int(tokenizer.pad_token_id), tokenizer.unk_token_id, shards)


def judge(config: Config, folder: RunFolder, splits: Splits, say: Say) -> Metrics:
    """Score the run's own predictions.parquet beside the floors, and write metrics.json."""
    from polarity.baselines.floors import floors  # scikit-learn is slow to import and not needed before

    run = Run(folder)
    metrics = build_metrics(
        run.predictions,
        floors(splits.train, splits.held_out, config.labels, say=say),
        config.labels,
        resamples=config.train.resamples,
        by_title=splits.by_title,
        decided=run.decided,
        stability=run.stability,
    )
    if any(map(is_sample, config.data.sources)):
        metrics["data"] = SYNTHETIC
    folder.write_json(artifacts.METRICS, metrics)
    return metrics


def calibrate_run(folder: RunFolder, say: Say, *, labels: Labels | None = None, whole: bool = True) -> Calibration:
    """Fit on the validation rows of the run's predictions.parquet, write model/calibration.json, and return its content.

    `labels` are the tasks with their classes, by default those of the run's config.yaml. Where there are test rows, the content says
    under `test` what the calibration does on them. `whole` says all that was found, else one plain sentence a task. Raises RunError
    where the run has no validation predictions.
    """
    labels = Run(folder).labels if labels is None else labels
    predictions = folder.read_parquet(artifacts.PREDICTIONS)
    rows = of_split(predictions, "validation")
    if not rows.num_rows:
        raise RunError(f"{folder.uri}/{artifacts.PREDICTIONS}: holds no validation rows, so there is nothing to calibrate on")
    content = calibrate(rows, labels, "validation")
    test = of_split(predictions, "test")
    if test.num_rows:
        content["test"] = check_on(test, labels, content["tasks"])
    folder.write_json(artifacts.CALIBRATION, content)
    for task, entry in content["tasks"].items():
        say(_calibration_in_full(task, entry, content.get("test", {}).get(task)) if whole else _calibration_in_short(task, entry))
    return content


def _calibration_in_short(task: str, entry: FittedTask) -> str:
    if "calibration_error" not in entry:
        return f"calibration of {task}: {entry['note']}"
    kept = "; predict and evaluate shift the scores of its classes too, which helps; what follows is without" if entry["biases"] else ""
    before, after = (entry["calibration_error"]["before"]["ece"], entry["calibration_error"]["after"]["ece"])
    found = f"{after:.3f} once calibrated" if after < before else "and calibration does not show a gain on these rows"
    return f"{task}: confidence is off by {before:.3f} on average, {found}{kept}"


def _calibration_in_full(task: str, entry: FittedTask, test: TestedTask | None) -> str:
    if "calibration_error" not in entry:
        return f"calibration of {task}: {entry['note']}"
    before, after = (_with_limits(entry["calibration_error"][when]) for when in ("before", "after"))
    parts = [f"temperature {entry['temperature']:.2f}, calibration error {before} -> {after} (cross-fitted)"]
    gain = entry.get("bias_gain")
    if gain is None:
        parts.append(entry["note"])
    elif gain["gain_ci95"] is not None:
        low, high = gain["gain_ci95"]
        parts.append(f"class biases kept: macro-F1 {gain['gain']:+.3f} [{low:+.3f}, {high:+.3f}], corrected for having been chosen")
    else:
        low, high = gain["ci95"]
        parts.append(
            f"class biases not kept: macro-F1 {gain['cross_fitted']:+.3f} [{low:+.3f}, {high:+.3f}] cross-fitted, no evidence of a gain"
        )
    if test is not None:
        errors, (low, high) = test["calibration_error"], test["macro_f1_change_ci95"]
        parts.append(f"on test: error {_with_limits(errors['before'])} -> {_with_limits(errors['after'])}")
        if entry["biases"] is not None:
            change = test["macro_f1_after"] - test["macro_f1_before"]
            parts[-1] += f", macro-F1 {change:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"calibration of {task}: {'; '.join(parts)}"


def _with_limits(error: CalibrationError) -> str:
    low, high = error["ci95"]
    noise = "" if error["evidence"] else f", no evidence: chance gives up to {error['noise95']:.3f}"
    return f"{error['ece']:.3f} [{low:.3f}, {high:.3f}{noise}]"


@contextmanager
def new_or_resumed(run_dir: str, resume: bool) -> Iterator[RunFolder]:
    """The run's folder; one that was made here and is still empty when the data is refused goes away again."""
    folder = RunFolder.create(run_dir, resume=resume)
    if resume and folder.exists(artifacts.METRICS):
        raise RunError(f"{folder.uri}: this run is finished (it has {artifacts.METRICS}); nothing to resume")
    try:
        yield folder
    finally:
        if folder.local is not None and folder.local.is_dir() and not any(folder.local.iterdir()):
            folder.local.rmdir()


def _refuse_other_inputs(folder: RunFolder, config: Config, prepared: Prepared) -> None:
    """A run goes on with the encoder and the data that it began with, wherever they lie now; raises RunError where it would not."""
    began = folder.read_json(artifacts.ENVIRONMENT)
    if prepared.encoder.sha256 != began["encoder"]["sha256"]:
        raise RunError(f"{config.model.encoder}: not the encoder that the run began with (other files); give that one with --encoder")
    sources = config.data.sources
    for source, sha, known in zip(sources, source_hashes(sources).values(), began["data"].values(), strict=True):
        if sha != known:
            raise RunError(f"{source}: not the data that the run began with (other bytes): give that with --data, or start a new run")


def _describe(folder: RunFolder, config: Config, prepared: Prepared, given: Mapping[str, str | None]) -> None:
    import torch

    seeds = {"run": config.train.seed, "split": config.data.split.seed}
    environment = describe_environment(seeds=seeds, sources=config.data.sources, encoder=prepared.encoder, torch=torch)
    splits = prepared.splits
    environment["rows"] = {name: table.num_rows for name, table in splits.parts.items()}
    shown = splits.leaks["train_row_id"].slice(0, MOST_IDS).to_pylist()
    environment["dropped_from_train"] = {"rows": splits.dropped, "row_ids": shown}
    environment["train_tokens"] = describe_tokens(prepared.tokens["train"]["input_ids"], prepared.unknown_id)
    folder.write_json(artifacts.ENVIRONMENT, environment)
    prepared.ledger.write(folder)
    folder.write_parquet(artifacts.SEEN, SeenRows.of(splits.parts).table if splits.seen is None else splits.seen())
    folder.write_text(artifacts.CONFIG, dump_config(config, given))


def _fit(config: Config, folder: RunFolder, prepared: Prepared, say: Say, *, resume: bool) -> None:
    from polarity.train.control import Control, Job, on_sigterm, seconds

    job = Job(
        config, prepared.shards or prepared.tokens, prepared.ledger.task_statistics, folder.uri, prepared.encoder, pad_id=prepared.pad_id
    )
    if config.cluster.workers:
        from polarity.train.driver import fit

        fit(job, say, resume=resume)
        return
    from polarity.train.worker import launch
    from polarity.train.world import World, device_here

    world = World.current(device_here(config.cluster.gpu), Control(save_every_s=seconds(config.cluster.checkpoint_minutes)))
    stop = f"SIGTERM (run folder {folder.uri})"
    late = RunError(f"{stop}: no step ended in time for a last checkpoint; continue with --resume from the one before")
    with on_sigterm(lambda: world.control.request_stop(stop), config.cluster.grace_s, lambda: late):
        launch(job, world, say=say, resume=resume)


def _encoder_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def require_data(config: Config) -> None:
    """Raise where the configuration names no data, or names a file or a column of it that is not there."""
    if not (config.data.source or config.data.train):
        raise ConfigError(
            "no data: give --data FILE, or --train FILE --validation FILE; polarity init FILE writes a configuration for your own file, "
            "and --preset quickstart brings its data"
        )
    check_columns(config.data)


_PLACES = {"--data": "source", "--train": "train", "--validation": "validation", "--test": "test"}
_FREE = {*_PLACES, "--encoder", "--workers", "--max-steps"}


def resumed_configuration(run_dir: str | None, given: Mapping[str, Option], sets: list[str]) -> Config:
    """The run's own config.yaml; raises ConfigError where an option that decides its numbers is given anew.

    The number of workers may change, because results do not depend on it (`given["--workers"]` is a pair, the least and the most or
    None), and so may the step limit (but a run that it cut inside an epoch cannot go on). Data and encoder may have been moved; new places
    are written into the run's config.yaml, so that later commands find them too.
    """
    if not run_dir:
        raise RunError("--resume needs --run-dir: which run is to go on?")
    refused = [name for name, value in given.items() if value is not None and name not in _FREE]
    if refused or sets:
        raise ConfigError(f"--resume takes the run's own settings; leave out {', '.join(refused + ['--set'] * bool(sets))}")
    folder = RunFolder.create(run_dir, resume=True)
    kept = Run(folder).config
    moved = _with_new_places(kept, given)
    _check_places(moved)
    if moved != kept:
        folder.write_text(CONFIG, dump_config(moved, typed(kept, moved)))
    update, workers = moved.model_dump(), given.get("--workers")
    if isinstance(workers, tuple):
        update["cluster"]["workers"], update["cluster"]["max_workers"] = workers
    if given.get("--max-steps") is not None:
        update["train"]["max_steps"] = given["--max-steps"]
    return Config.model_validate(update)


def _with_new_places(config: Config, given: Mapping[str, Option]) -> Config:
    """The configuration with the places that are given, absolute."""
    tree = config.model_dump()
    for option, key in _PLACES.items():
        if given.get(option) is None:
            continue
        if tree["data"][key] is None:
            own = ", ".join(name for name, other in _PLACES.items() if tree["data"][other] is not None)
            raise ConfigError(f"{option}: the run began without it; it has {own}: give its new place")
        tree["data"][key] = given[option]
    if given.get("--encoder") is not None:
        tree["model"].update(encoder=given["--encoder"], revision=None)
    return with_absolute_paths(Config.model_validate(tree)) if tree != config.model_dump() else config


def _check_places(config: Config) -> None:
    """Raise ConfigError where the run's data is gone, with the way out."""
    for option, key in zip(_PLACES, DATA_KEYS, strict=True):
        place = getattr(config.data, key.removeprefix("data."))
        if place is not None and is_local_data(place) and not os.path.exists(place):
            raise ConfigError(f"{key}: {place}: no such file; if the run's data was moved, name its new place with {option}")
