"""The survey of a large source: every row is read once, and a few bytes of it are kept: the hash of its id, its labels, what is wrong.

Shards and the oversampled table begin with it: they decide what becomes of each row, and then read the rows again. A source comes in
pieces, and each reading is one function of a piece. Ray Data's tasks run it, or this process, with the same result to the bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity.arrays import Flags, Hashes
from polarity.config import DataConfig
from polarity.data.canonical import MISSING_WORDS, Layout, find_columns, left_out
from polarity.data.duplicates import Clock
from polarity.data.oversample import ID_HASH, id_hash
from polarity.data.read import annotated_blocks, left_out_of, missing_words, prefixed, refusal_of, settle
from polarity.data.source import Part, Source
from polarity.errors import DataError, Say

Decided = NDArray[np.integer]
"""What was decided of each row, by a reader's own numbers; LEFT_OUT of a row that nobody gets."""
LEFT_OUT = -1
Reading = Callable[..., Iterator[pa.Table]]


@dataclass(frozen=True)
class Piece:
    """One task's part of a source, and all that a reading of it needs to know."""

    number: int
    source: Source
    layout: Layout
    part: Part
    data: DataConfig
    prefix: str = ""
    """Before every row id, where own files share some."""

    def survey(self) -> Iterator[pa.Table]:
        """What is kept of each row, block by block; what cannot be read at all comes as the text of a last row."""
        split = {"column": ["split"], "group": ["title"]}.get(self.data.split.kind, [])
        names = [*self.layout.tasks, *split, MISSING_WORDS]
        fields = [("piece", pa.int32()), (ID_HASH, pa.uint64()), ("bad", pa.bool_()), ("fault", pa.large_string())]
        schema = pa.schema([*fields, *(self.layout.schema.field(name) for name in names)])
        try:
            for block in annotated_blocks(self.source, self.layout, self.part):
                numbers = pa.array(np.full(block.num_rows, self.number, np.int32))
                none, hashed = pa.nulls(block.num_rows, pa.large_string()), pa.array(id_hash(block["row_id"].fill_null("")))
                yield pa.table([numbers, hashed, left_out(block, self.data), none, *(block[name] for name in names)], schema=schema)
        except DataError as error:  # one that is raised in a task costs the user a page of Ray's own words
            fault = {name: [None] for name in schema.names} | {"piece": [self.number], "bad": [True], "fault": [str(error)]}
            yield pa.table(fault, schema=schema)

    def rows(self, codes: Decided) -> Iterator[tuple[pa.Table, Decided]]:
        """The piece's rows again, as a comments table without the split, each block with the codes of its rows; none that is LEFT_OUT.

        Raises DataError where there are not as many rows as there were.
        """
        at = 0
        for block in annotated_blocks(self.source, self.layout, self.part):
            own, at = codes[at : at + block.num_rows], at + block.num_rows
            if len(own) != block.num_rows:
                break
            kept = own != LEFT_OUT
            table = block.select([n for n in self.layout.canonical_schema.names if n != "split"])
            yield (prefixed(table, self.prefix) if self.prefix else table).filter(pa.array(kept)), own[kept]
        if at != len(codes):
            raise DataError(f"{self.source.name}: changed while it was prepared (it had other numbers of rows): start again")


def pieces_of(opened: Iterable[Source], data: DataConfig) -> list[Piece]:
    """The pieces of some sources, in order. Raises DataError where a source lacks a column."""
    found = [(source, find_columns(source, data)) for source in opened]
    parts = [(source, layout, part) for source, layout in found for part in source.parts]
    return [Piece(number, source, layout, part, data) for number, (source, layout, part) in enumerate(parts)]


def run(
    pieces: Sequence[Piece], given: Sequence[tuple[Any, ...]], reading: Reading, *, through_ray: bool, shared: object = None
) -> Iterator[pa.Table]:
    """The blocks of `reading(piece, *own arguments)` of all pieces, in order; `shared` is one more argument, the same for all of them."""
    if through_ray:
        from polarity.data.datasource import run_in_tasks

        yield from run_in_tasks(pieces, given, reading, shared)
        return
    for piece, own in zip(pieces, given, strict=True):
        yield from reading(piece, *own, *([] if shared is None else [shared]))


@dataclass(frozen=True)
class Survey:
    """What is known of every row, in source order; `starts` are the pieces' first rows and, last, the number of rows."""

    hashes: Hashes
    bad: Flags
    columns: pa.Table
    """Labels, and what else the split asks for."""
    starts: NDArray[np.int64]

    def cut(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The values of all rows as one view for each piece."""
        return np.split(values, self.starts[1:-1])


def survey(what: str, pieces: Sequence[Piece], *, say: Say, noted: Say, through_ray: bool) -> Survey:
    """Read every row once. Raises DataError for what cannot be read, for bad rows, and for row ids that stand twice.

    `say` hears how far it is, after the word `what`, and `noted` what was left out (`data.bad_rows: drop`).
    """
    kept: dict[int, list[pa.Table]] = {piece.number: [] for piece in pieces}
    total, clock = 0, Clock(f"{what}: rows looked at", 0, say)
    for block in run(pieces, [()] * len(pieces), Piece.survey, through_ray=through_ray):
        if faults := block["fault"].drop_null().to_pylist():
            raise DataError(faults[0])
        kept[block["piece"][0].as_py()].append(block.drop_columns(["piece", "fault"]))
        total += block.num_rows
        clock.tell(total)
    for one in {id(piece.source): piece for piece in pieces}.values():  # a piece of each source
        own = [table for piece in pieces if piece.source is one.source for table in kept[piece.number]]
        if not own:
            raise DataError(f"{one.source.name}: holds a header but no rows")
        _refuse(one, pa.concat_tables(own), noted)
    starts = np.cumsum([0, *(sum(t.num_rows for t in kept[piece.number]) for piece in pieces)])
    whole = pa.concat_tables([t for piece in pieces for t in kept[piece.number]])
    kept.clear()
    columns = whole.drop_columns([ID_HASH, "bad", MISSING_WORDS])
    return Survey(whole[ID_HASH].to_numpy(), whole["bad"].to_numpy(zero_copy_only=False), columns, starts)


def _refuse(piece: Piece, rows: pa.Table, noted: Say) -> None:
    """Raise DataError for a source's bad rows, or tell which are left out, and for row ids that stand twice."""
    source, layout, data = piece.source, piece.layout, piece.data
    bad, words = pc.sum(rows["bad"]).as_py(), pc.sum(rows[MISSING_WORDS]).as_py()
    if bad and data.bad_rows == "error":
        raise refusal_of(source, layout)
    if bad:
        noted(left_out_of(source, layout, data))
    if words:
        noted(missing_words(source, words, data))
    hashes = np.sort(rows.filter(pc.invert(rows["bad"]))[ID_HASH].to_numpy())
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if layout.row_id is not None and len(twice):
        settle(rows_of(piece, twice), source, layout, data, lambda _: None)  # raises where ids, not only hashes, are equal


def rows_of(piece: Piece, hashes: Hashes) -> pa.Table:
    """The good rows of the piece's whole source that have one of these hashes."""
    found = []
    for block in annotated_blocks(piece.source, piece.layout):
        among = np.isin(id_hash(block["row_id"].fill_null("")), hashes)
        found.append(block.filter(pc.and_(pa.array(among), pc.invert(left_out(block, piece.data)))))
    return pa.concat_tables(found)
