"""Comments -> token ids, as Arrow lists, each distinct title tokenized once, cached by fingerprint.

Both texts are tokenized without special tokens and cut on the right (a text that is too long keeps its beginning):

- at most `max_comment` and `max_title` tokens each;
- title_first: the comment is cut to what `max_length` leaves; where that is below 32 tokens, the comment keeps 32 (or all it
  has) and the title is cut instead;
- comment_first: the title is cut to what the comment leaves; the comment is cut only where it fills `max_length` alone.

A row whose title has no tokens (no title, `max_title: 0`, no room left) is the comment alone, with the special tokens of a
single text and their room. The special tokens come from the tokenizer's own post-processor, run once on a probe.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity.arrays import Integers
from polarity.artifacts import column_of_objects, mapped_table, replacing, user_cache_dir
from polarity.config import MIN_COMMENT_TOKENS, DataConfig
from polarity.data.duplicates import spans
from polarity.errors import EncoderError, Say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Int32 = NDArray[np.int32]

BATCH_ROWS = 8192
FORMAT_VERSION = 1


def tokenize_parts(parts: Mapping[str, pa.Table], tokenizer: "PreTrainedTokenizerFast", data: DataConfig, say: Say) -> dict[str, pa.Table]:
    """What a training needs of its parts: tokens for the texts, which are kept in the user's cache, and no title of a training row."""
    return {
        name: tokenize(table, tokenizer, data, cache_dir=user_cache_dir(), say=say).drop_columns(
            ["comment", "length", *(["title"] if name == "train" else [])]
        )
        for name, table in parts.items()
    }


def tokenize(
    comments: pa.Table,
    tokenizer: "PreTrainedTokenizerFast",
    data: DataConfig,
    *,
    cache_dir: Path | None = None,
    say: Say | None = None,
) -> pa.Table:
    """`comments` with the columns `input_ids` (large_list<int32>), `token_type_ids` (large_list<int8>) and `length` (int32).

    `token_type_ids` are there where the tokenizer names them (see `polarity.encoders.load_tokenizer`).
    With `cache_dir` (see `polarity.artifacts.user_cache_dir`) the ids are kept in a file named by the fingerprint of tokenizer, length
    settings and texts; a damaged file is made anew, and `say` is told, as it is where the cache cannot be written.
    """
    backend = plain_backend(tokenizer)
    types = "token_type_ids" in tokenizer.model_input_names
    say = say or (lambda _: None)
    if cache_dir is None:
        return with_columns(comments, tokenize_columns(comments, backend, data, types))
    print_ = fingerprint(comments, backend.to_str(), data, types)
    path = cache_dir / "tokens" / f"{print_}.arrow"
    columns = _load(path, print_, comments.num_rows, say)
    if columns is None:
        columns = tokenize_columns(comments, backend, data, types)
        _save(path, print_, columns, say)
    return with_columns(comments, columns)


def with_columns(comments: pa.Table, columns: pa.Table) -> pa.Table:
    """A table with another's columns behind its own."""
    for name in columns.column_names:
        comments = comments.append_column(name, columns[name])
    return comments


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> Any:
    """A copy of the Rust tokenizer that neither cuts nor pads (some tokenizer.json files carry both)."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


@dataclass(frozen=True)
class Frame:
    """The special tokens around one or two texts, and the segment of each part: `before` A `middle` B `after`."""

    before: tuple[int, ...]
    middle: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.middle) + len(self.after)


def frames(backend: Any) -> tuple[Frame, Frame]:
    """(single, pair) as the tokenizer's post-processor makes them. Raises EncoderError for one that is no fixed frame."""
    return _frame(backend, pair=False), _frame(backend, pair=True)


def _frame(backend: Any, pair: bool) -> Frame:
    """Reads the frame off one probe and proves it on another, of other lengths."""
    short, long = "a", "a b a b a b"
    frame = _read_frame(backend.encode(short, long) if pair else backend.encode(short), pair)
    probe = backend.encode(long, short) if pair else backend.encode(long)
    first, second = (tuple(backend.encode(text, add_special_tokens=False).ids) for text in (long, short))
    parts = [frame.before, first, frame.middle, second if pair else (), frame.after]
    ids = [token for part in parts for token in part]
    types = [kind for part, kind in zip(parts, frame.types, strict=True) for _ in part]
    if ids != probe.ids or types != probe.type_ids:
        raise EncoderError("the tokenizer's post-processor is no fixed frame of special tokens around the texts; choose another encoder")
    return frame


def _read_frame(probe: Any, pair: bool) -> Frame:
    segments = probe.sequence_ids
    first = [i for i, segment in enumerate(segments) if segment == 0]
    second = [i for i, segment in enumerate(segments) if segment == 1] if pair else [len(segments)]
    if not first or not second or first[-1] >= second[0]:
        raise EncoderError("the tokenizer's post-processor drops or turns round the texts; choose another encoder")
    middle_end = second[0] if pair else first[-1] + 1
    after_start = second[-1] + 1 if pair else first[-1] + 1
    places = [
        (0, first[0]),
        (first[0], first[-1] + 1),
        (first[-1] + 1, middle_end),
        (middle_end, after_start),
        (after_start, len(segments)),
    ]
    before, _, middle, _, after = (tuple(probe.ids[start:end]) for start, end in places)
    kinds = [probe.type_ids[start] if end > start else 0 for start, end in places]
    return Frame(before, middle, after, (kinds[0], kinds[1], kinds[2], kinds[3], kinds[4]))


def kept_lengths(comment: Integers, title: Integers, data: DataConfig, single: int, pair: int) -> tuple[Integers, Integers]:
    """How many tokens each row's comment and title keep; `single` and `pair` count special tokens. See the module's text."""
    comment = np.minimum(comment, comment if data.max_comment is None else data.max_comment)
    title = np.minimum(title, title if data.max_title is None else data.max_title)
    room = data.max_length - pair
    kept_comment = np.minimum(comment, room)
    if data.order == "title_first":
        kept_comment = np.minimum(comment, np.maximum(room - title, MIN_COMMENT_TOKENS))
    kept_title = np.minimum(title, room - kept_comment)
    alone = kept_title == 0
    kept_comment = np.where(alone, np.minimum(comment, data.max_length - single), kept_comment)
    return kept_comment, kept_title


@dataclass(frozen=True)
class Ragged:
    """Lists of ids end to end: list i is values[starts[i] : starts[i] + lengths[i]]."""

    values: Int32
    starts: Integers
    lengths: Integers

    def take(self, rows: Integers) -> "Ragged":
        """The lists of these rows."""
        return Ragged(self.values, self.starts[rows], self.lengths[rows])


def _encode(backend: Any, texts: list[str]) -> Ragged:
    ids = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    values = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
    return Ragged(values, np.cumsum(lengths) - lengths, lengths)


def tokenize_columns(comments: pa.Table, backend: Any, data: DataConfig, types: bool) -> pa.Table:
    """The columns that `tokenize` adds, without its cache; `backend` is a `plain_backend`, `types` whether to make token types."""
    single, pair = frames(backend)
    encoded = comments["title"].combine_chunks().dictionary_encode()
    distinct, which = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    titles = _encode(backend, distinct)
    titles.lengths[[index for index, text in enumerate(distinct) if text == ""]] = 0
    batches = []
    for start in range(0, comments.num_rows, BATCH_ROWS):
        texts = _encode(backend, comments["comment"].slice(start, BATCH_ROWS).to_pylist())
        rows = which[start : start + BATCH_ROWS].astype(np.int64)
        batches.append(_assemble(texts, titles, rows, data, (single, pair), types))
    return pa.concat_tables(batches) if batches else _empty(types)


def _empty(types: bool) -> pa.Table:
    fields = [("input_ids", pa.large_list(pa.int32()))] + ([("token_type_ids", pa.large_list(pa.int8()))] if types else [])
    return pa.schema([*fields, ("length", pa.int32())]).empty_table()


def _assemble(comments: Ragged, titles: Ragged, rows: Integers, data: DataConfig, around: tuple[Frame, Frame], types: bool) -> pa.Table:
    """Lays out before, A, middle, B, after of every row in one flat array; `rows` says which title each comment has."""
    single, pair = around
    kept_comment, kept_title = kept_lengths(comments.lengths, titles.lengths[rows], data, single.size, pair.size)
    title, comment = Ragged(titles.values, titles.starts[rows], kept_title), Ragged(comments.values, comments.starts, kept_comment)
    none = Ragged(comments.values, comments.starts, np.zeros_like(rows))
    alone = kept_title == 0
    length = kept_comment + kept_title + np.where(alone, single.size, pair.size)
    starts = np.cumsum(length) - length
    ids, kinds = np.empty(int(length.sum()), np.int32), np.zeros(int(length.sum()) if types else 0, np.int8)
    first, second = (title, comment) if data.order == "title_first" else (comment, title)
    # A row without a title is the comment alone: as A, whatever the order.
    for frame, of, a, b in ((single, alone, comment, none), (pair, ~alone, first, second)):
        chosen = np.flatnonzero(of)
        at = starts[chosen]
        before, middle, after = (_repeated(tokens, len(chosen)) for tokens in (frame.before, frame.middle, frame.after))
        parts = (before, a.take(chosen), middle, b.take(chosen), after)
        for part, kind in zip(parts, frame.types, strict=True):
            target = spans(at, part.lengths)
            ids[target] = part.values[spans(part.starts, part.lengths)]
            if types:
                kinds[target] = kind
            at = at + part.lengths
    offsets = pa.array(np.append(starts, length.sum()), pa.int64())
    columns = {"input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(ids))}
    if types:
        columns["token_type_ids"] = pa.LargeListArray.from_arrays(offsets, pa.array(kinds))
    return pa.table({**columns, "length": pa.array(length, pa.int32())})


def _repeated(tokens: tuple[int, ...], rows: int) -> Ragged:
    """The same tokens for each of so many rows."""
    return Ragged(np.array(tokens, np.int32), np.zeros(rows, np.int64), np.full(rows, len(tokens)))


def fingerprint(comments: pa.Table, backend: str, data: DataConfig, types: bool) -> str:
    """SHA-256 over all that decides the ids: format, tokenizer, length settings, and the texts row by row."""
    digest = _settings(backend, data, types)
    for name in ("title", "comment"):
        digest.update(_digest(comments[name].cast(pa.large_binary())))
    return digest.hexdigest()


def settings_hash(backend: str, data: DataConfig, types: bool) -> str:
    """SHA-256 over all that decides the ids but the texts."""
    return _settings(backend, data, types).hexdigest()


def _settings(backend: str, data: DataConfig, types: bool) -> "hashlib._Hash":
    settings = {
        "format": FORMAT_VERSION,
        "types": types,
        **{key: getattr(data, key) for key in ("order", "max_length", "max_comment", "max_title")},
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(hashlib.sha256(backend.encode()).digest())
    return digest


def _digest(column: pa.ChunkedArray) -> bytes:
    """Hash of a column of lists or strings, whatever its chunks: the lengths, then the values."""
    lengths, values = hashlib.sha256(), hashlib.sha256()
    for chunk in column.chunks:
        if len(chunk) == 0:
            continue
        offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths.update(np.diff(offsets).tobytes())
        if isinstance(chunk, pa.LargeListArray):
            values.update(chunk.values[offsets[0] : offsets[-1]].to_numpy().tobytes())
        elif chunk.buffers()[2] is not None:
            values.update(memoryview(chunk.buffers()[2])[offsets[0] : offsets[-1]])
    return lengths.digest() + values.digest()


def _table_digest(columns: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in columns.column_names:
        column = columns[name]
        digest.update(
            name.encode() + (_digest(column) if pa.types.is_large_list(column.type) else column.combine_chunks().to_numpy().tobytes())
        )
    return digest.hexdigest()


def _load(path: Path, print_: str, rows: int, say: Say) -> pa.Table | None:
    """The cached columns, or None where there are none or they are not what was written."""
    if not path.is_file():
        return None
    try:
        columns = mapped_table(path)
        meta = columns.schema.metadata or {}
        sound = (
            column_of_objects(columns.schema) is None  # first: to look at such a column runs code
            and meta.get(b"fingerprint") == print_.encode()
            and columns.num_rows == rows
            and meta.get(b"digest") == _table_digest(columns).encode()
        )
    except (OSError, pa.ArrowException, ValueError) as error:
        say(f"token cache {path}: damaged ({error}); tokenizing again")
        return None
    if not sound:
        say(f"token cache {path}: its content is not what was written; tokenizing again")
        return None
    return columns.replace_schema_metadata(None)


def _save(path: Path, print_: str, columns: pa.Table, say: Say) -> None:
    stamped = columns.replace_schema_metadata({"fingerprint": print_, "digest": _table_digest(columns)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, stamped.schema) as writer:
            writer.write_table(stamped)
    except OSError as error:
        say(f"token cache {path}: not written ({error}); the next run tokenizes again")
