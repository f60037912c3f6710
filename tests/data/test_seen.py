"""Rows are known again by hashes: duplicates always, near duplicates by the rule of training."""

import random

import numpy as np
import pyarrow as pa
import pytest

from polarity.data.seen import SCHEMA, SeenRows, title_keys, titles_apart
from tests.tiny import tiny_comments

WORDS = ["".join(letters) for letters in zip("bdgklmnprst" * 9, "aeiou" * 20, "lmnrstkbg" * 11, "aeiou" * 20, strict=False)]


def rows(comments: list[str], titles: list[str] | None = None) -> pa.Table:
    return pa.table({"title": titles or ["rice prices"] * len(comments), "comment": comments})


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def test_every_row_of_the_run_is_known_by_its_strongest_part() -> None:
    table = tiny_comments(300)
    parts = {"train": table.slice(0, 200), "validation": table.slice(200, 50), "test": table.slice(250)}
    found = SeenRows.of(parts).match(table)
    assert found.counts() == {"train": 200, "validation": 50, "test": 50}
    assert not found.near.any()
    both = SeenRows.of({"validation": table.slice(190, 20), "train": table.slice(0, 200)}).match(table)
    assert both.counts() == {"train": 200, "validation": 10}


def test_what_the_eye_does_not_see_changes_nothing() -> None:
    seen = SeenRows.of({"train": rows(["Mali ang ulat", "so true"], ["Rice  prices", "City hall"])})
    asked = rows(["mali  ang\u200b ulat ", "mali ang ulat", "SO TRUE", "so true"], ["rice prices", "City hall", "city hall ", "other"])
    # a short comment under another title may be anybody's
    assert seen.match(asked).part.tolist() == [0, -1, 0, -1]


def test_a_long_comment_is_known_under_another_title_and_with_a_slip() -> None:
    text = "the new road was opened today by a mayor whom nobody in our city has ever seen at work"
    found = SeenRows.of({"train": rows([text])}).match(rows([text, text.replace("today", "todey"), text[::-1]], ["else"] * 3))
    assert found.part.tolist() == [0, 0, -1] and found.near.tolist() == [True, True, False]


def test_near_is_the_rule_of_training_within_the_error_that_is_stated() -> None:
    rng = random.Random(5)
    first, second, similarity = [], [], []
    for _ in range(2500):
        text = words(rng, rng.randint(5, 25))
        other = list(text)
        for _ in range(rng.choice([1, 1, 2, 4, 8])):
            other[rng.randrange(len(other))] = rng.choice("xyz")
        a, b = ({words[i : i + 5] for i in range(len(words) - 4)} for words in (text, "".join(other)))
        first.append(text)
        second.append("".join(other))
        similarity.append(len(a & b) / len(a | b))
    alike = SeenRows.of({"train": rows(first)}).match(rows(second, ["another"] * len(second))).of("train")
    near, far = np.array(similarity) >= 0.9, np.array(similarity) < 0.7
    assert near.sum() > 200 and far.sum() > 200
    assert alike[near].mean() > 0.99 and alike[far].mean() < 0.01


def test_a_union_holds_what_any_run_has_seen_each_row_once() -> None:
    table = tiny_comments(90)
    one, two = SeenRows.of({"train": table.slice(0, 60)}), SeenRows.of({"train": table.slice(30, 30), "validation": table.slice(60)})
    both = SeenRows.union([one, two])
    assert both.match(table).counts() == {"train": 60, "validation": 30}
    assert both.table.num_rows == 90 and both.table.schema == SCHEMA


def test_hashes_hold_no_text() -> None:
    table = rows(["kampon ng mayor ang nagsulat nito"], ["secretword"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_table(SeenRows.of({"train": table}).table)
    written = sink.getvalue().to_pybytes()
    assert b"secretword" not in written and b"mayor" not in written


@pytest.mark.parametrize(
    ("training", "judged", "apart"),
    [
        (["a", "b"], ["c", "d", "c"], True),
        (["a", "b"], ["c", "B "], False),  # the same title, written otherwise
        (["a", ""], ["c", ""], True),  # rows without a title have none in common
        (["a", ""], ["", ""], False),  # no title at all: rows
    ],
)
def test_titles_are_the_unit_where_none_stands_on_both_sides(training: list[str], judged: list[str], apart: bool) -> None:
    column = pa.chunked_array([pa.array(judged)])
    assert titles_apart(title_keys(pa.chunked_array([pa.array(training)])), column) is apart
    assert titles_apart(SeenRows.of({"train": rows(["x"] * len(training), training)}).titles("train"), column) is apart


def test_empty_parts_and_tables() -> None:
    nothing = rows([], [])
    assert SeenRows.of({"train": nothing}).match(rows(["a comment of some length, seen nowhere"])).counts() == {}
    assert len(SeenRows.of({"train": rows(["a comment of some length"])}).match(nothing).part) == 0
