"""Places of a configuration, and the encoder that another process resolved."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from polarity.config import Config
from polarity.encoders import pinned, resolve_encoder, same_encoder
from polarity.errors import EncoderError
from polarity.paths import absolute_tracking, is_local_data, is_local_encoder, typed, with_absolute_paths
from polarity.resolve import dump_config, parse_config
from tests.tiny import tiny_encoder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory and the user's home, with a folder ./org/model that is called like an encoder of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "org" / "model").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", ["sample", "sample:200", "hf:org/name@train", "s3://bucket/rows.csv"])
def test_what_is_no_file_stays_as_it_is(name: str, home: Path) -> None:
    assert not is_local_data(name)
    assert with_absolute_paths(Config.model_validate({"data": {"source": name}})).data.source == name


@pytest.mark.parametrize("key", ["source", "train", "validation", "test"])
@pytest.mark.parametrize("name", ["rows.csv", "./rows.csv", "~/rows.csv", "sample.csv"])
def test_every_part_of_the_data_is_absolute(key: str, name: str, home: Path) -> None:
    data = {"train": "a.csv", "validation": "b.csv", key: name} if key != "source" else {key: name}
    kept = with_absolute_paths(Config.model_validate({"data": data}))
    assert getattr(kept.data, key) == str(home / Path(name).name)
    assert with_absolute_paths(kept) == kept


@pytest.mark.parametrize(
    ("name", "place"), [("org/model", "org/model"), ("./org/model", "org/model"), ("~/org", "org"), ("org/", "org"), ("./none", "none")]
)
def test_an_encoder_that_is_a_folder_is_absolute(name: str, place: str, home: Path) -> None:
    assert with_absolute_paths(Config.model_validate({"model": {"encoder": name}})).model.encoder == str(home / place)


@pytest.mark.parametrize("name", ["bert-base-multilingual-cased", "org/other", "offline:minilm"])
def test_an_encoder_of_the_hub_or_of_a_package_stays_as_it_is(name: str, home: Path) -> None:
    assert not is_local_encoder(name)
    assert with_absolute_paths(Config.model_validate({"model": {"encoder": name}})).model.encoder == name


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a.db?timeout=3", "sqlite:///{here}/a.db?timeout=3"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mlruns", "{here}/mlruns"),
        ("file:mlruns", "file://{here}/mlruns"),
        ("file:///abs", "file:///abs"),
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
    ],
)
def test_mlflow_files_are_absolute(uri: str, wanted: str, home: Path) -> None:
    assert absolute_tracking(uri) == wanted.format(here=home)


def test_what_was_typed_stands_beside_the_place(home: Path) -> None:
    given = Config.model_validate({"data": {"source": "a b.csv"}, "model": {"encoder": "org/model"}})
    kept = with_absolute_paths(given)
    text = dump_config(kept, typed(given, kept))
    assert f"source: {home}/a b.csv" in text and "# typed: a b.csv\n" in text and "# typed: org/model\n" in text
    assert parse_config(text, "config.yaml") == kept


def test_a_worker_takes_the_folder_and_the_hash_that_the_driver_resolved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_encoder(home / "org" / "model")
    known = resolve_encoder("org/model")
    monkeypatch.chdir("/")
    assert same_encoder(known) == known
    shutil.rmtree(known.folder)
    with pytest.raises(EncoderError, match=r"does not see .*org/model"):
        same_encoder(known)
    tiny_encoder(known.folder, seed=1)
    with pytest.raises(EncoderError, match=r"SHA-256 .* that the run began with"):
        same_encoder(known)


def test_the_hubs_commit_is_kept(home: Path) -> None:
    """A hub's snapshot folder is named by its commit; the branch may move on before the run does."""
    files = replace(resolve_encoder(str(tiny_encoder(home / "snapshots" / "0123abc"))), name="org/other", revision="0123abc")
    config = Config.model_validate({"model": {"encoder": "org/other"}})
    kept = pinned(config, files)
    assert (kept.model.encoder, kept.model.revision) == ("org/other", "0123abc")
    assert typed(config, kept) == {"model.revision": None}
    assert same_encoder(files) == files
    with pytest.raises(EncoderError, match=r"org/other.*hub"):  # not on this node and not to be had
        same_encoder(replace(files, folder=home / "nowhere"))
