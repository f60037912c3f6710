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
    gram_sets,
    near_components,
    near_duplicate_groups,
    normalise,
    similarities,
)
from polarity.data.sample import sample_comments


def comments_table(rows: list[tuple[str, str]], prefix: str = "") -> pa.Table:
    text = pa.large_string()
    ids = pa.array([f"{prefix}{i}" for i in range(len(rows))], text)
    return pa.table({"row_id": ids, "title": pa.array([t for t, _ in rows], text), "comment": pa.array([c for _, c in rows], text)})


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)}


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


def closest(indexed: list[str], text: str) -> tuple[int, float]:
    found, similarity = NearIndex(len(indexed), lambda rows: [indexed[row] for row in rows]).closest([text])
    return int(found[0]), float(similarity[0])


def test_the_threshold_itself_is_near() -> None:
    # 18 of 20 shingles shared: 0.9 exactly, which floating point must not lose; 17 of 19 are too few
    shared = string.ascii_letters[:22]
    assert jaccard(shared + "0", shared + "1") == 18 / 20
    assert closest([shared + "0"], shared + "1") == (0, 0.9)
    assert closest([shared[1:] + "0"], shared[1:] + "1") == (-1, 0.0)


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


def campaign(count: int) -> list[str]:
    text = "please remember to vote on sunday because the new road and the school and the water tax are all decided by this council "
    return [f"{text}{i:06d}" for i in range(count)]


def test_thousands_of_near_copies_are_found_in_time_near_proportional_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = {}
    for count in (400, 1600):
        rows = [("T", text) for text in campaign(count)]
        pairs = counted_pairs(monkeypatch)
        assert [len(group) for group in near_duplicate_groups(comments_table(rows))] == [count]
        assert find_leaks(comments_table(rows[::2], "t"), comments_table(rows[1::2], "h")).num_rows == count // 2
        compared[count] = sum(pairs)
    assert compared[1600] < 8 * compared[400]  # of 16 times as many pairs


def counted_pairs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    pairs: list[int] = []

    def counting(one: object, a: list[int], other: object, b: list[int]) -> object:
        pairs.append(len(a))
        return similarities(one, a, other, b)  # type: ignore[arg-type]

    monkeypatch.setattr("polarity.data.duplicates.similarities", counting)
    return pairs


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_half_copies_are_grouped_as_by_comparing_all(seed: int) -> None:
    """Many comments that share most of their grams, some near and some not quite: more than one pivot is needed."""
    rng = random.Random(seed)
    base = "".join(rng.choices("abcdefgh ", k=120))
    texts = list(dict.fromkeys(normalise(typed_again(rng, base, rng.choice([1, 2, 3, 4]))) for _ in range(60)))
    near = {(i, j) for i, one in enumerate(texts) for j, other in enumerate(texts) if jaccard(one, other) >= 0.9}
    roots, capped = near_components(texts)
    assert capped == 0
    expected = list(range(len(texts)))
    for i, j in sorted(near):
        pair = {expected[i], expected[j]}
        expected = [min(pair) if root in pair else root for root in expected]
    assert len(set(zip(roots.tolist(), expected, strict=True))) == len(set(roots.tolist())) == len(set(expected))


def test_what_met_the_cap_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarity.data.duplicates.MOST_PIVOTS", 1)
    rng, said = random.Random(3), list[str]()
    base = "".join(rng.choices("abcdefgh ", k=230))
    far = [base[:190] + "".join(rng.choices("qrstuvw", k=40)) for _ in range(20)]  # they share 70 % of their grams, and no two are near
    near_duplicate_groups(comments_table([("T", text) for text in far]), said.append)
    assert any("groups of candidates were compared with" in line for line in said)


@given(st.lists(st.text(), max_size=5))
def test_gram_sets_are_the_shingles(texts: list[str]) -> None:
    sets = gram_sets([normalise(text) for text in texts])
    assert sets.sizes.tolist() == [len(shingles(normalise(text))) for text in texts]


@pytest.mark.parametrize("size", [1, 8, 9, 10, 16, 90, 91, 500, 5000])
def test_the_smallest_and_the_largest_set_that_is_near_are_found(size: int) -> None:
    rng = random.Random(size)
    letters = [chr(0x4E00 + i) for i in range(20_000)]
    text = "".join(rng.sample(letters, size + 4))
    fewer = text[: len(text) - (size - -(-9 * size // 10))]
    more = text + "".join(rng.sample(letters, 10 * size // 9 - size))
    for other in (fewer, more):
        assert closest([text], other)[0] == 0
        assert closest([other], text)[0] == 0
        assert len(set(near_components([text, other])[0].tolist())) == 1


def test_blocks_of_training_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = sample_comments(300), sample_comments(200)
    whole = find_leaks(train, held_out)
    monkeypatch.setattr("polarity.data.duplicates.ROWS_AT_ONCE", 37)
    assert whole.num_rows and find_leaks(train, held_out).equals(whole)
