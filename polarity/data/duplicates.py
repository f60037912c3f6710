"""Duplicates and near duplicates, within a table and across a split.

A duplicate is the same title and the same normalised comment; near is a Jaccard similarity of at least 0.9 between the sets of
character 5-grams of normalised comments of 20 or more characters, whatever their titles.
The search (`polarity.data.near`) is exact, not sampled.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa

from polarity.data.near import MOST_PARTNERS, MOST_PIVOTS, Clock, NearIndex, near_components
from polarity.errors import Say

MIN_CHARACTERS = 20
ROWS_AT_ONCE = 16_384
"""Training rows that are looked up together: memory does not grow with their number, but with that of the held-out rows."""

LEAKS = pa.schema(
    [
        pa.field("train_row_id", pa.large_string()),
        pa.field("held_out_row_id", pa.large_string()),
        pa.field("kind", pa.large_string()),
        pa.field("similarity", pa.float64()),
    ]
)

_INVISIBLE = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]")


def normalise(comment: str) -> str:
    """Comment without what the eye does not see: Unicode's NFKC case folding, no zero-width characters, single spaces."""
    if comment.isascii():
        return " ".join(comment.casefold().split())
    text = unicodedata.normalize("NFD", _INVISIBLE.sub("", comment)).casefold()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_INVISIBLE.sub("", text).split())


def find_leaks(train: pa.Table, held_out: pa.Table, progress: Say | None = None) -> pa.Table:
    """Training rows that have a duplicate or near duplicate among the held-out rows.

    Takes comments tables; returns `train_row_id`, `held_out_row_id`, `kind` ("duplicate" or "near") and `similarity`: each
    leaking training row once, in train order, beside its closest held-out row (a duplicate first, then by similarity, then by order; of
    very many near ones the closest of the first, see `polarity.data.near`). `progress` is told how far a long search is.
    """
    finder = Leaks(held_out, progress)
    clock, found = Clock("near-duplicates: rows looked up", train.num_rows, progress), [LEAKS.empty_table()]
    for start in range(0, train.num_rows, ROWS_AT_ONCE):
        found.append(finder.of(train.slice(start, ROWS_AT_ONCE)))
        clock.tell(min(start + ROWS_AT_ONCE, train.num_rows))
    if finder.index.capped and progress:
        progress(capped_words(finder.index.capped))
    return pa.concat_tables(found).combine_chunks()


def capped_words(capped: int) -> str:
    """What is said of the comments that were not compared with all their candidates."""
    return f"near-duplicates: {capped:,} comments have more than {MOST_PARTNERS:,} candidates each: so many were compared"


class Leaks:
    """Held-out rows, ready to be compared with any block of training rows; it may be sent to another process."""

    def __init__(self, held_out: pa.Table, progress: Say | None = None) -> None:
        self._exact: dict[tuple[str, str], str] = {}
        self._first: dict[str, str] = {}
        for row_id, title, comment in _texts(held_out):
            self._exact.setdefault((title, comment), row_id)
            self._first.setdefault(comment, row_id)
        self._distinct = distinct = [comment for comment in self._first if len(comment) >= MIN_CHARACTERS]
        self.index = NearIndex(len(distinct), lambda rows: [distinct[row] for row in rows], progress)

    def of(self, train: pa.Table) -> pa.Table:
        """The leaking rows of a block of a comments table, LEAKS."""
        exact, block = self._exact, list(_texts(train))
        asked = list(dict.fromkeys(text for _, title, text in block if (title, text) not in exact and len(text) >= MIN_CHARACTERS))
        places, similarities = self.index.closest(asked)
        near = {text: (self._distinct[place], score) for text, place, score in zip(asked, places, similarities, strict=True) if place >= 0}
        leaks: list[tuple[str, str, str, float]] = []
        for row_id, title, comment in block:
            if (title, comment) in exact:
                leaks.append((row_id, exact[title, comment], "duplicate", 1.0))
            elif comment in near:
                leaks.append((row_id, self._first[near[comment][0]], "near", float(near[comment][1])))
        return pa.table([list(column) for column in zip(*leaks, strict=True)], schema=LEAKS) if leaks else LEAKS.empty_table()


def duplicate_groups(comments: pa.Table, *, normalised: bool) -> list[list[str]]:
    """Row ids of each group with the same title and the same comment, as written or normalised; groups and rows in table order."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row_id, title, comment in _texts(comments, as_written=not normalised):
        groups[title, comment].append(row_id)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicate_groups(comments: pa.Table, progress: Say | None = None) -> list[list[str]]:
    """Row ids of each group of different normalised comments that chains of near duplicates connect; in table order.

    A comment that is merely repeated is a duplicate, not a group here. `progress` is told how far a long search is.
    """
    rows: dict[str, list[str]] = defaultdict(list)
    for row_id, _, comment in _texts(comments):
        if len(comment) >= MIN_CHARACTERS:
            rows[comment].append(row_id)
    distinct = list(rows)
    roots, capped = near_components(distinct, progress)
    if capped and progress:
        progress(f"near-duplicates: {capped:,} groups of candidates were compared with {MOST_PIVOTS} of their members only")
    members: dict[int, list[str]] = defaultdict(list)
    for comment, root in zip(distinct, roots.tolist(), strict=True):
        members[root].append(comment)
    return [[row for comment in group for row in rows[comment]] for group in members.values() if len(group) > 1]


def _texts(comments: pa.Table, *, as_written: bool = False) -> Iterator[tuple[str, str, str]]:
    """Row id, title and (normalised) comment of each row, block by block."""
    for batch in comments.select(["row_id", "title", "comment"]).to_batches(max_chunksize=8192):
        row_ids, titles, texts = (column.to_pylist() for column in batch.columns)
        yield from zip(row_ids, titles, texts if as_written else map(normalise, texts), strict=True)
