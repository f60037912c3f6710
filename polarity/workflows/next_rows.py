"""Which rows to label next: those the classifier is least sure of, spread over titles and over kinds of comments.

Uncertainty sampling alone picks many copies of one hard kind (Settles 2009); so the uncertain rows are clustered, and the least sure one
of each cluster is taken (clustered uncertainty sampling, compare Zhdanov 2019), with no title taking more than its share.

Shapes: N rows, K classes.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Floats
from polarity.artifacts import replacing
from polarity.data.canonical import VISIBLE
from polarity.data.formats import FORMATS
from polarity.errors import DataError, Say
from polarity.evaluate.calibration import probabilities_of
from polarity.evaluate.predictions import Labels
from polarity.paths import absolute
from polarity.predict.batch import ChunkScorer, ScoreOptions
from polarity.predict.input import Chunk, Input, Place, chunk_reads, open_inputs, text_columns
from polarity.predict.output import Written, as_table, check_out, column_text, open_writer, table_schema
from polarity.run import Run
from polarity.workflows.predict import PROGRESS_SECONDS

POOL = 5
"""The least sure rows that are clustered, as a multiple of the rows wanted."""
DIMENSIONS = 50
TITLE_SHARE = 3.0
"""A title may give so many times its share of the pool, and always two rows."""


def uncertainty(probabilities: Mapping[str, Floats]) -> Floats:
    """Of each row (N,): the mean over the tasks of 1 - (largest - second largest probability), 0 for sure, 1 for a tie."""
    margins = []
    for of_task in probabilities.values():
        ordered_NK = np.sort(np.asarray(of_task, np.float64), axis=1)
        margins.append(1.0 - (ordered_NK[:, -1] - ordered_NK[:, -2]))
    found: Floats = np.mean(margins, axis=0)
    return found


def next_rows(
    probabilities: Mapping[str, Floats], comments: Sequence[str], titles: Sequence[str], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """Positions of the `count` rows to label next, the most urgent first. `probabilities` is {task: (N, K)}; all rows have a comment.

    Where there are no more than `count` rows, all of them, by falling uncertainty. The same seed gives the same rows.
    """
    doubt = uncertainty(probabilities)
    order = np.argsort(-doubt, kind="stable")
    if len(order) <= count:
        return order
    pool = order[: count * POOL]
    cluster = _clusters([comments[row] for row in pool], count, seed)
    quota = {title: max(2, round(TITLE_SHARE * rows / len(pool) * count)) for title, rows in Counter(titles[row] for row in pool).items()}
    chosen: list[int] = []
    used: Counter[str] = Counter()
    seen: set[int] = set()
    # Round one takes the least sure of each cluster, round two fills up by doubt, round three where the titles' shares leave too few.
    for one_a_cluster, by_title in ((True, True), (False, True), (False, False)):
        taken = set(chosen)
        for row, group in zip(pool.tolist(), cluster, strict=True):
            full = by_title and used[titles[row]] >= quota[titles[row]]
            if len(chosen) == count or row in taken or full or (one_a_cluster and group in seen):
                continue
            chosen.append(row)
            taken.add(row)
            seen.add(int(group))
            used[titles[row]] += 1
    found: NDArray[np.int64] = np.array(sorted(chosen, key=lambda row: -doubt[row]), np.int64)
    return found


def _clusters(comments: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """A cluster for each comment, by what characters it is written with: near-copies and one kind of remark fall together."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000).fit_transform(comments)
    dimensions = min(DIMENSIONS, words.shape[1] - 1, words.shape[0] - 1)
    if dimensions < 2 or len(set(comments)) < 2:  # copies of one text are one cluster
        return np.zeros(len(comments), np.int64)
    points = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(words))
    found: NDArray[np.int64] = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096).fit_predict(points).astype(np.int64)
    return found


PRIORITY = "priority"
"""The column that is added: 1 is the most urgent row."""


def choose_next(options: ScoreOptions, data: str, out: str, count: int, *, overwrite: bool = False, seed: int = 0, say: Say = print) -> int:
    """Write the `count` rows of `data` that are worth labelling next to `out`, with all their columns, and return how many there are.

    Rows that have all labels of the run already, and rows without a comment, are left out. Label columns that the file lacks are added,
    empty, so that the filled-in file trains as it is. Predictions are not written: who labels should not see them.
    Raises PolarityError for everything that a user can mend.
    """
    options = replace(options, run=absolute(options.run))
    target = Path(out).expanduser().absolute()
    if check_out(target, overwrite=overwrite):
        raise DataError(f"{out}: next writes one file: give a name that ends in .csv, .tsv, .parquet, .jsonl or .xlsx")
    settings = Run.open(options.run).data
    inputs, _ = open_inputs(data, text_columns(settings), leave_out=target)
    for note in (note for each in inputs for note in each.source.notes):
        say(note)
    for each in inputs:
        _refuse_priority(each.source.columns, data)
    scorer = ChunkScorer(options)
    label_columns = [settings.tasks[task].columns for task in scorer.classifier.labels]
    table, texts, chances = _scored(inputs, scorer, say)
    _refuse_priority(table.column_names, data)
    rows = np.flatnonzero(_unlabelled(table, label_columns, data) & np.asarray(pc.is_valid(texts["comment"])))
    if not len(rows):
        raise DataError(f"{data}: every row with a comment has all its labels already: give a file with comments that have none")
    left_out = table.num_rows - len(rows)
    asked = texts.take(pa.array(rows))
    chosen = rows[
        next_rows({t: p[rows] for t, p in chances.items()}, asked["comment"].to_pylist(), asked["title"].to_pylist(), count, seed)
    ]
    doubt = uncertainty(chances)
    picked = table.take(pa.array(chosen))
    for column in (column for columns in label_columns for column in columns):
        if column not in picked.column_names:
            picked = picked.append_column(column, pa.nulls(len(chosen), pa.large_string()))
    _write(picked, target, data)
    say(f"{len(chosen):,} of {len(rows):,} rows without labels written to {out}, the most urgent first")
    if left_out:
        say(f"{left_out:,} rows were left out: they have their labels already, or no comment")
    say(f"mean doubt of the chosen {doubt[chosen].mean():.2f}, of all {doubt[rows].mean():.2f} (0: sure, 1: a tie between two classes)")
    return len(chosen)


def _refuse_priority(columns: Sequence[str], data: str) -> None:
    if PRIORITY in columns:
        raise DataError(f"{data}: has a column {PRIORITY!r}, which next adds: rename it")


def _scored(inputs: list[Input], scorer: ChunkScorer, say: Say) -> tuple[pa.Table, pa.Table, dict[str, Floats]]:
    """All rows in order, their texts, and {task: probabilities (N, K)}, NaN where there is no comment."""
    labels: Labels = scorer.classifier.labels
    read: list[Chunk] = []
    predictions: list[pa.Table] = []
    said, count = time.monotonic(), 0
    for chunk in (chunk for piece in chunk_reads(inputs, Place()) for chunk in piece()):
        read.append(chunk)
        predictions.append(scorer.score(chunk).beside)
        count += chunk.rows.num_rows
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{count:,} rows scored")
    schema = table_schema(chunk.rows for chunk in read).remove_metadata()
    rows = pa.concat_tables([as_table(chunk.rows, schema, inputs[chunk.file].source.name) for chunk in read])
    found = pa.concat_tables(predictions)
    return rows, pa.concat_tables([chunk.beside for chunk in read]), {t: probabilities_of(found, t, c) for t, c in labels.items()}


def _unlabelled(table: pa.Table, tasks: list[list[str]], name: str) -> NDArray[np.bool_]:
    """Whether each row lacks a label of some task (N,), of which one of the task's columns is enough."""
    lacking = np.zeros(table.num_rows, bool)
    for columns in tasks:
        labelled = np.zeros(table.num_rows, bool)
        for column in (column for column in columns if column in table.column_names):
            labelled |= np.asarray(pc.match_substring_regex(column_text(table[column], column, name), VISIBLE).fill_null(False))
        lacking |= ~labelled
    return lacking


def _write(picked: pa.Table, target: Path, data: str) -> None:
    ranks = pa.table({PRIORITY: pa.array(range(1, picked.num_rows + 1), pa.int64())})
    kind = FORMATS[target.suffix.lower()]
    with replacing(target) as temporary, open_writer(temporary, kind, data, picked.schema, ranks.schema, Written(), escape=True) as write:
        write(picked, ranks)
