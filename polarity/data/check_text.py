"""The check as text: tables that fit a terminal and paste into a mail."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from polarity import tables

Json = dict[str, Any]
NUMBER = re.compile(r"[\d,.]*%?|-")
TITLES_SHOWN = 15
BAD_ROWS_SHOWN = 20


def render(check: Json) -> str:
    """The result of `check_source` as plain text."""
    console = tables.console()
    for part, report in check.get("sources", {"": check}).items():
        for piece in _source(part, report):
            console.print(piece, soft_wrap=isinstance(piece, str))
    for piece in _split(check["split"]):
        console.print(piece, soft_wrap=isinstance(piece, str))
    return tables.text_of(console)


def _source(part: str, report: Json) -> Iterable[Table | str]:
    yield f"{part + ': ' if part else ''}{report['source']}: {report['rows']:,} rows, {report['good_rows']:,} good"
    yield from report["notes"]
    yield from _bad_rows(report)
    yield _classes(report)
    if len(report["tasks"]) > 1:
        yield _joint(report["joint"])
    yield from _duplicates(report)
    yield _titles(report["titles"])
    yield from _lengths(report["lengths"])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table with numbers and shares to the right."""
    body = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    table = Table(title=Text(title, style="none"), box=SIMPLE, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        number = index > 0 and all(NUMBER.fullmatch(row[index]) for row in body)
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))  # Text, not str: what stands in a file is never taken for markup
    return table


def _bad_rows(report: Json) -> Iterable[Table | str]:
    bad, ids = report["bad_rows"], report["duplicate_ids"]
    if bad["count"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in bad["reasons"].items())
        rows = [(row["place"], row["problem"]) for row in bad["rows"][:BAD_ROWS_SHOWN]]
        more = bad["count"] - len(rows)
        title = f"Bad rows: {bad['count']:,} ({reasons})" + (f"; the first {len(rows)}" if more else "")
        yield _table(title, ("where", "problem"), rows)
    if ids["count"]:
        rows = [(each["row_id"], ", ".join(each["places"][:5])) for each in ids["ids"][:BAD_ROWS_SHOWN]]
        yield _table(f"Row ids that several rows have: {ids['count']:,}", ("row id", "where"), rows)


def _classes(report: Json) -> Table:
    rows: list[Sequence[object]] = []
    for task, counts in report["tasks"].items():
        total = sum(counts["classes"].values())
        rows += [(f"{task}: {name}", count, _percent(count, total)) for name, count in counts["classes"].items()]
        rows += [(f"{task}: (missing)", counts["missing"], "")]
    return _table("Classes", ("task: class", "rows", "share"), rows)


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _joint(joint: list[Json]) -> Table:
    """Two tasks make a cross table; more of them a row for each combination."""
    if not joint or len(joint[0]["labels"]) != 2:
        rows = [(" / ".join(name or "(missing)" for name in cell["labels"].values()), cell["rows"]) for cell in joint]
        return _table("Label combinations", ("labels", "rows"), rows)
    first, second = joint[0]["labels"]
    across = sorted({cell["labels"][second] or "(missing)" for cell in joint})
    body = []
    for name, cells in groupby(joint, key=lambda cell: cell["labels"][first]):
        counts = {cell["labels"][second] or "(missing)": cell["rows"] for cell in cells}
        body.append((name or "(missing)", *(counts.get(label, 0) for label in across)))
    return _table(f"{first} (down) x {second} (across)", ("", *across), body)


def _duplicates(report: Json) -> Iterable[Table | str]:
    named = {
        "exact": "same title and comment",
        "normalised": "same title and normalised comment",
        "near": "different, Jaccard >= 0.9 on 5-grams",
    }
    rows = []
    for kind, words in named.items():
        found = report["duplicates"][kind]
        rows.append((words, found["groups"], found["rows"], _examples(found["examples"])))
    conflicts = report["conflicts"]
    other = _examples(each["row_ids"] for each in conflicts["examples"])
    rows.append(("same title and comment, other label", conflicts["groups"], conflicts["rows"], other))
    yield _table("Duplicates", ("kind", "groups", "rows", "row ids, for example"), rows)
    if conflicts["groups"]:
        body = [
            (", ".join(each["row_ids"]), "; ".join(f"{task}: {' / '.join(own)}" for task, own in each["labels"].items()), each["comment"])
            for each in conflicts["examples"]
        ]
        yield _table("Conflicting labels", ("row ids", "labels", "comment"), body)


def _examples(groups: Iterable[Sequence[str]]) -> str:
    return "; ".join(" = ".join(group) for group in list(groups)[:3])


def _titles(titles: Json) -> Table:
    listed = titles["most"][:TITLES_SHOWN]
    more = "" if titles["distinct"] == len(listed) else f", the {len(listed)} most frequent"
    return _table(f"Titles: {titles['distinct']:,}{more}", ("title", "rows"), [(each["title"], each["rows"]) for each in listed])


def _lengths(lengths: Json) -> Iterable[Table | str]:
    measured = {name: lengths[name] for name in ("comment_characters", "comment_tokens", "title_tokens") if lengths.get(name)}
    if measured:
        names = list(next(iter(measured.values())))
        yield _table("Lengths", ("", *names), [(name.replace("_", " "), *values.values()) for name, values in measured.items()])
    if "cut" in lengths:
        cut = ", ".join(f"data.{key} cuts {share:.1%} of the rows" for key, share in lengths["cut"].items())
        unknown = ", ".join(f"{share:.2%} of {which} tokens" for which, share in lengths["unknown_share"].items())
        yield f"{cut}; unknown to the vocabulary: {unknown}\n"


def _split(split: Json) -> Iterable[Table | str]:
    if "error" in split:
        yield f"Split ({split['kind']}): not possible: {split['error']}"
        return
    tasks = next(iter(split["parts"].values()))["tasks"]
    columns = [(task, name) for task, classes in tasks.items() for name in classes]
    rows = [(part, counts["rows"], *(counts["tasks"][task][name] for task, name in columns)) for part, counts in split["parts"].items()]
    yield _table(f"Split ({split['kind']})", ("part", "rows", *(name for _, name in columns)), rows)
    shared = [
        (
            " / ".join(pair["parts"]),
            pair["duplicate"],
            pair["near"],
            pair["titles"],
            _examples(each["row_ids"] for each in pair["examples"]),
        )
        for pair in split["shared"]
    ]
    yield _table("Across the split", ("parts", "duplicates", "near", "titles in both", "row ids, for example"), shared)
