"""The trainings of `polarity best`: the folds of an encoder, as many at a time as there are workers, and the student.

Shapes: N rows, K classes.
"""

import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.artifacts import METRICS, STUDENT, RunFolder
from polarity.baselines.floors import label_codes
from polarity.best.plan import EncoderTraining, clock
from polarity.config import Config
from polarity.data.batch import soft_column
from polarity.data.duplicates import without_leaks
from polarity.data.read import original_error
from polarity.data.split import Splits
from polarity.errors import RunError, Say
from polarity.evaluate import Metrics
from polarity.evaluate.predictions import of_split
from polarity.paths import with_absolute_paths
from polarity.predict.scorers import Probabilities
from polarity.strategy import with_settings

PROGRESS_SECONDS = 60.0
OWN_LABEL = 0.5
"""The part of a row's own label in what a student is taught of the row. On 2,117 real rows that no teacher had seen, a student that was
taught the stack's out-of-fold words alone was 0.8 [-0.6, 2.1] points below a training on labels, one taught both in halves 0.8 [-0.0, 1.6]
above it."""


def for_encoder(config: Config, encoder: str) -> Config:
    """The configuration with another encoder; the revision is that of the configuration's own."""
    revision = config.model.revision if encoder == config.model.encoder else None
    return with_absolute_paths(with_settings(config, {"model.encoder": encoder, "model.revision": revision}))


def fold_config(config: Config, training: EncoderTraining, precision: str) -> Config:
    """One fold's training: in one process, a fixed number of epochs, and the last weights, for the fold's scored rows decide nothing."""
    return with_settings(
        for_encoder(config, training.encoder),
        {
            "train.epochs": training.epochs,
            "train.keep": "last",
            "train.early_stopping_patience": None,
            "train.average_epochs": min(config.train.average_epochs, training.epochs),
            "train.precision": precision,
            "model.frozen_layers": training.frozen_layers,
            "cluster.workers": 0,
            "cluster.max_workers": None,
        },
    )


def train_all(config: Config, places: dict[str, Splits], workers: int, say: Say) -> Iterator[str]:
    """Train on each place's rows, as many at a time as there are workers, as tasks of Ray; yields each place as it is done.

    With no workers in this process, one after the other.
    """
    from polarity.workflows.train import train_on

    if not workers:
        for place, splits in places.items():
            train_on(config, place, splits, say=say)
            yield place
        return
    import ray

    from polarity.train.cluster import start_ray

    start_ray(config.cluster, say)
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers) if config.cluster.gpu != "never" else 0.0
    # A task of its own process each: torch keeps its threads and memory apart, and a crash is tried again from the last checkpoint.
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=config.cluster.max_failures, max_calls=1)(_train_quietly)
    with original_error():
        waiting = {task.remote(config, place, splits): place for place, splits in places.items()}
        started = time.monotonic()
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=PROGRESS_SECONDS)
            if not done:
                running = min(workers, len(waiting))
                passed = clock(time.monotonic() - started)
                say(f"{config.model.encoder}: {running} training(s) under way, {len(waiting) - running} to come, {passed}")
            for reference in done:
                ray.get(reference)
                yield waiting.pop(reference)


def _train_quietly(config: Config, place: str, splits: Any) -> None:
    from polarity.workflows.train import train_on

    train_on(config, place, splits, say=lambda _: None)


def place_scores(predictions: pa.Table, comments: pa.Table, rows: Any, labels: dict[str, list[str]], into: dict[str, Floats]) -> None:
    """Copy a fold's probabilities to the places of its rows."""
    from polarity.evaluate.calibration import probabilities_of

    scored = of_split(predictions, "validation")
    ids = comments["row_id"].combine_chunks().cast(pa.string())
    places = pc.index_in(scored["row_id"].cast(pa.string()).combine_chunks(), value_set=ids).to_numpy(zero_copy_only=False)
    if len(places) != int(rows.sum()) or not np.array_equal(np.sort(places), np.flatnonzero(rows)):
        raise RunError("a fold's predictions are not of its rows: begin anew with another --run-dir")
    for task, classes in labels.items():
        into[task][places.astype(np.int64)] = probabilities_of(scored, task, classes)


def teach_student(
    config: Config, training: EncoderTraining, precision: str, folder: RunFolder, labelled: pa.Table, soft: Probabilities,
    unlabelled: tuple[pa.Table, Probabilities] | None, test: pa.Table, say: Say,
) -> Metrics:  # fmt: skip
    """Train one encoder on labels and the stack's probabilities (Hinton et al. 2015) into student/, a run of its own; returns its metrics.

    `soft[task]` (N, K) are out of fold for the labelled rows; what such a row is taught is their mean with its own label (see OWN_LABEL).
    `unlabelled` are comments with the stack's probabilities of them. The student is judged and calibrated on the `test` rows, whose labels
    no teacher has seen: other labelled rows would not do, for their labels are in what the teachers say of the rest.
    """
    from polarity.workflows.train import finish, train_on

    place = folder.inside(STUDENT)
    run = RunFolder.at(place)
    if run.exists(METRICS):
        return cast(Metrics, run.read_json(METRICS))
    taught = _with_soft(labelled, {task: _with_own_label(chances, label_codes(labelled, task)) for task, chances in soft.items()})
    if unlabelled is not None:
        more = _with_soft(unlabelled[0].select(taught.column_names[: len(labelled.column_names)]), unlabelled[1])
        taught = pa.concat_tables([taught, more])
    apart = without_leaks(taught, test)
    splits = Splits(apart.train.combine_chunks(), test.select(labelled.column_names), None, apart.leaks, apart.dropped)
    chosen = fold_config(config, training, precision)
    train_on(chosen, place, splits, say=say)
    return finish(chosen, run, splits, say)


def _with_own_label(chances_NK: NDArray[np.floating], codes_N: Codes) -> Floats:
    """A row without a label (code -1) is taught the stack's probabilities alone."""
    known, mixed = codes_N >= 0, chances_NK.astype(np.float64)
    mixed[known] = (1 - OWN_LABEL) * mixed[known] + OWN_LABEL * np.eye(mixed.shape[1])[codes_N[known]]
    return mixed


def _with_soft(table: pa.Table, soft: Probabilities) -> pa.Table:
    for task, chances in soft.items():
        flat = pa.array(np.ascontiguousarray(chances, np.float32).reshape(-1))
        table = table.append_column(soft_column(task), pa.FixedSizeListArray.from_arrays(flat, chances.shape[1]))
    return table
