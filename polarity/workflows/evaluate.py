"""`polarity evaluate`: a run judged on any labelled file, as training judges, with slices by language and warnings of drift."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polarity import artifacts
from polarity.artifacts import RunFolder, sha256_file
from polarity.config import Config, DataConfig, SplitConfig
from polarity.data.read import read_comments
from polarity.errors import DataError, RunError
from polarity.evaluate import build_metrics, build_predictions, render_metrics
from polarity.evaluate.drift import drift, label_counts
from polarity.evaluate.language import can_tell_languages, language_slices
from polarity.evaluate.predictions import Labels, label_column
from polarity.predict import Classifier, load_classifier
from polarity.run import Run

Say = Callable[[str], None]
SPLIT = "test"
"""The name under which a file's rows are judged: they decided nothing."""


@dataclass(frozen=True)
class Scored:
    """A labelled file as a classifier sees it: its comments, the predictions table of the same rows, and how many are the run's own."""

    config: Config
    comments: pa.Table
    predictions: pa.Table
    own_validation_rows: int
    classifier: Classifier


def evaluate(
    run: str,
    source: str,
    *,
    out: str | None = None,
    raw: bool = False,
    votes: str | None = None,
    train: str | None = None,
    sets: Sequence[str] = (),
    device: str = "auto",
    batch_size: int = 64,
    say: Say = print,
) -> dict[str, Any]:
    """Judge the run on a labelled file; returns the content of metrics.json, and writes it with the predictions into the folder `out`.

    `train` is the file of training rows, for the floors and for drift; `sets` are settings of `data.` that read this file in place
    of the run's, such as `data.comment_column=text`. Raises RunError where `out` holds something or the run cannot be used,
    DataError where the file cannot be judged.
    """
    with _empty_folder(out) as folder:
        scored = score_file(run, source, raw=raw, votes=votes, sets=sets, device=device, batch_size=batch_size, say=say)
        trained = None if train is None else read_labelled(train, scored.config.data, say)
        metrics = _judge(scored, trained, say)
        notes = _notes(run, source, scored, votes=votes, trained=trained)
        metrics["evaluation"] = {"run": scored.classifier.name, "data": source, "calibrated": scored.classifier.calibrated, **notes}
        metrics["drift"] = _drift(run, scored, trained)
        if source.split(":")[0] == "sample":
            metrics["data"] = "SYNTHETIC sample corpus"
        if folder is not None:
            folder.write_parquet(artifacts.PREDICTIONS, scored.predictions)
            folder.write_json(artifacts.METRICS, metrics)
    say(render_metrics(metrics))
    for line in _lines(metrics):
        say(line)
    if folder is not None:
        say(f"written: {folder.uri}/{artifacts.METRICS} and {artifacts.PREDICTIONS}")
    return metrics


def score_file(
    run: str,
    source: str,
    *,
    raw: bool = False,
    votes: str | None = None,
    sets: Sequence[str] = (),
    device: str = "auto",
    batch_size: int = 64,
    say: Say = print,
) -> Scored:
    """Read a labelled file with the run's configuration and score it."""
    opened = Run.open(run)
    classifier = load_classifier(run, raw=raw, votes=votes, device=device, batch_size=batch_size)
    config = opened.config_with(sets)
    labels = _judged_labels(config, classifier, source)
    comments = read_labelled(source, config.data, say)
    say(f"{source}: {comments.num_rows:,} rows, scored by {classifier.name}{'' if classifier.calibrated else ' (not calibrated)'}")
    scores = classifier.score(comments)
    predictions = build_predictions(
        SPLIT, comments, {t: scores[t].probabilities for t in labels}, labels, {t: scores[t].predicted for t in labels}
    )
    marked, own = _mark_fitted(opened.folder, predictions, labels, classifier.calibrated)
    return Scored(config, comments, marked, own, classifier)


def read_labelled(source: str, data: DataConfig, say: Say) -> pa.Table:
    """The comments table of a labelled file; a column that says the split is not looked for."""
    plain = data.model_copy(update={"split": SplitConfig(), "source": source, "train": None, "validation": None, "test": None})
    return read_comments(source, plain, say=say)


def _judged_labels(config: Config, classifier: Classifier, source: str) -> dict[str, list[str]]:
    """The tasks to judge: those of the configuration, which `data.tasks.T=null` may have made fewer."""
    for task, classes in config.labels.items():
        if classifier.labels.get(task) != classes:
            known = "; ".join(f"{name}: {', '.join(names)}" for name, names in classifier.labels.items())
            raise DataError(f"{source}: cannot judge the task {task!r} with classes {', '.join(classes)}: the model has {known}")
    return config.labels


def _judge(scored: Scored, trained: pa.Table | None, say: Say) -> dict[str, Any]:
    from polarity.baselines import floors

    config, labels = scored.config, scored.config.labels
    resamples = config.train.resamples
    metrics = build_metrics(
        scored.predictions,
        {} if trained is None else floors(trained, {SPLIT: scored.comments}, labels, say=say),
        labels,
        resamples=resamples,
        by_title=config.data.split.kind == "group",
    )
    if can_tell_languages():
        comments = scored.comments["comment"].to_pylist()
        metrics[SPLIT]["slices"]["language"] = language_slices(scored.predictions, comments, labels, resamples=resamples)
    return metrics


def _mark_fitted(folder: RunFolder, predictions: pa.Table, labels: Labels, calibrated: bool) -> tuple[pa.Table, int]:
    """The predictions with `calibration_fitted`, whether the calibration that was applied was fitted on a row; and how many rows are
    validation rows of the run, by row id, title and labels."""
    own = pa.array([False] * predictions.num_rows)
    if folder.exists(artifacts.PREDICTIONS):
        names = ["row_id", "title", *(label_column(task) for task in labels)]
        held_out = folder.read_parquet(artifacts.PREDICTIONS)
        validation = held_out.filter(pc.equal(held_out["split"], "validation"))
        own = pc.is_in(_keys(predictions, names), value_set=_keys(validation, names))
    marks = own if calibrated else pa.array([False] * predictions.num_rows)
    return predictions.append_column("calibration_fitted", marks), pc.sum(own).as_py() or 0


def _keys(table: pa.Table, names: list[str]) -> pa.Array:
    columns = [pc.fill_null(table[name].cast(pa.large_string()), "\x00") for name in names]
    return pc.binary_join_element_wise(*columns, pa.scalar("\x1f", pa.large_string())).combine_chunks()


def _notes(run: str, source: str, scored: Scored, *, votes: str | None, trained: pa.Table | None) -> dict[str, Any]:
    """What a reader of the scores must know."""
    notes = []
    own = scored.own_validation_rows
    if _is_own_data(RunFolder.open(run), source):
        notes.append("the file is the run's own data: rows that it was trained on are among these, and the scores are far too good")
    elif own:
        notes.append(
            f"{own:,} of the rows are validation rows of the run: its best epoch was chosen and its calibration fitted on them, and its "
            "training rows may be among the others"
        )
    if trained is None:
        notes.append("no floors: majority, title and linear need the training rows (--train FILE)")
    if not can_tell_languages():
        notes.append("no slices by language: they need pip install 'polarity[languages]'")
    return {"votes": votes, "calibration_rows": own if scored.classifier.calibrated else 0, "notes": notes}


def _is_own_data(folder: RunFolder, source: str) -> bool:
    path = Path(source)
    if not folder.exists(artifacts.ENVIRONMENT) or not path.is_file():
        return False
    return sha256_file(path) in (folder.read_json(artifacts.ENVIRONMENT).get("data") or {}).values()


def _drift(run: str, scored: Scored, trained: pa.Table | None) -> dict[str, Any]:
    """Against the training file where it is given, else against what the run remembers of its training rows."""
    folder, labels = RunFolder.open(run), scored.config.labels
    tokens = scored.classifier.token_statistics(scored.comments)
    if trained is not None:
        counts = {task: [pc.sum(pc.equal(trained[task], k)).as_py() or 0 for k in range(len(names))] for task, names in labels.items()}
        train_tokens = scored.classifier.token_statistics(trained)
    else:
        counts = label_counts(folder.read_json(artifacts.LEDGER), labels) if folder.exists(artifacts.LEDGER) else {}
        known = folder.read_json(artifacts.ENVIRONMENT) if folder.exists(artifacts.ENVIRONMENT) else {}
        train_tokens = known.get("train_tokens")
    return drift(scored.predictions, tokens, labels, train_labels=counts, train_tokens=train_tokens)


def _lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Slices by language, warnings and notes, in words."""
    for entry in metrics[SPLIT]["slices"].get("language", []):
        scores = ", ".join(
            f"{task} {of_task['macro_f1']:.3f} [{of_task['ci95'][0]:.3f}, {of_task['ci95'][1]:.3f}]"
            for task, of_task in entry["tasks"].items()
        )
        yield f"{entry['language']:>8}, {entry['rows']:,} rows: {scores}"
    compared = metrics["drift"]
    yield from (f"warning: {warning}" for warning in compared["warnings"])
    if "lengths" not in compared:
        yield "note: lengths and unknown tokens were not compared with training: the run remembers none (--train FILE compares with a file)"
    yield from (f"note: {note}" for note in metrics["evaluation"]["notes"])


@contextmanager
def _empty_folder(out: str | None) -> Iterator[RunFolder | None]:
    """The folder to write into, refused where it holds anything; one that was made here goes away again where judging fails."""
    if out is None:
        yield None
        return
    if not out.strip():
        raise RunError("--out is empty: give a new folder or a URI such as s3://bucket/judged")
    folder = RunFolder.at(out)
    held = folder.list("")
    if held:
        raise RunError(f"{folder.uri}: holds something already ({held[0]}); choose another --out")
    folder.check_writable()
    try:
        yield folder
    finally:
        if folder.local is not None and folder.local.is_dir() and not any(folder.local.iterdir()):
            folder.local.rmdir()
