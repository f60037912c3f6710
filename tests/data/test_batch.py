"""Batching: every row of the epoch's multiset once, an order that no file order changes, little padding, fixed cuts."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polarity.config import Config
from polarity.data.batch import (
    Corpus,
    epoch_rows,
    evaluation_batches,
    global_batches,
    micro_batches,
    mixup_draw,
    padded_share,
    steps_per_epoch,
    torch_seed,
)
from polarity.data.oversample import multiplicities
from polarity.resolve import resolve
from tests.tiny import tiny_comments

BASE = resolve("baseline").config


def configured(**train: Any) -> Config:
    return Config.model_validate(BASE.model_dump() | {"train": BASE.train.model_dump() | train})


def tokenized(rows: int, seed: int = 0) -> pa.Table:
    """Random tokens of lengths as real comments have them: a long tail, cut at 224."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.6, 0.7, rows).astype(int) + 8, 8, 224)
    ids = pa.array([rng.integers(5, 1000, n).astype(np.int32) for n in lengths], pa.large_list(pa.int32()))
    return tiny_comments(rows, seed).append_column("input_ids", ids)


def corpus(table: pa.Table) -> Corpus:
    return Corpus.from_table(table, list(BASE.labels), pad_id=0)


def ids_of(part: Corpus, batches: list[np.ndarray]) -> list[list[str]]:
    return [part.index["row_id"].take(rows).to_pylist() for rows in batches]


@pytest.mark.parametrize("pool", [0, 1, 4, 32])
def test_every_row_of_the_epoch_is_in_one_batch(pool: int) -> None:
    part, config = corpus(tokenized(150)), configured(sort_pool=pool)
    for epoch in range(3):
        counts = multiplicities(part.index, config.labels, config.data.oversample, seed=config.train.seed, epoch=epoch)
        batches = global_batches(part, config, epoch)
        np.testing.assert_array_equal(np.bincount(np.concatenate(batches), minlength=150), counts)
        assert [len(b) for b in batches[:-1]] == [36] * (len(batches) - 1)
        assert len(batches[-1]) == (counts.sum() % 36 or 36)
        assert len(batches) == steps_per_epoch(part, config)[epoch]


def test_file_order_does_not_matter() -> None:
    """The rows of each batch are the same; rows of equal length may change places inside a pool's sort, so none has an equal here."""
    table = tokenized(120)
    lengths = np.random.default_rng(1).permutation(np.arange(10, 130))
    column = pa.array([np.full(n, 7, np.int32) for n in lengths], pa.large_list(pa.int32()))
    table = table.set_column(table.column_names.index("input_ids"), "input_ids", column)
    turned = table.take(np.random.default_rng(2).permutation(120))
    config = configured(global_batch_size=16, micro_batch_size=8, sort_pool=3)
    one, other = corpus(table), corpus(turned)
    assert ids_of(one, [epoch_rows(one, config, 1)]) == ids_of(other, [epoch_rows(other, config, 1)])
    assert ids_of(one, global_batches(one, config, 1)) == ids_of(other, global_batches(other, config, 1))


def test_file_order_does_not_matter_among_rows_of_equal_length() -> None:
    table = tokenized(400)
    turned = table.take(np.random.default_rng(2).permutation(400))
    one, other, config = corpus(table), corpus(turned), configured(global_batch_size=16, micro_batch_size=8)
    assert ids_of(one, global_batches(one, config, 0)) == ids_of(other, global_batches(other, config, 0))


def test_epochs_and_seeds_differ_and_a_rerun_does_not() -> None:
    part = corpus(tokenized(150))
    first = np.concatenate(global_batches(part, configured(), 0))
    np.testing.assert_array_equal(first, np.concatenate(global_batches(part, configured(), 0)))
    for config, epoch in ((configured(), 1), (configured(seed=1), 0)):
        assert not np.array_equal(first[:100], np.concatenate(global_batches(part, config, epoch))[:100])


def test_padding_is_small_and_no_length_comes_first() -> None:
    part, config = corpus(tokenized(2000)), configured()
    batches = global_batches(part, config, 0)
    assert padded_share(part, batches, 12) <= 0.03
    assert padded_share(part, global_batches(part, configured(sort_pool=0), 0), 12) > 0.3
    means = np.array([part.lengths[b].mean() for b in batches[:-1]])
    halves = [half.mean() for half in np.array_split(means, 2)]
    assert halves[0] == pytest.approx(halves[1], rel=0.25)
    assert abs(part.lengths[batches[-1]].mean() - part.lengths.mean()) < 25  # the short batch is no batch of the longest


def test_padded_share_by_hand() -> None:
    lengths = [10, 20, 30, 40, 5]
    ids = pa.array([[7] * n for n in lengths], pa.large_list(pa.int32()))
    part = corpus(tiny_comments(5).append_column("input_ids", ids))
    assert padded_share(part, [np.arange(4), np.array([4])], 2) == pytest.approx(1 - 105 / (2 * 20 + 2 * 40 + 5))


def test_micro_batches_keep_order_and_end_short() -> None:
    cuts = micro_batches(np.arange(10), 4)
    assert [c.tolist() for c in cuts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert micro_batches(np.arange(0), 4) == []


def test_collate_pads_on_the_right() -> None:
    ids = pa.array([[1, 2], [3, 4, 5], [6]], pa.large_list(pa.int32()))
    types = pa.array([[0, 1], [0, 1, 1], [1]], pa.large_list(pa.int8()))
    table = tiny_comments(3).append_column("input_ids", ids).append_column("token_type_ids", types)
    whole = pa.concat_tables([table.slice(0, 2), table.slice(2)])  # two chunks
    part = Corpus.from_table(whole, list(BASE.labels), pad_id=9)
    batch = part.collate(np.array([2, 1, 2]))
    assert batch.input_ids.tolist() == [[6, 9, 9], [3, 4, 5], [6, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids is not None and batch.token_type_ids.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    sliced = Corpus.from_table(table.slice(1), list(BASE.labels), pad_id=9)
    assert len(sliced) == 2 and sliced.collate(np.array([0])).input_ids.tolist() == [[3, 4, 5]]


def test_missing_labels_are_minus_one() -> None:
    table = tokenized(50)
    part = corpus(table)
    for task in BASE.labels:
        assert part.labels[task].tolist() == [-1 if x is None else x for x in table[task].to_pylist()]


def test_evaluation_sees_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, 101)
    batches = evaluation_batches(lengths, 16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    assert lengths[batches[0][0]] == lengths.max() and [len(b) for b in batches] == [16] * 6 + [5]


def test_random_numbers_depend_on_seed_step_and_micro_batch() -> None:
    keys = [(s, t, m) for s in (0, 1) for t in (0, 1, 2) for m in (0, 1, 2)]
    assert len({torch_seed(*key) for key in keys}) == len(keys)
    assert len({mixup_draw(*key, 8, 0.2)[0] for key in keys}) == len(keys)
    assert all(0 <= torch_seed(*key) < 2**63 for key in keys)
    lam, turn = mixup_draw(0, 1, 2, 8, 0.2)
    again = mixup_draw(0, 1, 2, 8, 0.2)
    assert lam == again[0] and turn.tolist() == again[1].tolist() and sorted(turn.tolist()) == list(range(8))


def test_lambda_is_beta() -> None:
    draws = np.array([mixup_draw(0, step, 0, 2, 0.2)[0] for step in range(3000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.03)
    assert draws.var() == pytest.approx(0.25 / (2 * 0.2 + 1), rel=0.05)
