"""Train, validation and test tables: read, cut, freed of leaks, and checked to hold every class.

Nothing is resampled before this point, and nothing after it moves a row from one part to another. First which rows train, which choose the
epoch and which decide nothing: positions only, a pure function of labels, titles and seed.

plan    scikit-learn's `train_test_split`, twice
joint   dealt out of the rows sorted by label combination: every combination gets its share, give or take one row
group   whole titles, the best balanced of many seeded orders
column  as the file says
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from polarity.arrays import Flags, Floats, Rows
from polarity.config import DataConfig, SplitConfig
from polarity.data.annotators import taught, votes_table, without_votes
from polarity.data.canonical import find_columns
from polarity.data.duplicates import LEAKS, find_leaks, without_leaks
from polarity.data.formats import open_source
from polarity.data.oversample import MISSING, label_arrays, stratum_ids
from polarity.data.read import prefixed, read_comments
from polarity.data.seen import PARTS, title_keys, titles_apart
from polarity.errors import DataError, Say
from polarity.paths import absolute, is_local_data, is_sample
from polarity.spelling import canonical

Parts = tuple[Rows, Rows, Rows]
TRAIN, VALIDATION, TEST = 0, 1, 2
PART_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "val", "valid", "dev"), VALIDATION),
    "test": TEST,
}
_ORDERS = 2000
"""Orders of titles tried by the group split; fewer where there are very many titles, which any order balances well."""
_ORDER_CELLS = 4_000_000
FEWEST = 20
"""Rows below which no class is seen to: nothing can be learnt from them."""
_SHOWN = 5


def split_indices(comments: pa.Table, split: SplitConfig, tasks: list[str]) -> Parts:
    """(train, validation, test) row positions of a canonical table; each row is in exactly one, test is empty where its share is 0.

    plan gives scikit-learn's own order, the other kinds file order. Rows without the label that the plan is stratified by are a class
    of their own. Raises DataError where the rows, titles or values of the split column do not allow the split.
    """
    return noted_split(comments, split, tasks)[0]


def noted_split(
    comments: pa.Table, split: SplitConfig, tasks: list[str], names: Mapping[str, list[str]] | None = None
) -> tuple[Parts, list[str]]:  # fmt: skip
    """As `split_indices`, with a line for each row that plan or joint moved so that a part has a row of every class.

    `names`: the classes of each task, for these lines.
    """
    if not comments.num_rows:
        raise DataError("no rows to split")
    if split.kind == "column":
        return _by_part(_column_parts(comments, split.column)), []
    labels = label_arrays(comments, tasks)
    if split.kind == "group":
        strata, _ = stratum_ids(labels)
        titles = _title_ids(comments)
        return _by_part(_group_folds(strata, titles, split) if split.folds else _group_shares(comments, titles, split, tasks)), []
    if split.kind == "plan":
        parts = _plan(label_arrays(comments, [split.stratify])[split.stratify], split)
    elif split.folds:  # each row is in one fold's test part, so none can be moved
        return _by_part(_joint_folds(stratum_ids(labels)[0], split)), []
    else:
        parts = _by_part(_joint_shares(stratum_ids(labels)[0], split))
    return _with_every_class(parts, labels, names or {})


def _with_every_class(parts: Parts, labels: dict[str, Rows], names: Mapping[str, list[str]]) -> tuple[Parts, list[str]]:
    """The parts as they are, or, where one lacks a class that has a row for each, with a row swapped in from where most of it lie.

    Rare classes of few rows come out so by chance. No row is moved that is the last of some class in its part.
    """
    used = [index for index in (TRAIN, VALIDATION, TEST) if len(parts[index])]
    lacking: list[tuple[int, str, int]] = []
    for task, values in labels.items():
        rows = [np.bincount(values[part] - MISSING, minlength=values.max() - MISSING + 1)[1:] for part in parts]
        enough = np.flatnonzero(np.sum(rows, axis=0) >= len(used)).tolist()
        lacking += [(index, task, label) for label in enough for index in used if not rows[index][label]]
    if not lacking or sum(map(len, parts)) < FEWEST:
        return parts, []
    held = [part.tolist() for part in parts]
    notes: list[str] = []

    def count(index: int, task: str, label: int) -> int:
        return int((labels[task][held[index]] == label).sum())

    def spare(index: int) -> list[int]:
        """Rows of a part that are the last of no class there."""
        return [row for row in held[index] if all(v[row] == MISSING or count(index, t, int(v[row])) > 1 for t, v in labels.items())]

    def swap_in(index: int, task: str, label: int) -> None:
        for giver in sorted((other for other in used if other != index), key=lambda other: -count(other, task, label)):
            given = next((row for row in spare(giver) if labels[task][row] == label), None)
            back = next(iter(spare(index)), None)
            if given is not None and back is not None:
                held[giver].remove(given)
                held[index].remove(back)
                held[index].append(given)
                held[giver].append(back)
                named = repr(names[task][label]) if task in names else f"class number {label}"
                notes.append(
                    f"{PARTS[index]} had no row of {task} that is {named}: one of {PARTS[giver]} changed places with one of its own"
                )
                return

    for index, task, label in lacking:
        if not count(index, task, label):  # no other swap has brought one
            swap_in(index, task, label)
    if not notes:
        return parts, []
    train, validation, test = (np.array(sorted(rows), np.int64) for rows in held)
    return (train, validation, test), notes


def _by_part(part: Rows) -> Parts:
    return np.flatnonzero(part == TRAIN), np.flatnonzero(part == VALIDATION), np.flatnonzero(part == TEST)


def _share(value: float) -> float:
    return round(value, 12)  # 0.1 + 0.2 is a little above 0.3, and scikit-learn would round one row up


def _draw(rows: Rows, classes: Rows, share: float, split: SplitConfig) -> tuple[Rows, Rows]:
    """Rows that are kept and rows that are drawn, stratified by class; a row that is the only one of its class is kept."""
    counts = np.bincount(classes[rows] - MISSING)
    single = np.isin(classes[rows], np.flatnonzero(counts == 1) + MISSING)  # a stratified split needs two rows of a class
    stays, rows = rows[single], rows[~single]
    try:
        kept, drawn = train_test_split(rows, test_size=share, random_state=split.seed, stratify=classes[rows])
    except ValueError as error:
        raise DataError(f"data.split.kind plan: {len(rows)} rows are too few for these shares ({error}); add rows") from error
    return np.concatenate([kept, stays]), drawn


def _plan(classes: Rows, split: SplitConfig) -> Parts:
    rows = np.arange(len(classes), dtype=np.int64)
    held_share = _share(split.validation + split.test)
    train, held = _draw(rows, classes, held_share, split)
    if not split.test:
        return train, held, held[:0]
    validation, test = _draw(held, classes, _share(split.test / held_share), split)
    return train, validation, test


def _dealt(strata: Rows, seed: int) -> Rows:
    """Row positions sorted by stratum, shuffled within: neighbours are alike, so that every k-th row is a stratified sample."""
    shuffled: Rows = np.random.default_rng(seed).permutation(len(strata))
    return shuffled[np.argsort(strata[shuffled], kind="stable")]


def _every(share: float, count: int, offset: float) -> Flags:
    """(count,) True at evenly spaced places: round(share x count) of them, and share x length within one on any stretch."""
    wanted = round(share * count)
    steps = np.floor(np.arange(count + 1) * (wanted / max(count, 1)) + offset + 1e-9)
    taken: Flags = np.diff(steps) > 0
    return taken


def _joint_shares(strata: Rows, split: SplitConfig) -> Rows:
    """Part of each row. Combinations of few rows need no pooling: in the sorted order they share with their neighbours, which have
    the same label of the first task wherever there are any."""
    order = _dealt(strata, split.seed)
    held_share = split.validation + split.test
    held = order[_every(held_share, len(order), 0.5)]
    part = np.full(len(strata), TRAIN, dtype=np.int64)
    part[held] = VALIDATION
    part[held[_every(split.test / held_share, len(held), 0.5)]] = TEST
    return part


def _fold_parts(fold_of: Rows, split: SplitConfig) -> Rows:
    part = np.full(len(fold_of), TRAIN, dtype=np.int64)
    part[fold_of == (split.fold + 1) % split.folds] = VALIDATION
    part[fold_of == split.fold] = TEST
    return part


def _joint_folds(strata: Rows, split: SplitConfig) -> Rows:
    """Every k-th row of the sorted order is a fold, as scikit-learn's StratifiedKFold allocates, but for any size of combination."""
    if len(strata) < split.folds:
        raise DataError(f"data.split.folds is {split.folds}, but there are only {len(strata)} rows")
    fold_of = np.empty(len(strata), dtype=np.int64)
    fold_of[_dealt(strata, split.seed)] = np.arange(len(strata)) % split.folds
    return _fold_parts(fold_of, split)


def _title_ids(comments: pa.Table) -> Rows:
    """Title of each row as a number, by first appearance of titles that differ in more than case and spaces."""
    distinct = comments["title"].combine_chunks().dictionary_encode()
    folded = [" ".join(title.split()).casefold() for title in distinct.dictionary.to_pylist()]
    if folded in ([], [""]):
        raise DataError("data.split.kind group keeps titles together, but there are no titles: set data.title_column, or use joint")
    number = {title: i for i, title in enumerate(dict.fromkeys(folded))}
    ids: Rows = np.array([number[title] for title in folded], dtype=np.int64)[distinct.indices.to_numpy()]
    return ids


def _need_titles(titles: Rows, parts: int, why: str) -> None:
    have = int(titles.max()) + 1
    if have < parts:
        raise DataError(f"data.split.kind group needs at least {parts} titles ({why}), but there are {have}; use data.split.kind joint")


def _group_folds(strata: Rows, titles: Rows, split: SplitConfig) -> Rows:
    _need_titles(titles, split.folds, f"data.split.folds is {split.folds}")
    folds = StratifiedGroupKFold(n_splits=split.folds, shuffle=True, random_state=split.seed)
    fold_of = np.empty(len(strata), dtype=np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "least populated class": the parts are checked when they are loaded
            for fold, (_, held) in enumerate(folds.split(np.zeros(len(strata)), strata, titles)):
                fold_of[held] = fold
    except ValueError as error:
        raise DataError(f"data.split.kind group: these rows do not make {split.folds} folds ({error})") from error
    if len(np.unique(fold_of)) < split.folds:
        raise DataError(f"data.split.folds {split.folds}: a fold would be empty, as titles differ too much in size; use fewer folds")
    return _fold_parts(fold_of, split)


def _group_shares(comments: pa.Table, titles: Rows, split: SplitConfig, tasks: Sequence[str]) -> Rows:
    shares = np.array([1 - split.validation - split.test, split.validation, split.test])
    wanted = [part for part in (TRAIN, VALIDATION, TEST) if shares[part] > 0]
    _need_titles(titles, len(wanted), "one for each part")
    counts = _counts_by_title(comments, titles, tasks)
    best: tuple[float, Rows] | None = None
    rng = np.random.default_rng(split.seed)
    for _ in range(int(np.clip(_ORDER_CELLS // len(counts[0]), 20, _ORDERS))):
        part = _cut_order(rng.permutation(len(counts[0])), counts[0][:, 0], shares)
        badness = _badness(part, counts, shares, wanted)
        if best is None or badness < best[0]:
            best = badness, part
    if best is None or not np.isfinite(best[0]):
        raise DataError("data.split.kind group: no way was found to give every part a title; use data.split.kind joint, or other shares")
    return best[1][titles]


def _counts_by_title(comments: pa.Table, titles: Rows, tasks: Sequence[str]) -> list[Floats]:
    """Rows a title (T, 1), then one (T, K) table of label counts a task."""
    number = int(titles.max()) + 1
    tables = [np.bincount(titles, minlength=number).astype(np.float64)[:, None]]
    for values in label_arrays(comments, list(tasks)).values():
        k = int(values.max(initial=0)) + 1
        has = values != MISSING
        tables.append(np.bincount(titles[has] * k + values[has], minlength=number * k).reshape(number, k).astype(np.float64))
    return tables


def _cut_order(order: Rows, sizes: Floats, shares: Floats) -> Rows:
    """Part of each title: the order is laid out as a line of rows, and a title goes where its middle lies."""
    ends = np.cumsum(sizes[order])
    middle = (ends - sizes[order] / 2) / ends[-1]
    part = np.full(len(order), TRAIN, dtype=np.int64)
    part[order[middle < shares[VALIDATION] + shares[TEST]]] = VALIDATION
    part[order[middle < shares[TEST]]] = TEST
    return part


def _badness(part: Rows, counts: list[Floats], shares: Floats, wanted: Sequence[int]) -> float:
    """How far sizes (relative to each share) and label shares (total variation, mean over tasks) are off, summed over the parts; a class
    that a part lacks altogether costs more than any imbalance, an empty part is impossible."""
    total = 0.0
    for index in wanted:
        rows = [table[part == index].sum(axis=0) for table in counts]
        size = rows[0][0]
        if not size:
            return float("inf")
        total += abs(size / counts[0].sum() / shares[index] - 1)
        for own, table in zip(rows[1:], counts[1:], strict=True):
            everywhere = table.sum(axis=0)
            total += 100.0 * int(((own == 0) & (everywhere > 0)).sum())
            total += np.abs(own / max(own.sum(), 1) - everywhere / max(everywhere.sum(), 1)).sum() / 2 / (len(rows) - 1)
    return float(total)


def _column_parts(comments: pa.Table, column: str) -> Rows:
    if "split" not in comments.column_names:
        raise DataError(f"data.split.kind column: the data has no column {column!r}; set data.split.column to the one that says train, ...")
    words = comments["split"].combine_chunks().dictionary_encode()
    known = [PART_NAMES.get(canonical(word or ""), -1) for word in words.dictionary.to_pylist()]
    part: Rows = np.array([*known, -1], dtype=np.int64)[words.indices.fill_null(len(known)).to_numpy()]
    unknown = np.flatnonzero(part < 0)
    if len(unknown):
        shown = ", ".join(f"{comments['split'][int(i)].as_py()!r} in row {comments['row_id'][int(i)].as_py()}" for i in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DataError(f"column {column!r}: must say train, validation (val, valid, dev) or test, but holds {shown}{more}")
    return part


NOT_LOOKED_FOR = "duplicates across the split were not looked for (data.duplicates: allow): scores may be too good"
SMALL_BYTES = 32_000_000
"""A file or folder up to this size is read, in about a second, while Ray is still starting."""


@dataclass(frozen=True)
class Splits:
    """The three parts as canonical tables; row ids are unique over all of them."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table | None
    leaks: pa.Table
    """Pairs (train_row_id, held_out_row_id, kind, similarity) found before any row was dropped."""
    dropped: int
    """Training rows left out because of `leaks`."""
    seen: Callable[[], pa.Table] | None = None
    """Reads what a run remembers of its rows (`SeenRows.table`), where it is known already."""
    votes: Mapping[str, pa.Table] = field(default_factory=dict)
    """{part: row ids with the votes of tasks that have several annotators}; see `polarity.data.annotators`."""

    @property
    def parts(self) -> dict[str, pa.Table]:
        """{train, validation, test: table}, without test where there is none."""
        both = {"train": self.train, "validation": self.validation}
        return both if self.test is None else {**both, "test": self.test}

    @property
    def by_title(self) -> dict[str, bool]:
        """Whether titles are the unit of intervals, for each part that judges; see `titles_apart`."""
        training = title_keys(self.train["title"])
        return {name: titles_apart(training, table["title"]) for name, table in self.held_out.items()}

    @property
    def held_out(self) -> dict[str, pa.Table]:
        """The parts that judge: validation, and test where there is one."""
        return {name: table for name, table in self.parts.items() if name != "train"}


def is_small(data: DataConfig) -> bool:
    """Whether what `data` names are local files or folders, or the sample, that this process reads sooner than Ray would start a task."""
    return all(is_sample(s) or (Path(s).exists() and _bytes(Path(s)) <= SMALL_BYTES) for s in data.sources)


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def in_shards(data: DataConfig) -> bool:
    """Whether rows and tokens are prepared as files that workers map (`polarity.data.shards`); the hub's data sets never are."""
    if any(task.annotators or task.counts for task in data.tasks.values()):
        if data.shards == "always":
            raise DataError("data.shards=always does not go with several annotators: set data.shards=auto")
        return False
    if data.shards == "auto":
        return not is_small(data) and not any(source.startswith("hf:") for source in data.sources)
    return data.shards == "always"


def check_columns(data: DataConfig) -> None:
    """Raise DataError for a local source that is not there or, if it is small, lacks a column: a header is read in no time, and Ray takes
    seconds to start."""
    own = data.model_copy(update={"split": SplitConfig()}) if data.train else data  # the files are the split: no column is asked for
    for source in data.sources:
        path = Path(absolute(source))
        if is_local_data(source) and not (path.exists() and _bytes(path) > SMALL_BYTES):
            find_columns(open_source(source), own)


def load_splits(data: DataConfig, say: Say) -> Splits:
    """Reads what `data` names and returns its parts, telling through `say` how they were made and what was left out.

    Raises DataError where a source cannot be read or cut, where a part has no rows,
    no label of a task or no row of one of its classes, and for leaks where `data.duplicates` is `error`.
    """
    parts = (_own_files if data.train else _cut_source)(data, say)
    votes = {name: votes_table(table, data.tasks) for name, table in parts.items()}
    parts = {n: taught(table, data.tasks) if n == "train" else without_votes(table, data.tasks) for n, table in parts.items()}
    splits = replace(_handle_leaks(parts, data, say), votes=votes)
    for part, table in splits.parts.items():
        check_part(part, table, data)
    return splits


def _cut_source(data: DataConfig, say: Say) -> dict[str, pa.Table]:
    if not data.source:
        raise DataError("no data: give data.source (--data FILE), or data.train and data.validation (--train FILE --validation FILE)")
    comments = read_comments(data.source, data, say=say)
    try:
        rows, notes = noted_split(comments, data.split, list(data.tasks), data.labels)
    except DataError as error:
        raise DataError(f"{data.source}: {error}") from error
    if "split" in comments.column_names and "split" not in data.tasks:
        comments = comments.drop_columns(["split"])
    cut = zip(PARTS, rows, strict=True)
    parts: dict[str, pa.Table] = {name: comments.take(pa.array(np.sort(own))) for name, own in cut if name != "test" or len(own)}
    say(cut_words(data, {name: table.num_rows for name, table in parts.items()}))
    for note in notes:
        say(f"{data.source}: {note}")
    return parts


def cut_words(data: DataConfig, counts: Mapping[str, int]) -> str:
    """How the one source is cut into parts of so many rows."""
    split = data.split
    how = {
        "column": f"the column {split.column}",
        "plan": f"the plan, stratified by {split.stratify}, seed {split.seed}",
        "joint": f"all labels jointly, seed {split.seed}",
        "group": f"title, seed {split.seed}",
    }[split.kind]
    fold = f", fold {split.fold} of {split.folds}" if split.folds else ""
    shown = ", ".join(f"{name} {rows:,} ({rows / sum(counts.values()):.1%})" for name, rows in counts.items())
    return f"{data.source}: split by {how}{fold}: {shown}"


def _own_files(data: DataConfig, say: Say) -> dict[str, pa.Table]:
    whole = data.model_copy(update={"split": SplitConfig()})  # the files are the split: no column is asked for
    sources = {"train": data.train, "validation": data.validation, "test": data.test}
    parts = {name: read_comments(source, whole, say=say) for name, source in sources.items() if source}
    ids = pa.chunked_array([chunk for table in parts.values() for chunk in table["row_id"].chunks], type=pa.large_string())
    shared = len(ids) - pc.count_distinct(ids).as_py()
    tell_own_split(data, {name: table.num_rows for name, table in parts.items()}, shared, say)
    return {name: prefixed(table, f"{name}/") for name, table in parts.items()} if shared else parts


def tell_own_split(data: DataConfig, counts: Mapping[str, int], shared: int, say: Say) -> None:
    """Say which files are the split, and that ids get their part's name in front where files share some, as numbered rows do."""
    say("own split: " + ", ".join(f"{name} {rows:,} ({getattr(data, name)})" for name, rows in counts.items()))
    if shared:
        say(f"{shared:,} row ids are in more than one file; ids now start with the part: " + ", ".join(f"{name}/..." for name in counts))


def _handle_leaks(parts: dict[str, pa.Table], data: DataConfig, say: Say) -> Splits:
    for name, table in parts.items():
        if not table.num_rows:
            raise DataError(f"{_where(name, data)}: no rows; give it some, or change data.split")
    train, validation, test = parts["train"], parts["validation"], parts.get("test")
    if data.duplicates == "allow":
        say(NOT_LOOKED_FOR)
        return Splits(train, validation, test, LEAKS.empty_table(), 0)
    held_out = validation if test is None else pa.concat_tables([validation, test])
    apart = without_leaks(train, held_out, say)
    if test is not None:
        report_held_out_pairs(find_leaks(validation, test, say), say)
    if apart.dropped:
        tell_leaks(apart.leaks, data, say)
    return Splits(apart.train, validation, test, apart.leaks, apart.dropped)


def tell_leaks(leaks: pa.Table, data: DataConfig, say: Say) -> None:
    """Say how many training rows leak and are dropped; raises DataError where `data.duplicates` is `error`."""
    rows = pc.count_distinct(leaks["train_row_id"]).as_py()
    found = f"{rows:,} training rows have a duplicate or near duplicate in validation or test: {_pairs(leaks)}"
    if data.duplicates == "error":
        raise DataError(f"{found}; remove one side, or set data.duplicates to drop_from_train")
    say(f"{found}; dropped from train")


def report_held_out_pairs(pairs: pa.Table, say: Say) -> None:
    """Say which validation rows have a (near) duplicate in test; both stay."""
    if pairs.num_rows:
        rows = pc.count_distinct(pairs["train_row_id"]).as_py()
        say(f"{rows:,} validation rows have a duplicate or near duplicate in test: {_pairs(pairs)}; kept, as neither part trains")


def _pairs(leaks: pa.Table) -> str:
    shown = [f"{row['train_row_id']} = {row['held_out_row_id']} ({row['kind']})" for row in leaks.slice(0, _SHOWN).to_pylist()]
    more = leaks.num_rows - len(shown)
    return ", ".join(shown) + (f" and {more:,} more pairs" if more else "")


def _where(part: str, data: DataConfig) -> str:
    own = getattr(data, part)
    return f"{part} ({own or data.source})"


def check_part(part: str, table: pa.Table, data: DataConfig) -> None:
    """Every class of every task in every part: without it a class cannot be learned, and macro-F1 over the fixed classes misjudges."""
    where = _where(part, data)
    if not table.num_rows:
        raise DataError(f"{where}: no rows are left once duplicates of validation and test rows were dropped; see data.duplicates")
    for task, spec in data.tasks.items():
        present = set(pc.unique(table[task]).to_pylist()) - {None}
        if not present:
            raise DataError(f"{where}: no row has a label of {task} (column {spec.column!r}); label some, or set data.tasks.{task}=null")
        if len(present) == 1:
            only = spec.labels[present.pop()]
            raise DataError(f"{where}: every label of {task} is {only!r}; {_advice(data, task, len(spec.labels) - 1)}")
        absent = [label for index, label in enumerate(spec.labels) if index not in present]
        if absent:
            named = " or ".join(map(repr, absent))
            raise DataError(f"{where}: no row of {task} is {named}; {_advice(data, task, len(absent))}")


def _advice(data: DataConfig, task: str, classes: int) -> str:
    """How many rows are lacking: own parts need one of each class; a split of one source needs a class as often as there are parts."""
    parts = 3 if data.split.test or data.split.folds else 2
    split = data.split
    smallest = min(share for share in (split.validation, split.test, 1 - split.validation - split.test) if share > 0)
    better = split.folds or math.ceil(1 / smallest)  # rows of which every part's share is one
    wanted = "1 row of it" if data.train else f"{parts} rows of it in all, one for each part, and better {better}"
    each = "a class needs" if classes == 1 else "each class needs"
    other = ", or set data.split.kind=joint" if not data.train and data.split.kind in ("group", "column") else ""
    return f"{each} {wanted}: label some, or take the class out of data.tasks.{task}.labels{other}"
