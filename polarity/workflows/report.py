"""`polarity report`: writes report.html of a run or a study, and a run's model card."""

import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from polarity import artifacts
from polarity.artifacts import RunFolder
from polarity.config import Config, DataConfig, SplitConfig
from polarity.environment import describe_environment
from polarity.errors import PolarityError, Say
from polarity.evaluate.predictions import prediction_column
from polarity.report.record import CommentTexts, Record

CARD = f"{artifacts.MODEL}/README.md"


def report(path: str, *, texts: bool = True, explain: bool = False, say: Say = print) -> str:
    """Write report.html into the run or study folder at `path` (or URI), and the card into a run's model folder; returns the page's place.

    `explain` adds to each listed error of a run the words that spoke most for what was predicted: one more prediction a word.
    Raises RunError where the folder holds neither, ReportError where the run's figures cannot be recomputed.
    """
    place = RunFolder.at(path)
    if place.exists(artifacts.STUDY):
        written = report_study(place)
        say(f"report: {written}")
        return written
    return report_run(RunFolder.open(path), texts=texts, explain=explain, say=say)


def report_run(
    folder: RunFolder, *, texts: bool = True, explain: bool = False, say: Say, comments: CommentTexts | None = None
) -> str:  # fmt: skip
    """A run's report.html and model card. `comments` of the judged rows; None reads them from the configuration's data."""
    from polarity.report.card import render_card
    from polarity.report.record import read_record
    from polarity.report.run import render_record

    record = read_record(folder)
    if texts and comments is None:
        comments = read_texts(record, say)
    if explain and comments is not None and comments.tables:
        comments = replace(comments, words=_words(folder, record, comments, say))
    folder.write_text(artifacts.REPORT, render_record(record, texts=texts, comments=comments or CommentTexts()))
    say(f"report: {folder.path(artifacts.REPORT)}")
    if folder.exists(artifacts.MODEL):
        folder.write_text(CARD, render_card(record))
        say(f"model card: {folder.path(CARD)}")
    return folder.path(artifacts.REPORT)


def _words(folder: RunFolder, record: Record, comments: CommentTexts, say: Say) -> dict[str, dict[str, str]]:
    """{task: {row id: words}} of the errors that the report lists."""
    from polarity.predict import load_classifier
    from polarity.predict.classifier import explain, top_words
    from polarity.report.run_rows import judged_tasks, surest_errors

    rows = record.run.rows(record.main)
    listed = {task: rows.take(surest_errors(judged)[0]) for task, judged in judged_tasks(record).items()}
    titles = {row["row_id"]: row["title"] or "" for table in listed.values() for row in table.select(["row_id", "title"]).to_pylist()}
    texts = comments.of(record.main, list(titles))
    if not texts:
        return {}
    classifier, started = load_classifier(folder.uri, raw=True), time.monotonic()  # the report's own predictions are not calibrated
    found = dict(zip(texts, explain(classifier, list(texts.values()), [titles[row_id] for row_id in texts]), strict=True))
    seconds = time.monotonic() - started
    say(f"explained {len(found)} errors in {seconds:.1f} s, {seconds / len(found):.2f} s a row (a prediction a word)")
    words: dict[str, dict[str, str]] = {}
    for task, table in listed.items():
        pairs = zip(table["row_id"].to_pylist(), table[prediction_column(task)].to_pylist(), strict=True)
        words[task] = {row_id: top_words(found[row_id][task]) for row_id, label in pairs if found[row_id][task].label == label}
    return words


def read_texts(record: Record, say: Say) -> CommentTexts:
    """The comments of the judged rows, from the sources that the run was trained on, where these are there and unchanged."""
    if record.config is None:
        return CommentTexts(missing="The run names no data, so that its comments cannot be shown.")
    changed = _changed_source(record, record.config)
    if changed:
        missing = f"{changed} is not the file that the run was trained on (its hash differs): its comments are not shown."
        say(f"no comments in the report: {missing}")
        return CommentTexts(missing=missing)
    try:
        tables = {name: _judged_rows(record, name, record.config.data, say) for name in record.splits}
    except PolarityError as error:
        say(f"no comments in the report: {error}")
        return CommentTexts(missing=f"The comments are not shown, because the data could not be read again: {error}.")
    lacking = [name for name, table in tables.items() if table is None]
    if lacking:
        missing = f"The data does not hold the {lacking[0]} rows of this run (row ids or titles differ): comments are not shown."
        say(f"no comments in the report: {missing}")
        return CommentTexts(missing=missing)
    return CommentTexts({name: table for name, table in tables.items() if table is not None})


def _changed_source(record: Record, config: Config) -> str | None:
    """The first source whose hash is no longer the one that the run recorded."""
    recorded = record.run.environment.get("data", {})
    wanted = [config.data.source, config.data.validation, config.data.test]
    known = [source for source in wanted if source and recorded.get(source)]
    current = describe_environment(seeds={}, sources=known)["data"]
    return next((source for source in known if current[source] is not None and current[source] != recorded[source]), None)


def _judged_rows(record: Record, split: str, data: DataConfig, say: Say) -> pa.Table | None:
    """row_id and comment of a split's rows, None where the source does not hold them under the titles that were judged."""
    from polarity.data.read import read_comments

    own = {"validation": data.validation, "test": data.test}.get(split) if data.train else data.source
    if not own:
        return None
    whole = data.model_copy(update={"split": SplitConfig()}) if data.train else data  # own files are the split: no column is asked for
    table = read_comments(own, whole, labelled=False, say=say).select(["row_id", "title", "comment"])
    judged = record.run.rows(split).select(["row_id", "title"])
    found = _matching(table, judged)
    if found is None and data.train:  # files that share row ids got their part's name before them
        prefix = pa.scalar(f"{split}/", pa.large_string())
        ids = pc.binary_join_element_wise(prefix, table["row_id"].cast(pa.large_string()), pa.scalar("", pa.large_string()))
        found = _matching(table.set_column(0, "row_id", ids), judged)
    return found


def _matching(table: pa.Table, judged: pa.Table) -> pa.Table | None:
    rows = table.filter(pc.is_in(table["row_id"], value_set=judged["row_id"].combine_chunks().cast(table["row_id"].type)))
    if rows.num_rows != judged.num_rows:
        return None
    a, b = rows.sort_by("row_id"), judged.sort_by("row_id")
    same = a["title"].to_pylist() == b["title"].to_pylist()
    return a.select(["row_id", "comment"]) if same else None


def report_study(folder: RunFolder) -> str:
    """Write a study's report.html; returns its place."""
    from polarity.report.study import render_study

    folder.write_text(artifacts.REPORT, render_study(folder.uri))
    return folder.path(artifacts.REPORT)
