"""Large sources become shards once: tokenized Arrow files by part, which driver and workers map into memory.

Two readings of the source, and two more where duplicates are looked for; each is run by Ray Data's tasks where Ray is running, and in this
process otherwise, with the same result to the bit:

    survey   a few bytes of every row (`polarity.data.survey`), from which the driver decides which part each row is in
    leaks    training rows that have a duplicate or near duplicate among the held-out rows, which the driver holds
    write    train.arrow, validation.arrow, test.arrow of the piece: texts, labels, token ids, and the hashes that a run remembers

The folder's name is a hash of all that decides its content: sources (place, size, time), settings, tokenizer. A piece appears whole, so
what was broken off goes on where it was; `shards.json`, written last, says that all are there and how long each file is.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from polarity.artifacts import RunFolder, disk_errors, user_cache_dir
from polarity.config import DataConfig, SplitConfig
from polarity.data import split
from polarity.data.batch import Shards
from polarity.data.duplicates import LEAKS, Clock, Leaks, capped_words, find_leaks
from polarity.data.formats import modified, open_source
from polarity.data.oversample import ID_HASH, id_hash
from polarity.data.read import ray_is_running
from polarity.data.seen import KEYS, PARTS, SeenRows, row_keys
from polarity.data.survey import LEFT_OUT, Decided, Piece, Survey, pieces_of, run, survey
from polarity.data.tokenize import plain_backend, settings_hash, tokenize_columns, with_columns
from polarity.errors import DataError, PolarityError, RunError, Say

FORMAT_VERSION = 1
MANIFEST, RECORD, SEEN, LEAKED = "shards.json", "piece.json", "seen.parquet", "leaks.parquet"
ROWS_PER_BATCH = 32_768
"""Rows of a record batch: texts and tokens of so many are in memory at once, in each task that writes."""
ADVICE = "set data.shard_dir to a folder with room; the pieces that are whole are kept, and the next start goes on from them"

# In what follows the code of a row is its part's index in PARTS.


def _held_out(piece: Piece, codes: Decided) -> Iterator[pa.Table]:
    """A piece's validation and test rows, with their part's code."""
    for table, own in piece.rows(codes):
        chosen = own > 0
        if chosen.any():
            yield table.filter(pa.array(chosen)).append_column("part", pa.array(own[chosen]))


def _leaks(piece: Piece, codes: Decided, finder: Leaks) -> Iterator[pa.Table]:
    """A piece's training rows that leak: LEAKS, and a row for each block that says how many were looked at, and how many met the cap."""
    for table, own in piece.rows(codes):
        train, capped = table.filter(pa.array(own == 0)), finder.index.capped
        found = finder.of(train)
        for name in ("looked_at", "capped"):
            found = found.append_column(name, pa.array([0] * found.num_rows, pa.int64()))
        count = {name: [None] for name in LEAKS.names} | {"looked_at": [train.num_rows], "capped": [finder.index.capped - capped]}
        yield pa.concat_tables([pa.table(count, schema=found.schema), found])


def _write(piece: Piece, codes: Decided, folder: str, backend: str, types: bool) -> Iterator[pa.Table]:
    """A piece's shards into `folder`; gives the record of them as JSON, or what kept it from writing."""
    target, name = RunFolder.at(folder), f"piece-{piece.number:05d}"
    try:
        if not target.exists(f"{name}/{RECORD}"):
            target.write_folder(name, partial(_fill, piece=piece, codes=codes, backend=backend, types=types, place=target.inside(name)))
        record = {"name": name, "parts": target.read_json(f"{name}/{RECORD}")["parts"]}
    except PolarityError as error:
        record = {"error": type(error).__name__, "message": str(error)}
    yield pa.table({"record": [json.dumps(record)]})


def _fill(path: Path, piece: Piece, codes: Decided, backend: str, types: bool, place: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(backend)
    writers: dict[str, _PartWriter] = {}
    with disk_errors(place, ADVICE):
        try:
            for table, own in _gathered(piece.rows(codes)):
                for code, part in enumerate(PARTS):
                    chosen = own == code
                    if chosen.any():
                        writer = writers.setdefault(part, _PartWriter(path / f"{part}.arrow"))
                        writer.add(_finished(table.filter(pa.array(chosen)), tokenizer, piece.data, types), list(piece.layout.tasks))
        finally:
            for writer in writers.values():
                writer.close()
        parts = {part: writer.record() for part, writer in writers.items()}
        (path / RECORD).write_text(json.dumps({"schema_version": 1, "parts": parts}))


_ERRORS = {"DataError": DataError, "RunError": RunError}


def _gathered(blocks: Iterable[tuple[pa.Table, Decided]]) -> Iterator[tuple[pa.Table, Decided]]:
    """Blocks put together to about ROWS_PER_BATCH rows: a title is tokenized once in each."""
    held: list[tuple[pa.Table, Decided]] = []
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
    return with_columns(table, tokenize_columns(table, backend, data, types)).combine_chunks()


class PartRecord(TypedDict):
    """What is noted of a part of a piece: its file's size, a hash of its rows, and the different token ids."""

    rows: int
    tokens: int
    bytes: int
    digest: str
    vocabulary: list[int]


class PieceRecord(TypedDict):
    """A piece's entry of the manifest."""

    name: str
    parts: dict[str, PartRecord]


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

    def record(self) -> PartRecord:
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "bytes": self._path.stat().st_size,
            "digest": self._digest.hexdigest(),
            "vocabulary": self._used.tolist(),
        }


@dataclass(frozen=True)
class PreparedShards:
    """The parts as mapped tables: `splits` with their texts, `tokens` with their token ids; `shards` is what a worker gets of each."""

    splits: split.Splits
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
        left_out = {"source", "train", "validation", "test", "oversample", "shards", "shard_dir"}
        settings = {
            "format": FORMAT_VERSION,
            "data": data.model_dump(mode="json", exclude=left_out),
            "sources": {part: self._identities[name] for part, name in self.sources.items()},
            "tokens": settings_hash(self._backend, data, self._types),
        }
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.folder = RunFolder.at(shard_place(data).inside(self.key[:32]))

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
        shards = self._parts(manifest["pieces"])
        pa.default_memory_pool().release_unused()
        tables = {name: part.table() for name, part in shards.items()}
        for name in ("train", "validation"):
            if name not in tables:
                raise DataError(f"{name}: no rows are left; give it some, or change data.split or data.duplicates")
        texts = ["row_id", "title", "comment", *self.data.tasks]
        numbers = ["row_id", *self.data.tasks, ID_HASH, "input_ids", *(["token_type_ids"] if self._types else []), "length"]
        parts = [tables[name].select(texts) if name in tables else None for name in PARTS]
        leaks = self.folder.read_parquet(LEAKED).cast(LEAKS)
        splits = split.Splits(parts[0], parts[1], parts[2], leaks, manifest["dropped"], partial(self.folder.read_parquet, SEEN))
        for name, table in splits.parts.items():
            split.check_part(name, table, self.data)
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

    def _parts(self, pieces: list[PieceRecord]) -> dict[str, Shards]:
        """The files of each part that has any."""
        found: dict[str, Shards] = {}
        for name in PARTS:
            own = [(piece["name"], piece["parts"][name]) for piece in pieces if name in piece["parts"]]
            if own:
                files = tuple((f"{piece}/{name}.arrow", part["bytes"]) for piece, part in own)
                digest = hashlib.sha256("".join(part["digest"] for _, part in own).encode()).hexdigest()
                used = np.unique(np.concatenate([np.array(part["vocabulary"], np.int32) for _, part in own]))
                found[name] = Shards(self.folder.uri, self.key[:32], files, digest, used.tobytes())
        return found

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
        pieces = pieces_of(opened.values(), data)
        rows = survey("shards", pieces, say=say, noted=noted, through_ray=through_ray)
        codes = np.full(len(rows.hashes), LEFT_OUT, np.int8)
        if self.data.source:
            self._cut(rows, codes, noted)
        else:
            pieces = self._own_parts(pieces, {id(source): part for part, source in opened.items()}, rows, codes, noted)
        self._unchanged()
        leaks = self._find_leaks(pieces, rows, codes, noted, say, through_ray)
        dropped = int(pc.count_distinct(leaks["train_row_id"]).as_py()) if self.data.duplicates == "drop_from_train" else 0
        there = sum(self.folder.exists(f"piece-{piece.number:05d}/{RECORD}") for piece in pieces)
        if there:
            say(f"going on with a preparation that was broken off: {there} of {len(pieces)} pieces are there")
        records = self._write(pieces, rows.cut(codes), say, through_ray)
        self._unchanged()
        tables = {name: part.table() for name, part in self._parts(records).items()}
        self.folder.write_parquet(SEEN, SeenRows.of(tables).table)
        self.folder.write_parquet(LEAKED, leaks)
        total = sum(table.num_rows for table in tables.values())
        size = sum(part["bytes"] for piece in records for part in piece["parts"].values())
        seconds = time.monotonic() - began
        say(f"shards: {total:,} rows, {size / 1e9:.2f} GB, prepared in {seconds:,.0f} s ({total / seconds:,.0f} rows/s)")
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

    def _cut(self, survey: Survey, codes: Decided, noted: Say) -> None:
        """Decide the part of each row of the one source."""
        good = np.flatnonzero(~survey.bad)
        columns = survey.columns.filter(pa.array(~survey.bad)) if survey.bad.any() else survey.columns
        if self.data.split.kind == "column":
            columns = columns.append_column("row_id", pa.array(good).cast(pa.large_string()))
        try:
            parts, moved = split.noted_split(columns, self.data.split, list(self.data.tasks), self.data.labels)
        except DataError as error:
            raise DataError(f"{self.data.source}: {error}") from error
        for code, rows in enumerate(parts):
            codes[good[rows]] = code
        noted(split.cut_words(self.data, {name: len(rows) for name, rows in zip(PARTS, parts, strict=True) if len(rows)}))
        for line in moved:
            noted(f"{self.data.source}: {line}")

    def _own_parts(self, pieces: list[Piece], part_of: Mapping[int, str], survey: Survey, codes: Decided, noted: Say) -> list[Piece]:
        """Note each row's part where files are the split (`part_of` their sources), and give the pieces back as they read from now on."""
        for piece, own in zip(pieces, survey.cut(codes), strict=True):
            own[:] = PARTS.index(part_of[id(piece.source)])
        codes[survey.bad] = LEFT_OUT
        shared = int((codes != LEFT_OUT).sum()) - len(np.unique(survey.hashes[codes != LEFT_OUT]))
        split.tell_own_split(self.data, {part: int((codes == PARTS.index(part)).sum()) for part in part_of.values()}, shared, noted)
        return [replace(piece, prefix=f"{part_of[id(piece.source)]}/") for piece in pieces] if shared else pieces

    def _find_leaks(self, pieces: list[Piece], survey: Survey, codes: Decided, noted: Say, say: Say, through_ray: bool) -> pa.Table:
        """Look for training rows like held-out ones, and leave them out of `codes`."""
        counts = np.bincount(codes[codes >= 0], minlength=len(PARTS))
        if self.data.duplicates == "allow":
            noted(split.NOT_LOOKED_FOR)
        if self.data.duplicates == "allow" or not counts[0] or not counts[1:].any():
            return LEAKS.empty_table()
        arguments = [(own,) for own in survey.cut(codes)]
        held = pa.concat_tables(list(run(pieces, arguments, _held_out, through_ray=through_ray)))
        finder = Leaks(held, say)
        clock, found = Clock("near-duplicates: rows looked up", int(counts[0]), say), [LEAKS.empty_table()]
        done = capped = 0
        for table in run(pieces, arguments, _leaks, through_ray=through_ray, shared=finder):
            found.append(table.filter(pc.is_valid(table["train_row_id"])).select(LEAKS.names))
            done += int(pc.sum(table["looked_at"]).as_py())
            capped += int(pc.sum(table["capped"]).as_py())
            clock.tell(done)
        if capped:
            say(capped_words(capped))
        leaks = pa.concat_tables(found).combine_chunks()
        if counts[2]:
            both = [held.filter(pc.equal(held["part"], code)) for code in (1, 2)]
            split.report_held_out_pairs(find_leaks(both[0], both[1], say), noted)
        if not leaks.num_rows:
            return leaks
        split.tell_leaks(leaks, self.data, noted)
        prefix = next((piece.prefix for piece in pieces if piece.prefix), "")
        ids = pc.unique(leaks["train_row_id"])
        ids = pc.utf8_slice_codeunits(ids, start=len(prefix)) if prefix else ids
        codes[(codes == 0) & np.isin(survey.hashes, id_hash(ids))] = LEFT_OUT
        return leaks

    def _write(self, pieces: list[Piece], codes: list[Decided], say: Say, through_ray: bool) -> list[PieceRecord]:
        given = [(own, self.folder.uri, self._backend, self._types) for own in codes]
        total, done = sum(int((own != LEFT_OUT).sum()) for own in codes), 0
        clock, records = Clock("shards: rows written", total, say), list[PieceRecord]()
        for table in run(pieces, given, _write, through_ray=through_ray):
            record = json.loads(table["record"][0].as_py())
            if "error" in record:
                raise _ERRORS[record["error"]](record["message"])
            done += sum(part["rows"] for part in record["parts"].values())
            clock.tell(done)
            records.append(record)
        return sorted(records, key=lambda record: str(record["name"]))
