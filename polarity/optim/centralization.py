"""Gradient centralization (Yong et al. 2020): a weight's gradient loses its mean over all dimensions but the first."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def centralize_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Centralize the gradients of weights of two or more dimensions, in place; call it after clipping, before the step."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.ndim > 1:
            dims = tuple(range(1, parameter.grad.ndim))
            parameter.grad.sub_(parameter.grad.mean(dim=dims, keepdim=True))


def centralizable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that centralization touches: weights of two or more dimensions, embedding tables excepted."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if p.ndim > 1 and id(p) not in tables]
