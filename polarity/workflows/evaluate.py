"""`polarity evaluate`: a run judged on any labelled file, as training judges, with slices by language and warnings of drift."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity import artifacts
from polarity.artifacts import RunFolder
from polarity.config import Config, DataConfig, SplitConfig
from polarity.data.annotators import without_votes
from polarity.data.read import read_comments
from polarity.data.seen import title_keys, titles_apart
from polarity.errors import DataError, Say
from polarity.evaluate import Metrics, build_metrics, build_predictions, render_metrics
from polarity.evaluate.drift import drift
from polarity.evaluate.predictions import Labels, label_column, of_split
from polarity.evaluate.results import DECIDED, SYNTHETIC, Drift, judged_parts
from polarity.evaluate.slices import can_tell_languages, language_slices
from polarity.paths import is_sample
from polarity.predict import Classifier, load_classifier
from polarity.predict.classifier import Votes
from polarity.run import CheckedRows, Run, SeenChoice, check_rows
from polarity.workflows.members import new_run


@dataclass(frozen=True)
class Scored:
    """A labelled file as a classifier sees it: its rows, what the run has seen of them, and the predictions table of the same rows."""

    run: Run
    config: Config
    rows: CheckedRows
    predictions: pa.Table
    classifier: Classifier

    @property
    def calibration_rows(self) -> int:
        """Rows that the calibration which was applied was fitted on."""
        return pc.sum(self.predictions["calibration_fitted"]).as_py() or 0


def evaluate(
    run: str,
    source: str,
    *,
    out: str | None = None,
    raw: bool = False,
    votes: str | None = None,
    train: str | None = None,
    sets: Sequence[str] = (),
    seen: SeenChoice = "drop",
    device: str = "auto",
    batch_size: int = 64,
    say: Say = print,
) -> Metrics:
    """Judge the run on a labelled file; returns the content of metrics.json, and writes it with the predictions into the folder `out`.

    `train` is the file of training rows, for the floors and for drift; `sets` are settings of `data.` that read this file in place
    of the run's, such as `data.comment_column=text`. Rows that the run was trained on, or that chose something of it, are left out; with
    `seen` "keep" they are judged apart from the others, as the part `seen`. Raises RunError where `out` holds something or the run
    cannot be used,
    DataError where the file cannot be judged.
    """
    fresh: AbstractContextManager[RunFolder | None] = nullcontext() if out is None else new_run(out)
    with fresh as folder:
        opened = Run.open(run)
        trained = None if train is None else read_labelled(train, opened.config_with(sets).data, say)
        scored = score_file(
            opened, source, raw=raw, votes=votes, sets=sets, seen=seen, training=trained, device=device, batch_size=batch_size, say=say
        )
        metrics = _judge(scored, trained, say)
        metrics["evaluation"] = {
            "run": scored.classifier.name,
            "data": source,
            "calibrated": scored.classifier.calibrated,
            "votes": cast(Votes | None, votes),
            "calibration_rows": scored.calibration_rows,
            "seen": scored.rows.counts,
            "notes": _notes(scored, trained),
        }
        metrics["drift"] = _drift(scored, trained)
        if is_sample(source):
            metrics["data"] = SYNTHETIC
        if folder is not None:
            folder.write_parquet(artifacts.PREDICTIONS, scored.predictions)
            folder.write_json(artifacts.METRICS, metrics)
    say(render_metrics(metrics))
    for line in _lines(metrics):
        say(line)
    if out is not None:
        say(f"written: {out}/{artifacts.METRICS} and {artifacts.PREDICTIONS}")
    return metrics


def score_file(
    run: Run,
    source: str,
    *,
    raw: bool = False,
    votes: str | None = None,
    sets: Sequence[str] = (),
    seen: SeenChoice = "drop",
    beside: Sequence[Run] = (),
    training: pa.Table | None = None,
    device: str = "auto",
    batch_size: int = 64,
    say: Say = print,
) -> Scored:
    """Read a labelled file with the run's configuration and score what it has not seen, nor any run `beside` it; see `check_rows`."""
    classifier = load_classifier(run.uri, raw=raw, votes=votes, device=device, batch_size=batch_size)
    config = run.config_with(sets)
    labels = _judged_labels(config, classifier, source)
    rows = check_rows([run, *beside], read_labelled(source, config.data, say), source, seen=seen, training=training)
    comments = rows.comments
    say(f"{source}: {comments.num_rows:,} rows, scored by {classifier.name}{'' if classifier.calibrated else ' (not calibrated)'}")
    scores = classifier.score(comments)
    predictions = build_predictions(
        "test", comments, {t: scores[t].probabilities for t in labels}, labels, {t: scores[t].predicted for t in labels}
    )
    predictions = predictions.set_column(predictions.column_names.index("split"), "split", rows.parts)
    fitted = pa.array(_calibrated_on(run, rows, predictions, labels) if classifier.calibrated else np.zeros(comments.num_rows, bool))
    return Scored(run, config, rows, predictions.append_column("calibration_fitted", fitted), classifier)


def read_labelled(source: str, data: DataConfig, say: Say) -> pa.Table:
    """The comments table of a labelled file; a column that says the split is not looked for."""
    plain = data.model_copy(update={"split": SplitConfig(), "source": source, "train": None, "validation": None, "test": None})
    return without_votes(read_comments(source, plain, say=say), data.tasks)


def _judged_labels(config: Config, classifier: Classifier, source: str) -> dict[str, list[str]]:
    """The tasks to judge: those of the configuration, which `data.tasks.T=null` may have made fewer."""
    for task, classes in config.labels.items():
        if classifier.labels.get(task) != classes:
            known = "; ".join(f"{name}: {', '.join(names)}" for name, names in classifier.labels.items())
            raise DataError(f"{source}: cannot judge the task {task!r} with classes {', '.join(classes)}: the model has {known}")
    return config.labels


def _judge(scored: Scored, trained: pa.Table | None, say: Say) -> Metrics:
    from polarity.baselines.floors import floors

    labels, resamples = scored.config.labels, scored.config.train.resamples
    parts = {name: scored.rows.comments.filter(pc.equal(scored.rows.parts, name)) for name in pc.unique(scored.rows.parts).to_pylist()}
    metrics = build_metrics(
        scored.predictions,
        {} if trained is None else floors(trained, parts, labels, say=say),
        labels,
        resamples=resamples,
        by_title={name: _by_title(scored, table, trained) for name, table in parts.items()},
        decided=DECIDED,
    )
    if can_tell_languages():
        for name, part in judged_parts(metrics):
            rows = of_split(scored.predictions, name)
            part["slices"]["language"] = language_slices(rows, parts[name]["comment"].to_pylist(), labels, resamples=resamples)
    return metrics


def _by_title(scored: Scored, rows: pa.Table, trained: pa.Table | None) -> bool:
    """Whether titles are the unit: by the training rows' titles, of an older run without them by its configuration."""
    if scored.run.seen is not None:
        return titles_apart(scored.run.seen.titles("train"), rows["title"])
    if trained is not None:
        return titles_apart(title_keys(trained["title"]), rows["title"])
    return scored.run.data.split.kind == "group" and scored.run.data.source is not None


def _calibrated_on(run: Run, rows: CheckedRows, predictions: pa.Table, labels: Labels) -> NDArray[np.bool_]:
    """Which rows (N,) the run's calibration was fitted on: by their hashes, for an older run by row id, title and labels."""
    if run.seen is not None or not run.has(artifacts.PREDICTIONS):
        return rows.validation
    names = ["row_id", "title", *(label_column(task) for task in labels)]
    found: NDArray[np.bool_] = pc.is_in(_keys(predictions, names), value_set=_keys(run.rows("validation"), names)).to_numpy(False)
    return found


def _keys(table: pa.Table, names: list[str]) -> pa.Array:
    columns = [pc.fill_null(table[name].cast(pa.large_string()), "\x00") for name in names]
    return pc.binary_join_element_wise(*columns, pa.scalar("\x1f", pa.large_string())).combine_chunks()


def _notes(scored: Scored, trained: pa.Table | None) -> list[str]:
    """What a reader of the scores must know."""
    notes = list(scored.rows.notes)
    if scored.rows.counts is None and scored.calibration_rows:
        notes.append(f"{scored.calibration_rows:,} of the rows are validation rows of the run: they chose its epoch and its calibration")
    own, judged = scored.run.row_counts.get("test"), scored.rows.comments.num_rows
    if scored.rows.counts is not None and scored.rows.counts["test"] and own is not None and own != judged:
        notes.append(
            f"its own test rows are among these: {judged:,} rows here, {own:,} when it was trained (what resembles a seen row is left out "
            "here, and what training left out is judged), so the scores differ a little"
        )
    shifted = (
        [task for task, of_task in scored.run.calibration.items() if of_task.biases is not None] if scored.classifier.calibrated else []
    )
    if shifted:
        notes.append(
            f"the run's calibration shifts the scores of the classes of {', '.join(shifted)}, as predict does; what train and its report "
            "say is without that, as is --raw"
        )
    if trained is None:
        notes.append("nothing to compare with: a word-count model and the other cheap ones need the training rows (--train FILE)")
    if not can_tell_languages():
        notes.append("no slices by language: they need pip install 'polarity[languages]'")
    return notes


def _drift(scored: Scored, trained: pa.Table | None) -> Drift:
    """Against the training file where it is given, else against what the run remembers of its training rows."""
    run, labels = scored.run, scored.config.labels
    tokens = scored.classifier.token_statistics(scored.rows.comments)
    if trained is not None:
        counts = {task: [pc.sum(pc.equal(trained[task], k)).as_py() or 0 for k in range(len(names))] for task, names in labels.items()}
        train_tokens = scored.classifier.token_statistics(trained)
    else:
        counts = {} if run.ledger is None else run.ledger.counts(labels)
        train_tokens = run.environment.get("train_tokens")
    return drift(scored.predictions, tokens, labels, train_labels=counts, train_tokens=train_tokens)


def _lines(metrics: Metrics) -> Iterator[str]:
    """Slices by language, warnings and notes, in words."""
    for name, part in judged_parts(metrics):
        for entry in part["slices"].get("language", []):
            scores = ", ".join(
                f"{task} {of_task['macro_f1']:.3f} [{of_task['ci95'][0]:.3f}, {of_task['ci95'][1]:.3f}]"
                for task, of_task in entry["tasks"].items()
            )
            yield f"language {entry['language']}, {entry['rows']:,} {name} rows: {scores}"
    compared = metrics["drift"]
    yield from (f"warning: {warning}" for warning in compared["warnings"])
    if "lengths" not in compared:
        yield "note: lengths and unknown tokens were not compared with training: the run remembers none (--train FILE compares with a file)"
    yield from (f"note: {note}" for note in metrics["evaluation"]["notes"])
