from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarity.config import Config, OversampleConfig
from polarity.data.oversample import expected_multiplicity, multiplicities, repeat_rows, stratum_ids, table_hash
from polarity.errors import ConfigError

LABELS = Config().labels
Pair = tuple[int | None, ...]


def row_hash(ids: Any, seed: int, epoch: int) -> Any:
    return table_hash(
        pa.table({"row_id": ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids, pa.large_string())}), seed, epoch
    )


PLAN = [673, 128, 3332, 998, 227, 649, 271, 50, 647]
NOW: dict[str, Any] = {"alpha": 0.5, "max_multiplier": 4.0, "boosts": {"polarization": {"objective": 2.5}}}
NEW: dict[str, Any] = {
    "alpha": 0.7,
    "max_multiplier": 8.0,
    "boosts": {"polarization": {"objective": 6.0}, "sentiment": {"neutral": 2.5}},
    "stratified": True,
}


def table(sentiment: Sequence[int | None], polarization: Sequence[int | None], ids: list[str] | None = None) -> pa.Table:
    ids = ids or [f"r{i}" for i in range(len(sentiment))]
    labels = {"sentiment": pa.array(sentiment, pa.int8()), "polarization": pa.array(polarization, pa.int8())}
    return pa.table({"row_id": pa.array(ids, pa.large_string()), **labels})


def of_sizes(sizes: list[int]) -> pa.Table:
    pairs = [pair for pair, n in zip(product(range(3), range(3)), sizes, strict=True) for _ in range(n)]
    return table([s for s, _ in pairs], [p for _, p in pairs])


def rows_by_pair(comments: pa.Table, times: np.ndarray) -> Counter[Pair]:
    found: Counter[Pair] = Counter()
    for s, p, m in zip(comments["sentiment"].to_pylist(), comments["polarization"].to_pylist(), times.tolist(), strict=True):
        found[s, p] += m
    return found


def independent(sizes: Mapping[Pair, int], setting: dict[str, Any]) -> dict[Pair, Fraction]:
    """Exact multiplicities, from the words of the definition and decimal settings."""
    exact = {name: Fraction(str(setting[name])) for name in ("alpha", "max_multiplier")}
    middle = Fraction(median([n for pair, n in sizes.items() if None not in pair] or list(sizes.values())))
    result = {}
    for pair, n in sizes.items():
        lifted = max(Fraction(1), min(middle / n, exact["max_multiplier"]))
        u = (1 - exact["alpha"]) + exact["alpha"] * lifted
        for task, index in zip(LABELS, pair, strict=True):
            if index is not None:
                u *= Fraction(str(setting.get("boosts", {}).get(task, {}).get(LABELS[task][index], 1)))
        result[pair] = min(u, exact["max_multiplier"])
    return result


@pytest.mark.parametrize(("setting", "total"), [({**NOW, "stratified": True}, 8378), (NEW, 12544)])
def test_the_plan_s_strata_give_the_counts_of_an_exact_calculation(setting: dict[str, Any], total: int) -> None:
    comments = of_sizes(PLAN)
    found = rows_by_pair(comments, multiplicities(comments, LABELS, OversampleConfig(**setting), seed=0, epoch=0))
    sizes: dict[Pair, int] = dict(zip(product(range(3), range(3)), PLAN, strict=True))
    expected = {pair: (2 * u * sizes[pair] + 1) // 2 for pair, u in independent(sizes, setting).items()}
    assert found == expected
    assert sum(found.values()) == total


def test_the_plan_s_now_values_are_right_in_expectation() -> None:
    """Not stratified, only the 271 rows of one stratum are drawn (u = 1.69): four standard deviations are 30 rows."""
    comments, sampling = of_sizes(PLAN), OversampleConfig(**NOW)
    totals = [int(multiplicities(comments, LABELS, sampling, seed=3, epoch=epoch).sum()) for epoch in range(200)]
    assert all(abs(total - 8378) < 4 * (271 * 0.69 * 0.31) ** 0.5 + 1 for total in totals)
    assert abs(np.mean(totals) - 8378) < 4 * (271 * 0.69 * 0.31 / 200) ** 0.5
    assert len(set(totals)) > 10


def test_objective_meets_the_cap_in_both_settings() -> None:
    for setting in (NOW, NEW):
        plan = expected_multiplicity(PLAN, list(product(range(3), range(3))), OversampleConfig(**setting), LABELS)
        assert plan.capped.tolist() == [False, True, False] * 3
        assert plan.median == 647
        np.testing.assert_array_equal(plan.expected[1::3], setting["max_multiplier"])


NULLABLE = st.sampled_from([0, 0, 0, 0, 1, 1, 2, None])
ROWS = st.lists(st.tuples(NULLABLE, NULLABLE), min_size=1, max_size=120)
FACTOR = st.sampled_from([0.25, 0.5, 1.0, 1.7, 2.5, 6.0])
SETTING = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
        "max_multiplier": st.sampled_from([1.0, 2.5, 4.0, 8.0]),
        "boosts": st.fixed_dictionaries({"polarization": st.fixed_dictionaries({"objective": FACTOR, "partisan": FACTOR})}),
    }
)


@given(ROWS, SETTING)
def test_any_strata_give_the_exact_counts(rows: list[Pair], setting: dict[str, Any]) -> None:
    comments = table([s for s, _ in rows], [p for _, p in rows])
    sampling = OversampleConfig(**setting, stratified=True)
    times = multiplicities(comments, LABELS, sampling, seed=1, epoch=4)
    sizes = dict(Counter(rows))
    exact = independent(sizes, setting)
    assert rows_by_pair(comments, times) == Counter({pair: (2 * u * sizes[pair] + 1) // 2 for pair, u in exact.items()})
    for pair, m in zip(rows, times.tolist(), strict=True):
        assert exact[pair].__floor__() <= m <= exact[pair].__ceil__()


@given(ROWS, SETTING, st.booleans())
def test_the_order_of_rows_moves_nothing(rows: list[Pair], setting: dict[str, Any], stratified: bool) -> None:
    sampling = OversampleConfig(**setting, stratified=stratified)
    comments = table([s for s, _ in rows], [p for _, p in rows])
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    times = multiplicities(comments, LABELS, sampling, seed=0, epoch=0)
    np.testing.assert_array_equal(multiplicities(comments.take(order), LABELS, sampling, seed=0, epoch=0), times[order])


@given(ROWS, SETTING)
def test_keep_keeps_every_row_count(rows: list[Pair], setting: dict[str, Any]) -> None:
    comments = table([s for s, _ in rows], [p for _, p in rows])
    sampling = OversampleConfig(**setting, stratified=True, size="keep")
    times = multiplicities(comments, LABELS, sampling, seed=0, epoch=0)
    assert times.sum() == len(rows)
    assert times.max() <= np.ceil(setting["max_multiplier"])
    _, keys = stratum_ids({task: np.array([-1 if v is None else v for v in comments[task].to_pylist()]) for task in LABELS})
    sizes = Counter(rows)
    plan = expected_multiplicity([sizes[key] for key in keys], keys, sampling, LABELS)
    assert plan.expected @ plan.sizes == pytest.approx(len(rows))
    assert (np.abs(plan.counts - plan.expected * plan.sizes) < 1).all()
    assert (plan.expected <= setting["max_multiplier"] * (1 + 1e-9)).all()


@given(ROWS, st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_without_boosts_below_one_no_row_is_lost(rows: list[Pair], alpha: float, stratified: bool) -> None:
    sampling = OversampleConfig(alpha=alpha, max_multiplier=3.0, stratified=stratified)
    times = multiplicities(table([s for s, _ in rows], [p for _, p in rows]), LABELS, sampling, seed=0, epoch=0)
    assert times.min() >= 1
    assert times.max() <= 3
    if alpha == 0:
        assert (times == 1).all()


def test_keep_rescales_by_hand() -> None:
    # 8 and 2 rows, alpha 1: M = 5, u = 1 and 2.5, 13 rows; back to 10: 80/13 = 6.15 and 50/13 = 3.85, so 6 and 4
    sampling = OversampleConfig(alpha=1.0, max_multiplier=4.0, stratified=True, size="keep")
    comments = table([0] * 8 + [1] * 2, [0] * 10)
    assert rows_by_pair(comments, multiplicities(comments, LABELS, sampling, seed=0, epoch=0)) == {(0, 0): 6, (1, 0): 4}


def test_rows_with_a_missing_label_are_a_stratum_with_the_boosts_they_have() -> None:
    sampling = OversampleConfig(alpha=0.0, max_multiplier=9.0, boosts={"polarization": {"objective": 3.0}}, stratified=True)
    comments = table([0, 0, None, None], [0, 1, 1, None])
    assert multiplicities(comments, LABELS, sampling, seed=0, epoch=0).tolist() == [1, 3, 3, 1]
    ids, keys = stratum_ids({"a": np.array([1, -1, 0, 1]), "b": np.array([-1, 0, 0, -1])})
    assert keys == [(None, 0), (0, 0), (1, None)]
    assert ids.tolist() == [2, 0, 1, 2]


def test_median_is_of_fully_labelled_strata_and_of_all_where_there_are_none() -> None:
    sampling = OversampleConfig()
    assert expected_multiplicity([10, 20, 7], [(0, 0), (1, 0), (None, 0)], sampling, LABELS).median == 15
    assert expected_multiplicity([10, 20], [(None, 0), (0, None)], sampling, LABELS).median == 15


def test_each_epoch_and_seed_draws_other_rows_evenly() -> None:
    comments = table([0] * 300 + [1] * 100, [0] * 400)
    sampling = OversampleConfig(alpha=0.5, stratified=True)  # M = 200, u = 1.5 for the 100
    times = np.array([multiplicities(comments, LABELS, sampling, seed=0, epoch=epoch)[300:] for epoch in range(400)])
    assert (times.sum(axis=1) == 150).all()
    assert np.abs(times.mean(axis=0) - 1.5).max() < 0.125  # five standard errors of 400 fair coins
    other = multiplicities(comments, LABELS, sampling, seed=1, epoch=0)[300:]
    assert 20 < (other != times[0]).sum() < 80


def test_hash_is_pinned_and_sees_only_the_id() -> None:
    """Golden: a change here changes the rows of every epoch of every recorded run."""
    assert row_hash(["a", "0", "ñ😀"], 0, 0).tolist() == [15562635417301160447, 15607315368159037558, 13921106700061769949]
    assert row_hash(["a"], 1, 0).tolist() == [6766376766896129616]
    assert row_hash(["a"], 0, 1).tolist() == [15788091699785774633]
    assert row_hash(["a"], -1, 1).tolist() == [2579720086336759325]
    ids = [str(i) for i in range(1000)]
    whole = row_hash(ids, 7, 3)
    for kind in (pa.string(), pa.large_string()):
        cut = pa.chunked_array([pa.array(ids[:1], kind), pa.array(ids[1:400], kind), pa.array(ids, kind)[400:]])
        np.testing.assert_array_equal(row_hash(cut, 7, 3), whole)
    np.testing.assert_array_equal(row_hash(ids[990:], 7, 3), whole[990:])


def test_hash_is_uniform() -> None:
    bits = row_hash([str(i) for i in range(4096)], 0, 0)[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 64
    cells = np.bincount((row_hash([f"id-{i}" for i in range(6400)], 5, 9) >> np.uint64(58)).astype(int), minlength=64)
    assert ((cells - 100) ** 2 / 100).sum() < 120  # chi squared, 63 degrees of freedom: p < 1e-4


def test_equal_hashes_are_told_apart_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarity.data.oversample.table_hash", lambda rows, seed, epoch: np.zeros(len(rows), dtype=np.uint64))
    comments = table([0] * 9 + [1] * 3, [0] * 12, ids=[*"abcdefghi", "z", "b2", "a2"])  # M = 6, u = 1.5: 5 of the 3, 2 extra
    times = multiplicities(comments, LABELS, OversampleConfig(alpha=0.5, stratified=True), seed=0, epoch=0)
    assert times.tolist() == [1] * 9 + [1, 2, 2]


def test_repeat_rows_puts_copies_side_by_side() -> None:
    repeated = repeat_rows(table([0, 1, 2], [0, 0, None]), np.array([2, 0, 1]))
    assert repeated["row_id"].to_pylist() == ["r0", "r0", "r2"]
    assert repeated["multiplicity"].to_pylist() == [2, 2, 1]
    assert repeated["polarization"].to_pylist() == [0, 0, None]


@pytest.mark.parametrize(
    ("boosts", "message"),
    [
        ({"polarisation": {"objective": 2.0}}, "did you mean 'polarization'"),
        ({"polarization": {"objectiv": 2.0}}, "did you mean 'objective'"),
    ],
)
def test_unknown_boosts_are_refused(boosts: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        multiplicities(table([0], [0]), LABELS, OversampleConfig(boosts=boosts), seed=0, epoch=0)


def test_no_rows_give_no_rows() -> None:
    assert multiplicities(table([], []), LABELS, OversampleConfig(stratified=True), seed=0, epoch=0).tolist() == []


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=9))
def test_three_tasks_of_other_sizes(sizes: list[int]) -> None:
    """Tasks and classes are data: strata of any number of tasks."""
    keys = list(product(range(2), range(3), range(2)))[: len(sizes)]
    ids = np.repeat(np.arange(len(sizes)), sizes)
    columns = {name: np.array([keys[i][t] for i in ids]) for t, name in enumerate("abc")}
    found, found_keys = stratum_ids(columns)
    counted: dict[tuple[int | None, ...], int] = defaultdict(int)
    for stratum in found:
        counted[found_keys[stratum]] += 1
    assert counted == dict(zip(keys, sizes, strict=True))


def test_row_ids_hashed_in_portions_hash_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pa.chunked_array([[f"r{i}" for i in range(50)], [], [f"s{i}" for i in range(30)]], type=pa.large_string())
    whole = row_hash(ids, 3, 1)
    monkeypatch.setattr("polarity.data.oversample._HASHED_AT_ONCE", 7)
    assert np.array_equal(row_hash(ids, 3, 1), whole)
    assert np.array_equal(row_hash(ids.combine_chunks(), 3, 1), whole)
