"""The rows of a study: one split for all arms and seeds, in which the rows that measure an effect have decided nothing (rule 8).

train       the configuration's training rows less the inner validation rows
validation  an inner part of the training rows (15 %, stratified by all labels jointly, by the split's seed): early stopping and ASHA
test        the effect rows: the configuration's validation rows, or its test rows where that is asked for
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import user_cache_dir
from polarity.config import Config, SplitConfig
from polarity.data.duplicates import find_leaks
from polarity.data.ledger import Ledger, build_ledger
from polarity.data.split import load_splits, split_indices
from polarity.data.tokenize import tokenize
from polarity.encoders import EncoderFiles, load_tokenizer, resolve_encoder
from polarity.errors import ConfigError, DataError

Say = Callable[[str], None]
Tokens = dict[str, pa.Table]

INNER_SHARE = 0.15
_OWN = ("max_length", "max_comment", "max_title", "order")
"""What an arm may change about the texts; tokens are made once for each combination."""
_FREE = {*_OWN, "oversample"}


@dataclass(frozen=True)
class StudyRows:
    """Canonical tables `train`, `validation` and `test` (see the module), and a hash of what is in them."""

    parts: dict[str, pa.Table]
    fingerprint: str

    @property
    def counts(self) -> dict[str, int]:
        return {name: table.num_rows for name, table in self.parts.items()}


def study_rows(config: Config, *, effects_on: str, say: Say) -> StudyRows:
    """Read and cut the data as `config` says; `effects_on` is `validation` or `test`. Raises DataError as `load_splits` does."""
    splits = load_splits(config.data, say)
    effect = splits.parts.get(effects_on)
    if effect is None:
        raise ConfigError(f"--effects-on {effects_on}: the data has no such part; give it one, or measure on the validation rows")
    inner = SplitConfig(kind="joint", seed=config.data.split.seed, validation=INNER_SHARE, test=0.0)
    train_rows, held_rows, _ = split_indices(splits.train, inner, list(config.data.tasks))
    train, held = splits.train.take(pa.array(train_rows)), splits.train.take(pa.array(held_rows))
    if config.data.duplicates != "allow":
        train = _without_leaks(train, held, say)
    _check_classes({"training": train, "inner validation": held}, config)
    parts = {"train": train, "validation": held, "test": effect}
    say(
        f"study rows: {train.num_rows:,} train, {held.num_rows:,} of the training rows stop early and rank (inner validation), "
        f"{effect.num_rows:,} {effects_on} rows measure effects"
    )
    return StudyRows(parts, _fingerprint(parts, config))


def _without_leaks(train: pa.Table, held: pa.Table, say: Say) -> pa.Table:
    """Duplicates of inner validation rows leave the training rows, as those of the outer ones did."""
    leaks = find_leaks(train, held, say)
    if not leaks.num_rows:
        return train
    rows = pc.unique(leaks["train_row_id"])
    say(f"{len(rows):,} training rows have a duplicate or near duplicate among the inner validation rows; dropped from train")
    return train.filter(pc.invert(pc.is_in(train["row_id"], value_set=rows)))


def _check_classes(parts: Mapping[str, pa.Table], config: Config) -> None:
    for part, table in parts.items():
        for task, labels in config.labels.items():
            present = set(pc.unique(table[task]).to_pylist())
            absent = [label for index, label in enumerate(labels) if index not in present]
            if absent:
                raise DataError(
                    f"the {part} rows of the study have no row of {task} that is {' or '.join(absent)}: a study takes {INNER_SHARE:.0%} of "
                    "the training rows for early stopping, so each class needs about ten of them"
                )


def _fingerprint(parts: Mapping[str, pa.Table], config: Config) -> str:
    digest = hashlib.sha256()
    for name, table in parts.items():
        digest.update(name.encode())
        for column in ("row_id", "title", "comment", *config.labels):
            # As text, so that chunks and offsets do not matter.
            digest.update("\x1f".join(map(str, table[column].to_pylist())).encode())
    return digest.hexdigest()


def check_same_rows(configs: Mapping[str, Config], reference: str) -> None:
    """Refuse arms that would see other rows, tasks or another number of workers than the reference. Raises ConfigError."""
    base = configs[reference]
    wanted = base.data.model_dump(exclude=_FREE)
    for name, config in configs.items():
        own = config.data.model_dump(exclude=_FREE)
        changed = [f"data.{key}" for key in wanted if own[key] != wanted[key]]
        if config.cluster != base.cluster:
            changed.append("cluster")
        if changed:
            raise ConfigError(
                f"the arm {name} changes {', '.join(changed)}: arms of a study are compared on the same rows and in the same place. "
                "Set it for all arms, or run another study"
            )


def token_key(config: Config) -> str:
    """Arms of one key share their tokens."""
    own: dict[str, Any] = {key: getattr(config.data, key) for key in _OWN}
    return hashlib.sha256(repr((config.model.encoder, config.model.revision, sorted(own.items()))).encode()).hexdigest()[:16]


def tokenized(rows: StudyRows, configs: Mapping[str, Config], say: Say) -> dict[str, Tokens]:
    """{key: tokenized parts}, one for each `token_key` among the arms. Raises ConfigError naming an arm whose length does not fit."""
    from polarity.model.encoder import check_length  # torch takes seconds to import

    found: dict[str, Tokens] = {}
    for name, config in configs.items():
        key = token_key(config)
        if key in found:
            continue
        encoder = resolve_encoder(config.model.encoder, config.model.revision)
        try:
            check_length(config.data, encoder.folder)
        except ConfigError as error:
            raise ConfigError(f"arm {name}: {error}") from error
        tokenizer = load_tokenizer(encoder.folder)
        found[key] = {
            part: tokenize(table, tokenizer, config.data, cache_dir=user_cache_dir(), say=say).drop_columns(
                ["comment", "length", *(["title"] if part == "train" else [])]
            )
            for part, table in rows.parts.items()
        }
    return found


def encoders_of(configs: Mapping[str, Config]) -> dict[str, EncoderFiles]:
    """{arm: its encoder's files}, each encoder checked and hashed once."""
    found = {which: resolve_encoder(*which) for which in {(c.model.encoder, c.model.revision) for c in configs.values()}}
    return {name: found[config.model.encoder, config.model.revision] for name, config in configs.items()}


@cache
def pad_id(encoder: str, revision: str | None) -> int:
    """The padding token of an encoder's tokenizer."""
    return int(load_tokenizer(resolve_encoder(encoder, revision).folder).pad_token_id)


def ledgers(rows: StudyRows, configs: Mapping[str, Config]) -> dict[str, Ledger]:
    """{arm: what its oversampling and class weights make of the inner training rows}."""
    return {name: build_ledger(rows.parts["train"], config) for name, config in configs.items()}
