"""Read a source into the canonical comments table, whole (`read_comments`) or block by block (`annotated_blocks`), and refuse what is bad.

Large sources are read block by block, in Ray Data's tasks (`polarity.data.survey`); the blocks and what is said of them are the same.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from polarity.config import DataConfig
from polarity.data.annotators import check_overlap
from polarity.data.canonical import MISSING_WORDS, PROBLEM, SOURCE_ROW, Layout, annotate, find_columns, left_out, refuse_numbers
from polarity.data.formats import open_source
from polarity.data.source import Part, Source
from polarity.errors import DataError, PolarityError, Say

SHOWN, PLACES = 5, 3
"""Faults that a message about bad rows shows, and places of each; `polarity data check` shows more."""
RETRY_NOTE = re.compile(r"\nFailed to .* after \d+/\d+ attempts.*", re.DOTALL)
"""What Ray Data writes behind the message of an error that it will not retry."""


def read_comments(source: str, data: DataConfig, *, labelled: bool = True, say: Say = print) -> pa.Table:
    """Read a whole source as a comments table, in file order, in this process.

    `labelled=False` reads texts alone, for prediction. Bad rows stop the reading or, with `data.bad_rows: drop`, are left out and told to
    `say`. Raises DataError for whatever cannot be read, for missing columns, bad rows, duplicate row ids and for no rows.
    """
    opened = open_source(source)
    for note in opened.notes:
        say(note)
    layout = find_columns(opened, data, labelled=labelled)
    table = pa.Table.from_batches([b for t in annotated_blocks(opened, layout) for b in t.to_batches()], schema=layout.schema)
    return settle(table, opened, layout, data, say)


def annotated_blocks(source: Source, layout: Layout, part: Part | None = None) -> Iterator[pa.Table]:
    """Blocks of a source, or of one part of it, with their row and problem; raises DataError where the whole has no rows."""
    rows = 0
    for each in [part] if part else source.parts:
        row = each.first_row
        for block in each.blocks(layout.columns):
            yield annotate(block, row, layout)
            row += block.num_rows
        rows += row - each.first_row
    if rows == 0 and (part is None or len(source.parts) == 1):
        raise DataError(f"{source.name}: holds a header but no rows")


def refusal_of(source: Source, layout: Layout) -> DataError:
    """The error for a source's bad rows: the first with its place, and how many there are; reads the source."""
    found = [block.filter(pc.is_valid(block[PROBLEM])) for block in annotated_blocks(source, layout)]
    return DataError(_refusal(source, pa.concat_tables(found)))


def settle(table: pa.Table, source: Source, layout: Layout, data: DataConfig, say: Say) -> pa.Table:
    """Comments table of an annotated one: refuse or leave out its bad rows, and refuse duplicate row ids."""
    problems = table.filter(pc.is_valid(table[PROBLEM]))
    if problems.num_rows:
        if data.bad_rows == "error":
            raise DataError(_refusal(source, problems))
        bad = left_out(table, data)
        lost = pc.sum(bad).as_py()
        say(_left_out_words(source, problems, lost, table.num_rows))
        table = table.filter(pc.invert(bad))
    words = pc.sum(table[MISSING_WORDS]).as_py() or 0
    if words:
        say(missing_words(source, words, data))
    refuse_numbers(table["comment"], layout.comment, source.name, "set data.comment_column to the column of the comments")
    if layout.row_id is not None:
        _refuse_duplicate_ids(table, source, layout.row_id)
    check_overlap(table, layout.tasks, source.name)
    return table.select(layout.canonical_schema.names).combine_chunks()


def missing_words(source: Source, words: int, data: DataConfig) -> str:
    """What is said of label cells that hold a word for a missing label."""
    shown = ", ".join(data.missing_labels[:3])
    return f"{source.name}: {words:,} label cells hold a word for “no label” ({shown}, ...: data.missing_labels) and count as empty"


def left_out_of(source: Source, layout: Layout, data: DataConfig) -> str:
    """What is said of a source's bad rows where they are left out; reads the source. Raises DataError where all rows are bad."""
    found, lost, rows = [], 0, 0
    for block in annotated_blocks(source, layout):
        found.append(block.filter(pc.is_valid(block[PROBLEM])))
        lost, rows = lost + int(pc.sum(left_out(block, data)).as_py() or 0), rows + block.num_rows
    return _left_out_words(source, pa.concat_tables(found), lost, rows)


def _left_out_words(source: Source, problems: pa.Table, lost: int, rows: int) -> str:
    if lost == rows:
        raise DataError("\n".join([f"{source.name}: all {rows:,} rows are bad:", *_faults(source, problems)]))
    kept = problems.num_rows - lost
    also = f"; {kept:,} more lost a bad label and keep a good one" if kept else ""
    head = f"{source.name}: left out {lost:,} of {rows:,} rows{also} (data.bad_rows=drop):"
    return "\n".join([head, *_faults(source, problems)])


def _refusal(source: Source, bad: pa.Table) -> str:
    """The first bad row with its place; below, where there are more, what is wrong with all of them."""
    others = f"{bad.num_rows:,} bad rows in all; " if bad.num_rows > 1 else ""
    place, problem = source.places(bad[SOURCE_ROW].slice(0, 1).to_pylist())[0], bad[PROBLEM][0].as_py()
    head = f"{source.name}, {place}: {problem} ({others}data.bad_rows=drop leaves bad rows out)"
    return "\n".join([head, *(_faults(source, bad) if others else [])])


def _faults(source: Source, bad: pa.Table) -> list[str]:
    """A line for each of the most frequent faults, with the first rows that have it and how many more."""
    found = alike(bad)
    places = iter(source.places([row for _, rows in found[:SHOWN] for row in rows[:PLACES]]))
    lines = []
    for problem, rows in found[:SHOWN]:
        named = ", ".join(next(places) for _ in rows[:PLACES])
        more = f" and {len(rows) - PLACES:,} more" if len(rows) > PLACES else ""
        lines.append(f"  {named}{more}: {problem}")
    rest = found[SHOWN:]
    return lines + ([f"  ... and {len(rest):,} other faults in {sum(len(rows) for _, rows in rest):,} rows"] if rest else [])


def alike(bad: pa.Table) -> list[tuple[str, list[int]]]:
    """(fault, source rows) of an annotated table's bad rows, the most frequent fault first."""
    return sorted(_rows_by(PROBLEM, bad).items(), key=lambda pair: -len(pair[1]))


def _rows_by(column: str, table: pa.Table) -> dict[str, list[int]]:
    """{value of the column: source rows that have it} of an annotated table."""
    found: dict[str, list[int]] = {}
    for value, row in zip(table[column].to_pylist(), table[SOURCE_ROW].to_pylist(), strict=True):
        found.setdefault(value, []).append(row)
    return found


def prefixed(table: pa.Table, prefix: str) -> pa.Table:
    """The comments table with a prefix before every row id."""
    text = pa.large_string()
    ids = pc.binary_join_element_wise(pa.scalar(prefix, text), table["row_id"].cast(text), pa.scalar("", text))
    return table.set_column(table.schema.get_field_index("row_id"), "row_id", ids)


def duplicate_ids(table: pa.Table) -> list[tuple[str, list[int]]]:
    """(row id, source rows) of each id that more than one row has, in the order of the first of them."""
    counts = pc.value_counts(table["row_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(repeated):
        return []
    return list(_rows_by("row_id", table.select(["row_id", SOURCE_ROW]).filter(pc.is_in(table["row_id"], repeated))).items())


def _refuse_duplicate_ids(table: pa.Table, source: Source, column: str) -> None:
    repeated = duplicate_ids(table)
    if repeated:
        row_id, rows = repeated[0]
        first, second = source.places(rows[:2])
        more = f" ({len(repeated):,} ids are repeated)" if len(repeated) > 1 else ""
        raise DataError(
            f"{source.name}, {second}: the row id {row_id!r} (column {column!r}) is also that of {first}{more}: "
            "make the ids unique, or set data.id_column=null to number the rows"
        )


def ray_is_running() -> bool:
    """Whether this process has started or joined Ray."""
    ray = sys.modules.get("ray")  # importing it takes seconds, and who has not imported it has not started it
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def original_error() -> Iterator[None]:
    """Raise the PolarityError that a Ray task raised, as it was, in place of the Ray error around it."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        inner: BaseException | None = error
        while inner is not None and type(inner).__module__ != PolarityError.__module__:
            inner = getattr(inner, "cause", None) or inner.__cause__
        if not isinstance(inner, PolarityError):
            raise
        raise type(inner)(RETRY_NOTE.sub("", str(inner))) from None
