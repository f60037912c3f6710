"""`polarity predict`: files of comments with their predictions beside them, or one comment, and the shares of the classes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

from polarity.artifacts import ENSEMBLE, MODEL, PREDICTIONS, STACK
from polarity.errors import DataError, Say
from polarity.evaluate.predictions import Labels
from polarity.evaluate.shares import Shares, Tally
from polarity.paths import absolute
from polarity.predict.batch import (
    ChunkScorer,
    Identity,
    PartFiles,
    ScoreOptions,
    fingerprint,
    through_ray,
    working_folder,
)
from polarity.predict.classifier import Prediction
from polarity.predict.input import Chunk, Input, chunk_reads, has_text, open_inputs, text_columns
from polarity.predict.output import JOINED, Written, check_out, choose_prefix, join, plan_targets, put_in_place
from polarity.predict.stacked import read_stack
from polarity.run import Run

PROGRESS_SECONDS = 10.0
SMALL_BYTES = 2 << 20
"""Local inputs of up to so many bytes are scored in this process: starting Ray would take longer."""
WORDS_SHOWN, WORD_WIDTH, BAR = 8, 24, 40
"""Of an explanation on a terminal: words, and columns of a word and of the longest bar."""
FEWEST = 100
"""Comments from which class shares are given: a bootstrap of fewer says more than it knows."""


@dataclass(frozen=True)
class PredictOptions:
    """What `polarity predict` is asked for, beside the run, the rows and the output."""

    comment_column: str | None = None
    title_column: str | None = None
    prefix: str | None = None
    """Before the names of the added columns; None: nothing, or `predicted_` where an input has one of the names already."""
    overwrite: bool = False
    escape: bool = True
    workers: int | None = None
    """Actors; None: what the cluster keeps busy, or this process where the inputs are small; 0: this process, without Ray."""
    shares: str | None = None
    """A JSON file for the class shares."""


class Word(TypedDict):
    """A span of the comment and its part in the decision, see `polarity.predict.classifier.WordPart`."""

    text: str
    start: int
    end: int
    part: float


class Summary(TypedDict):
    """What a prediction of files comes to: rows written, of them without a comment, scored now, seconds of scoring, and class shares."""

    rows: int
    empty: int
    scored: int
    seconds: float
    shares: dict[str, Shares]


class Explained(Prediction):
    """One task of one comment; `words` and `title_part` where an explanation was asked for."""

    words: NotRequired[list[Word]]
    title_part: NotRequired[float | None]


class TextPrediction(TypedDict):
    """One comment's prediction."""

    comment: str
    title: str
    tasks: dict[str, Explained]


def predict(options: ScoreOptions, data: str, out: str, given: PredictOptions | None = None, *, say: Say = print) -> Summary:
    """Predict all rows of a file, folder or glob into a file or folder, and return {rows, empty, seconds, scored, shares}.

    A prediction that was killed goes on where it stopped when the same command is given again. Raises PolarityError for everything that a
    user can mend.
    """
    given = given or PredictOptions()
    if "://" in out:
        raise DataError(f"{out}: predict writes to local paths; copy the result afterwards")
    options = replace(options, run=absolute(options.run))  # actors stand elsewhere
    target = Path(out).expanduser().absolute()
    is_folder = check_out(target, overwrite=given.overwrite)
    columns = text_columns(Run.open(options.run).data, given.comment_column, given.title_column)
    inputs, skipped = open_inputs(data, columns, leave_out=target)
    for note in (note for each in inputs for note in each.source.notes):
        say(note)
    if skipped:
        say(f"left out {len(skipped)} file(s) of other kinds: {', '.join(skipped[:3])}{', ...' if len(skipped) > 3 else ''}")
    targets = plan_targets(target, inputs, is_folder=is_folder)
    loaded = ChunkScorer(options)  # where actors score, too: what is wrong with the run is said here, plainly
    labels = loaded.classifier.labels
    scorer = loaded if given.workers == 0 or (given.workers is None and is_small(inputs)) else None
    del loaded  # where actors score, its memory is for them
    prefix = choose_prefix({each.source.name: each.source.columns for each in inputs}, labels, given.prefix, words=options.explain)
    if prefix and given.prefix is None:
        say(f"the rows have columns of the predictions' names: they are kept, and the added ones begin with {prefix!r} (--prefix)")
    started = time.monotonic()
    with working_folder(target, _identity(options, columns, inputs), overwrite=given.overwrite) as (folder, resumed):
        parts = PartFiles(folder)
        if resumed:
            say(f"going on with the prediction that stopped after {parts.rows():,} rows")
        scored = _score(parts, inputs, options, scorer, given.workers, say)
        seconds = time.monotonic() - started
        written = join(parts.tables, targets, folder / JOINED, labels, prefix=prefix, escape=given.escape, words=options.explain)
        put_in_place(targets, folder / JOINED, target if is_folder else None)
    say(summary(written, scored, seconds, out))
    shares = _say_shares(options, labels, written, given.shares, say)
    return {"rows": written.rows, "empty": written.empty, "scored": scored, "seconds": seconds, "shares": shares}


def is_small(inputs: list[Input]) -> bool:
    """Whether the inputs are local files of few bytes, and no cluster is at hand that was started to be used."""
    import os

    if os.environ.get("RAY_ADDRESS") or any(each.path is None or not each.path.is_file() for each in inputs):
        return False
    return sum(each.path.stat().st_size for each in inputs if each.path is not None) <= SMALL_BYTES


def predict_text(options: ScoreOptions, text: str, title: str = "") -> TextPrediction:
    """One comment's prediction: {comment, title, tasks: {T: {label, confidence, probabilities: {class: p}}}}, without Ray.

    With `options.explain` each task also has `words` [{text, start, end, part}] by falling part, and `title_part`.
    """
    if not has_text(text):
        raise DataError("--text is empty: there is nothing to classify")
    classifier = options.load()
    [predicted] = classifier.predict_rows([text], [title])
    tasks: dict[str, Explained] = {
        task: {"label": of["label"], "confidence": of["confidence"], "probabilities": of["probabilities"]} for task, of in predicted.items()
    }
    if options.explain:
        from polarity.predict.classifier import explain

        for task, found in explain(classifier, [text], [title])[0].items():
            tasks[task]["words"] = [{"text": word.text, "start": word.start, "end": word.end, "part": word.part} for word in found.words]
            tasks[task]["title_part"] = found.title
    return {"comment": text, "title": title, "tasks": tasks}


def render_text(found: TextPrediction) -> str:
    """One comment's prediction to read: a line a task, the classes by falling probability."""
    width = max(len(task) for task in found["tasks"])
    lines = []
    for task, entry in found["tasks"].items():
        ordered = sorted(entry["probabilities"].items(), key=lambda pair: -pair[1])
        chances = ", ".join(f"{label} {chance:.3f}" for label, chance in ordered)
        lines.append(f"{task:<{width}}  {entry['label']}  ({chances})")
        if ordered[0][1] > entry["probabilities"][entry["label"]]:
            lines.append(f"{'':<{width}}  not the likeliest: the run's calibration helps classes that it found too seldom (--raw: without)")
    for task, entry in found["tasks"].items():
        lines += _render_words(task, entry) if "words" in entry else []
    return "\n".join(lines)


def _render_words(task: str, entry: Explained) -> list[str]:
    """A line for each of the words with the largest parts, with a bar, in at most 80 columns."""
    title = entry.get("title_part")
    shown = [("the title", title)] if title is not None else []
    shown += [(word["text"], word["part"]) for word in sorted(entry.get("words", []), key=lambda word: -abs(word["part"]))[:WORDS_SHOWN]]
    largest = max((abs(part) for _, part in shown), default=0.0) or 1.0
    lines = ["", f"{task}: what speaks for {entry['label']} (+) and against it (-), in log-odds"]
    for text, part in shown:
        named = text if len(text) <= WORD_WIDTH else text[: WORD_WIDTH - 3] + "..."
        lines.append(f"  {named:<{WORD_WIDTH}} {part:+6.2f}  {('+' if part > 0 else '-') * round(BAR * abs(part) / largest)}")
    return lines


def _score(
    parts: PartFiles, inputs: list[Input], options: ScoreOptions, scorer: ChunkScorer | None, workers: int | None, say: Say
) -> int:  # fmt: skip
    """Score what no part holds yet; the number of rows that were scored now."""
    todo = chunk_reads(inputs, parts.next_place())
    if scorer is not None:
        scored: Iterator[Chunk] = (scorer.score(chunk) for read in todo for chunk in read())
    else:
        from polarity.config import ClusterConfig
        from polarity.train.cluster import start_ray

        start_ray(ClusterConfig(), say)
        scored = through_ray(todo, options, "comments", workers, say)
    return _keep(parts, scored, say)


def _keep(parts: PartFiles, scored: Iterator[Chunk], say: Say) -> int:
    started = said = time.monotonic()
    rows = 0
    try:
        for chunk in scored:
            parts.add(chunk)
            rows += chunk.rows.num_rows
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                say(f"{rows:,} rows, {rows / (said - started):,.0f} rows/s")
    finally:
        parts.flush()  # what was scored before an error or Ctrl-C is kept
    return rows


def _identity(options: ScoreOptions, columns: tuple[str, str | None], inputs: list[Input]) -> Identity:
    settings: dict[str, bool | int | str | None] = {
        "raw": options.raw,
        "votes": options.votes,
        "explain": options.explain,
        "comment_column": columns[0],
        "title_column": columns[1],
    }
    return {"input": fingerprint(inputs), "run": run_fingerprint(Run.open(options.run)), "settings": settings}


def run_fingerprint(run: Run) -> str:
    """SHA-256 over a run's model files, or over an ensemble's or a stack's list and its members' files."""
    import hashlib

    digest = hashlib.sha256()
    folder = run.folder
    if run.kind == "ensemble":
        digest.update(folder.read_bytes(ENSEMBLE))
        for member in run.members:
            digest.update(run_fingerprint(member).encode())
    if run.kind == "stack":
        digest.update(folder.read_bytes(STACK))
        places = [place for member in read_stack(folder).members for place in member.folders]
        own = [f"{place}/{part}" for place in places for part in ("", f"{MODEL}/", "encoder/")]
    else:
        own = [f"{MODEL}/", "linear/"]
    for name in [f"{part}{name}" for part in own for name in folder.list(part.rstrip("/"))]:
        if not folder.is_file(name):
            continue
        with folder.filesystem.open_input_stream(folder.path(name), compression=None) as stream:
            digest.update(name.encode())
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def summary(written: Written, scored: int, seconds: float, out: str) -> str:
    """What was done, in a few lines."""
    lines = [f"{written.rows:,} rows written to {out}"]
    if scored:
        lines[0] += f"; {scored:,} scored in {seconds:,.1f} s ({scored / max(seconds, 1e-9):,.0f} rows/s)"
    if written.empty:
        lines.append(f"{written.empty:,} rows have an empty comment: their predictions are null")
    if written.escaped:
        lines.append(
            f"{written.escaped:,} cells begin like a spreadsheet formula and got an apostrophe in front (--no-escape: as they are)"
        )
    return "\n".join(lines)


def _say_shares(options: ScoreOptions, labels: Labels, written: Written, path: str | None, say: Say) -> dict[str, Shares]:
    """Class shares of what was written, printed and, where a path is given, saved."""
    import json

    from polarity.artifacts import replacing
    from polarity.evaluate.shares import class_shares, render_shares

    scored = written.rows - written.empty
    if scored < FEWEST:
        say(f"no shares of the classes: {scored} comments are too few for them (they begin at {FEWEST})")
        return {}
    validation = validation_tallies(options, labels)
    found = {task: class_shares(classes, written.tallies[task], validation.get(task)) for task, classes in labels.items()}
    say(render_shares(found))
    if options.votes is not None:
        say(f"(corrected for the errors of the run's own mode of prediction, not for those of --votes {options.votes})")
    if path is not None:
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps({"schema_version": 1, "tasks": found}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def validation_tallies(options: ScoreOptions, labels: Labels) -> dict[str, Tally]:
    """Per task the run's validation predictions, calibrated as predictions are; empty where the run has none."""
    from polarity.evaluate.calibration import apply, probabilities_of
    from polarity.evaluate.predictions import task_codes

    run = Run.open(options.run)
    if not run.has(PREDICTIONS):
        return {}
    table = run.rows("validation")
    fitted = {} if options.raw else run.calibration
    tallies = {}
    for task, classes in labels.items():
        label, predicted = task_codes(table, task, classes)
        chances = probabilities_of(table, task, classes)
        if task in fitted:
            calibrated, chosen = apply(chances, fitted[task].temperature, fitted[task].biases)
            chances, predicted = calibrated, predicted if fitted[task].biases is None else chosen
        tallies[task] = Tally.of(chances, predicted, label)
    return tallies
