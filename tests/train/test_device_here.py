"""Without Ray, too, `cluster.gpu` says where a run computes."""

import pytest
import torch

from polarity.errors import RunError
from polarity.train.world import device_here


def test_device_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_here("auto") == device_here("never") == torch.device("cpu")
    with pytest.raises(RunError, match="torch sees no GPU here"):
        device_here("always")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_here(gpu).type for gpu in ("auto", "always", "never")] == ["cuda", "cuda", "cpu"]
