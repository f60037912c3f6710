"""What one worker does, wherever it was started: `launch` trains, and the first worker writes the results to the run folder.

There are three starts, and all go through here: this process alone (`workflows/train.py`), a worker of a Ray Train group (`driver.py`),
and a trial in a process of Ray Tune (`tune/trial.py`). They differ in who reads the epochs' scores and in what may stop them.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from polarity.artifacts import CHECKPOINTS, HISTORY, MODEL, PREDICTIONS, Fill, RunFolder, disk_errors
from polarity.data.batch import Corpus
from polarity.encoders import load_tokenizer, quiet_transformers, same_encoder
from polarity.errors import PolarityError, RunError, Say, nothing
from polarity.evaluate import build_predictions
from polarity.model.multitask import MultitaskModel
from polarity.train.checkpoints import temporary_room, verify
from polarity.train.control import Events, HistoryRow, Job, checkpoint_names
from polarity.train.loop import Result, Tables, run_training
from polarity.train.trackers import Named, running, trackers_of
from polarity.train.world import World, use_threads


@dataclass(frozen=True)
class RunEvents(Events):
    """What a run does with a training's events: the newest `keep` checkpoints stay in its folder, rows go to the trackers."""

    folder: RunFolder
    lines: Say
    rows: Callable[[HistoryRow], None]
    epochs: Callable[[Mapping[str, float]], None]
    keep: int = 2

    def say(self, line: str) -> None:
        self.lines(line)

    def record(self, row: HistoryRow) -> None:
        self.rows(row)

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        self.epochs(metrics)

    def save(self, name: str, write: Fill) -> None:
        with disk_errors(f"{self.folder.uri}/{CHECKPOINTS}"):
            for left in self.folder.list(CHECKPOINTS):
                if left.startswith(".epoch_"):  # of a worker that was killed while it wrote; there is no other writer
                    self.folder.delete_folder(f"{CHECKPOINTS}/{left}")
            self.folder.write_folder(f"{CHECKPOINTS}/{name}", write)
            for old in checkpoint_names(self.folder)[: -self.keep]:
                self.folder.delete_folder(f"{CHECKPOINTS}/{old}")


def launch(
    job: Job, world: World, *, say: Say, resume: bool, epoch_ended: Callable[[Mapping[str, float]], None] = lambda metrics: None,
    keep: int = 2, gauges: Mapping[str, str] | None = None,
) -> object:  # fmt: skip
    """Train on this worker, and write model, history and predictions into the run folder from the first one.

    `resume`: go on from the folder's newest whole checkpoint, where there is any. `epoch_ended` gets each epoch's metrics on every worker;
    `keep` checkpoints stay. `gauges` are the tags of Ray's metrics (`ray_metrics.RUN_TAGS`), None where there is no Ray; returned are those
    metrics' last values, for `ray_metrics.publish`, or None.
    """
    quiet_transformers()
    use_threads(job.config.cluster.cpus_per_worker)
    folder, tell = RunFolder.open(job.run_dir), say if world.is_first else nothing
    with tempfile.TemporaryDirectory(prefix="polarity-resume-") as temporary:
        checkpoint = _agreed_checkpoint(folder, world, Path(temporary), tell) if resume else None
        encoder = same_encoder(job.encoder)
        parts = job.tables()
        corpora = {name: Corpus.from_table(table, list(job.config.labels), job.pad_id) for name, table in parts.items()}
        tables = Tables(corpora["train"], corpora["validation"], corpora.get("test"), job.statistics)
        model = MultitaskModel.from_encoder(encoder.folder, job.config.model, job.config.labels, seed=job.config.train.seed)
        trackers = trackers_of(job.config, folder, tell) if world.is_first and job.keep_model else []
        metrics = None
        if gauges is not None and world.is_first:
            from polarity.train.ray_metrics import metrics_of  # Ray is slow to import, and a process without it needs none

            metrics = metrics_of(job, gauges, checkpoint)
            trackers.append(Named("Ray's metrics", metrics.start))
        with running(trackers, say=tell) as rows:
            events = RunEvents(folder, tell, rows, epoch_ended, keep)
            result = run_training(job.config, tables, model, events, world=world, resume=checkpoint)
            if world.is_first:
                _write(job, parts, result, encoder.folder)
    return None if metrics is None else metrics.last_values()


def _agreed_checkpoint(folder: RunFolder, world: World, target: Path, say: Say) -> Path | None:
    """The newest whole checkpoint, the same on all workers: the first one chooses. A new run's folder has none."""
    found, problem = None, None
    if world.is_first:
        try:
            found = newest_checkpoint(folder, target, say)
        except PolarityError as error:
            problem = str(error)
    world.raise_together(problem)
    name = world.gather(None if found is None else found.name)[0]
    if name is None or found is not None:
        return found
    return folder.fetch_folder(f"{CHECKPOINTS}/{name}", target)


def newest_checkpoint(folder: RunFolder, target: Path, say: Say = print) -> Path | None:
    """The newest whole checkpoint as a local folder (copied under `target` where the run is remote), or None where there is none at all.

    A damaged one is told of and passed over. Raises `RunError` where all are damaged.
    """
    names = checkpoint_names(folder)
    for name in reversed(names):
        found = folder.fetch_folder(f"{CHECKPOINTS}/{name}", target)
        try:
            verify(found)
        except RunError as error:
            say(f"{error}; going back to the one before")
        else:
            return found
    if names:
        raise RunError(f"{folder.uri}: every checkpoint is damaged ({', '.join(names)}); start anew with another --run-dir")
    return None


def _write(job: Job, parts: Mapping[str, pa.Table], result: Result, encoder: Path) -> None:
    folder = RunFolder.open(job.run_dir)
    judged = [
        build_predictions(name, parts[name], scores.probabilities, job.config.labels, scores.predicted)
        for name, scores in result.predictions.items()
    ]
    if job.keep_model:
        with tempfile.TemporaryDirectory(prefix="polarity-model-") as temporary:
            with temporary_room(Path(temporary)):
                result.model.save_pretrained(temporary)
                load_tokenizer(encoder).save_pretrained(temporary)
            folder.write_folder(MODEL, Path(temporary))
    history = result.state.history
    columns = dict.fromkeys(name for row in history for name in row)
    folder.write_parquet(HISTORY, pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in history]))
    folder.write_parquet(PREDICTIONS, pa.concat_tables(judged))
