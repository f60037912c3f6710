"""Layer-wise learning rates on every encoder family."""

from pathlib import Path

import pytest

from polarity.config import Config, OptimConfig
from polarity.model.multitask import MultitaskModel
from polarity.optim import lr_multiplier, parameter_groups
from tests.tiny import FAMILIES, tiny_encoder

CONFIG = OptimConfig(lr=1e-3, layer_decay=0.5, head_lr_multiplier=2.0, weight_decay=0.02)


@pytest.mark.parametrize(("above", "expected"), [(0, 1.0), (1, 0.5), (11, 0.5**11), (12, 0.5**12), (None, 2.0)])
def test_multiplier_by_the_layers_above(above: int | None, expected: float) -> None:
    """What lies how deep in which family is in tests/model/test_families.py."""
    assert lr_multiplier(above, CONFIG) == pytest.approx(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    """In a family whose layers had other names, all of them would get the embeddings' rate."""
    config = Config()
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, family, hidden=16, layers=3), config.model, config.labels, seed=0)
    groups = parameter_groups(model, CONFIG)
    multiplier = {name: group["lr_multiplier"] for group in groups for name in group["names"]}
    parameters = dict(model.named_parameters())
    assert sorted(multiplier) == sorted(parameters)
    assert sum(len(group["params"]) for group in groups) == len(parameters)
    for layer, expected in enumerate([0.25, 0.5, 1.0]):
        found = {m for name, m in multiplier.items() if f"layer.{layer}." in name}
        assert found == {expected}, (layer, found)
    assert {m for name, m in multiplier.items() if ".embeddings." in name} == {0.125}
    assert {m for name, m in multiplier.items() if not name.startswith("encoder.")} == {2.0}
    for group in groups:
        assert group["lr"] == pytest.approx(1e-3 * group["lr_multiplier"])
        for name in group["names"]:
            assert group["weight_decay"] == (0.02 if parameters[name].ndim > 1 else 0.0), name
