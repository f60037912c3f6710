"""Duplicates and near duplicates, within a table and across a split.

A duplicate is the same title and the same normalised comment; near is a Jaccard similarity of at least 0.9 between the sets of
character 5-grams of normalised comments of 20 or more characters, whatever their titles.

The search for near ones is an exact join of sets whose time is near proportional to the rows. Two such sets x and y differ in at most
|x| / 9 elements. Cut all possible grams into one part more than that, and the sets agree on at least one part (Arasu, Ganti, Kaushik 2006,
"Efficient exact set-similarity joins", without its second level). So a set is written down as one number a part, and only sets that share a
number are compared, by their grams. The parts depend on nothing but the size class of the set: no order over the whole corpus is needed, so
that any block of rows can be looked up on its own.

Grams are 64-bit hashes of their five characters; two of a comment's grams collide once in 10^15 comments.

Copies of one text by the thousand would all share all their numbers. A group that shares one is compared with its first members, and a
row that is already known to belong to them is not compared again. The cap: `MOST_PIVOTS` members of a group, `MOST_PARTNERS` of a number.
"""

import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.arrays import Flags, Floats, Hashes, Rows
from polarity.data.oversample import mix64
from polarity.errors import Say

GRAM = 5
BLOCK = 2048
"""Texts looked at together: some MB of grams."""
FIRST_PARTNERS = 16
"""Partners of one number that are compared first. The closest of them is the answer; more are looked at only where none of them is near."""
MOST_PARTNERS = 2048
MOST_PIVOTS = 64
_PAIR_CELLS = 2_000_000
_BASE = np.uint64(0x9FB21C651E98DF25)
_NONE = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class GramSets:
    """The distinct grams of texts, sorted within each: set i is values[starts[i] : starts[i] + sizes[i]]."""

    values: Hashes
    starts: Rows
    sizes: Rows


def gram_sets(texts: Sequence[str]) -> GramSets:
    """The sets of hashed 5-grams of normalised texts; a text shorter than five characters has none."""
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    first = np.cumsum(lengths) - lengths
    hashed = np.zeros(max(len(letters) - GRAM + 1, 0), np.uint64)
    for offset in range(GRAM):
        hashed = hashed * _BASE + letters[offset : offset + len(hashed)] + np.uint64(1)
    return _distinct(mix64(hashed), first, np.maximum(lengths - GRAM + 1, 0))


def _distinct(hashed: Hashes, first: Rows, grams: Rows) -> GramSets:
    """Sorts each text's grams and leaves out repeated ones, in matrices of texts of like lengths."""
    order = np.argsort(grams, kind="stable")
    found, sizes = [np.zeros(0, np.uint64)], np.zeros(len(grams), np.int64)
    for rows in np.array_split(order, max(len(order) // 256, 1)):
        width = int(grams[rows].max(initial=0))
        inside = np.arange(width) < grams[rows][:, None]
        cells = np.where(inside, hashed[np.where(inside, first[rows][:, None] + np.arange(width), 0)] if width else _NONE, _NONE)
        cells.sort(axis=1)
        new = cells != _NONE
        new[:, 1:] &= cells[:, 1:] != cells[:, :-1]
        found.append(cells[new])
        sizes[rows] = new.sum(axis=1)
    values, at = np.concatenate(found), np.empty(len(grams), np.int64)
    at[order] = np.cumsum(sizes[order]) - sizes[order]
    return GramSets(values, at, sizes)


def spans(starts: Rows, lengths: Rows) -> Rows:
    """start, start + 1, ... of each span, end to end."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def _size_classes(largest: int) -> Rows:
    """Lower bounds of the classes of sizes: a set is near only to sets of its own class and of the two beside it."""
    bounds = [1]
    while bounds[-1] <= largest:
        bounds.append(bounds[-1] * 10 // 9 + 1)
    return np.array(bounds, np.int64)


_CLASSES = _size_classes(10_000_000)


def size_class(sizes: Rows) -> Rows:
    """The class of each set size; -1 of an empty set."""
    return np.searchsorted(_CLASSES, sizes, side="right") - 1


@dataclass(frozen=True)
class Numbers:
    """One number for each part of some sets: `keys`, the `rows` they are of, and the number of the `parts`."""

    keys: Hashes
    rows: Rows
    parts: Rows


def numbers(sets: GramSets, classes: Rows) -> Numbers:
    """The parts of each set as they are cut for sets of the class `classes` says (one a set; -1 leaves the set out)."""
    rows = np.flatnonzero((classes >= 0) & (sets.sizes > 0))
    parts = (_CLASSES[classes[rows] + 1] - 1) // 9 + 1
    sizes = sets.sizes[rows]
    values = sets.values[spans(sets.starts[rows], sizes)]
    # the grams are sorted, so those of a part stand together where the part is the gram's place among all numbers
    part = ((values >> np.uint64(32)) * np.repeat(parts, sizes).astype(np.uint64)) >> np.uint64(32)
    cell = np.repeat(np.cumsum(parts) - parts, sizes) + part.astype(np.int64)
    counts = np.bincount(cell, minlength=int(parts.sum()))
    sums, ends = np.append(np.uint64(0), np.cumsum(mix64(values), dtype=np.uint64)), np.cumsum(counts)
    which = spans(np.zeros(len(rows), np.int64), parts)
    place = (np.repeat(classes[rows], parts) << 24) + which
    return Numbers(mix64((sums[ends] - sums[ends - counts]) ^ mix64(place.astype(np.uint64))), np.repeat(rows, parts), which)


def similarities(one: GramSets, a: Rows, other: GramSets, b: Rows) -> Floats:
    """The Jaccard similarity of each pair (a[i] of `one`, b[i] of `other`) that is near; 0 of one that is not."""
    found = np.zeros(len(a))
    n, m = one.sizes[a], other.sizes[b]
    pairs = np.flatnonzero(10 * np.minimum(n, m) >= 9 * np.maximum(n, m))
    pairs = pairs[np.argsort(n[pairs], kind="stable")]
    for start in range(0, len(pairs), step := max(1, _PAIR_CELLS // max(int((n + m)[pairs].max(initial=1)), 1))):
        own = pairs[start : start + step]
        cells = np.full((len(own), int((n + m)[own].max())), _NONE, np.uint64)
        column = np.arange(cells.shape[1])
        left, both = column < n[own][:, None], column < (n + m)[own][:, None]
        cells[left] = one.values[spans(one.starts[a[own]], n[own])]
        cells[both & ~left] = other.values[spans(other.starts[b[own]], m[own])]
        cells.sort(axis=1)
        shared = ((cells[:, 1:] == cells[:, :-1]) & (cells[:, 1:] != _NONE)).sum(axis=1)
        union = (n + m)[own] - shared
        found[own] = np.where(10 * shared >= 9 * union, shared / union, 0.0)
    return found


class NearIndex:
    """Finds, for any block of texts, the indexed text that is closest to each, where one is near.

    `fetch` gives the indexed texts (normalised, of 20 or more characters) at some positions; they are read once to build the index,
    and again where one is a candidate: the index itself holds about 1.5 bytes for each of their characters.
    """

    def __init__(self, count: int, fetch: Callable[[Rows], Sequence[str]], progress: Say | None = None) -> None:
        self._fetch = fetch
        keys, rows, classes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], set()
        clock = Clock("near-duplicates: texts indexed", count, progress)
        for start in range(0, count, BLOCK):
            own = np.arange(start, min(start + BLOCK, count))
            sets = gram_sets(fetch(own))
            level = size_class(sets.sizes)
            classes.update(np.unique(level).tolist())
            found = numbers(sets, level)
            keys.append(found.keys)
            rows.append((found.rows + start).astype(np.int32))
            clock.tell(int(own[-1]) + 1)
        every = np.concatenate(keys)
        keys.clear()
        order = np.argsort(every, kind="stable")
        self._keys, self._rows = every[order], np.concatenate(rows)[order]
        self._classes = np.array(sorted(classes - {-1}), np.int64)
        self._bits = _Bits(self._keys)
        self.capped = 0
        """Texts for which no near one was found among the first `MOST_PARTNERS` that share a number with them, and there were more."""

    def closest(self, texts: Sequence[str]) -> tuple[Rows, Floats]:
        """(position of the closest near indexed text or -1, its Jaccard similarity) of each text; of two as close the earlier one."""
        best, similarity = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
        for start in range(0, len(texts), BLOCK):
            own = slice(start, start + BLOCK)
            best[own], similarity[own] = self._closest(gram_sets(texts[own]))
        return best, similarity

    def _closest(self, sets: GramSets) -> tuple[Rows, Floats]:
        best, similarity = np.full(len(sets.sizes), -1, np.int64), np.zeros(len(sets.sizes))
        first, last, rows = self._ranges(sets)
        width, begin = FIRST_PARTNERS, first
        while len(rows):
            end = np.minimum(last, begin + width)
            for a, b, near in self._compare(sets, rows, begin, end):
                better = (near > similarity[a]) | ((near == similarity[a]) & (b < best[a]))
                similarity[a[better]], best[a[better]] = near[better], b[better]
            more = (end < last) & (best[rows] < 0)
            if width >= MOST_PARTNERS:
                self.capped += len(np.unique(rows[more]))
                break
            begin, last, rows = end[more], last[more], rows[more]
            width *= 4
        return best, similarity

    def _ranges(self, sets: GramSets) -> tuple[Rows, Rows, Rows]:
        """(first, last, row): where each of the sets' numbers stands in the index, as cut for each of the three classes it may match."""
        found = []
        level = size_class(sets.sizes)
        for beside in (-1, 0, 1):
            classes = np.where(np.isin(level + beside, self._classes) & (level >= 0), level + beside, -1)
            own = numbers(sets, classes)
            there = self._bits.may_have(own.keys)
            keys, rows = own.keys[there], own.rows[there]
            first, last = np.searchsorted(self._keys, keys), np.searchsorted(self._keys, keys, side="right")
            some = last > first
            found.append((first[some], last[some], rows[some]))
        first, last, rows = (np.concatenate(column) for column in zip(*found, strict=True))
        return first, last, rows

    def _compare(self, sets: GramSets, rows: Rows, begin: Rows, end: Rows) -> Iterator[tuple[Rows, Rows, Floats]]:
        """(row, indexed text, similarity) of the near pairs in these ranges, the best of each row, in portions."""
        pair = np.unique((np.repeat(rows, end - begin) << 32) + self._rows[spans(begin, end - begin)])
        for start in range(0, len(pair), 65_536):
            a, b = pair[start : start + 65_536] >> 32, pair[start : start + 65_536] & 0xFFFFFFFF
            distinct, at = np.unique(b, return_inverse=True)
            near = similarities(sets, a, gram_sets(self._fetch(distinct)), at)
            order = np.lexsort((b, -near, a))
            order = order[near[order] > 0]
            head = np.append(True, a[order][1:] != a[order][:-1]) if len(order) else np.zeros(0, np.bool_)
            best = order[head]
            yield a[best], b[best], near[best]


class _Bits:
    """A table of bits that says of most numbers that they are not in the index, without looking through it."""

    def __init__(self, keys: Hashes) -> None:
        self._shift = np.uint64(64 - min(max(len(keys).bit_length() + 4, 10), 31))
        self._bits = np.zeros(1 << max(61 - int(self._shift), 0), np.uint8)
        for start in range(0, len(keys), 1 << 22):
            place = keys[start : start + (1 << 22)] >> self._shift
            np.bitwise_or.at(self._bits, place >> np.uint64(3), np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8)))

    def may_have(self, keys: Hashes) -> Flags:
        place = keys >> self._shift
        found: Flags = (self._bits[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)) & np.uint8(1) > 0
        return found


def near_components(texts: Sequence[str], progress: Say | None = None) -> tuple[Rows, int]:
    """(the number of the group of each text that chains of near ones connect, groups that met the cap `MOST_PIVOTS`)."""
    found = _own_numbers(texts, progress)
    groups = _Groups(texts)
    order = np.argsort(found.parts, kind="stable")
    ends = np.cumsum(np.bincount(found.parts)) if len(order) else np.zeros(0, np.int64)
    clock = Clock("near-duplicates: numbers compared", len(order), progress)
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=False):
        own = order[start:end]
        groups.join(found.keys[own], found.rows[own] >> 1, (found.rows[own] & 1).astype(np.bool_))
        clock.tell(int(end))
    return groups.roots, groups.capped


def _own_numbers(texts: Sequence[str], progress: Say | None) -> Numbers:
    """The numbers of all texts, cut for their own class and for the one below; rows are 2 x text, and 1 more for the latter."""
    keys, rows, parts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    clock = Clock("near-duplicates: texts read", len(texts), progress)
    for start in range(0, len(texts), BLOCK):
        sets = gram_sets(texts[start : start + BLOCK])
        level = size_class(sets.sizes)
        for below in (0, 1):
            own = numbers(sets, level - below)
            keys.append(own.keys)
            rows.append(2 * (own.rows + start) + below)
            parts.append(own.parts)
        clock.tell(min(start + BLOCK, len(texts)))
    return Numbers(np.concatenate(keys), np.concatenate(rows), np.concatenate(parts))


class _Groups:
    """Texts that are known to be connected, found group by group of those that share a number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self.roots = np.arange(len(texts))
        self.capped = 0

    def join(self, keys: Hashes, rows: Rows, below: Flags) -> None:
        """Compares the rows that share a key with the group's first ones, until all are connected or those are used up.

        A row cut for the class `below` its own is no pivot: it is there to be found by the smaller sets of that class.
        """
        order = np.lexsort((rows, below, keys))
        keys, rows, below = keys[order], rows[order], below[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
        sizes = np.diff(np.append(starts, len(keys)))
        for pivot in range(MOST_PIVOTS + 1):
            large = sizes > max(pivot, 1)
            starts, sizes = starts[large], sizes[large]
            open_ = ~below[starts + pivot] & self._unconnected(rows, starts, sizes) if len(starts) else np.zeros(0, np.bool_)
            starts, sizes = starts[open_], sizes[open_]
            if not len(starts):
                return
            if pivot == MOST_PIVOTS:
                self.capped += len(starts)
                return
            one, other = np.repeat(rows[starts + pivot], sizes), rows[spans(starts, sizes)]
            apart = self.roots[one] != self.roots[other]
            self._connect(one[apart], other[apart])

    def _unconnected(self, rows: Rows, starts: Rows, sizes: Rows) -> Flags:
        members = self.roots[rows[spans(starts, sizes)]]
        at = np.cumsum(sizes) - sizes
        apart: Flags = np.minimum.reduceat(members, at) != np.maximum.reduceat(members, at)
        return apart

    def _connect(self, one: Rows, other: Rows) -> None:
        pair = np.unique((np.minimum(one, other) << 32) + np.maximum(one, other))
        edges = []
        for start in range(0, len(pair), 65_536):
            a, b = pair[start : start + 65_536] >> 32, pair[start : start + 65_536] & 0xFFFFFFFF
            distinct, at = np.unique(np.concatenate([a, b]), return_inverse=True)
            sets = gram_sets([self._texts[i] for i in distinct])
            near = similarities(sets, at[: len(a)], sets, at[len(a) :]) > 0
            edges.append((a[near], b[near]))
        if not edges or not any(len(a) for a, _ in edges):
            return
        a, b = (np.concatenate(column) for column in zip(*edges, strict=True))
        number = len(self.roots)
        from scipy.sparse import coo_array  # half a second, which a prediction need not wait
        from scipy.sparse.csgraph import connected_components

        graph = coo_array((np.ones(len(a), np.int8), (self.roots[a], self.roots[b])), shape=(number, number))
        self.roots = connected_components(graph, directed=False)[1].astype(np.int64)[self.roots]


class Clock:
    """Says every few seconds how far a long task is: rows, rows a second, time left."""

    EVERY_S = 5.0

    def __init__(self, what: str, total: int, progress: Say | None) -> None:
        self._what, self._total, self._progress = what, total, progress
        self._began = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        """`done` of the total are done."""
        now = time.monotonic()
        if self._progress is None or not done or now - self._told < self.EVERY_S:
            return
        self._told = now
        rate = done / (now - self._began)
        left = f", {(self._total - done) / rate:,.0f} s left" if self._total else ""
        total = f" of {self._total:,}" if self._total else ""
        self._progress(f"{self._what}: {done:,}{total} ({rate:,.0f} a second{left})")


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


class Apart(NamedTuple):
    """Training rows less those that leak; `leaks` are the pairs."""

    train: pa.Table
    leaks: pa.Table
    dropped: int


def without_leaks(train: pa.Table, held_out: pa.Table, progress: Say | None = None) -> Apart:
    """The training rows that no held-out row is a duplicate or near duplicate of; see `find_leaks`."""
    leaks = find_leaks(train, held_out, progress)
    rows = pc.unique(leaks["train_row_id"]).cast(train["row_id"].type)
    kept = train.filter(pc.invert(pc.is_in(train["row_id"], value_set=rows))) if len(rows) else train
    return Apart(kept, leaks, len(rows))


def find_leaks(train: pa.Table, held_out: pa.Table, progress: Say | None = None) -> pa.Table:
    """Training rows that have a duplicate or near duplicate among the held-out rows.

    Takes comments tables; returns `train_row_id`, `held_out_row_id`, `kind` ("duplicate" or "near") and `similarity`: each
    leaking training row once, in train order, beside its closest held-out row (a duplicate first, then by similarity, then by order; of
    very many near ones the closest of the first, as above). `progress` is told how far a long search is.
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
