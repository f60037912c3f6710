"""Large sources become shards once: tokenized Arrow files by part, which driver and workers map into memory.

Two readings of the source, and two more where duplicates are looked for. Each is one function of a piece of it, run by Ray Data's tasks
where Ray is running and in this process otherwise, with the same result to the bit:

    survey   per row: the hash of its id, its labels, what else the split asks for, and what is wrong with it; the driver keeps these few
             bytes of every row, and decides which part each row is in
    leaks    training rows that have a duplicate or near duplicate among the held-out rows, which the driver holds
    write    train.arrow, validation.arrow, test.arrow of the piece: texts, labels, token ids, and the hashes that a run remembers

The folder's name is a hash of all that decides its content: sources (place, size, time), settings, tokenizer. A piece appears whole, so
what was broken off goes on where it was; `shards.json`, written last, says that all are there and how long each file is.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from polarity.artifacts import RunFolder, disk_errors, user_cache_dir
from polarity.config import DataConfig, SplitConfig
from polarity.data.batch import Shards
from polarity.data.canonical import MISSING_WORDS, Layout, find_columns, left_out
from polarity.data.duplicates import LEAKS, Leaks, capped_words, find_leaks
from polarity.data.formats import modified, open_source
from polarity.data.near import Clock
from polarity.data.oversample import ID_HASH, id_hash
from polarity.data.read import annotated_blocks, left_out_of, missing_words, original_error, ray_is_running, refusal_of, settle
from polarity.data.seen import KEYS, SeenRows, row_keys
from polarity.data.source import Part, Source
from polarity.data.split import (
    NOT_LOOKED_FOR,
    Splits,
    check_part,
    class_names,
    leaking_words,
    noted_split,
    report_held_out_pairs,
    split_words,
)
from polarity.data.tokenize import plain_backend, settings_hash, tokenize_columns
from polarity.errors import DataError, PolarityError, RunError, Say

FORMAT_VERSION = 1
MANIFEST, RECORD, SEEN, LEAKED = "shards.json", "piece.json", "seen.parquet", "leaks.parquet"
NAMES = ("train", "validation", "test")
LEFT_OUT = -1
ROWS_PER_BATCH = 32_768
"""Rows of a record batch: texts and tokens of so many are in memory at once, in each task that writes."""
ADVICE = "set data.shard_dir to a folder with room; the pieces that are whole are kept, and the next start goes on from them"

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Piece:
    """One task's part of a source: all that each of the three readings needs to know of it."""

    number: int
    source: Source
    layout: Layout
    part: Part
    data: DataConfig
    prefix: str = ""
    """Before every row id, where own files share some."""

    def survey(self) -> Iterator[pa.Table]:
        """What the driver keeps of each row, block by block; what cannot be read at all comes as the text of a last row."""
        names = [*self._kept, MISSING_WORDS]
        fields = [("piece", pa.int32()), (ID_HASH, pa.uint64()), ("bad", pa.bool_()), ("fault", pa.large_string())]
        schema = pa.schema([*fields, *(self.layout.schema.field(name) for name in names)])
        try:
            for block in annotated_blocks(self.source, self.layout, self.part):
                numbers = pa.array(np.full(block.num_rows, self.number, np.int32))
                none, hashed = pa.nulls(block.num_rows, pa.large_string()), pa.array(id_hash(block["row_id"].fill_null("")))
                bad = left_out(block, self.data)
                yield pa.table([numbers, hashed, bad, none, *(block[name] for name in names)], schema=schema)
        except DataError as error:  # one that is raised in a task costs the user a page of Ray's own words
            fault = {name: [None] for name in schema.names} | {"piece": [self.number], "bad": [True], "fault": [str(error)]}
            yield pa.table(fault, schema=schema)

    @property
    def _kept(self) -> list[str]:
        """Canonical columns that the split asks for."""
        split, own = self.data.split, self.data.train is not None
        more = {"column": ["split"], "group": ["title"]}.get(split.kind, [])
        return [*self.layout.tasks, *([] if own else more)]

    def rows(self, codes: Codes) -> Iterator[tuple[pa.Table, Codes]]:
        """The piece's good rows again, each block with the codes of its rows. Raises DataError where there are not as many as were."""
        at = 0
        for block in annotated_blocks(self.source, self.layout, self.part):
            own, at = codes[at : at + block.num_rows], at + block.num_rows
            if len(own) != block.num_rows:
                break
            kept = own != LEFT_OUT
            table = block.select([n for n in self.layout.canonical_schema.names if n != "split"])
            if self.prefix:
                ids = pc.binary_join_element_wise(
                    pa.scalar(self.prefix, pa.large_string()), table["row_id"], pa.scalar("", pa.large_string())
                )
                table = table.set_column(0, "row_id", ids)
            yield table.filter(pa.array(kept)), own[kept]
        if at != len(codes):
            raise DataError(f"{self.source.name}: changed while it was prepared (it had other numbers of rows): start again")

    def held_out(self, codes: Codes) -> Iterator[pa.Table]:
        """Its validation and test rows, with their part's code."""
        for table, own in self.rows(codes):
            chosen = own > 0
            if chosen.any():
                yield table.filter(pa.array(chosen)).append_column("part", pa.array(own[chosen]))

    def leaks(self, codes: Codes, finder: Leaks) -> Iterator[pa.Table]:
        """Its training rows that leak: LEAKS, and a row for each block that says how many were looked at, and how many met the cap."""
        for table, own in self.rows(codes):
            train, capped = table.filter(pa.array(own == 0)), finder.index.capped
            found = finder.of(train)
            for name in ("looked_at", "capped"):
                found = found.append_column(name, pa.array([0] * found.num_rows, pa.int64()))
            count = {name: [None] for name in LEAKS.names} | {"looked_at": [train.num_rows], "capped": [finder.index.capped - capped]}
            yield pa.concat_tables([pa.table(count, schema=found.schema), found])

    def write(self, codes: Codes, folder: str, backend: str, types: bool) -> dict[str, Any]:
        """Its shards into `folder`, and the record of them; where they are there already, that record."""
        target, name = RunFolder.at(folder), f"piece-{self.number:05d}"
        if target.exists(f"{name}/{RECORD}"):
            return target.read_json(f"{name}/{RECORD}")
        record: dict[str, Any] = {"name": name, "parts": {}}
        target.write_folder(name, partial(self._fill, codes=codes, backend=backend, types=types, record=record, place=target.inside(name)))
        return {**record, "new": True}

    def _fill(self, path: Path, codes: Codes, backend: str, types: bool, record: dict[str, Any], place: str) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(backend)
        writers: dict[str, _PartWriter] = {}
        with disk_errors(place, ADVICE):
            try:
                for table, own in _gathered(self.rows(codes)):
                    for code, part in enumerate(NAMES):
                        chosen = own == code
                        if chosen.any():
                            writer = writers.setdefault(part, _PartWriter(path / f"{part}.arrow"))
                            writer.add(_finished(table.filter(pa.array(chosen)), tokenizer, self.data, types), list(self.layout.tasks))
            finally:
                for writer in writers.values():
                    writer.close()
            record["parts"] = {part: writer.record() for part, writer in writers.items()}
            (path / RECORD).write_text(json.dumps({"schema_version": 1, **record}))


def _write_record(piece: Piece, *given: Any) -> Iterator[pa.Table]:
    """`Piece.write` as a block: its record as JSON, or what kept it from writing."""
    try:
        record = piece.write(*given)
    except PolarityError as error:
        record = {"error": type(error).__name__, "message": str(error)}
    yield pa.table({"record": [json.dumps(record)]})


_ERRORS = {"DataError": DataError, "RunError": RunError}


def _run(
    pieces: list[Piece], given: list[tuple[Any, ...]], method: Callable[..., Iterator[pa.Table]], through_ray: bool
) -> Iterator[pa.Table]:
    """The blocks of `method(piece, *given)` of all pieces: in this process, or from Ray Data's tasks, in order."""
    if not through_ray:
        for piece, arguments in zip(pieces, given, strict=True):
            yield from method(piece, *arguments)
        return
    import ray

    from polarity.data.datasource import dataset_of_reads
    from polarity.data.oversample_file import arrow_batches

    large = {id(a): ray.put(a) for arguments in given for a in arguments if isinstance(a, Leaks)}
    sent = [tuple(large.get(id(a), a) for a in arguments) for arguments in given]
    reads = [partial(_in_task, method, piece, arguments) for piece, arguments in zip(pieces, sent, strict=True)]
    with original_error():
        yield from arrow_batches(dataset_of_reads(pieces[0].source.name, reads))


def _in_task(method: Callable[..., Iterator[pa.Table]], piece: Piece, given: tuple[Any, ...]) -> Iterator[pa.Table]:
    import ray

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a task has one CPU, and threads that wait for another's take turns on it
    yield from method(piece, *(ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in given))


def _gathered(blocks: Iterable[tuple[pa.Table, Codes]]) -> Iterator[tuple[pa.Table, Codes]]:
    """Blocks put together to about ROWS_PER_BATCH rows: a title is tokenized once in each."""
    held: list[tuple[pa.Table, Codes]] = []
    for block in blocks:
        held.append(block)
        if sum(len(own) for _, own in held) >= ROWS_PER_BATCH:
            yield pa.concat_tables([t for t, _ in held]).combine_chunks(), np.concatenate([own for _, own in held])
            held = []
    if held:
        yield pa.concat_tables([t for t, _ in held]).combine_chunks(), np.concatenate([own for _, own in held])


def _finished(table: pa.Table, backend: Any, data: DataConfig, types: bool) -> pa.Table:
    """A part's rows with everything that later steps would compute from their texts."""
    table = table.append_column(ID_HASH, pa.array(id_hash(table["row_id"])))
    for name, column in zip(KEYS, row_keys(table), strict=True):
        table = table.append_column(name, column)
    tokens = tokenize_columns(table, backend, data, types)
    for name in tokens.column_names:
        table = table.append_column(name, tokens[name])
    return table.combine_chunks()


class _PartWriter:
    """An Arrow file that grows, and what is known of its rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self.rows = self.tokens = 0
        self._digest, self._used = hashlib.sha256(), np.zeros(0, np.int32)

    def add(self, table: pa.Table, tasks: list[str]) -> None:
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_file(self._sink, table.schema)
        self._writer.write_table(table, max_chunksize=ROWS_PER_BATCH)
        values = table["input_ids"].combine_chunks().flatten().to_numpy()
        self.rows += table.num_rows
        self.tokens += len(values)
        self._used = np.union1d(self._used, np.flatnonzero(np.bincount(values)).astype(np.int32))  # sorting so many takes half a second
        for array in (table[ID_HASH].to_numpy(), table["length"].to_numpy(), values, *(table[t].fill_null(-1).to_numpy() for t in tasks)):
            self._digest.update(np.ascontiguousarray(array).data)

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            finally:
                self._sink.close()

    def record(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "bytes": self._path.stat().st_size,
            "digest": self._digest.hexdigest(),
            "vocabulary": self._used.tolist(),
        }


@dataclass
class _Survey:
    """What the driver knows of every row, in source order; `starts` are the pieces' first rows and, last, the number of rows."""

    hashes: npt.NDArray[np.uint64]
    bad: npt.NDArray[np.bool_]
    columns: pa.Table
    starts: npt.NDArray[np.int64]
    codes: Codes = field(default_factory=lambda: np.zeros(0, np.int8))

    def of(self, number: int) -> Codes:
        return self.codes[self.starts[number] : self.starts[number + 1]]


@dataclass(frozen=True)
class PreparedShards:
    """The parts as mapped tables: `splits` with their texts, `tokens` with their token ids; `shards` is what a worker gets of each."""

    splits: Splits
    tokens: dict[str, pa.Table]
    shards: dict[str, Shards]


def shard_place(data: DataConfig) -> RunFolder:
    """Where the folders of shards lie."""
    return RunFolder.at(data.shard_dir or user_cache_dir() / "shards")


class Preparation:
    """The shards of a configuration's data: whether they are there, and how they are made."""

    def __init__(self, data: DataConfig, tokenizer: Any) -> None:
        self.data, self._backend = data, plain_backend(tokenizer).to_str()
        self._types = "token_type_ids" in tokenizer.model_input_names
        own = {"train": data.train, "validation": data.validation, "test": data.test} if data.train else {"": data.source}
        self.sources = {part: name for part, name in own.items() if name}
        self._identities = {name: modified(name) for name in self.sources.values()}
        self.key = self._fingerprint()
        self.folder = RunFolder.at(shard_place(data).inside(self.key[:32]))

    def _fingerprint(self) -> str:
        left_out = {"source", "train", "validation", "test", "oversample", "shards", "shard_dir"}
        settings = {
            "format": FORMAT_VERSION,
            "data": self.data.model_dump(mode="json", exclude=left_out),
            "sources": {part: self._identities[name] for part, name in self.sources.items()},
            "tokens": settings_hash(self._backend, self.data, self._types),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def ready(self) -> bool:
        """Whether the shards are made."""
        return self.folder.exists(MANIFEST)

    def open(self, say: Say, *, through_ray: bool) -> PreparedShards:
        """The shards, made now where they are not there yet. Raises DataError as `load_splits` does, and where they are damaged."""
        made = False
        if not self.ready() or self._damaged(say):
            with self._alone(say):
                made = not self.ready()
                if made:
                    self._make(say, through_ray=through_ray and ray_is_running())
        manifest = self.folder.read_json(MANIFEST)
        if not made:
            size = sum(part["bytes"] for piece in manifest["pieces"] for part in piece["parts"].values())
            say(f"rows and tokens are taken from the shards of {manifest['made']} in {self.folder.uri} ({size / 1e9:.2f} GB)")
            for note in manifest["notes"]:
                say(note)
        shards = {name: self._part(name, manifest["pieces"]) for name in NAMES}
        shards = {name: part for name, part in shards.items() if part.files}
        pa.default_memory_pool().release_unused()
        tables = {name: part.table() for name, part in shards.items()}
        for name in ("train", "validation"):
            if name not in tables:
                raise DataError(f"{name}: no rows are left; give it some, or change data.split or data.duplicates")
        texts = ["row_id", "title", "comment", *self.data.tasks]
        numbers = ["row_id", *self.data.tasks, ID_HASH, "input_ids", *(["token_type_ids"] if self._types else []), "length"]
        parts = [tables[name].select(texts) if name in tables else None for name in NAMES]
        leaks = self.folder.read_parquet(LEAKED).cast(LEAKS)
        splits = Splits(parts[0], parts[1], parts[2], leaks, manifest["dropped"], partial(self.folder.read_parquet, SEEN))
        for name, table in splits.parts.items():
            check_part(name, table, self.data)
        tokens = {name: table.select(numbers if name == "train" else [*numbers, "title"]) for name, table in tables.items()}
        return PreparedShards(splits, tokens, shards)

    def _damaged(self, say: Say) -> bool:
        """Whether a file is missing or of another length than was written; its piece is taken away, to be made anew."""
        selected = pafs.FileSelector(self.folder.root, recursive=True)
        there = {info.path: info.size for info in self.folder.filesystem.get_file_info(selected)}
        bad: dict[str, str] = {}
        for piece in self.folder.read_json(MANIFEST)["pieces"]:
            for part, record in piece["parts"].items():
                name = f"{piece['name']}/{part}.arrow"
                size = there.get(self.folder.path(name))
                if size != record["bytes"]:
                    bad[piece["name"]] = (
                        f"{name} ({record['bytes']:,} bytes were written, {'it is gone' if size is None else f'{size:,} are there'})"
                    )
        if not bad:
            return False
        say(f"{self.folder.uri}: damaged: {'; '.join(list(bad.values())[:3])}: {len(bad)} of the pieces made anew")
        self.folder.filesystem.delete_file(self.folder.path(MANIFEST))
        for name in bad:
            if self.folder.exists(name):
                self.folder.delete_folder(name)
        return True

    def _part(self, name: str, pieces: list[dict[str, Any]]) -> Shards:
        own = [(piece["name"], piece["parts"][name]) for piece in pieces if name in piece["parts"]]
        files = tuple((f"{piece}/{name}.arrow", int(part["bytes"])) for piece, part in own)
        digest = hashlib.sha256("".join(part["digest"] for _, part in own).encode()).hexdigest()
        used = np.unique(np.concatenate([np.zeros(0, np.int32), *(np.array(part["vocabulary"], np.int32) for _, part in own)]))
        return Shards(self.folder.uri, self.key[:32], files, digest, used.astype(np.int32).tobytes())

    def _make(self, say: Say, *, through_ray: bool) -> None:
        notes: list[str] = []

        def noted(line: str) -> None:
            notes.append(line)
            say(line)

        began = time.monotonic()
        self.folder.check_writable()
        how = "with Ray Data" if through_ray else "in this process"
        say(f"preparing shards in {self.folder.uri} {how}: made once, and taken again for the same files, settings and tokenizer")
        opened = {part: open_source(name) for part, name in self.sources.items()}
        for source in opened.values():
            for note in source.notes:
                noted(note)
        data = self.data if self.data.source else self.data.model_copy(update={"split": SplitConfig()})
        found = {part: (source, find_columns(source, data)) for part, source in opened.items()}
        pieces = [Piece(0, source, layout, part, data) for source, layout in found.values() for part in source.parts]
        pieces = [Piece(number, p.source, p.layout, p.part, data) for number, p in enumerate(pieces)]
        survey = self._survey(pieces, noted, say, through_ray)
        pieces = self._split(pieces, list(opened), survey, noted)
        self._unchanged()
        leaks = self._find_leaks(pieces, survey, noted, say, through_ray)
        dropped = int(pc.count_distinct(leaks["train_row_id"]).as_py()) if self.data.duplicates == "drop_from_train" else 0
        there = sum(self.folder.exists(f"piece-{piece.number:05d}/{RECORD}") for piece in pieces)
        if there:
            say(f"going on with a preparation that was broken off: {there} of {len(pieces)} pieces are there")
        records = self._write(pieces, survey, say, through_ray)
        self._unchanged()
        parts = {name: self._part(name, records) for name in NAMES}
        tables = {name: part.table() for name, part in parts.items() if part.files}
        self.folder.write_parquet(SEEN, SeenRows.of(tables).table)
        self.folder.write_parquet(LEAKED, leaks)
        rows = sum(table.num_rows for table in tables.values())
        size = sum(part["bytes"] for piece in records for part in piece["parts"].values())
        seconds = time.monotonic() - began
        say(f"shards: {rows:,} rows, {size / 1e9:.2f} GB, prepared in {seconds:,.0f} s ({rows / seconds:,.0f} rows/s)")
        made = {"made": time.strftime("%Y-%m-%d %H:%M:%S"), "notes": notes, "dropped": dropped, "pieces": records, "key": self.key}
        self.folder.write_json(MANIFEST, {**made, "sources": self._identities})
        self._tell_of_others(say)

    def _tell_of_others(self, say: Say) -> None:
        """How much room other shards take beside these, and which of them nobody can use again: those of a source that has changed.

        Nothing is deleted: another run may be reading them.
        """
        place = shard_place(self.data)
        sizes: dict[str, int] = {}
        for info in place.filesystem.get_file_info(pafs.FileSelector(place.root, recursive=True)):
            name = info.path[len(place.root.rstrip("/")) + 1 :].partition("/")[0]
            if info.type == pafs.FileType.File and name != self.key[:32]:
                sizes[name] = sizes.get(name, 0) + info.size
        whole = [name for name in sizes if place.is_file(f"{name}/{MANIFEST}")]
        if not whole:
            return
        made_of = {name: place.read_json(f"{name}/{MANIFEST}").get("sources", {}) for name in whole}
        old = [name for name, of in made_of.items() if any(self._identities.get(source, state) != state for source, state in of.items())]
        size = sum(sizes[name] for name in whole)
        say(f"{place.uri} also holds {len(whole)} other shards ({size / 1e9:.2f} GB): delete what you do not need")
        if old:
            named = " ".join(place.inside(name) for name in old)
            say(f"of a source as it was before it changed, and never taken again ({sum(sizes[n] for n in old) / 1e9:.2f} GB): {named}")

    @contextmanager
    def _alone(self, say: Say) -> Iterator[None]:
        """No other process of this machine prepares the same meanwhile; what one that was killed left half written goes."""
        if self.folder.local is None:
            yield
            return
        import fcntl

        with disk_errors(str(self.folder.local), ADVICE):
            self.folder.local.mkdir(parents=True, exist_ok=True)
            with (self.folder.local / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"another process prepares the shards in {self.folder.uri}: waiting for it")
                    fcntl.flock(lock, fcntl.LOCK_EX)
                for left in self.folder.local.glob(".piece-*"):
                    shutil.rmtree(left, ignore_errors=True)
                yield

    def _unchanged(self) -> None:
        for name, before in self._identities.items():
            if modified(name) != before:
                raise DataError(f"{name}: changed while it was prepared: start again")

    def _survey(self, pieces: list[Piece], noted: Say, say: Say, through_ray: bool) -> _Survey:
        """Read every row once, and refuse what cannot be read, bad rows and row ids that stand twice."""
        kept: dict[int, list[pa.Table]] = {piece.number: [] for piece in pieces}
        total, clock = 0, Clock("shards: rows looked at", 0, say)
        for block in _run(pieces, [()] * len(pieces), Piece.survey, through_ray):
            if faults := block["fault"].drop_null().to_pylist():
                raise DataError(faults[0])
            kept[block["piece"][0].as_py()].append(block.drop_columns(["piece", "fault"]))
            total += block.num_rows
            clock.tell(total)
        starts = np.cumsum([0, *(sum(t.num_rows for t in kept[piece.number]) for piece in pieces)])
        for source, layout in {id(piece.source): (piece.source, piece.layout) for piece in pieces}.values():
            own = [piece.number for piece in pieces if piece.source is source]
            tables = [t for number in own for t in kept[number]]
            if not tables:
                raise DataError(f"{source.name}: holds a header but no rows")
            bad = sum(int(pc.sum(t["bad"]).as_py() or 0) for t in tables)
            words = sum(int(pc.sum(t[MISSING_WORDS]).as_py() or 0) for t in tables)
            if bad and self.data.bad_rows == "error":
                raise refusal_of(source, layout)
            if bad:
                noted(left_out_of(source, layout, self.data))
            if words:
                noted(missing_words(source, words, self.data))
        whole = pa.concat_tables([t for piece in pieces for t in kept[piece.number]])
        kept.clear()
        hashes, bads = whole[ID_HASH].to_numpy(), whole["bad"].to_numpy(zero_copy_only=False)
        columns = whole.drop_columns([ID_HASH, "bad", MISSING_WORDS])
        return _Survey(hashes, bads, columns, starts)

    def _split(self, pieces: list[Piece], parts: list[str], survey: _Survey, noted: Say) -> list[Piece]:
        """Decide each row's part, and give the pieces back as they read from now on."""
        survey.codes = np.full(len(survey.hashes), LEFT_OUT, np.int8)
        for source, layout in {id(piece.source): (piece.source, piece.layout) for piece in pieces}.values():
            own = [piece.number for piece in pieces if piece.source is source]
            place = slice(int(survey.starts[own[0]]), int(survey.starts[own[-1] + 1]))
            self._refuse_twice(source, layout, survey.hashes[place][~survey.bad[place]])
        if self.data.source:
            good = np.flatnonzero(~survey.bad)
            columns = survey.columns if len(good) == len(survey.bad) else survey.columns.filter(pa.array(~survey.bad))
            if self.data.split.kind == "column":
                columns = columns.append_column("row_id", pa.array(good).cast(pa.large_string()))
            try:
                decided, moved = noted_split(columns, self.data.split, list(self.data.tasks), class_names(self.data))
            except DataError as error:
                raise DataError(f"{self.data.source}: {error}") from error
            for code, rows in enumerate(decided):
                survey.codes[good[rows]] = code
            counts = [len(rows) for rows in decided]
            shown = ", ".join(f"{name} {n:,} ({n / len(good):.1%})" for name, n in zip(NAMES, counts, strict=True) if n)
            noted(f"{self.data.source}: split by {split_words(self.data.split)}: {shown}")
            for line in moved:
                noted(f"{self.data.source}: {line}")
            return pieces
        of_source = dict(zip(dict.fromkeys(id(piece.source) for piece in pieces), parts, strict=True))
        for piece in pieces:
            survey.of(piece.number)[:] = NAMES.index(of_source[id(piece.source)])
        survey.codes[survey.bad] = LEFT_OUT
        good_hashes = [survey.hashes[survey.codes == code] for code in range(len(NAMES))]
        noted("own split: " + ", ".join(f"{p} {len(good_hashes[NAMES.index(p)]):,} ({self.sources[p]})" for p in parts))
        shared = sum(map(len, good_hashes)) - len(np.unique(np.concatenate(good_hashes)))
        if not shared:
            return pieces
        noted(f"{shared:,} row ids are in more than one file; ids now start with the part: " + ", ".join(f"{p}/..." for p in parts))
        return [Piece(p.number, p.source, p.layout, p.part, p.data, f"{of_source[id(p.source)]}/") for p in pieces]

    def _refuse_twice(self, source: Source, layout: Layout, hashes: npt.NDArray[np.uint64]) -> None:
        if layout.row_id is None:
            return
        ordered = np.sort(hashes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if len(twice):
            suspects = []
            for block in annotated_blocks(source, layout):
                among = np.isin(id_hash(block["row_id"].fill_null("")), twice)
                suspects.append(block.filter(pc.and_(pa.array(among), pc.invert(left_out(block, self.data)))))
            settle(pa.concat_tables(suspects), source, layout, self.data, lambda _: None)  # raises where ids, not only hashes, are equal

    def _find_leaks(self, pieces: list[Piece], survey: _Survey, noted: Say, say: Say, through_ray: bool) -> pa.Table:
        """Look for training rows like held-out ones, and leave them out of `survey.codes`."""
        counts = np.bincount(survey.codes[survey.codes >= 0], minlength=len(NAMES))
        if self.data.duplicates == "allow":
            noted(NOT_LOOKED_FOR)
        if self.data.duplicates == "allow" or not counts[0] or not counts[1:].any():
            return LEAKS.empty_table()
        arguments = [(survey.of(piece.number),) for piece in pieces]
        held = pa.concat_tables(list(_run(pieces, arguments, Piece.held_out, through_ray)))
        finder = Leaks(held, say)
        more = [(survey.of(piece.number), finder) for piece in pieces]
        clock, found = Clock("near-duplicates: rows looked up", int(counts[0]), say), [LEAKS.empty_table()]
        done = capped = 0
        for table in _run(pieces, more, Piece.leaks, through_ray):
            found.append(table.filter(pc.is_valid(table["train_row_id"])).select(LEAKS.names))
            done += int(pc.sum(table["looked_at"]).as_py())
            capped += int(pc.sum(table["capped"]).as_py())
            clock.tell(done)
        if capped:
            say(capped_words(capped))
        leaks = pa.concat_tables(found).combine_chunks()
        if counts[2]:
            both = [held.filter(pc.equal(held["part"], code)) for code in (1, 2)]
            report_held_out_pairs(find_leaks(both[0], both[1], say), noted)
        if not leaks.num_rows:
            return leaks
        words = leaking_words(leaks)
        if self.data.duplicates == "error":
            raise DataError(f"{words}; remove one side, or set data.duplicates to drop_from_train")
        noted(f"{words}; dropped from train")
        prefix = next((piece.prefix for piece in pieces if piece.prefix), "")
        ids = pc.unique(leaks["train_row_id"])
        ids = pc.utf8_slice_codeunits(ids, start=len(prefix)) if prefix else ids
        survey.codes[(survey.codes == 0) & np.isin(survey.hashes, id_hash(ids))] = LEFT_OUT
        return leaks

    def _write(self, pieces: list[Piece], survey: _Survey, say: Say, through_ray: bool) -> list[dict[str, Any]]:
        given = [(survey.of(piece.number), self.folder.uri, self._backend, self._types) for piece in pieces]
        total, done = int((survey.codes != LEFT_OUT).sum()), 0
        clock, records = Clock("shards: rows written", total, say), []
        for table in _run(pieces, given, _write_record, through_ray):
            record = json.loads(table["record"][0].as_py())
            if "error" in record:
                raise _ERRORS[record["error"]](record["message"])
            done += sum(part["rows"] for part in record["parts"].values())
            clock.tell(done)
            records.append({key: value for key, value in record.items() if key in ("name", "parts")})
        return sorted(records, key=lambda record: str(record["name"]))
