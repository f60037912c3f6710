"""Batching: which rows make a step, in what order, and how they become arrays. Pure functions of (rows, seed, epoch).

Every worker computes the whole plan and takes its part, so that no row, count or random number depends on how many workers there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from polarity.arrays import Rows
from polarity.artifacts import RunFolder, column_of_objects, disk_errors, mapped_table, user_cache_dir
from polarity.config import Config
from polarity.data.oversample import ID_HASH, epoch_sizes, mix64, multiplicities, table_hash
from polarity.errors import DataError

_ORDER_SALT, _BATCH_SALT, _MIXUP_SALT, _TORCH_SALT = 1, 2, 3, 4
_KEYS_AT_ONCE = 1 << 20
_PADDED_BATCHES = 4096
DIGEST, VOCABULARY = b"polarity/digest", b"polarity/vocabulary"
"""What shards note in a table's schema: see `Corpus.digest` and `Corpus.vocabulary`."""


@dataclass(frozen=True)
class TokenBatch:
    """One padded batch: `input_ids`, `attention_mask` and `token_type_ids` (B, L) int64; L is the longest row's length.

    `features` (B, L, D) float32, zero on padding, where the corpus has them.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    features: NDArray[np.float32] | None = None


class Lists:
    """A column of lists as numpy views of Arrow's buffers, without a copy: they may lie in a mapped file, in any number of pieces."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self.pieces: list[tuple[NDArray[np.int64], NDArray[np.integer]]] = [(c.offsets.to_numpy(), c.values.to_numpy()) for c in chunks]
        self._first = np.cumsum([0, *(len(chunk) for chunk in chunks)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, row: int) -> NDArray[np.integer]:
        piece = int(np.searchsorted(self._first, row, side="right")) - 1
        offsets, values = self.pieces[piece]
        place = row - int(self._first[piece])
        return values[offsets[place] : offsets[place + 1]]

    def values(self) -> Iterator[NDArray[np.integer]]:
        """The values of all lists, piece by piece."""
        for offsets, values in self.pieces:
            yield values[offsets[0] : offsets[-1]]

    def lengths(self) -> NDArray[np.int32]:
        """The length of each list (N,)."""
        return np.concatenate([np.zeros(0, np.int32), *(np.diff(offsets).astype(np.int32) for offsets, _ in self.pieces)])

    def padded(self, rows: Rows, width: int, fill: int) -> NDArray[np.int64]:
        """The lists of these rows (B, width), filled up on the right."""
        found = np.full((len(rows), width), fill, dtype=np.int64)
        for place, row in enumerate(rows.tolist()):
            values = self[row]
            found[place, : len(values)] = values
        return found


@dataclass(frozen=True)
class Shards:
    """One part's files, as a job carries them: a worker maps them where it is, or copies them once from a remote folder."""

    folder: str
    key: str
    files: tuple[tuple[str, int], ...]
    """(name in the folder, bytes)."""
    digest: str
    vocabulary: bytes

    def table(self) -> pa.Table:
        """The part as one table of mapped columns. Raises DataError naming a file that is missing, truncated or damaged."""
        root = _local(self)
        found = [_mapped(root / name, size) for name, size in self.files]
        noted = {DIGEST: self.digest.encode(), VOCABULARY: self.vocabulary}
        return pa.concat_tables(found).replace_schema_metadata(noted)


def _local(shards: Shards) -> Path:
    """The folder of the files on this machine; those of a remote one are copied into the user's cache, once a machine."""
    folder = RunFolder.at(shards.folder)
    if folder.local is not None:
        return folder.local
    import fcntl

    copy = user_cache_dir() / "shards" / shards.key
    copy.mkdir(parents=True, exist_ok=True)
    with disk_errors(str(copy), "free some space, or set XDG_CACHE_HOME to a folder with room"), (copy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one machine start together
        for name, size in shards.files:
            target = copy / name
            if not target.is_file() or target.stat().st_size != size:
                target.parent.mkdir(exist_ok=True)
                pafs.copy_files(folder.path(name), str(target), folder.filesystem, pafs.LocalFileSystem())
    return copy


def _mapped(path: Path, size: int) -> pa.Table:
    """A file's columns, mapped, if it is what was written."""
    if not path.exists():
        raise DataError(f"{path}: is not on this machine: set data.shard_dir to a folder that every node sees, or to a URI")
    remedy = "start again: it is made anew"
    try:
        found = path.stat().st_size
        if found != size:
            raise DataError(f"{path}: is truncated or was changed ({found:,} bytes, {size:,} were written); {remedy}")
        table = mapped_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from error
    if column_of_objects(table.schema) is not None:
        raise DataError(f"{path}: holds Python objects, and no shard does: not read; {remedy}")
    return table.replace_schema_metadata(None)


@dataclass(frozen=True)
class Corpus:
    """A tokenized table as the loop takes it: rows by number, whether the table is in memory or in mapped files (`polarity.data.shards`).

    `index` is the table's `row_id` and label columns, and `id_hash` where it has one; `lengths` (N,) are the rows' tokens; labels (N,) int8
    are -1 where missing. `features`, where somebody computed them, are D numbers for each token, row after row.
    """

    index: pa.Table
    lengths: NDArray[np.int32]
    tokens: Lists
    types: Lists | None
    labels: dict[str, NDArray[np.int8]]
    pad_id: int
    features: NDArray[np.float32] | None = None
    soft: dict[str, NDArray[np.float32]] | None = None
    """{task: target probabilities (N, K)}, a teacher's or the shares of annotators' votes; from the table's columns `soft_column(task)`."""
    digest: str = ""
    """Of shards: a hash that stands for all their rows and tokens, so that nobody reads them whole."""
    vocabulary: NDArray[np.int32] | None = None
    """Of shards: the different token ids (U,)."""

    @classmethod
    def from_table(cls, table: pa.Table, tasks: list[str], pad_id: int) -> "Corpus":
        """Views of a table made by `tokenize` or read by `mapped`; a few bytes a row are copied."""
        names, tokens = table.column_names, Lists(table["input_ids"])
        noted = table.schema.metadata or {}
        soft = {task: table[soft_column(task)].combine_chunks().flatten().to_numpy() for task in tasks if soft_column(task) in names}
        return cls(
            index=table.select(["row_id", *tasks, *([ID_HASH] if ID_HASH in names else [])]),
            lengths=table["length"].to_numpy() if "length" in names else tokens.lengths(),
            tokens=tokens,
            types=Lists(table["token_type_ids"]) if "token_type_ids" in names else None,
            labels={task: table[task].fill_null(-1).to_numpy().astype(np.int8, copy=False) for task in tasks},
            pad_id=pad_id,
            soft={task: shares.reshape(table.num_rows, -1) for task, shares in soft.items()} or None,
            digest=noted.get(DIGEST, b"").decode(),
            vocabulary=np.frombuffer(noted[VOCABULARY], np.int32) if VOCABULARY in noted else None,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row's tokens begin among all tokens, and their number (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def used_tokens(self) -> NDArray[np.int32]:
        """The different token ids of all rows, ascending."""
        if self.vocabulary is not None:
            return self.vocabulary
        return np.unique(np.concatenate([np.zeros(0, np.int32), *map(np.unique, self.tokens.values())])).astype(np.int32)

    def collate(self, rows: Rows) -> TokenBatch:
        """The rows as one batch, padded on the right to the longest of them."""
        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max()))
        mask = columns[None, :] < lengths[:, None]
        ids = self.tokens.padded(rows, len(columns), self.pad_id)
        types = None if self.types is None else self.types.padded(rows, len(columns), 0)
        features = None
        if self.features is not None:
            features = np.zeros((*mask.shape, self.features.shape[1]), dtype=np.float32)
            features[mask] = self.features[(self.offsets[rows][:, None] + columns)[mask]]
        return TokenBatch(ids, mask.astype(np.int64), types, features)


def soft_column(task: str) -> str:
    """The column of a teacher's probabilities, or of the shares of annotators' votes: a list of K float32 a row."""
    return f"{task}/soft"


def epoch_rows(corpus: Corpus, config: Config, epoch: int) -> Rows:
    """The epoch's rows, oversampled and in random order: sorted by a hash of (seed, epoch, row id, copy), so file order does not matter."""
    seed = config.train.seed
    counts = multiplicities(corpus.index, config.labels, config.data.oversample, seed=seed, epoch=epoch)
    salts = mix64(np.arange(counts.max(initial=0), dtype=np.uint64) + np.uint64(_ORDER_SALT))  # of a row's first copy, second, ...
    ends = np.cumsum(counts)
    rows: NDArray[np.integer] = np.repeat(np.arange(len(corpus), dtype=np.int32 if len(corpus) < 1 << 31 else np.int64), counts)
    del counts  # of ten million rows every array takes 80 MB
    keys = table_hash(corpus.index, seed, epoch)[rows]
    for at in range(0, len(rows), _KEYS_AT_ONCE):
        part = slice(at, at + _KEYS_AT_ONCE)
        own = rows[part]
        copies = np.arange(at, at + len(own)) - np.where(own > 0, ends[own - 1], 0)
        keys[part] = mix64(keys[part] + salts[copies])
    del ends
    order = np.argsort(keys, kind="stable")
    del keys
    return rows[order].astype(np.int64)


def global_batches(corpus: Corpus, config: Config, epoch: int) -> list[Rows]:
    """The epoch's optimizer steps: row positions of each global batch, length-sorted inside shuffled pools.

    Rows that do not fill a batch make a last, shorter one. They are taken off before sorting: else they would always be the longest.
    """
    rows, size, pool = epoch_rows(corpus, config, epoch), config.train.global_batch_size, config.train.sort_pool
    whole = len(rows) // size * size
    batches = rows[:whole].reshape(-1, size)
    if pool:
        batches = _sort_in_pools(batches, corpus.lengths, pool, np.random.default_rng([_BATCH_SALT, config.train.seed, epoch]))
    last = rows[whole:]
    return [*batches, *([_by_length(last, corpus.lengths) if pool else last] if len(last) else [])]


def steps_per_epoch(corpus: Corpus, config: Config) -> list[int]:
    """Optimizer steps of every epoch; they differ by a few where oversampling draws row by row."""
    size, sampling = config.train.global_batch_size, config.data.oversample
    totals = epoch_sizes(corpus.index, config.labels, sampling, seed=config.train.seed, epochs=config.train.epochs)
    return [int(-(-total // size)) for total in totals]


def micro_batches(rows: Rows, size: int) -> list[Rows]:
    """Cut one global batch into micro-batches of `size` in order; the last may be shorter."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def mixup_draw(seed: int, step: int, micro: int, rows: int, alpha: float) -> tuple[float, Rows]:
    """lambda ~ Beta(alpha, alpha) and a permutation of `rows` rows, from (seed, step, micro-batch) alone."""
    generator = np.random.default_rng([_MIXUP_SALT, seed, step, micro])
    return float(generator.beta(alpha, alpha)), generator.permutation(rows)


def torch_seed(seed: int, step: int, micro: int) -> int:
    """Seed of torch's generator for one micro-batch's dropout: 63 bits from (seed, step, micro-batch) alone."""
    words = np.random.SeedSequence([_TORCH_SALT, seed, step, micro]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def evaluation_batches(lengths: NDArray[np.integer], size: int) -> list[Rows]:
    """Every row once, length-sorted (longest first, so that memory peaks at once), in batches of `size`."""
    return micro_batches(np.argsort(-lengths, kind="stable"), size)


def padded_share(corpus: Corpus, batches: list[Rows], micro_batch_size: int) -> float:
    """Share of the tokens computed that are padding; of very many batches, of 4,096 of them."""
    lengths, batches = corpus.lengths, batches[:: -(-len(batches) // _PADDED_BATCHES)] if batches else batches
    cuts = [lengths[m] for rows in batches for m in micro_batches(rows, micro_batch_size)]
    computed = sum(int(c.max()) * len(c) for c in cuts)
    return 1.0 - sum(int(c.sum()) for c in cuts) / computed


def _by_length(rows: Rows, lengths: NDArray[np.int32]) -> Rows:
    return rows[np.argsort(lengths[rows], kind="stable")]


def _sort_in_pools(batches: Rows, lengths: NDArray[np.int32], pool: int, generator: np.random.Generator) -> Rows:
    for at in range(0, len(batches), pool):
        chunk = batches[at : at + pool]
        ordered = _by_length(chunk.reshape(-1), lengths).reshape(chunk.shape)
        chunk[:] = ordered[generator.permutation(len(ordered))]
    return batches
