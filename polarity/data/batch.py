"""Batching: which rows make a step, in what order, and how they become arrays. Pure functions of (rows, seed, epoch).

Every worker computes the whole plan and takes its part, so that no row, count or random number depends on how many workers there are.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.config import Config
from polarity.data.oversample import mix64, multiplicities, row_hash

Rows = NDArray[np.int64]
_ORDER_SALT, _BATCH_SALT, _MIXUP_SALT, _TORCH_SALT = 1, 2, 3, 4


@dataclass(frozen=True)
class TokenBatch:
    """One padded batch: `input_ids`, `attention_mask` and `token_type_ids` (B, L) int64; L is the longest row's length.

    `features` (B, L, D) float32, zero on padding, where the corpus has them.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Corpus:
    """A tokenized table as flat arrays: tokens of row i are `tokens[offsets[i]:offsets[i + 1]]`; labels are -1 where missing.

    `index` is the table's `row_id` and label columns. `features`, where somebody computed them, are D numbers for each token.
    """

    index: pa.Table
    offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]
    types: NDArray[np.int8] | None
    labels: dict[str, NDArray[np.int64]]
    pad_id: int
    features: NDArray[np.float32] | None = None
    soft: dict[str, NDArray[np.float32]] | None = None
    """{task: a teacher's probabilities (N, K)}, for a student; they come from the table's columns `soft_column(task)`."""

    @classmethod
    def from_table(cls, table: pa.Table, tasks: list[str], pad_id: int) -> "Corpus":
        """Views of a table made by `tokenize`; without copies where the table is one chunk."""
        ids = table["input_ids"].combine_chunks()
        types = table["token_type_ids"].combine_chunks() if "token_type_ids" in table.column_names else None
        labels = {task: table[task].fill_null(-1).to_numpy().astype(np.int64) for task in tasks}
        offsets = ids.offsets.to_numpy()
        return cls(
            index=table.select(["row_id", *tasks]),
            offsets=(offsets - offsets[0]).astype(np.int64),
            tokens=ids.flatten().to_numpy(),
            types=None if types is None else types.flatten().to_numpy(),
            labels=labels,
            pad_id=pad_id,
            soft=_soft_labels(table, tasks),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row (N,)."""
        return np.diff(self.offsets)

    def collate(self, rows: Rows) -> TokenBatch:
        """The rows as one batch, padded on the right to the longest of them."""
        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max()))
        mask = columns[None, :] < lengths[:, None]
        places = np.where(mask, self.offsets[rows][:, None] + columns[None, :], 0)
        ids = np.where(mask, self.tokens[places], self.pad_id).astype(np.int64)
        types = None if self.types is None else np.where(mask, self.types[places], 0).astype(np.int64)
        return TokenBatch(ids, mask.astype(np.int64), types, self._padded_features(mask, places))

    def _padded_features(self, mask: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if self.features is None:
            return None
        padded = np.zeros((*mask.shape, self.features.shape[1]), dtype=np.float32)
        padded[mask] = self.features[places[mask]]
        return padded


def soft_column(task: str) -> str:
    """The column of a teacher's probabilities: a list of K float32 a row."""
    return f"{task}/soft"


def _soft_labels(table: pa.Table, tasks: list[str]) -> dict[str, NDArray[np.float32]] | None:
    if not tasks or soft_column(tasks[0]) not in table.column_names:
        return None
    lists = {task: table[soft_column(task)].combine_chunks() for task in tasks}
    return {task: lists[task].flatten().to_numpy().reshape(table.num_rows, -1) for task in tasks}


def epoch_rows(corpus: Corpus, config: Config, epoch: int) -> Rows:
    """The epoch's rows, oversampled and in random order: sorted by a hash of (seed, epoch, row id, copy), so file order does not matter."""
    seed = config.train.seed
    counts = multiplicities(corpus.index, config.labels, config.data.oversample, seed=seed, epoch=epoch)
    rows = np.repeat(np.arange(len(corpus)), counts)
    copies = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = mix64(row_hash(corpus.index["row_id"], seed, epoch)[rows] + mix64(copies.astype(np.uint64) + np.uint64(_ORDER_SALT)))
    return rows[np.argsort(keys, kind="stable")]


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
    totals = [
        multiplicities(corpus.index, config.labels, sampling, seed=config.train.seed, epoch=epoch).sum()
        for epoch in range(config.train.epochs)
    ]
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


def evaluation_batches(lengths: NDArray[np.int64], size: int) -> list[Rows]:
    """Every row once, length-sorted (longest first, so that memory peaks at once), in batches of `size`."""
    order = np.argsort(-lengths, kind="stable")
    return [order[at : at + size] for at in range(0, len(order), size)]


def padded_share(corpus: Corpus, batches: list[Rows], micro_batch_size: int) -> float:
    """Share of the tokens computed that are padding."""
    lengths = corpus.lengths
    cuts = [lengths[m] for rows in batches for m in micro_batches(rows, micro_batch_size)]
    computed = sum(int(c.max()) * len(c) for c in cuts)
    return 1.0 - sum(int(c.sum()) for c in cuts) / computed


def _by_length(rows: Rows, lengths: NDArray[np.int64]) -> Rows:
    return rows[np.argsort(lengths[rows], kind="stable")]


def _sort_in_pools(batches: Rows, lengths: NDArray[np.int64], pool: int, generator: np.random.Generator) -> Rows:
    parts = []
    for at in range(0, len(batches), pool):
        chunk = batches[at : at + pool]
        ordered = _by_length(chunk.reshape(-1), lengths).reshape(chunk.shape)
        parts.append(ordered[generator.permutation(len(ordered))])
    return np.concatenate(parts) if parts else batches
