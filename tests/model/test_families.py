"""The table of families: each of them trains, saves, loads, and does not let padding move its scores, or is refused in one line.

`polarity/model/README.md` shows what is measured here, row by row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polarity.config import Config, DataConfig, OptimConfig
from polarity.errors import ConfigError, EncoderError
from polarity.model.dropout import use_cheap_dropout
from polarity.model.encoder import check_length, probe_ids, usable_positions
from polarity.model.flops import flops_per_row
from polarity.model.frozen import use_rows
from polarity.model.multitask import MultitaskModel, load_model
from polarity.optim import parameter_groups
from tests.model.families import CONFIGS, POSITIONS, build_family

LABELS = Config().labels
TABLE = Path(__file__).parents[2] / "polarity" / "model" / "README.md"
REFUSED = {
    "funnel": "mixes padding into the states of real tokens",
    "convbert": "mixes padding into the states of real tokens",
    "fnet": "mixes padding into the states of real tokens",
    "canine": "has no table of tokens",
}
FAMILIES = [family for family in CONFIGS if family not in REFUSED]
# What runs before the first layer has the number of layers above it, what runs after the last one none.
ABOVE = {
    "xlm-roberta-xl": {"encoder.encoder.LayerNorm.weight": 0},
    "modernbert": {"encoder.final_norm.weight": 0, "encoder.embeddings.norm.weight": 3},
    "albert": {
        "encoder.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": 0,
        "encoder.encoder.embedding_hidden_mapping_in.weight": 3,
    },
    "deberta-v2": {
        "encoder.encoder.rel_embeddings.weight": 2,
        "encoder.encoder.LayerNorm.weight": 2,  # of the relative positions
        "encoder.encoder.conv.conv.weight": 1,  # after the first layer
    },
    "mpnet": {"encoder.encoder.relative_attention_bias.weight": 2},
    "rembert": {"encoder.encoder.embedding_hidden_mapping_in.weight": 2},
    "electra": {"encoder.embeddings_project.weight": 2},
    "bart": {"encoder.layernorm_embedding.weight": 2, "encoder.layers.1.fc1.weight": 0},
    "mbart": {"encoder.layernorm_embedding.weight": 2, "encoder.layer_norm.weight": 0},
    "t5": {"encoder.final_layer_norm.weight": 0, "encoder.block.0.layer.1.DenseReluDense.wi.weight": 1},
    "xlnet": {"encoder.layer.1.ff.layer_1.weight": 0, "encoder.word_embedding.weight": 2},
    "xlm": {"encoder.attentions.0.q_lin.weight": 1, "encoder.ffns.1.lin1.weight": 0, "encoder.layer_norm_emb.weight": 2},
    "gpt2": {"encoder.ln_f.weight": 0, "encoder.h.0.mlp.c_fc.weight": 1, "encoder.wpe.weight": 2},
    "llama": {"encoder.norm.weight": 0, "encoder.layers.0.mlp.up_proj.weight": 1},
    "gemma3_text": {"encoder.norm.weight": 0},
    "mamba": {"encoder.norm_f.weight": 0, "encoder.layers.0.mixer.A_log": 1},
    "squeezebert": {"encoder.encoder.layers.1.output.conv1d.weight": 0, "encoder.encoder.layers.0.output.conv1d.weight": 1},
}


def build(folder: Path, **settings: Any) -> MultitaskModel:
    model = Config.model_validate({"model": {"head": {"hidden_size": 8, "layers": 1}, **settings}}).model
    return MultitaskModel.from_encoder(folder, model, LABELS, seed=0)


def ragged(model: MultitaskModel, padding: int) -> dict[str, torch.Tensor]:
    """Three rows of 9, 5 and 1 tokens, padded with `padding`."""
    ids_BL = probe_ids(model.encoder, 9).repeat(3, 1)
    mask_BL = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()
    return {"input_ids": torch.where(mask_BL == 1, ids_BL, padding), "attention_mask": mask_BL}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family: str, tmp_path: Path) -> None:
    model = build(build_family(family, tmp_path / "encoder"), pooling="last4_mean", concat_cls=True, concat_mean=True)
    configured = getattr(model.encoder.config, "pad_token_id", None)
    batch = ragged(model, 0 if configured is None else configured)
    optim = OptimConfig(lr=1e-2, layer_decay=0.5, head_lr_multiplier=2.0)

    # Trains: every trained parameter has a gradient (DDP waits for each) and a rate, and the word table may be reduced to the rows in use.
    groups = parameter_groups(model, optim)
    rates = {name: group["lr_multiplier"] for group in groups for name in group["names"]}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {rates[name] for name in rates if not name.startswith("encoder.")} == {2.0}
    assert max(rate for name, rate in rates.items() if name.startswith("encoder.")) == 1.0
    assert {name: rates[name] for name in ABOVE.get(family, {})} == {name: 0.5**above for name, above in ABOVE.get(family, {}).items()}
    whole = use_rows(model.encoder, np.unique(batch["input_ids"].numpy()).astype(np.int32))
    use_cheap_dropout(model.encoder)
    sum(x.square().mean() for x in model.train()(**batch).values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    if whole is not None:
        whole.restore(1.0)

    # Padding moves nothing.
    model.eval()
    with torch.no_grad():
        together = model(**batch)
        for row, length in enumerate([9, 5, 1]):
            alone = model(batch["input_ids"][row : row + 1, :length], batch["attention_mask"][row : row + 1, :length])
            for task, logits in together.items():
                torch.testing.assert_close(logits[0, row], alone[task][0, 0], atol=1e-5, rtol=1e-4)

    # Saves and loads.
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    with torch.no_grad():
        found = again(**batch)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    assert all(torch.allclose(x, found[task], atol=1e-6) for task, x in together.items())

    # Its row of the table.
    assert flops_per_row(model.encoder.config, 24) > 1e5
    lost = max(0, model.encoder.config.max_position_embeddings - positions(model)) if positions(model) else 0
    untrained = sum(not p.requires_grad for p in model.parameters()) > 0
    row = [family, f"{model.config.cls_place} token", str(lost) if positions(model) else "no limit", "some" if untrained else "none"]
    assert f"| {' | '.join(row)} |" in TABLE.read_text("utf-8"), row


def positions(model: MultitaskModel) -> int | None:
    """Tokens that the embeddings take; None where they take any number."""
    found = usable_positions(model.encoder, 2 * POSITIONS)
    return None if found == 2 * POSITIONS else found


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_is_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=f"{family!r} model {REFUSED[family]}.*choose an encoder of another family") as caught:
        build(build_family(family, tmp_path))
    assert "\n" not in str(caught.value)
    assert f"| {family} | refused: {REFUSED[family]} |" in TABLE.read_text("utf-8")


@pytest.mark.parametrize(("family", "usable"), [("bert", 40), ("roberta", 40), ("mpnet", 40), ("gpt2", 40), ("xlm", 40), ("luke", 40)])
def test_more_tokens_than_positions(family: str, usable: int, tmp_path: Path) -> None:
    """Measured: RoBERTa and its kin lose positions to padding, however many; BERT with the same padding id loses none."""
    pads = {"roberta": 3, "bert": 3} if family in ("roberta", "bert") else {}
    more = {"pad_token_id": 3, "max_position_embeddings": usable + 4 * (family == "roberta")} if pads else {}
    folder = build_family(family, tmp_path, **more)
    check_length(DataConfig(max_length=usable), folder)
    with pytest.raises(ConfigError, match=f"data.max_length is {usable + 1}.* at most {usable}"):
        check_length(DataConfig(max_length=usable + 1), folder)


def test_no_fixed_number_of_positions(tmp_path: Path) -> None:
    check_length(DataConfig(max_length=9999), build_family("t5", tmp_path))


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_cls_of_a_causal_encoder_sees_the_whole_row(family: str, tmp_path: Path) -> None:
    """The first token would give every comment that begins alike the same scores."""
    model = build(build_family(family, tmp_path), pooling="cls").eval()
    batch = ragged(model, 0)
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][1, 4] = batch["input_ids"][1, 0]  # the last real token of the second row
    with torch.no_grad():
        before, after = model(**batch)["sentiment"][0], model(**other)["sentiment"][0]
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_an_encoder_decoder_may_lack_its_decoder(tmp_path: Path) -> None:
    """Folders of T5EncoderModel hold the encoder's weights alone; the encoder's own may not lack."""
    folder = build_family("t5", tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if not k.startswith("decoder.")}, folder / "model.safetensors", {"format": "pt"})
    assert "encoder.embed_tokens.weight" in dict(build(folder).named_parameters())
    save_file({k: v for k, v in weights.items() if "block.1" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"weights do not fit config.json: encoder\.block\.1"):
        build(folder)
