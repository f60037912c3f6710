"""`polarity data check`: what is in a source and what is wrong with it, before anything is trained on it.

Nothing stops at the first fault: bad rows are listed, and the rest is computed on the good ones.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby
from typing import TYPE_CHECKING, NotRequired, TypedDict, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from polarity import tables
from polarity.config import DataConfig, SplitConfig
from polarity.data.canonical import PROBLEM, SOURCE_ROW, Layout, find_columns, left_out
from polarity.data.duplicates import duplicate_groups, find_leaks, near_duplicate_groups, normalise
from polarity.data.formats import open_source
from polarity.data.read import PLACES, alike, annotated_blocks, duplicate_ids
from polarity.data.seen import PARTS
from polarity.data.source import Source
from polarity.data.split import split_indices
from polarity.errors import DataError, Say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Fault(TypedDict):
    """Bad rows of one kind, and the places of the first of them."""

    problem: str
    rows: int
    places: list[str]


class BadRows(TypedDict):
    count: int
    reasons: dict[str, int]
    faults: list[Fault]
    rows: list[dict[str, str]]
    """Place and problem of each."""


class RepeatedId(TypedDict):
    row_id: str
    places: list[str]


class RepeatedIds(TypedDict):
    count: int
    ids: list[RepeatedId]


class ClassCounts(TypedDict):
    classes: dict[str, int]
    missing: int


class Combination(TypedDict):
    """Rows of a label combination; None: the label is missing."""

    labels: dict[str, str | None]
    rows: int


class Groups(TypedDict):
    """Groups of rows that are the same; `examples` are row ids."""

    groups: int
    rows: int
    examples: list[list[str]]


class Conflict(TypedDict):
    row_ids: list[str]
    rows: int
    comment: str
    labels: dict[str, list[str]]


class Conflicts(TypedDict):
    """Rows of one text with different labels; `tasks` counts the groups by task."""

    groups: int
    rows: int
    tasks: dict[str, int]
    examples: list[Conflict]


class TitleCount(TypedDict):
    title: str
    rows: int


class Titles(TypedDict):
    distinct: int
    most: list[TitleCount]


Quantiles = dict[str, int]
"""{one of QUANTILES: length}; empty where there are no rows."""


class LengthCheck(TypedDict):
    """Tokens where there is a tokenizer; `cut` are shares of the rows that a setting cuts."""

    comment_characters: Quantiles
    comment_tokens: NotRequired[Quantiles]
    title_tokens: NotRequired[Quantiles]
    unknown_share: NotRequired[dict[str, float]]
    cut: NotRequired[dict[str, float]]


class Leak(TypedDict):
    row_ids: list[str]
    kind: str
    similarity: float


class Shared(TypedDict):
    """What two parts have in common: rows that are the same or nearly so, and titles."""

    parts: list[str]
    duplicate: int
    near: int
    examples: list[Leak]
    titles: int


class PartCounts(TypedDict):
    rows: int
    tasks: dict[str, dict[str, int]]


class SplitCheck(TypedDict):
    """Parts of the split; `error` says why it cannot be made."""

    kind: str
    error: NotRequired[str]
    parts: NotRequired[dict[str, PartCounts]]
    shared: NotRequired[list[Shared]]


class SourceCheck(TypedDict):
    source: str
    notes: list[str]
    rows: int
    good_rows: int
    bad_rows: BadRows
    duplicate_ids: RepeatedIds
    tasks: dict[str, ClassCounts]
    joint: list[Combination]
    duplicates: dict[str, Groups]
    conflicts: Conflicts
    titles: Titles
    lengths: LengthCheck


@final
class CheckOfOne(SourceCheck):
    """Of one source, which is cut by `data.split`."""

    split: SplitCheck


@final
class CheckOfParts(TypedDict):
    """Of the user's own split."""

    sources: dict[str, SourceCheck]
    split: SplitCheck


DataCheck = CheckOfOne | CheckOfParts

EXAMPLES = 5
LISTED = 200
"""Bad rows, faults and duplicate ids that are listed one by one; all are counted."""
QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def check_source(
    source: str | Mapping[str, str],
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    progress: Say | None = None,
) -> DataCheck:
    """Everything worth knowing of a source: counts, bad rows, duplicates, conflicts, lengths, leaks across the split.

    `source` is one source, cut by `data.split`, or {"train": ..., "validation": ..., "test": ...}, the user's own split. Lengths are
    in characters and, with a tokenizer, in tokens; `progress` is told how far a long search is. Raises DataError for what makes the
    source unreadable as a whole.
    """
    if isinstance(source, str):
        report, comments = _check_one(source, data, tokenizer, progress)
        return {**report, "split": _configured_split(comments, data, progress)}
    whole = data.model_copy(update={"split": SplitConfig()})  # the files are the split: no column is asked for
    checked = {part: _check_one(name, whole, tokenizer, progress) for part, name in source.items()}
    parts = {part: comments for part, (_, comments) in checked.items()}
    return {"sources": {part: report for part, (report, _) in checked.items()}, "split": _across("own", parts, data, progress)}


def shown(text: str, most: int = 60) -> str:
    """A text fit for a terminal: at most `most` characters, whatever is invisible or steers the terminal escaped."""
    clipped = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in clipped)


def _check_one(
    name: str, data: DataConfig, tokenizer: "PreTrainedTokenizerBase | None", progress: Say | None
) -> tuple[SourceCheck, pa.Table]:
    opened = open_source(name)
    layout = find_columns(opened, data)
    table = pa.concat_tables(list(annotated_blocks(opened, layout)))
    good = table.filter(pc.invert(left_out(table, data)))  # the rows that a training would take
    comments = good.select(layout.canonical_schema.names).combine_chunks()
    report: SourceCheck = {
        "source": name,
        "notes": list(opened.notes),
        "rows": table.num_rows,
        "good_rows": good.num_rows,
        "bad_rows": _bad_rows(table.filter(pc.is_valid(table[PROBLEM])), opened),
        "duplicate_ids": _repeated_ids(good, opened, layout),
        "tasks": {task: _class_counts(comments[task], spec.labels) for task, spec in data.tasks.items()},
        "joint": _joint(comments, data),
        "duplicates": _duplicates(comments, progress),
        "conflicts": _conflicts(comments, data),
        "titles": _titles(comments),
        "lengths": _lengths(comments, data, tokenizer),
    }
    return report, comments


def _bad_rows(bad: pa.Table, source: Source) -> BadRows:
    reasons: dict[str, int] = defaultdict(int)
    for problem in bad[PROBLEM].to_pylist():
        reasons[problem.partition(":")[0]] += 1
    first = bad.slice(0, LISTED)
    places = source.places(first[SOURCE_ROW].to_pylist())
    rows = [{"place": place, "problem": shown(problem, 200)} for place, problem in zip(places, first[PROBLEM].to_pylist(), strict=True)]
    found = alike(bad)[:LISTED]
    named = iter(source.places([row for _, own in found for row in own[:PLACES]]))
    faults: list[Fault] = [
        {"problem": shown(what, 200), "rows": len(own), "places": [next(named) for _ in own[:PLACES]]} for what, own in found
    ]
    return {"count": bad.num_rows, "reasons": dict(reasons), "faults": faults, "rows": rows}


def _repeated_ids(good: pa.Table, source: Source, layout: Layout) -> RepeatedIds:
    repeated = [] if layout.row_id is None else duplicate_ids(good)
    listed = repeated[:LISTED]
    places = iter(source.places([row for _, rows in listed for row in rows]))
    ids: list[RepeatedId] = [{"row_id": shown(row_id), "places": [next(places) for _ in rows]} for row_id, rows in listed]
    return {"count": len(repeated), "ids": ids}


def _class_counts(column: pa.ChunkedArray, labels: list[str]) -> ClassCounts:
    counts = np.bincount(column.drop_null().to_numpy(), minlength=len(labels))
    return {"classes": dict(zip(labels, counts.tolist(), strict=True)), "missing": column.null_count}


def _joint(comments: pa.Table, data: DataConfig) -> list[Combination]:
    """Rows of each label combination, in the order of the classes, missing last."""
    if not comments.num_rows:
        return []
    tasks = list(data.tasks)
    counted = comments.select(tasks).group_by(tasks).aggregate([([], "count_all")]).sort_by([(task, "ascending") for task in tasks])
    named = [{task: None if row[task] is None else data.tasks[task].labels[row[task]] for task in tasks} for row in counted.to_pylist()]
    return [{"labels": labels, "rows": rows} for labels, rows in zip(named, counted["count_all"].to_pylist(), strict=True)]


def _duplicates(comments: pa.Table, progress: Say | None) -> dict[str, Groups]:
    kinds = {
        "exact": duplicate_groups(comments, normalised=False),
        "normalised": duplicate_groups(comments, normalised=True),
        "near": near_duplicate_groups(comments, progress),
    }
    found: dict[str, Groups] = {}
    for kind, groups in kinds.items():
        examples = [[shown(row_id) for row_id in group[:EXAMPLES]] for group in groups[:EXAMPLES]]
        found[kind] = {"groups": len(groups), "rows": sum(map(len, groups)), "examples": examples}
    return found


def _conflicts(comments: pa.Table, data: DataConfig) -> Conflicts:
    """Rows with the same title and the same normalised comment that carry different labels of a task."""
    columns = [comments[name].to_pylist() for name in ("title", "comment", *data.tasks)]
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (title, comment) in enumerate(zip(columns[0], columns[1], strict=True)):
        groups[title, normalise(comment)].append(row)
    tasks: dict[str, int] = dict.fromkeys(data.tasks, 0)
    found: list[Conflict] = []
    for rows in groups.values():
        if len(rows) == 1:
            continue
        labels = {task: sorted({column[row] for row in rows} - {None}) for task, column in zip(data.tasks, columns[2:], strict=True)}
        differing = {task: [data.tasks[task].labels[index] for index in own] for task, own in labels.items() if len(own) > 1}
        for task in differing:
            tasks[task] += 1
        if differing:
            row_ids = [shown(str(comments["row_id"][row])) for row in rows[:EXAMPLES]]
            found.append({"row_ids": row_ids, "rows": len(rows), "comment": shown(columns[1][rows[0]]), "labels": differing})
    return {"groups": len(found), "rows": sum(group["rows"] for group in found), "tasks": tasks, "examples": found[:EXAMPLES]}


def _titles(comments: pa.Table) -> Titles:
    counts = pc.value_counts(comments["title"])
    order = pc.array_sort_indices(counts.field("counts"), order="descending")
    titles: list[TitleCount] = [{"title": shown(each["values"]), "rows": each["counts"]} for each in counts.take(order).to_pylist()]
    return {"distinct": len(titles), "most": titles[:LISTED]}


def _lengths(comments: pa.Table, data: DataConfig, tokenizer: "PreTrainedTokenizerBase | None") -> LengthCheck:
    lengths: LengthCheck = {"comment_characters": _quantiles(pc.utf8_length(comments["comment"]).to_numpy())}
    if tokenizer is None or not comments.num_rows:
        return lengths
    comment, comment_unknown = _tokens(comments["comment"], tokenizer)
    title, title_unknown = _tokens(comments["title"], tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=data.title_column is not None)
    kept = np.minimum(comment, data.max_comment or comment.max()) + special
    if data.title_column is not None:
        kept = kept + (title if data.max_title is None else np.minimum(title, data.max_title))
    lengths["comment_tokens"], lengths["title_tokens"] = _quantiles(comment), _quantiles(title)
    lengths["unknown_share"] = {"comment": comment_unknown, "title": title_unknown}
    lengths["cut"] = {
        "max_comment": float(np.mean(comment > data.max_comment)) if data.max_comment else 0.0,
        "max_title": float(np.mean(title > data.max_title)) if data.max_title is not None else 0.0,
        "max_length": float(np.mean(kept > data.max_length)),
    }
    return lengths


def _tokens(texts: pa.ChunkedArray, tokenizer: "PreTrainedTokenizerBase") -> tuple[np.ndarray, float]:
    """Tokens of each text without special ones, and the share of them that the vocabulary does not know."""
    encoded = texts.combine_chunks().dictionary_encode()
    lengths, unknown = np.zeros(len(encoded.dictionary), np.int64), np.zeros(len(encoded.dictionary), np.int64)
    distinct = encoded.dictionary.to_pylist()
    for first in range(0, len(distinct), 1024):
        ids = tokenizer(distinct[first : first + 1024], add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        lengths[first : first + len(ids)] = [len(row) for row in ids]
        unknown[first : first + len(ids)] = [row.count(tokenizer.unk_token_id) for row in ids]
    rows = encoded.indices.to_numpy()
    total = int(lengths[rows].sum())
    return lengths[rows], float(unknown[rows].sum() / total) if total else 0.0


def _quantiles(values: np.ndarray) -> Quantiles:
    if not len(values):
        return {}
    points = np.quantile(values, list(QUANTILES.values()), method="higher")
    return dict(zip(QUANTILES, points.astype(int).tolist(), strict=True))


def _configured_split(comments: pa.Table, data: DataConfig, progress: Say | None) -> SplitCheck:
    """Parts and leaks of the configured split; where it cannot be made, why."""
    try:
        rows = split_indices(comments, data.split, list(data.tasks))
    except DataError as error:
        return {"kind": data.split.kind, "error": str(error)}
    parts: dict[str, pa.Table] = {name: comments.take(pa.array(own)) for name, own in zip(PARTS, rows, strict=True) if len(own)}
    return _across(data.split.kind, parts, data, progress)


def _across(kind: str, parts: dict[str, pa.Table], data: DataConfig, progress: Say | None) -> SplitCheck:
    """Rows and class counts of each part, and what every two of them share."""
    counts: dict[str, PartCounts] = {
        part: {
            "rows": table.num_rows,
            "tasks": {task: _class_counts(table[task], spec.labels)["classes"] for task, spec in data.tasks.items()},
        }
        for part, table in parts.items()
    }
    shared = [_shared(pair, parts[pair[0]], parts[pair[1]], progress) for pair in combinations(parts, 2)]
    return {"kind": kind, "parts": counts, "shared": shared}


def _shared(parts: Sequence[str], one: pa.Table, other: pa.Table, progress: Say | None) -> Shared:
    leaks = find_leaks(one, other, progress)
    kinds = leaks["kind"].to_pylist()
    common = pc.sum(pc.is_in(pc.unique(one["title"]), pc.unique(other["title"]))).as_py() or 0
    examples: list[Leak] = [
        {"row_ids": [shown(leak["train_row_id"]), shown(leak["held_out_row_id"])], "kind": leak["kind"], "similarity": leak["similarity"]}
        for leak in leaks.slice(0, EXAMPLES).to_pylist()
    ]
    return {
        "parts": list(parts),
        "duplicate": kinds.count("duplicate"),
        "near": kinds.count("near"),
        "examples": examples,
        "titles": common,
    }


NUMBER = re.compile(r"[\d,.]*%?|-")
TITLES_SHOWN = 15
BAD_ROWS_SHOWN = 20


def render(check: DataCheck) -> str:
    """The result of `check_source` as plain text."""
    console = tables.console()
    named: Iterable[tuple[str, SourceCheck]] = check["sources"].items() if "sources" in check else [("", check)]
    for part, report in named:
        for piece in _source(part, report):
            console.print(piece, soft_wrap=isinstance(piece, str))
    for piece in _split(check["split"]):
        console.print(piece, soft_wrap=isinstance(piece, str))
    return tables.text_of(console)


def _source(part: str, report: SourceCheck) -> Iterable[Table | str]:
    yield f"{part + ': ' if part else ''}{report['source']}: {report['rows']:,} rows, {report['good_rows']:,} usable"
    yield from report["notes"]
    yield from _bad_rows_text(report)
    yield _classes(report)
    if len(report["tasks"]) > 1:
        yield _joint_text(report["joint"])
    yield from _duplicates_text(report)
    if any(each["title"] for each in report["titles"]["most"]):
        yield _titles_text(report["titles"])
    yield from _lengths_text(report["lengths"])


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


def _bad_rows_text(report: SourceCheck) -> Iterable[Table | str]:
    bad, ids = report["bad_rows"], report["duplicate_ids"]
    if bad["count"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in bad["reasons"].items())
        faults = [
            (fault["rows"], ", ".join(fault["places"]) + (", ..." if fault["rows"] > len(fault["places"]) else ""), fault["problem"])
            for fault in bad["faults"][:BAD_ROWS_SHOWN]
        ]
        more = len(bad["faults"]) > BAD_ROWS_SHOWN
        title = f"Bad rows: {bad['count']:,} ({reasons})" + (f"; the {BAD_ROWS_SHOWN} most frequent faults" if more else "")
        yield _table(title, ("rows", "where", "problem"), faults)
    if ids["count"]:
        rows = [(each["row_id"], ", ".join(each["places"][:5])) for each in ids["ids"][:BAD_ROWS_SHOWN]]
        yield _table(f"Row ids that several rows have: {ids['count']:,}", ("row id", "where"), rows)


def _classes(report: SourceCheck) -> Table:
    rows: list[Sequence[object]] = []
    for task, counts in report["tasks"].items():
        total = sum(counts["classes"].values())
        rows += [(f"{task}: {name}", count, f"{count / total:.1%}" if total else "-") for name, count in counts["classes"].items()]
        rows += [(f"{task}: (missing)", counts["missing"], "")]
    return _table("Classes", ("task: class", "rows", "share"), rows)


def _joint_text(joint: list[Combination]) -> Table:
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


def _duplicates_text(report: SourceCheck) -> Iterable[Table | str]:
    named = {"exact": "same title and comment", "normalised": "the same but for case and spaces", "near": "nearly the same comment"}
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


def _titles_text(titles: Titles) -> Table:
    listed = titles["most"][:TITLES_SHOWN]
    more = "" if titles["distinct"] == len(listed) else f", the {len(listed)} most frequent"
    return _table(f"Titles: {titles['distinct']:,}{more}", ("title", "rows"), [(each["title"], each["rows"]) for each in listed])


def _lengths_text(lengths: LengthCheck) -> Iterable[Table | str]:
    every = {
        "comment characters": lengths["comment_characters"],
        "comment tokens": lengths.get("comment_tokens"),
        "title tokens": lengths.get("title_tokens"),
    }
    measured = {name: quantiles for name, quantiles in every.items() if quantiles}
    if measured:
        names = list(next(iter(measured.values())))
        yield _table("Lengths", ("", *names), [(name, *values.values()) for name, values in measured.items()])
    if "cut" in lengths:
        cut = ", ".join(f"data.{key} cuts {share:.1%} of the rows" for key, share in lengths["cut"].items())
        unknown = ", ".join(f"{share:.2%} of {which} tokens" for which, share in lengths["unknown_share"].items())
        yield f"{cut}; unknown to the vocabulary: {unknown}\n"


def _split(split: SplitCheck) -> Iterable[Table | str]:
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
