"""Heads: parameter counts by hand, and a residual flag that does what it says."""

import pytest
import torch

from polarity.model.heads import Head, HeadBlock, RowNoise


def parameters(width: int, layers: int, hidden: int, intermediate: int | None, residual: bool) -> int:
    count = 0
    for _ in range(layers):
        up = intermediate or hidden
        count += 2 * width + width * up + up
        count += intermediate * hidden + hidden if intermediate else 0
        count += width * hidden if residual and width != hidden else 0
        width = hidden
    return count + width * 3 + 3


@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("intermediate", [None, 10])
@pytest.mark.parametrize("residual", [False, True])
def test_parameter_count(width: int, layers: int, intermediate: int | None, residual: bool) -> None:
    head = Head(width, 3, layers=layers, hidden=8, intermediate=intermediate, dropout=0.2, residual=residual)
    assert sum(p.numel() for p in head.parameters()) == parameters(width, layers, 8, intermediate, residual)
    assert head(torch.zeros(2, width)).shape == (2, 3)


@pytest.mark.parametrize(("width", "hidden"), [(6, 6), (6, 4)])
@pytest.mark.parametrize("intermediate", [None, 5])
def test_residual_adds_the_input_and_off_adds_nothing(width: int, hidden: int, intermediate: int | None) -> None:
    """The same weights with the flag on and off differ by exactly the skip."""
    torch.manual_seed(0)
    on, off = (HeadBlock(width, hidden, intermediate, 0.0, residual) for residual in (True, False))
    off.load_state_dict({name: t for name, t in on.state_dict().items() if not name.startswith("skip")})
    x = torch.randn(3, width)
    skip = x if width == hidden else x @ on.skip.weight.T  # type: ignore[union-attr]
    torch.testing.assert_close(on(x, None), off(x, None) + skip)
    assert off.skip is None and (on.skip is None) == (width == hidden)


def test_a_block_by_hand() -> None:
    torch.manual_seed(0)
    block, x = HeadBlock(6, 4, 5, 0.0, False), torch.randn(3, 6)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = normed @ block.up.weight.T + block.up.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    assert block.down is not None
    torch.testing.assert_close(block(x, None), inner @ block.down.weight.T + block.down.bias)


@pytest.mark.parametrize("layers", [0, 2])
def test_dropout_acts_in_training_and_where_noise_is_given(layers: int) -> None:
    torch.manual_seed(0)
    head, x = Head(8, 3, layers=layers, hidden=8, intermediate=None, dropout=0.5, residual=False), torch.randn(4, 8)
    assert not torch.equal(head.train()(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))
    keys = torch.arange(4)
    assert torch.equal(head(x, RowNoise(keys, 0)), head(x, RowNoise(keys, 0)))
    assert not torch.equal(head(x, RowNoise(keys, 0)), head(x, RowNoise(keys, 1)))
    assert not torch.equal(head(x, RowNoise(keys, 0)), head(x))
