"""Layer-wise learning rates on every encoder family."""

from pathlib import Path

import pytest

from polarity.config import Config, OptimConfig
from polarity.model.multitask import MultitaskModel
from polarity.optim.groups import lr_multiplier, parameter_groups
from tests.tiny import FAMILIES, tiny_encoder

CONFIG = OptimConfig(lr=1e-3, layer_decay=0.5, head_lr_multiplier=2.0, weight_decay=0.02)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.encoder.layer.11.attention.self.query.weight", 1.0),
        ("encoder.encoder.layer.10.output.dense.bias", 0.5),
        ("encoder.encoder.layer.0.output.dense.bias", 0.5**11),
        ("encoder.transformer.layer.11.ffn.lin1.weight", 1.0),
        ("encoder.transformer.layer.2.ffn.lin1.weight", 0.5**9),
        ("encoder.layers.7.attn.Wqkv.weight", 0.5**4),
        ("encoder.embeddings.word_embeddings.weight", 0.5**12),
        ("encoder.embeddings.LayerNorm.bias", 0.5**12),
        ("pooling.attention.project.weight", 2.0),
        ("heads.sentiment.blocks.0.up.weight", 2.0),
    ],
)
def test_multiplier_of_a_name_in_twelve_layers(name: str, expected: float) -> None:
    assert lr_multiplier(name, 12, CONFIG) == pytest.approx(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    """In a family whose layers had other names, all of them would get the embeddings' rate."""
    config = Config()
    model = MultitaskModel.from_encoder(tiny_encoder(tmp_path, family, hidden=16, layers=3), config.model, config.labels, seed=0)
    groups = parameter_groups(model, model.encoder.config.num_hidden_layers, CONFIG)
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
