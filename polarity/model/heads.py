"""A task's classification head. Shapes: N rows (samples x batch), P pooled size, K classes."""

import torch
from torch import Tensor, nn

from polarity.model.noise import RowNoise


class NoisyDropout(nn.Module):
    """Dropout that draws from torch's generator in training, and from `noise` where prediction asks for samples."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_NH: Tensor, noise: RowNoise | None) -> Tensor:
        if noise is not None and self.p:
            return x_NH * noise.keep(x_NH.shape[-1], self.p).to(x_NH.dtype)
        return nn.functional.dropout(x_NH, self.p, self.training)


class HeadBlock(nn.Module):
    """LayerNorm, Linear, GELU, dropout, and a Linear back from the intermediate size where there is one."""

    def __init__(self, width: int, hidden: int, intermediate: int | None, dropout: float, residual: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, intermediate or hidden)
        self.dropout = NoisyDropout(dropout)
        self.down = nn.Linear(intermediate, hidden) if intermediate else None
        self.skip = nn.Linear(width, hidden, bias=False) if residual and width != hidden else None
        self.residual = residual

    def forward(self, x_NH: Tensor, noise: RowNoise | None) -> Tensor:
        out: Tensor = self.dropout(nn.functional.gelu(self.up(self.norm(x_NH))), noise)
        if self.down is not None:
            out = self.down(out)
        if not self.residual:
            return out
        return out + (x_NH if self.skip is None else self.skip(x_NH))


class Head(nn.Module):
    """`layers` blocks, then a linear layer to the logits; without blocks, dropout on the pooled vector and the linear layer."""

    def __init__(
        self, width: int, classes: int, *, layers: int, hidden: int, intermediate: int | None, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.dropout = NoisyDropout(0.0 if layers else dropout)
        widths = [width] + [hidden] * layers
        self.blocks = nn.ModuleList(HeadBlock(w, hidden, intermediate, dropout, residual) for w in widths[:-1])
        self.out = nn.Linear(widths[-1], classes)

    def forward(self, pooled_NP: Tensor, noise: RowNoise | None = None) -> Tensor:
        """Logits (N, K) in float32."""
        x_NH = self.dropout(pooled_NP, noise)
        for block in self.blocks:
            x_NH = block(x_NH, noise)
        logits_NK: Tensor = self.out(x_NH)
        return logits_NK.to(torch.float32)
