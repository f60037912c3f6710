"""What one worker does, with or without Ray: build the model, run the loop, and let the first one write the results to the run folder."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
import torch
from transformers import logging as transformers_logging

from polarity.artifacts import CHECKPOINTS, HISTORY, MODEL, PREDICTIONS, Fill, RunFolder, disk_errors
from polarity.data.batch import Corpus
from polarity.encoders import load_tokenizer, same_encoder
from polarity.errors import RunError
from polarity.evaluate import build_predictions
from polarity.model.multitask import MultitaskModel
from polarity.train.checkpoints import temporary_room, verify
from polarity.train.job import Job, Say, checkpoint_names
from polarity.train.loop import Report, Result, Tables, run_training
from polarity.train.progress import Record, Watch
from polarity.train.trackers import open_trackers
from polarity.train.world import World


def work(
    job: Job, report: Report, *, world: World, say: Say, resume: Path | None, watch: Watch | None = None,
    wants_checkpoint: Callable[[], bool] | None = None,
) -> None:  # fmt: skip
    """Train, and write model, history and predictions into the run folder from the first worker, where the run is tracked, too.

    `watch` is shown how it goes, beside the trackers of `config.tracking`, which a run without `job.keep_model` does not have, and
    `wants_checkpoint` says after each epoch whether `report` will keep one.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = job.config
    encoder = same_encoder(job.encoder)
    corpora = {name: Corpus.from_table(table, list(config.labels), job.pad_id) for name, table in job.parts.items()}
    tables = Tables(corpora["train"], corpora["validation"], corpora.get("test"), job.statistics)
    model = MultitaskModel.from_encoder(encoder.folder, config.model, config.labels, seed=config.train.seed)
    with _tracked(job, world, say) as tracking:
        watching = _both(watch, tracking)
        result = run_training(
            config, tables, model, report, world=world, say=say, resume=resume, watch=watching, wants_checkpoint=wants_checkpoint
        )
        if world.is_first:
            _write(job, result, encoder.folder)


def _tracked(job: Job, world: World, say: Say) -> AbstractContextManager[Watch | None]:
    if not (world.is_first and job.keep_model):
        return nullcontext()
    return open_trackers(job.config, RunFolder.open(job.run_dir), say=say)


def _both(first: Watch | None, second: Watch | None) -> Watch | None:
    if first is None or second is None:
        return first or second

    def show(record: Record) -> None:
        first(record)
        second(record)

    return show


def _write(job: Job, result: Result, encoder: Path) -> None:
    folder = RunFolder.open(job.run_dir)
    judged = [
        build_predictions(name, job.parts[name], scores.probabilities, job.config.labels, scores.predicted)
        for name, scores in result.predictions.items()
    ]
    if job.keep_model:
        with tempfile.TemporaryDirectory(prefix="polarity-model-") as temporary:
            with temporary_room(Path(temporary)):
                result.model.save_pretrained(temporary)
                load_tokenizer(encoder).save_pretrained(temporary)
            folder.write_folder(MODEL, Path(temporary))
    folder.write_parquet(HISTORY, pa.Table.from_pylist(_same_columns(result.state.history)))
    folder.write_parquet(PREDICTIONS, pa.concat_tables(judged))


def _same_columns(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


class FolderReport:
    """The loop's report without Ray: checkpoints go into the run folder, the newest two are kept."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def __call__(self, metrics: dict[str, float], checkpoint: Fill | None, name: str) -> None:
        if checkpoint is None:
            return
        with disk_errors(f"{self._folder.uri}/{CHECKPOINTS}"):
            for left in self._folder.list(CHECKPOINTS):
                if left.startswith(".epoch_"):  # of a worker that was killed while it wrote; there is no other writer
                    self._folder.delete_folder(f"{CHECKPOINTS}/{left}")
            self._folder.write_folder(f"{CHECKPOINTS}/{name}", checkpoint)
            for old in checkpoint_names(self._folder)[:-2]:
                self._folder.delete_folder(f"{CHECKPOINTS}/{old}")


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


def use_threads(cpus: float) -> None:
    """Torch computes on as many threads as CPUs were reserved: more would slow every worker on the node."""
    torch.set_num_threads(max(1, int(cpus)))
