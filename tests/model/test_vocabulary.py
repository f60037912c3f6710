"""A word table of the used rows alone: the same logits, the same gradient in fewer rows, and the whole table back at the end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polarity.config import Config
from polarity.model.frozen import UsedRows, use_rows
from polarity.model.multitask import MultitaskModel
from tests.tiny import FAMILIES, tiny_encoder

MODEL = Config.model_validate({"model": {"head": {"layers": 0}, "pooling": "mean"}}).model


@pytest.mark.parametrize("family", FAMILIES)
def test_reduced_and_restored(family: str, tmp_path: Path) -> None:
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, family, hidden=16, layers=1), MODEL, Config().labels, seed=0).eval()
    encoder, names = model.encoder, list(model.state_dict())
    table, pad = encoder.get_input_embeddings(), encoder.config.pad_token_id
    before = table.weight.detach().clone()
    ids = torch.tensor([[5, 9, 11, 9], [11, 30, pad, pad]])
    batch = {"input_ids": ids, "attention_mask": (ids != pad).long()}

    def gradient() -> torch.Tensor:
        model.zero_grad()
        sum((x.square().mean() for x in model(**batch).values()), start=torch.zeros(())).backward()
        return encoder.get_input_embeddings().weight.grad.clone()

    logits, dense = model(**batch), gradient()
    whole = use_rows(encoder, ids.numpy().ravel().astype(np.int32))
    assert whole is not None and list(model.state_dict()) == names
    used = sorted({5, 9, 11, 30, pad})
    assert encoder.get_input_embeddings().weight.shape == (len(used), before.shape[1])
    for task, found in model(**batch).items():
        assert torch.equal(found, logits[task])
    assert torch.equal(gradient(), dense[used]) and not dense[[i for i in range(len(before)) if i not in used]].any()
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[7]]), attention_mask=torch.tensor([[1]]))
    with torch.no_grad():
        encoder.get_input_embeddings().weight.add_(1.0)
    whole.restore(0.5)
    assert encoder.get_input_embeddings() is table
    expected = before * 0.5
    expected[used] = before[used] + 1.0
    assert torch.equal(table.weight, expected)


def test_a_table_in_use_stays(tmp_path: Path) -> None:
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, "bert", hidden=16, layers=1), MODEL, Config().labels, seed=0)
    table = model.encoder.get_input_embeddings()
    assert use_rows(model.encoder, np.arange(table.num_embeddings, dtype=np.int32)) is None
    assert model.encoder.get_input_embeddings() is table


def test_a_table_of_another_kind_stays(tmp_path: Path) -> None:
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, "bert", hidden=16, layers=1), MODEL, Config().labels, seed=0)
    other = UsedRows(nn.Embedding(20, 16), torch.arange(10))
    model.encoder.set_input_embeddings(other)
    assert use_rows(model.encoder, np.array([1], dtype=np.int32)) is None and model.encoder.get_input_embeddings() is other
