"""Gradient centralization against numpy, and the optimizer's step against AdamW written out."""

import numpy as np
import torch
from torch import nn

from polarity.config import Config
from polarity.model.multitask import MultitaskModel
from polarity.optim import centralizable, centralize_gradients
from tests.tiny import tiny_encoder


def test_gradients_lose_their_mean_over_all_dimensions_but_the_first() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.Linear(5, 6), nn.Embedding(7, 8), nn.LayerNorm(8))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    centralize_gradients(centralizable(model))
    for name, p in model.named_parameters():
        assert p.grad is not None
        expected = before[name]
        if name in ("0.weight", "1.weight"):
            expected = expected - expected.mean(axis=tuple(range(1, expected.ndim)), keepdims=True)
        np.testing.assert_allclose(p.grad.numpy(), expected, atol=1e-7, err_msg=name)


def test_a_weight_without_gradient_is_left_alone() -> None:
    layer = nn.Linear(2, 2)
    centralize_gradients(layer.parameters())
    assert layer.weight.grad is None


def test_every_embedding_table_of_an_encoder_is_excepted(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = Config()
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, "bert", hidden=16), config.model, config.labels, seed=0)
    chosen = {id(p) for p in centralizable(model)}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    assert not any("_embeddings." in name for name in names)
    assert names == {n for n, p in model.named_parameters() if p.ndim > 1 and "_embeddings." not in n}


def test_fused_adamw_is_adamw() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, with bias correction, in float64."""
    rng, rate, decay, (b1, b2), epsilon = np.random.default_rng(0), 1e-2, 0.03, (0.9, 0.999), 1e-8
    weight, first, second = rng.normal(size=(4, 3)), np.zeros((4, 3)), np.zeros((4, 3))
    parameter = nn.Parameter(torch.tensor(weight, dtype=torch.float32))
    optimizer = torch.optim.AdamW([{"params": [parameter], "weight_decay": decay}], lr=rate, fused=True)
    for step in range(1, 6):
        gradient = rng.normal(size=(4, 3))
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        update = (first / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + epsilon)
        weight = weight - rate * decay * weight - rate * update
    np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-5, atol=1e-6)
