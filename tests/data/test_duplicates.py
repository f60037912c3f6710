"""The join finds exactly what comparing every pair finds."""

import random
import string

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarity.data.duplicates import (
    NearIndex,
    duplicate_groups,
    find_leaks,
    is_near,
    near_duplicate_groups,
    normalise,
    shingles,
)
from polarity.data.sample import sample_comments


def comments_table(rows: list[tuple[str, str]], prefix: str = "") -> pa.Table:
    text = pa.large_string()
    ids = pa.array([f"{prefix}{i}" for i in range(len(rows))], text)
    return pa.table({"row_id": ids, "title": pa.array([t for t, _ in rows], text), "comment": pa.array([c for _, c in rows], text)})


def jaccard(one: str, other: str) -> float:
    a, b = shingles(normalise(one)), shingles(normalise(other))
    return len(a & b) / len(a | b)


def leaks_by_comparing_all(train: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> list[tuple[str, str, str, float]]:
    found = []
    for i, (title, comment) in enumerate(train):
        exact = [j for j, (t, c) in enumerate(held_out) if t == title and normalise(c) == normalise(comment)]
        near = [
            (-jaccard(comment, c), j)
            for j, (_, c) in enumerate(held_out)
            if min(len(normalise(comment)), len(normalise(c))) >= 20 and jaccard(comment, c) >= 0.9
        ]
        if exact:
            found.append((f"t{i}", f"h{exact[0]}", "duplicate", 1.0))
        elif near:
            similarity, j = min(near)
            found.append((f"t{i}", f"h{j}", "near", -similarity))
    return found


def typed_again(rng: random.Random, text: str, edits: int) -> str:
    letters = list(text)
    for _ in range(edits):
        at = rng.randrange(len(letters))
        letters[at : at + rng.choice([0, 1, 1])] = rng.choice([[], [rng.choice(string.ascii_lowercase)], ["  "]])
        letters = letters or ["x"]
    return "".join(letters)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  Salamat   PO ", "salamat po"),
        ("salamat\u200b po\ufeff", "salamat po"),
        ("\ufb01nal \uff21\uff22\uff23", "final abc"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u2764\ufe0f ok", "\u2764 ok"),
        ("a\u00a0\n\tb", "a b"),
    ],
)
def test_normalise_ignores_what_the_eye_ignores(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_normalise_keeps_what_the_eye_sees() -> None:
    assert len({normalise(text) for text in ("ok", "ok!", "ok?", "ok 😂", "ok 🤣", "o k")}) == 6


@given(st.text())
def test_normalise_twice_is_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_near_is_jaccard_of_at_least_nine_tenths(shared: int, one: int, other: int) -> None:
    union = one + other + shared
    if union:
        assert is_near(shared, one + shared, other + shared) == (10 * shared >= 9 * union)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_leaks_are_those_of_comparing_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    bases = ["".join(rng.choices("abcde ", k=rng.choice([5, 19, 20, 21, 40, 90, 200]))).strip() or "x" for _ in range(8)]

    def rows(count: int) -> list[tuple[str, str]]:
        return [(rng.choice("ABC"), typed_again(rng, rng.choice(bases), rng.choice([0, 0, 1, 2, 5, 12]))) for _ in range(count)]

    train, held_out = rows(30), rows(20)
    found = find_leaks(comments_table(train, "t"), comments_table(held_out, "h"))
    expected = leaks_by_comparing_all(train, held_out)
    assert [tuple(row.values()) for row in found.to_pylist()] == expected


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_near_groups_are_those_of_comparing_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    bases = ["".join(rng.choices("abcdefgh ", k=rng.choice([25, 60, 150]))).strip() for _ in range(6)]
    rows = [("T", typed_again(rng, rng.choice(bases), rng.choice([0, 1, 3, 6]))) for _ in range(40)]
    linked = {(i, j) for i in range(40) for j in range(40) if jaccard(rows[i][1], rows[j][1]) >= 0.9}
    long = [i for i in range(40) if len(normalise(rows[i][1])) >= 20]
    groups: list[set[int]] = []
    for i in long:
        touching = [group for group in groups if any((i, j) in linked for j in group)]
        groups = [group for group in groups if group not in touching] + [set().union({i}, *touching)]
    expected = {frozenset(map(str, group)) for group in groups if len({normalise(rows[i][1]) for i in group}) > 1}
    assert {frozenset(group) for group in near_duplicate_groups(comments_table(rows))} == expected


def test_the_threshold_itself_is_near() -> None:
    # 18 of 20 shingles shared: 0.9 exactly, which floating point must not lose; 17 of 19 are too few
    shared = string.ascii_letters[:22]
    assert jaccard(shared + "0", shared + "1") == 18 / 20
    assert [similarity for _, similarity in NearIndex([shared + "0"]).near(shared + "1")] == [0.9]
    assert list(NearIndex([shared[1:] + "0"]).near(shared[1:] + "1")) == []


def test_short_comments_are_duplicates_only_under_their_title() -> None:
    train = comments_table([("A", "Salamat po"), ("B", "salamat po"), ("A", "salamat pa")])
    found = find_leaks(train, comments_table([("A", "salamat  po")], "h"))
    assert found.to_pylist() == [{"train_row_id": "0", "held_out_row_id": "h0", "kind": "duplicate", "similarity": 1.0}]


def test_long_comments_are_near_under_any_title() -> None:
    text = "kailan po matatapos ang tulay na ito"
    found = find_leaks(comments_table([("A", text)]), comments_table([("B", text.upper())], "h"))
    assert found.to_pylist() == [{"train_row_id": "0", "held_out_row_id": "h0", "kind": "near", "similarity": 1.0}]


def test_groups() -> None:
    rows = [("A", "Salamat"), ("A", "salamat "), ("B", "Salamat"), ("A", "Salamat"), ("A", "iba"), ("B", "iba")]
    assert duplicate_groups(comments_table(rows), normalised=False) == [["0", "3"]]
    assert duplicate_groups(comments_table(rows), normalised=True) == [["0", "1", "3"]]


def test_empty_tables_leak_nothing() -> None:
    some, none = sample_comments(10), sample_comments(0)
    for pair in ((some, none), (none, some), (none, none)):
        leaks = find_leaks(*pair)
        assert leaks.num_rows == 0
        assert leaks.column_names == ["train_row_id", "held_out_row_id", "kind", "similarity"]
    assert near_duplicate_groups(none) == []
