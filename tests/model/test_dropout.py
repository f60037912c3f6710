"""Cheap dropout masks: the right share is dropped, the mean is kept, gradients fit, and attention is torch's but for the mask."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel

from polarity.model import dropout as cheap
from polarity.model.dropout import ATTENTION, CheapDropout, dropout_noise, use_cheap_dropout
from tests.train.runs import encoder_folder


@pytest.mark.parametrize("p", [0.0, 0.1, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_drops_the_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    noise = dropout_noise(torch.ones(1_000_003, dtype=dtype), p)
    assert noise.dtype == dtype
    values = noise.float().unique()
    assert len(values) == (1 if p == 0 else 2)
    assert float(values[-1]) == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 or p > 0.99 else 1e-4)
    error = 5 * (p * (1 - p) / len(noise)) ** 0.5  # five standard errors of a share
    assert float((noise == 0).float().mean()) == pytest.approx(p, abs=error + 1 / 65536)


def test_everything_is_dropped_at_one() -> None:
    assert not dropout_noise(torch.ones(9), 1.0).any()


def test_neighbours_are_independent() -> None:
    """Four elements share one draw of 64 bits: what is dropped must not tell what is dropped next to it."""
    torch.manual_seed(1)
    kept = (dropout_noise(torch.ones(400_000), 0.3) > 0).double().view(-1, 4)
    correlations = torch.corrcoef(kept.T) - torch.eye(4)
    assert float(correlations.abs().max()) < 5 / 100_000**0.5


def test_layer_follows_the_seed_and_its_gradient_is_the_mask() -> None:
    layer, found = CheapDropout(0.4), []
    for _ in range(2):
        torch.manual_seed(3)
        values = torch.randn(5, 7, requires_grad=True)
        out = layer(values)
        out.sum().backward()
        assert values.grad is not None
        torch.testing.assert_close(out, values * values.grad)
        assert {round(float(v), 3) for v in values.grad.unique()} == {0.0, 1.667}
        found.append(out.detach())
    assert torch.equal(*found)
    layer.train(False)
    assert torch.equal(layer(values), values)


def test_gradient_against_finite_differences() -> None:
    def fixed(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return CheapDropout(0.3)(values)

    assert torch.autograd.gradcheck(fixed, torch.randn(4, 6, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs_with_our_mask(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise of ones, that is nothing dropped, the products must equal torch's attention."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None, :].expand(2, 1, 5, 5) if masked else None
    module = nn.Module()
    module.is_causal = False
    monkeypatch.setattr(cheap, "dropout_noise", lambda values, p: torch.ones_like(values))
    out, _ = cheap.attention(module, query, key, value, seen, dropout=0.5, scaling=0.5)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(query, key, value, seen, scale=0.5).transpose(1, 2))


def test_attention_is_unbiased() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 4) for _ in range(3))
    module = nn.Module()
    module.is_causal = False
    mean = torch.stack([cheap.attention(module, query, key, value, None, dropout=0.2)[0] for _ in range(1500)]).mean(0)
    torch.testing.assert_close(mean, F.scaled_dot_product_attention(query, key, value).transpose(1, 2), atol=0.08, rtol=0)


def test_causal_attention_is_left_to_torch() -> None:
    module = nn.Module()
    module.is_causal = True
    query = torch.randn(1, 1, 3, 2)
    torch.manual_seed(0)
    first = cheap.attention(module, query, query, query, None, dropout=0.5)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(first, F.scaled_dot_product_attention(query, query, query, dropout_p=0.5, is_causal=True).transpose(1, 2))


def test_encoder_keeps_weights_names_and_what_it_computes(tmp_path: Path) -> None:
    model, other = (AutoModel.from_pretrained(encoder_folder()) for _ in range(2))
    use_cheap_dropout(model)
    assert model.config._attn_implementation == ATTENTION
    assert not any(type(m) is nn.Dropout for m in model.modules()) and list(model.state_dict()) == list(other.state_dict())
    ids = torch.arange(5, 17).view(2, 6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    for each in (model, other):
        each.train(False)
    out, expected = (each(input_ids=ids, attention_mask=mask).last_hidden_state for each in (model, other))
    torch.testing.assert_close(out, expected)
    model.train()
    torch.manual_seed(0)
    first = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.manual_seed(0)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).last_hidden_state, first)
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
