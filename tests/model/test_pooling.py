"""Pooling against loops over floats."""

import math

import pytest
import torch
from torch import Tensor

from polarity.model.heads import Pooling

MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


def states(layers: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 5, 4, generator=generator) for _ in range(layers))


def mean_by_hand(token_vectors: list[list[float]], keep: list[int]) -> list[float]:
    return [sum(v[d] for v, k in zip(token_vectors, keep, strict=True) if k) / sum(keep) for d in range(4)]


def attention_by_hand(pooling: Pooling, token_vectors: list[list[float]], keep: list[int]) -> list[float]:
    assert pooling.attention is not None
    w, v = pooling.attention.project.weight.tolist(), pooling.attention.score.weight.tolist()[0]
    scores = [sum(v[i] * math.tanh(sum(a * b for a, b in zip(w[i], h, strict=True))) for i in range(4)) for h in token_vectors]
    raised = [math.exp(s) * k for s, k in zip(scores, keep, strict=True)]
    return [sum(r * h[d] for r, h in zip(raised, token_vectors, strict=True)) / sum(raised) for d in range(4)]


def expected(kind: str, pooling: Pooling, layers: tuple[Tensor, ...], row: int) -> list[float]:
    last = layers[-1][row].tolist()
    if kind == "cls":
        return list(last[0])
    if kind == "mean":
        return mean_by_hand(last, MASK[row])
    if kind == "attention":
        return attention_by_hand(pooling, last, MASK[row])
    means = [mean_by_hand(layer[row].tolist(), MASK[row]) for layer in layers[-4:]]
    return [sum(m[d] for m in means) / 4 for d in range(4)]


@pytest.mark.parametrize("kind", ["last4_mean", "attention", "cls", "mean"])
@pytest.mark.parametrize(("concat_cls", "concat_mean"), [(False, False), (True, False), (False, True), (True, True)])
def test_base_then_cls_then_mean(kind: str, concat_cls: bool, concat_mean: bool) -> None:
    torch.manual_seed(1)
    pooling, layers = Pooling(kind, 4, concat_cls=concat_cls, concat_mean=concat_mean), states()
    found = pooling(layers, torch.tensor(MASK))
    assert found.shape == (3, pooling.output_size) and pooling.output_size == 4 * (1 + concat_cls + concat_mean)
    for row in range(3):
        whole = expected(kind, pooling, layers, row)
        whole += layers[-1][row, 0].tolist() if concat_cls else []
        whole += mean_by_hand(layers[-1][row].tolist(), MASK[row]) if concat_mean else []
        assert found[row].tolist() == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("kind", ["last4_mean", "attention", "cls", "mean"])
def test_padding_does_not_matter_and_the_result_is_float32(kind: str) -> None:
    pooling, layers, mask = Pooling(kind, 4, concat_cls=True, concat_mean=True), states(), torch.tensor(MASK)
    spoilt = tuple(layer.masked_fill(mask.unsqueeze(-1) == 0, 1e4) for layer in layers)
    torch.testing.assert_close(pooling(spoilt, mask), pooling(layers, mask))
    if kind != "attention":  # whose weights would have to be in the short format too: autocast sees to that
        assert pooling(tuple(layer.bfloat16() for layer in layers), mask).dtype == torch.float32


def test_only_last4_mean_needs_all_layers() -> None:
    needs = {k: Pooling(k, 4, concat_cls=True, concat_mean=True).needs_all_layers for k in ("last4_mean", "attention", "cls", "mean")}
    assert needs == {"last4_mean": True, "attention": False, "cls": False, "mean": False}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_short_encoder_averages_the_layers_it_has_and_not_its_embeddings(count: int) -> None:
    """`layers` of the encoder are the embeddings' output and one state a layer."""
    layers, mask = states(count + 1), torch.tensor(MASK)
    found = Pooling("last4_mean", 4, concat_cls=False, concat_mean=False, layers=count)(layers, mask)
    own = layers[1:][-4:]
    for row in range(3):
        means = [mean_by_hand(layer[row].tolist(), MASK[row]) for layer in own]
        assert found[row].tolist() == pytest.approx([sum(m[d] for m in means) / len(own) for d in range(4)], abs=1e-6)
