"""Texts into padded batches with numpy and a Rust tokenizer alone: the source of this module goes into exported folders.

The rule of the lengths is `polarity.data.tokenize`'s own; here it is written row by row, without Arrow. Shapes: N rows, L tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarity.config import DataConfig
from polarity.data.tokenize import Frame, frames, kept_lengths

Row = tuple[list[int], list[int]]
"""Token ids and segment ids."""


def encode_texts(
    backend: Any, comments: Sequence[str], titles: Sequence[str] | None, data: DataConfig
) -> list[tuple[list[int], list[int]]]:
    """(token ids, segment ids) of each row. `titles` are the posts that are answered, "" or None where there is none.

    `backend` neither cuts nor pads; of `data`, `order`, `max_length`, `max_comment` and `max_title` are read.
    """
    posts = [""] * len(comments) if titles is None else list(titles)
    if len(posts) != len(comments):
        raise ValueError(f"{len(comments)} comments but {len(posts)} titles: give one title a comment")
    single, pair = frames(backend)
    bodies = [encoding.ids for encoding in backend.encode_batch_fast(list(comments), add_special_tokens=False)]
    heads = [encoding.ids for encoding in backend.encode_batch_fast(posts, add_special_tokens=False)]
    heads = [ids if post else [] for ids, post in zip(heads, posts, strict=True)]
    of_body, of_head = (np.array([len(ids) for ids in lists], dtype=np.int64) for lists in (bodies, heads))
    kept_comment, kept_title = kept_lengths(of_body, of_head, data, single.size, pair.size)
    rows = []
    for body, head, of_comment, of_title in zip(bodies, heads, kept_comment, kept_title, strict=True):
        comment, title = body[:of_comment], head[:of_title]
        if not title:
            rows.append(_framed(single, comment, []))
        else:
            rows.append(_framed(pair, title, comment) if data.order == "title_first" else _framed(pair, comment, title))
    return rows


def _framed(frame: Frame, first: list[int], second: list[int]) -> Row:
    parts = [frame.before, first, frame.middle, second, frame.after]
    ids = [token for part in parts for token in part]
    return ids, [kind for part, kind in zip(parts, frame.types, strict=True) for _ in part]


def longest_first(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Positions (N,) of the rows by falling length: batches of rows of one length waste no padding."""
    return np.argsort([-len(ids) for ids, _ in rows], kind="stable")


def pad_rows(rows: Sequence[Row], pad_id: int, *, types: bool) -> dict[str, NDArray[np.int64]]:
    """`input_ids`, `attention_mask` and, with `types`, `token_type_ids`, each (N, L), padded on the right to the longest row."""
    longest = max(len(ids) for ids, _ in rows)
    batch = {"input_ids": np.full((len(rows), longest), pad_id, dtype=np.int64)}
    names = ["attention_mask", "token_type_ids"] if types else ["attention_mask"]
    batch.update({name: np.zeros((len(rows), longest), dtype=np.int64) for name in names})
    for row, (ids, kinds) in enumerate(rows):
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        if types:
            batch["token_type_ids"][row, : len(ids)] = kinds
    return batch
