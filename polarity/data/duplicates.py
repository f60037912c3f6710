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

from polarity.data.near import BLOCK, GRAM, MOST_PARTNERS, MOST_PIVOTS, Clock, NearIndex, Progress, near_components

MIN_CHARACTERS = 20

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


def shingles(normalised: str) -> set[str]:
    """Set of the character 5-grams of a normalised comment."""
    return {normalised[i : i + GRAM] for i in range(len(normalised) - GRAM + 1)}


def find_leaks(train: pa.Table, held_out: pa.Table, progress: Progress | None = None) -> pa.Table:
    """Training rows that have a duplicate or near duplicate among the held-out rows.

    Takes comments tables; returns `train_row_id`, `held_out_row_id`, `kind` ("duplicate" or "near") and `similarity`: each
    leaking training row once, in train order, beside its closest held-out row (a duplicate first, then by similarity, then by order; of
    very many near ones the closest of the first, see `polarity.data.near`). `progress` is told how far a long search is.
    """
    exact: dict[tuple[str, str], str] = {}
    first: dict[str, str] = {}
    for row_id, title, comment in _texts(held_out):
        exact.setdefault((title, comment), row_id)
        first.setdefault(comment, row_id)
    distinct = [comment for comment in first if len(comment) >= MIN_CHARACTERS]
    mine = [(row_id, exact.get((title, comment)), comment) for row_id, title, comment in _texts(train)]
    asked = list(dict.fromkeys(comment for _, same, comment in mine if same is None and len(comment) >= MIN_CHARACTERS))
    closest = _closest(asked, distinct, progress)
    rows: list[tuple[str, str, str, float]] = []
    for row_id, same, comment in mine:
        if same is not None:
            rows.append((row_id, same, "duplicate", 1.0))
        elif comment in closest:
            other, similarity = closest[comment]
            rows.append((row_id, first[other], "near", similarity))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.table(columns, schema=LEAKS)


def _closest(asked: list[str], indexed: list[str], progress: Progress | None) -> dict[str, tuple[str, float]]:
    """{comment: (the closest indexed comment, similarity)} of those comments that are near to one."""
    index = NearIndex(len(indexed), lambda rows: [indexed[row] for row in rows], progress)
    clock, found = Clock("near-duplicates: comments looked up", len(asked), progress), {}
    for start in range(0, len(asked), BLOCK):
        own = asked[start : start + BLOCK]
        for comment, other, similarity in zip(own, *index.closest(own), strict=True):
            if other >= 0:
                found[comment] = (indexed[other], float(similarity))
        clock.tell(start + len(own))
    if index.capped and progress:
        progress(f"near-duplicates: {index.capped:,} comments have more than {MOST_PARTNERS:,} candidates each: only so many were compared")
    return found


def duplicate_groups(comments: pa.Table, *, normalised: bool) -> list[list[str]]:
    """Row ids of each group with the same title and the same comment, as written or normalised; groups and rows in table order."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row_id, title, comment in _texts(comments, as_written=not normalised):
        groups[title, comment].append(row_id)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicate_groups(comments: pa.Table, progress: Progress | None = None) -> list[list[str]]:
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
