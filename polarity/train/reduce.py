"""What makes the model that is trained smaller or cheaper than the one that is kept, behind one interface: `reduced`.

Frozen lower layers are run once for every row that is trained on or scored, and their output is kept beside the corpus; else the word
table is cut to the rows in use; on a CPU dropout has cheap masks. A process that trains several models on the same rows, as a study's does,
computes frozen output once for all.

Shapes: T tokens of all rows, B rows, L tokens, D hidden size.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from polarity.config import Config
from polarity.data.batch import Corpus, evaluation_batches
from polarity.errors import Say
from polarity.model.dropout import use_cheap_dropout
from polarity.model.frozen import WholeTable, split_model, use_rows
from polarity.model.inference import autocast, to_tensors
from polarity.model.multitask import MultitaskModel
from polarity.train.control import clock
from polarity.train.world import World

LARGE_GB = 4.0
"""Above so much a worker is told that features take the memory they take."""
_CHUNK = 1 << 24  # numbers a message
_LAST: dict[str, NDArray[np.float32]] = {}
"""The features of the last training in this process, by what they were computed from."""


@dataclass(frozen=True)
class Reduced:
    """The model that is trained, on its device, and the rows as it takes them.

    `model` shares its weights with the whole one. `digest` is a hash of the weights that are left out of it and of its checkpoints, empty
    where none are.
    """

    model: MultitaskModel
    train: Corpus
    validation: Corpus
    test: Corpus | None
    digest: str
    table: WholeTable | None

    def restore(self, decay: Callable[[nn.Parameter], float]) -> None:
        """Make the whole model whole again: a cut word table is put back, its other rows times `decay` of the table's weight."""
        if self.table is not None:
            self.table.restore(decay(self.table.encoder.get_input_embeddings().weight))


def reduced(model: MultitaskModel, parts: Sequence[Corpus | None], config: Config, world: World, *, precision: str, say: Say) -> Reduced:
    """Move the model to the worker's device and reduce it as `config` says; `parts` are train, validation, and test or None.

    Raises `ConfigError` where `model.frozen_layers` does not fit.
    """
    train, validation, test = parts
    assert train is not None and validation is not None
    if world.device.type == "cpu":
        use_cheap_dropout(model.encoder)
    nn.Module.to(model, world.device)
    if not config.model.frozen_layers:
        padding = np.array([train.pad_id], dtype=np.int32)  # the tokenizer's, which config.json need not know
        table = use_rows(model.encoder, np.concatenate([train.used_tokens(), validation.used_tokens(), padding]))
        return Reduced(model, train, validation, test, weights_digest(table.table) if table else "", table)
    lower, upper = split_model(model, config.model.frozen_layers)
    digest, size = weights_digest(lower), config.train.eval_batch_size
    corpora = [train, validation, *([] if test is None else [test])]
    train, validation, *rest = with_features(lower, digest, corpora, world, batch_size=size, precision=precision, say=say)
    return Reduced(upper, train, validation, rest[0] if rest else None, digest, None)


def with_features(
    lower: PreTrainedModel, digest: str, corpora: list[Corpus], world: World, *, batch_size: int, precision: str, say: Say
) -> list[Corpus]:
    """The corpora with their features, the same on every worker; `lower` is the frozen part of an encoder, `digest` its weights'."""
    started = time.monotonic()
    keys = [_key(digest, corpus, batch_size, precision) for corpus in corpora]
    if world.size == 1 and all(key in _LAST for key in keys):
        say("frozen layers: their output is kept from the training before, which had the same rows")
        return [replace(corpus, features=_LAST[key]) for corpus, key in zip(corpora, keys, strict=True)]
    _LAST.clear()  # before the new ones are made: both would not fit
    width = int(lower.config.hidden_size)
    size = sum(int(corpus.offsets[-1]) for corpus in corpora) * width * 4 / 1e9
    if world.is_first and size > LARGE_GB:
        say(f"the frozen layers' output takes {size:.1f} GB of memory on each worker; a lower data.max_length takes less")
    found = [replace(c, features=features(lower, c, width, world, batch_size=batch_size, precision=precision)) for c in corpora]
    if world.is_first:
        rows = sum(len(corpus) for corpus in corpora)
        say(f"frozen layers: their output for {rows} rows computed once, in {clock(time.monotonic() - started)}; {size:.2f} GB a worker")
    if world.size == 1:
        _LAST.update((key, corpus.features) for key, corpus in zip(keys, found, strict=True) if corpus.features is not None)
    return found


def _key(digest: str, corpus: Corpus, batch_size: int, precision: str) -> str:
    """Hash of all that a corpus's features depend on; the batches too, for their shapes decide the last bits."""
    found = hashlib.sha256(f"{digest} {batch_size} {precision} {torch.get_num_threads()}".encode())
    for array in (corpus.offsets, *corpus.tokens.values(), *([] if corpus.types is None else corpus.types.values())):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


@torch.no_grad()
def features(lower: PreTrainedModel, corpus: Corpus, width: int, world: World, *, batch_size: int, precision: str) -> NDArray[np.float32]:
    """The frozen part's output (T, D) float32 in evaluation mode; each worker computes its share of the batches and all get the sum."""
    lower.train(False)
    found = np.zeros((int(corpus.offsets[-1]), width), dtype=np.float32)
    for rows in evaluation_batches(corpus.lengths, batch_size)[world.rank :: world.size]:
        batch = corpus.collate(rows)
        with autocast(precision, world.device):
            states_BLD = lower(**to_tensors(batch, world.device)).last_hidden_state
        places = corpus.offsets[rows][:, None] + np.arange(batch.input_ids.shape[1])
        real = batch.attention_mask.astype(bool)
        found[places[real]] = states_BLD.float().cpu().numpy()[real]
        world.control.heartbeat()
    if world.size > 1:  # every number is from one worker and zero on the others, so the sum is exact
        for part in torch.from_numpy(found).flatten().split(_CHUNK):
            part.copy_(world.sum(part.to(world.device)))
    return found


def weights_digest(module: nn.Module) -> str:
    """Hash of a module's weights: a resumed run must find the frozen ones that it began with, which its checkpoints leave out."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
