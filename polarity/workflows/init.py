"""`polarity init`: look at a file that nobody described, guess what its columns hold, and write the configuration that trains on it.

The guesses use names and values: texts are long and differ, titles are long and repeat, labels are few, short and repeat, ids differ in
every row. What cannot be guessed is asked, or with `--yes` said with the option that decides it. All problems are told at once.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from polarity import tables
from polarity.data.formats import open_source
from polarity.data.source import Source
from polarity.data.split import PART_NAMES, TRAIN, VALIDATION
from polarity.data.text_formats import NestedError
from polarity.errors import ConfigError, DataError, Say, nearest
from polarity.spelling import MISSING_WORDS, canonical, match
from polarity.yaml_text import scalar

TEXT = pa.large_string()


@dataclass(frozen=True)
class LooseTable:
    """What a file holds: all its columns as text (null where a cell is missing), and the lines to tell the user.

    `notes` say how it was read (encoding, delimiter, sheet); `fault` is why reading ended before the end, else None: then `table` holds the
    rows before that. `nested` columns of objects or lists are left out.
    """

    table: pa.Table
    notes: tuple[str, ...]
    fault: str | None
    nested: tuple[str, ...] = ()


def read_loosely(name: str, most_rows: int = 100_000) -> LooseTable:
    """Read the first `most_rows` rows of any source that `open_source` knows into text columns.

    Numbers are as they would be read as labels (1.0 as 1), nested columns are left out, bytes are decoded as
    UTF-8. Raises DataError only for what cannot be opened at all (missing, empty, damaged, no header, a column twice).
    """
    source = open_source(name)
    columns, nested = list(source.columns), []
    while True:
        blocks = [pa.schema([pa.field(column, TEXT) for column in columns]).empty_table()]
        try:
            blocks.extend(_blocks(source, columns, most_rows))
        except NestedError as error:
            columns.remove(error.column)
            nested.append(error.column)
            continue
        except DataError as error:
            return LooseTable(pa.concat_tables(blocks), source.notes, str(error), tuple(nested))
        return LooseTable(pa.concat_tables(blocks), source.notes, None, tuple(nested))


def _blocks(source: Source, columns: Sequence[str], most_rows: int) -> Iterator[pa.Table]:
    rows = 0
    for part in source.parts:
        for block in part.blocks(columns):
            yield _as_text(block.slice(0, most_rows - rows), columns)
            rows += block.num_rows
            if rows >= most_rows:
                return


def _as_text(block: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name, column in zip(columns, block.columns, strict=True):
        if pa.types.is_nested(column.type):
            raise NestedError(f"column {name!r} holds {column.type}", name)
    return pa.Table.from_arrays([_text(block.column(at)) for at in range(len(columns))], names=list(columns))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(TEXT)
    return pa.chunked_array([pa.array([_value(value) for value in column.to_pylist()], TEXT)])


def _value(value: object) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)


Ask = Callable[[str, str], str]
"""Asks a question with a default answer; returns what the user typed."""

FEWEST_ROWS = 5
"""A class with fewer rows cannot be in the training, validation and test rows at once."""
FEWEST_WORDS = 4
"""A column's name of so many words is likely a text."""
MOST_CLASSES = 12
MOST_NAMED = 40
"""Classes of a column that is named as labels, or given with --label."""
SHOWN = 6
_MISSING = {canonical(word) for word in MISSING_WORDS} | {""}

_TEXT = re.compile(r"\b(comments?|texts?|body|messages?|content|tweets?|reviews?|sentences?|komento|reply|replies|answer|opinion|texto)\b")
_TITLE = re.compile(r"\b(titles?|headlines?|subject|posts?|threads?|topic title|article|news)\b")
_ID = re.compile(r"\b(id|ids|uuid|guid|key|index|rowid|no|number)\b")
_LABEL = re.compile(
    r"\b(labels?|class|classes|sentiments?|polari[sz]ation|polarity|category|categories|topics?|stance|emotions?|tone|mood|rating|stars|"
    r"target|annotation|toxic|toxicity|hate|hateful|offensive|sarcasm|irony|urgency|priority|aspect|spam|intent|final|gold|y)\b"
)
_ASIDE = re.compile(
    r"\b(date|time|timestamp|created|year|month|day|users?|authors?|names?|annotator|rater|coder|lang|language|source|platform|url|link|"
    r"likes?|shares?|count|views|confidence|country|city|region|gender|age|fold|split|set|subset)\b"
)


@dataclass(frozen=True)
class Class:
    """One class of a label column: how it is mostly written, its rows, and the other spellings with their rows."""

    name: str
    rows: int
    variants: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Column:
    """What a column's cells look like; `counts` are of canonical forms, `spellings` of the cells as written."""

    name: str
    filled: int
    counts: Counter[str]
    spellings: dict[str, Counter[str]]
    words: float
    """Mean number of words of a filled cell."""

    @property
    def hint(self) -> str:
        """The name as words: `Final_Sentiment` and `finalSentiment` as `final sentiment`."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name)
        return canonical(re.sub(r"[\W_]+", " ", spaced))

    @property
    def distinct(self) -> int:
        return len(self.counts)

    def classes(self) -> list[Class]:
        """Canonical classes, the most frequent first."""
        return [
            Class(
                name := _plainest(form, self.spellings[form]),
                rows,
                tuple(pair for pair in self.spellings[form].most_common() if pair[0] != name),
            )
            for form, rows in self.counts.most_common()
        ]


def _plainest(form: str, spellings: Counter[str]) -> str:
    """How a class is called: a number in its shortest form, else its spelling in small letters if there is one, else the most frequent."""
    if form.lstrip("+-").replace(".", "", 1).isdigit():
        return form
    ranked = [text.strip() for text, _ in spellings.most_common()]
    return next((text for text in ranked if text == text.lower()), ranked[0])


@dataclass(frozen=True)
class Guess:
    """What a file's columns seem to hold; `problems` (of rows) and `notes` (on columns) are told to the user.

    `undecided` is what only the user can decide.
    """

    rows: int
    text: str | None
    title: str | None
    row_id: str | None
    split: str | None
    tasks: dict[str, list[Class]]
    """{label column: its classes}."""
    wrong: dict[str, list[tuple[Class, str]]] = field(default_factory=dict)
    """{label column: classes that are left out, and why}."""
    aside: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What the user said of the columns; None is guessed."""

    text: str | None = None
    title: str | None = None
    row_id: str | None = None
    labels: tuple[str, ...] = ()


def init(file: str, out: Path, wanted: Wanted, *, encoder: str, overwrite: bool, ask: Ask | None, say: Say) -> None:
    """Write `out`, the configuration that trains on `file`; `ask` None asks nothing.

    Raises DataError where the file cannot be read, or holds nothing to train on: the message names all that must be decided.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already: give --overwrite to replace it, or another --out")
    loose = read_loosely(file)
    for note in loose.notes:
        say(note)
    if loose.nested:
        say(f"{file}: columns of objects or lists are left out: {', '.join(loose.nested)}")
    if loose.fault:
        say(f"read only up to a fault: {loose.fault}")
    guess = guess_columns(loose.table, wanted)
    if ask is not None:
        say(f"Columns: {', '.join(loose.table.column_names)}. Enter takes what stands in brackets, - is none.")
        guess = guess_columns(loose.table, _asked(guess, wanted, ask))
    say(describe(guess))
    undecided = list(guess.undecided) if guess.rows or not loose.fault else []
    if loose.nested and not guess.tasks:
        undecided.append(f"if {' or '.join(loose.nested)} holds the labels: write one label a row, as text, into a column of its own")
    undecided += [f"mend the file first: {loose.fault}"] if loose.fault else []
    if undecided:
        raise DataError("\n  ".join([f"{file}: no configuration written. To decide:", *undecided]))
    out.write_text(configuration(file, guess, encoder), encoding="utf-8")
    say(f"\nwrote {out}. Next:\n  polarity data check {file} --config {out}\n  polarity train {out} --preset small --dry-run\n"
        f"  polarity train {out} --preset small")  # fmt: skip


def _asked(guess: Guess, wanted: Wanted, ask: Ask) -> Wanted:
    def one(question: str, default: str | None) -> str | None:
        answer = ask(question, default or "-").strip()
        return None if answer == "-" else answer

    text = one("Which column holds the text?", guess.text)
    title = one("Which holds the title of the post that it answers?", guess.title)
    labels = one("Which hold labels (commas between them)?", ",".join(guess.tasks))
    row_id = one("Which identifies a row?", guess.row_id)
    return Wanted(text, title or "-", row_id or "-", tuple(part.strip() for part in labels.split(",")) if labels else wanted.labels)


def guess_columns(table: pa.Table, wanted: Wanted) -> Guess:
    """What the columns of a table of texts seem to hold. Raises ConfigError for a wanted column that is not there."""
    columns = {name: _column(name, table[name].to_pylist()) for name in table.column_names if name.strip()}
    rows = table.num_rows

    def named(name: str | None) -> str | None:
        if name is None or name == "-":
            return None
        found = match(name, list(columns))
        if found is None:
            raise ConfigError(f"no column {name!r}: {nearest(name, list(columns))}")
        return found

    row_id = named(wanted.row_id) if wanted.row_id else _guess_id(columns, rows)
    left = {name: column for name, column in columns.items() if name != row_id}
    chosen = [str(named(label)) for label in wanted.labels]
    split = next((name for name, column in left.items() if name not in chosen and column.filled == rows and _is_split(column)), None)
    text = named(wanted.text) or _guess_text({n: c for n, c in left.items() if n not in chosen and n != split})
    rest = {name: column for name, column in left.items() if name not in (text, split)}
    title = (
        named(wanted.title) if wanted.title else _guess_title({n: c for n, c in rest.items() if n not in chosen}, columns.get(text or ""))
    )
    rest = {name: column for name, column in rest.items() if name != title}
    labels = chosen or _guess_labels(rest, rows)
    tasks, wrong, undecided = _tasks({name: columns[name] for name in labels}, chosen)
    if rows == 0:
        undecided = ["the file has a header and no rows"]
    else:
        if text is None:
            undecided.insert(0, f"which column holds the text? Give --text COLUMN (columns: {', '.join(columns)})")
        if not labels:
            candidates = [name for name, column in rest.items() if 2 <= column.distinct <= MOST_CLASSES]
            single = [name for name, column in rest.items() if column.distinct == 1]
            hint = f"might be: {', '.join(candidates)}" if candidates else "no column has a few values that repeat: label some rows first"
            hint += f"; one value only, and so nothing to learn: {', '.join(single)}" if single else ""
            undecided.append(f"which columns hold labels? Give --label COLUMN, once for each ({hint})")
    undecided += _header_doubts(columns, text, labels)
    problems = _row_problems(table, columns, text, title, tasks, row_id)
    aside = tuple(name for name in rest if name not in labels)
    notes = _aside_notes({name: rest[name] for name in aside}, rows) if labels else []
    return Guess(rows, text, title, row_id, split, tasks, wrong, aside, tuple(problems), tuple(undecided), tuple(notes))


def _column(name: str, values: Sequence[str | None]) -> Column:
    counts: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    words = filled = 0
    for value, rows in Counter(value for value in values if value is not None).items():
        form = canonical(value)
        if form in _MISSING:
            continue
        filled += rows
        words += rows * len(value.split())
        counts[form] += rows
        spellings.setdefault(form, Counter())[value] += rows
    return Column(name, filled, counts, spellings, words / max(filled, 1))


def _guess_id(columns: dict[str, Column], rows: int) -> str | None:
    for name, column in columns.items():
        unique = column.filled == rows == column.distinct and rows > 0 and column.words <= 1.5
        if unique and _ID.search(column.hint) and not _TEXT.fullmatch(column.hint):
            return name
    return None


def _is_split(column: Column) -> bool:
    parts = {PART_NAMES.get(word) for word in column.counts}
    return {TRAIN, VALIDATION} <= parts and None not in parts


def _guess_text(columns: dict[str, Column]) -> str | None:
    """The longest column of texts that differ; a telling name doubles its length, a title's name halves it."""
    scores = {}
    for name, column in columns.items():
        varied = column.distinct / max(column.filled, 1)
        telling = 2.0 if _TEXT.search(column.hint) else 0.5 if _TITLE.search(column.hint) or _ASIDE.search(column.hint) else 1.0
        if column.words * varied * telling >= 1.5 and (varied > 0.3 or telling == 2.0):
            scores[name] = column.words * varied * telling
    if not scores:  # texts of one word, which repeat
        scores = {name: float(column.distinct) for name, column in columns.items() if _TEXT.search(column.hint) and column.distinct > 2}
    return max(scores, key=lambda name: scores[name]) if scores else None


def _guess_title(columns: dict[str, Column], text: Column | None) -> str | None:
    for name, column in columns.items():
        if _TITLE.search(column.hint) and column.words >= 1.5 and column.distinct > 1:
            return name
    for name, column in columns.items():
        repeats = column.distinct < 0.7 * column.filled
        if text is not None and repeats and column.words >= 3 and column.distinct > 1 and not _LABEL.search(column.hint):
            return name
    return None


def _guess_labels(columns: dict[str, Column], rows: int) -> list[str]:
    """Columns whose few short values repeat. Columns named as labels win; without any, the one that is left, if it is alone."""
    possible = [name for name, column in columns.items() if _may_be_labels(column, rows)]
    telling = [name for name in possible if _LABEL.search(columns[name].hint)]
    if telling:
        return telling
    plain = [name for name in possible if not _ASIDE.search(columns[name].hint)]
    return plain if len(plain) == 1 else []


def _may_be_labels(column: Column, rows: int) -> bool:
    few = 2 <= len(_kept(column)) <= (MOST_NAMED if _LABEL.search(column.hint) else MOST_CLASSES) and column.words <= 4
    return few and column.filled >= 2 * column.distinct and column.filled >= 0.05 * rows


def _kept(column: Column) -> list[Class]:
    return [each for each in column.classes() if _why_wrong(each, column) is None]


def _why_wrong(found: Class, column: Column) -> str | None:
    """Why a value is no class of its own: it looks like a slip of another one, or is too rare to learn and judge."""
    if set(found.name) <= set("?!.*#_/ "):
        return "a mark for a missing label?"
    others = {canonical(each.name): each for each in column.classes() if each.rows >= 5 * found.rows}
    close = get_close_matches(canonical(found.name), others, n=1, cutoff=0.8) if not canonical(found.name).lstrip("+-").isdigit() else []
    if close:
        return f"a slip for {others[close[0]].name!r}?"
    return f"fewer than {FEWEST_ROWS} rows" if found.rows < FEWEST_ROWS else None


def _tasks(
    columns: dict[str, Column], chosen: Sequence[str]
) -> tuple[dict[str, list[Class]], dict[str, list[tuple[Class, str]]], list[str]]:
    tasks, wrong, undecided = {}, {}, []
    for name, column in columns.items():
        kept = _kept(column)
        if len(kept) < 2:
            undecided.append(
                f"column {name!r}: fewer than two classes with {FEWEST_ROWS} rows each: label more rows, or give another --label"
            )
        elif len(kept) > MOST_NAMED and name in chosen:
            undecided.append(
                f"column {name!r}: {len(kept)} different values are no classes (numbers or free text?): put them into few first"
            )
        else:
            tasks[name] = sorted(kept, key=_order)
            reasons = [(each, reason) for each in column.classes() if (reason := _why_wrong(each, column)) is not None]
            if reasons:
                wrong[name] = reasons
    return tasks, wrong, undecided


def _aside_notes(aside: dict[str, Column], rows: int) -> list[str]:
    """Of columns that are not used: what might be labels, or a split that is not whole."""
    notes = [
        f"{name} holds {' and '.join(sorted(column.counts))} rows only: not used as a split, the rows are cut anew"
        for name, column in aside.items()
        if len(column.counts) == 2 and set(column.counts) <= set(PART_NAMES)
    ]
    maybe = [name for name, column in aside.items() if _may_be_labels(column, rows) and not _ASIDE.search(column.hint)]
    if maybe:
        notes.append(f"{', '.join(maybe)}: few values that repeat; if they are labels, name all label columns with --label")
    return notes


def _header_doubts(columns: dict[str, Column], text: str | None, labels: Sequence[str]) -> list[str]:
    """A first line that is a row and no names: the text's name is a sentence, and a label's name is one of its own values."""
    if text is None or len(text.split()) < FEWEST_WORDS or not any(canonical(name) in columns[name].counts for name in labels):
        return []
    return [f"the first line seems to be a row, not the names of the columns ({text[:30]!r}...): write a line of names above it"]


def _order(found: Class) -> tuple[float, str]:
    try:
        return float(canonical(found.name)), ""
    except ValueError:
        return 0.0, canonical(found.name)


def _row_problems(
    table: pa.Table, columns: dict[str, Column], text: str | None, title: str | None, tasks: dict[str, list[Class]], row_id: str | None
) -> list[str]:
    rows, problems = table.num_rows, []
    if text is not None and columns[text].filled < rows:
        problems.append(f"{rows - columns[text].filled:,} rows have no text: they are left out")
    if tasks:
        none = sum(
            all(canonical(cell or "") in _MISSING for cell in cells)
            for cells in zip(*(table[name].to_pylist() for name in tasks), strict=True)
        )
        if none:
            problems.append(f"{none:,} rows have no label at all: they are left out")
    blank = [name for name in table.column_names if not name.strip()]
    if blank:
        problems.append(f"{len(blank)} column without a name (an index that pandas wrote?): not used")
    return problems


def describe(guess: Guess) -> str:
    """What was seen and guessed, as lines of at most 80 columns where names allow."""
    lines = [f"{guess.rows:,} rows"]
    found = (("text", guess.text), ("title", guess.title), ("id", guess.row_id or "none: rows are numbered"), ("split", guess.split))
    lines += [f"  {what:8}{' '.join(name.split())}" for what, name in found if name is not None]
    for column, classes in guess.tasks.items():
        lines.append(f"  label   {' '.join(column.split())}: {len(classes)} classes")
        for each in classes:
            also = ", ".join(f"{text!r} {rows:,}" for text, rows in each.variants[:2]) + (", ..." if each.variants[2:] else "")
            lines.append(f"            {each.name:20} {each.rows:>7,} rows" + (f"   also {also}" if also else ""))
    for column, values in guess.wrong.items():
        lines.append(f"  values of {column} that are no class here; their rows lose this label:")
        lines += [f"            {each.name!r:20} {each.rows:>7,} rows   {why}" for each, why in values[:SHOWN]]
        if len(values) > SHOWN:
            lines.append(f"            and {len(values) - SHOWN} more values, {sum(each.rows for each, _ in values[SHOWN:]):,} rows")
    if guess.aside:
        lines.append(f"  not used: {', '.join(guess.aside)}")
    for note in guess.problems + guess.notes:
        lines += tables.wrapped(note, first="  note: ", later="        ")
    return "\n".join(lines)


def task_name(column: str, taken: set[str]) -> str:
    """A task's name for a label column: its words with underscores, none of them the name of another column of the comments table."""
    name = re.sub(r"\W+", "_", canonical(column)).strip("_").removeprefix("final_") or "label"
    name = f"{name}_label" if name in {"row_id", "title", "comment", "split"} or name[0].isdigit() else name
    while name in taken:
        name += "_2"
    return name


_DROP = "rows without text or a known label are left out, and counted"


def configuration(file: str, guess: Guess, encoder: str) -> str:
    """The YAML file that `polarity train` takes."""
    source = file if "://" in file or file.startswith("hf:") else str(Path(file).absolute())
    drops = bool(guess.wrong or guess.problems)
    lines = [
        f"# Written by `polarity init` from {Path(file).name}: {guess.rows:,} rows. Change what it guessed wrong.",
        "data:",
        f"  source: {scalar(source)}",
        f"  comment_column: {scalar(guess.text)}       # the text to classify",
        f"  title_column: {scalar(guess.title)}       # the post that it answers; null: the text alone",
        f"  id_column: {scalar(guess.row_id)}       # null: rows are numbered",
        f"  bad_rows: {'drop' if drops else 'error'}       # {_DROP if drops else 'stop at a bad row'}",
        "  tasks:",
    ]  # fmt: skip
    names: set[str] = set()
    for column, classes in guess.tasks.items():
        names.add(name := task_name(column, names))
        lines += [
            f"    {name}:",
            f"      column: {scalar(column)}",
            f"      labels: {scalar([each.name for each in classes])}",
            f"      # rows: {', '.join(f'{each.rows:,}' for each in classes)}",
        ]
    lines += [f"    {unused}: null" for unused in ("sentiment", "polarization") if unused not in names]
    if guess.split:
        lines += ["  split:", "    kind: column", f"    column: {scalar(guess.split)}"]
    else:
        lines += [
            "  split:",
            "    kind: joint       # `group` keeps all texts of a title on one side: the score for posts that are not yet written",
        ]
    lines += ["model:", f"  encoder: {scalar(encoder)}       # a hub name, a folder, or offline:minilm (small, English, no download)", ""]
    return "\n".join(lines)
