"""What a run remembers of its rows, so that rows which trained it or chose something are known again: hashes, not texts.

A row is known again as a *duplicate* (the same title and comment, both normalised; 64 bits of SHA-256) or as a *near duplicate* (the rule
of training: Jaccard similarity of at least 0.9 between the character 5-grams of comments of 20 or more characters, whatever the titles).
Similarity is estimated from a signature of 128 minima of 8 bits a comment (MinHash, Broder 1997; b-bit minima, Li and König 2010):

    recognised       every duplicate; near duplicates of 0.90 to 0.92 in 99.9 %, of more in nearly all (787 of 788; 1,875 of 1,875)
    also taken       pairs of 0.8 to 0.9 in 70 %, of 0.7 to 0.8 in 5 %, below 0.7 none of 2,108
    not recognised   a translation, a paraphrase, a short comment (below 20 characters) under another title

Whoever has a comment can test whether it was among the rows; nobody can read the comments off the hashes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Flags, Hashes, Rows
from polarity.data.duplicates import GRAM, MIN_CHARACTERS, normalise
from polarity.data.oversample import mix64

SplitPart = Literal["train", "validation", "test"]
PARTS: tuple[SplitPart, ...] = get_args(SplitPart)

Signatures = NDArray[np.uint8]

KEYS = ("seen_row", "seen_title")
"""Columns of `row_keys` in a table that has them already."""
MOST_SIGNED = 300_000
"""Rows of a part above which only duplicates are known again: a signature takes 60 microseconds and 128 bytes a row."""
HASHES = 128
ALIKE = 107
"""Equal minima of 128 that make two comments near: at a similarity of 0.9 there are at least so many in 99.5 % of cases."""
_BAND = 8
"""Signatures are compared where 8 neighbouring minima agree: at 0.9 one of the 16 bands does in 9,999 of 10,000 cases."""
_BLOCK_ROWS = 1 << 15
_BLOCK_GRAMS = 1 << 16
_BLOCK_PAIRS = 1 << 18

SCHEMA = pa.schema(
    [
        pa.field("part", pa.dictionary(pa.int8(), pa.string())),
        pa.field("key", pa.uint64()),
        pa.field("title", pa.uint64()),
        pa.field("signature", pa.binary()),  # of no fixed size: what is null takes no room
    ]
)
"""A row a different row of a part; `title` is null where there is none, `signature` where the comment is short."""


@dataclass(frozen=True)
class Matches:
    """For each of N rows the part that holds it or one like it, the first of PARTS, and whether it only resembles one."""

    part: NDArray[np.int8]
    """Index in PARTS, -1 where none holds it."""
    near: Flags

    def of(self, *parts: SplitPart) -> Flags:
        """Which rows (N,) are in one of the parts."""
        return np.isin(self.part, [PARTS.index(part) for part in parts])

    def counts(self) -> dict[SplitPart, int]:
        """{part: rows}, of parts that hold any."""
        return {part: int(count) for part in PARTS if (count := (self.part == PARTS.index(part)).sum())}


@dataclass(frozen=True)
class SeenRows:
    """The rows of one or more runs, as hashes; `table` has SCHEMA."""

    table: pa.Table

    @classmethod
    def of(cls, parts: Mapping[str, pa.Table]) -> "SeenRows":
        """From comments tables (`title`, `comment`) by part: train, validation, test."""
        hashed = [_hashed(part, parts[part], signed=parts[part].num_rows <= MOST_SIGNED) for part in PARTS if part in parts]
        return cls(_distinct(pa.concat_tables(hashed)))

    @classmethod
    def union(cls, runs: "list[SeenRows]") -> "SeenRows":
        """What any of the runs has seen."""
        return cls(_distinct(pa.concat_tables([_of_any_size(run.table) for run in runs], promote_options="default").cast(SCHEMA)))

    def match(self, comments: pa.Table) -> Matches:
        """Which rows of a comments table (`title`, `comment`) are among these; see the module for what is recognised."""
        asked = _hashed("test", comments, signed=True)
        keys = asked["key"].to_numpy()
        signed, signatures = np.flatnonzero(asked["signature"].is_valid().to_numpy()), _stored_signatures(asked)
        found, near = np.full(len(keys), -1, np.int8), np.zeros(len(keys), np.bool_)
        for part in reversed(PARTS):  # the strongest part last
            found[np.isin(keys, self._of(part)["key"].to_numpy())] = PARTS.index(part)
        # The same row says more than a row like it: the run's own test rows were freed of near duplicates by the exact rule.
        open_ = np.flatnonzero(found[signed] < 0)
        for part in reversed(PARTS):
            known = np.unique(_stored_signatures(self._of(part)).view(f"V{HASHES}")).view(np.uint8).reshape(-1, HASHES)
            alike = open_[_any_alike(signatures[open_], known)]
            found[signed[alike]], near[signed[alike]] = PARTS.index(part), True
        return Matches(found, near)

    def keys(self, part: SplitPart) -> Hashes:
        """The different rows of a part, hashed."""
        return np.unique(self._of(part)["key"].to_numpy())

    def titles(self, part: SplitPart) -> Hashes:
        """The different titles of a part, hashed; rows without a title have none."""
        return np.unique(self._of(part)["title"].drop_null().to_numpy()).astype(np.uint64)

    def _of(self, part: SplitPart) -> pa.Table:
        return self.table.filter(pc.equal(self.table["part"].cast(pa.string()), part))


def title_keys(titles: pa.ChunkedArray) -> Hashes:
    """The different titles of a column, hashed as `SeenRows.titles` has them."""
    distinct = {normalise(str(title)) for title in pc.unique(titles).to_pylist() if title is not None}
    return np.array(sorted(_hash(title) for title in distinct if title), np.uint64)


def titles_apart(training: Hashes, judged: pa.ChunkedArray) -> bool:
    """The resampling unit's one rule: True where titles are the unit of intervals, False where rows are.

    `training` are the training rows' titles (`title_keys`, `SeenRows.titles`), `judged` the titles of the judged rows. Titles are the unit
    where none of the judged ones was trained on, however the rows were split: the scores then speak of comments under new titles, and
    comments under one title resemble each other. A title that stands on both sides, or no title at all, leaves the rows.
    """
    keys = title_keys(judged)
    return bool(len(keys)) and not np.isin(keys, training).any()


def row_keys(comments: pa.Table) -> list[pa.Array]:
    """The `KEYS` of a comments table's rows (uint64): of the whole row, and of its title, null where there is none."""
    titles = [title or "" for title in comments["title"].to_pylist()]
    known = {title: normalise(title) for title in set(titles)}  # few titles of many rows
    titles = [known[title] for title in titles]
    texts = [normalise(text or "") for text in comments["comment"].to_pylist()]
    hashed = {title: _hash(title) if title else None for title in known.values()} | {"": None}
    rows = pa.array([_hash(f"{title}\x1f{text}") for title, text in zip(titles, texts, strict=True)], pa.uint64())
    return [rows, pa.array([hashed[title] for title in titles], pa.uint64())]


def _hashed(part: SplitPart, table: pa.Table, *, signed: bool) -> pa.Table:
    names = KEYS if not signed and KEYS[0] in table.column_names else ("title", "comment")
    batches = table.select(names).to_batches(max_chunksize=_BLOCK_ROWS)
    return pa.concat_tables([SCHEMA.empty_table(), *(_hashed_batch(part, pa.Table.from_batches([batch]), signed) for batch in batches)])


def _hashed_batch(part: SplitPart, batch: pa.Table, signed: bool) -> pa.Table:
    keys = row_keys(batch) if "comment" in batch.column_names else [batch[name].combine_chunks() for name in KEYS]
    named = pa.DictionaryArray.from_arrays(pa.array(np.full(batch.num_rows, PARTS.index(part), np.int8)), pa.array(PARTS))
    return pa.table([named, *keys, _signed(batch) if signed else pa.nulls(batch.num_rows, pa.binary())], schema=SCHEMA)


def _signed(batch: pa.Table) -> pa.Array:
    signed, signatures = _signatures([normalise(text or "") for text in batch["comment"].to_pylist()])
    places = np.full(batch.num_rows, -1, np.int64)
    places[signed] = np.arange(len(signed))
    stored = pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASHES), len(signed), [None, pa.py_buffer(signatures.tobytes())])
    return stored.take(pa.array(places, mask=places < 0)).cast(pa.binary())


def _of_any_size(table: pa.Table) -> pa.Table:
    """The table with signatures as SCHEMA has them; earlier versions wrote them of a fixed size."""
    place = table.schema.get_field_index("signature")
    return table if place < 0 else table.set_column(place, "signature", table["signature"].cast(pa.binary()))


def _distinct(table: pa.Table) -> pa.Table:
    """Each row of a part once; its order says nothing of the order of the rows."""
    part = pc.index_in(table["part"].cast(pa.string()), value_set=pa.array(PARTS)).to_numpy()
    key, kept = table["key"].to_numpy(), []
    for number in range(len(PARTS)):
        rows = np.flatnonzero(part == number)
        kept.append(rows[np.unique(key[rows], return_index=True)[1]])
    return table.take(pa.array(np.concatenate(kept))).combine_chunks()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.random.default_rng(2026).integers(1, 1 << 63, HASHES, dtype=np.uint64) | np.uint64(1)


def _signatures(texts: list[str]) -> tuple[Rows, Signatures]:
    """(positions of the texts of 20 or more characters, their signatures (n, 128))."""
    long = np.array([position for position, text in enumerate(texts) if len(text) >= MIN_CHARACTERS], np.int64)
    found = np.empty((len(long), HASHES), np.uint8)
    for start, stop in _blocks([len(texts[position]) for position in long]):
        grams, starts = _gram_hashes([texts[position] for position in long[start:stop]])
        for number, factor in enumerate(_FACTORS):
            # multiply-shift: the upper half of a product is well mixed, and the lowest of its bits are kept
            minima = np.minimum.reduceat((grams * factor) >> np.uint64(32), starts)
            found[start:stop, number] = minima.astype(np.uint8)
    return long, found


def _blocks(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of texts with about 65,000 characters, so that what is computed of them stays in the cache."""
    start, total = 0, 0
    for position, length in enumerate(lengths):
        if total and total + length > _BLOCK_GRAMS:
            yield start, position
            start, total = position, 0
        total += length
    if total:
        yield start, len(lengths)


def _gram_hashes(texts: list[str]) -> tuple[Hashes, Rows]:
    """Hashes of the texts' character 5-grams, text after text, and where each text's begin."""
    lengths = np.array([len(text) for text in texts])
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(codes) - GRAM + 1, np.uint64)
    for offset in range(GRAM):
        hashes = hashes * _GOLDEN + codes[offset : len(codes) - GRAM + 1 + offset]
    hashes = mix64(hashes - _GOLDEN)  # the runs' signatures were made of the mixing alone, without the constant that mix64 adds first
    ends = np.cumsum(lengths)
    position = np.arange(len(codes))
    inside = position + GRAM <= np.repeat(ends, lengths)  # a gram that reaches into the next text is none
    counts = lengths - GRAM + 1
    return hashes[inside[: len(hashes)]], np.concatenate([[0], np.cumsum(counts)[:-1]])


def _stored_signatures(rows: pa.Table) -> Signatures:
    """The signatures (n, 128) of the rows that have one, in their order."""
    parts = [np.empty(0, np.uint8)]
    for chunk in rows["signature"].drop_null().cast(pa.binary(HASHES)).chunks:
        parts.append(np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * HASHES : (chunk.offset + len(chunk)) * HASHES])
    return np.concatenate(parts).reshape(-1, HASHES)


def _any_alike(asked: Signatures, known: Signatures) -> Flags:
    """Which of the asked signatures (n, 128) have at least ALIKE minima in common with a known one."""
    alike = np.zeros(len(asked), np.bool_)
    if not len(asked) or not len(known):
        return alike
    asked_bands, known_bands = (np.ascontiguousarray(s).view(np.uint64).reshape(len(s), HASHES // _BAND) for s in (asked, known))
    for band in range(HASHES // _BAND):
        open_rows = np.flatnonzero(~alike)
        order = np.argsort(known_bands[:, band], kind="stable")
        values = known_bands[order, band]
        low, high = (np.searchsorted(values, asked_bands[open_rows, band], side) for side in ("left", "right"))
        for rows, others in _pairs(open_rows, low, high, order):
            near = (asked[rows] == known[others]).sum(axis=1) >= ALIKE
            alike[rows[near]] = True
    return alike


def _pairs(rows: Rows, low: Rows, high: Rows, order: Rows) -> Iterator[tuple[Rows, Rows]]:
    """(row, known) of each row with each of `order[low:high]`, some at a time."""
    counts = high - low
    hit = np.flatnonzero(counts)
    rows, low, counts = rows[hit], low[hit], counts[hit]
    edges = np.concatenate([[0], np.cumsum(counts)])
    for start in range(0, int(edges[-1]), _BLOCK_PAIRS):
        pair = np.arange(start, min(start + _BLOCK_PAIRS, int(edges[-1])))
        of = np.searchsorted(edges, pair, "right") - 1
        yield rows[of], order[low[of] + pair - edges[of]]
