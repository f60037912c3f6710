"""Duplicates and near duplicates, within a table and across a split.

A duplicate is the same title and the same normalised comment; near is a Jaccard similarity of at least 0.9 between the sets of
character 5-grams of normalised comments of 20 or more characters, whatever their titles.

The search is exact, not sampled: of two sets that similar, the rarest tenth of each (plus one) must share an element, so
only sets that share one there are compared (prefix filter of Chaudhuri et al. 2006, AllPairs of Bayardo et al. 2007).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import pyarrow as pa

GRAM = 5
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


def is_near(shared: int, one: int, other: int) -> bool:
    """Whether sets of sizes `one` and `other` with `shared` common elements have a Jaccard similarity of at least 0.9, in integers."""
    return 10 * shared >= 9 * (one + other - shared)


class NearIndex:
    """Finds all of some normalised comments (each 20 or more characters) that are near a given one."""

    def __init__(self, comments: Iterable[str]) -> None:
        sets = [shingles(comment) for comment in comments]
        counts = Counter(gram for grams in sets for gram in grams)
        # rarest first: a rare 5-gram in common is what makes two comments worth comparing
        self._rank = {gram: rank for rank, (gram, _) in enumerate(sorted(counts.items(), key=lambda item: (item[1], item[0])))}
        self._sets: list[list[int]] = []
        self._by_gram: dict[int, list[int]] = defaultdict(list)
        for position, grams in enumerate(sets):
            ranks = sorted(self._rank[gram] for gram in grams)
            self._sets.append(ranks)
            for rank in ranks[: _prefix(len(ranks))]:
                self._by_gram[rank].append(position)

    def near(self, comment: str) -> Iterator[tuple[int, float]]:
        """(position, Jaccard similarity) of each indexed comment near this one, by position."""
        grams = shingles(comment)
        ranks = sorted(self._rank[gram] for gram in grams if gram in self._rank)
        unseen = len(grams) - len(ranks)  # rarer than all others: no indexed comment has them
        known = set(ranks)
        prefix = max(_prefix(len(grams)) - unseen, 0)
        candidates = {position for rank in ranks[:prefix] for position in self._by_gram.get(rank, ())}
        for position in sorted(candidates):
            other = self._sets[position]
            if not is_near(min(len(grams), len(other)), len(grams), len(other)):
                continue
            shared = len(known.intersection(other))
            if is_near(shared, len(grams), len(other)):
                yield position, shared / (len(grams) + len(other) - shared)


def _prefix(size: int) -> int:
    """size - ceil(0.9 size) + 1: how many of the rarest elements two near sets cannot all differ in."""
    return size // 10 + 1


def find_leaks(train: pa.Table, held_out: pa.Table) -> pa.Table:
    """Training rows that have a duplicate or near duplicate among the held-out rows.

    Takes comments tables; returns `train_row_id`, `held_out_row_id`, `kind` ("duplicate" or "near") and `similarity`: each
    leaking training row once, in train order, beside its closest held-out row (a duplicate first, then by similarity, then by order).
    """
    exact: dict[tuple[str, str], str] = {}
    first: dict[str, str] = {}
    for row_id, title, comment in _texts(held_out):
        exact.setdefault((title, comment), row_id)
        first.setdefault(comment, row_id)
    distinct = [comment for comment in first if len(comment) >= MIN_CHARACTERS]
    index = NearIndex(distinct)
    closest: dict[str, tuple[str, float] | None] = {}
    rows: list[tuple[str, str, str, float]] = []
    for row_id, title, comment in _texts(train):
        if (title, comment) in exact:
            rows.append((row_id, exact[title, comment], "duplicate", 1.0))
        elif len(comment) >= MIN_CHARACTERS:
            if comment not in closest:
                best = max(index.near(comment), key=lambda match: (match[1], -match[0]), default=None)
                closest[comment] = (first[distinct[best[0]]], best[1]) if best else None
            match = closest[comment]
            if match:
                rows.append((row_id, match[0], "near", match[1]))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.table(columns, schema=LEAKS)


def duplicate_groups(comments: pa.Table, *, normalised: bool) -> list[list[str]]:
    """Row ids of each group with the same title and the same comment, as written or normalised; groups and rows in table order."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row_id, title, comment in _texts(comments, as_written=not normalised):
        groups[title, comment].append(row_id)
    return [rows for rows in groups.values() if len(rows) > 1]


def near_duplicate_groups(comments: pa.Table) -> list[list[str]]:
    """Row ids of each group of different normalised comments that chains of near duplicates connect; in table order.

    A comment that is merely repeated is a duplicate, not a group here. Time and memory grow with the distinct 5-grams: about
    10 KB and 0.2 ms a comment.
    """
    rows: dict[str, list[str]] = defaultdict(list)
    for row_id, _, comment in _texts(comments):
        if len(comment) >= MIN_CHARACTERS:
            rows[comment].append(row_id)
    distinct = list(rows)
    index = NearIndex(distinct)
    parent = list(range(len(distinct)))
    for position, comment in enumerate(distinct):
        for other, _ in index.near(comment):
            if other < position:
                parent[_root(parent, position)] = _root(parent, other)
    members: dict[int, list[int]] = defaultdict(list)
    for position in range(len(distinct)):
        members[_root(parent, position)].append(position)
    return [[row for position in group for row in rows[distinct[position]]] for group in members.values() if len(group) > 1]


def _root(parent: list[int], position: int) -> int:
    while parent[position] != position:
        parent[position] = parent[parent[position]]
        position = parent[position]
    return position


def _texts(comments: pa.Table, *, as_written: bool = False) -> Iterator[tuple[str, str, str]]:
    """Row id, title and (normalised) comment of each row, block by block."""
    for batch in comments.select(["row_id", "title", "comment"]).to_batches(max_chunksize=8192):
        row_ids, titles, texts = (column.to_pylist() for column in batch.columns)
        yield from zip(row_ids, titles, texts if as_written else map(normalise, texts), strict=True)
