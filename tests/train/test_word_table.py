"""Training with the used rows of the word table ends with the weights of training with all of them, weight decay included."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from polarity.config import Config
from polarity.data.batch import Lists
from polarity.errors import RunError
from polarity.train.loop import Result, Tables, Training, run_training
from polarity.train.world import World
from tests.train.runs import Heard, configured, fresh_model, tables

SIZES = {"global_batch_size": 12, "micro_batch_size": 6, "epochs": 3, "early_stopping_patience": None}
STRONG = {"lr": 1e-2, "weight_decay": 0.5, "layer_decay": 0.9}
TABLE = "encoder.embeddings.word_embeddings.weight"


def with_test(parts: Tables) -> Tables:
    """Test rows with a word that is in no other row: the whole table must be back before they are scored."""
    v = parts.validation
    tokens = np.concatenate(list(v.tokens.values()))
    unseen = np.setdiff1d(np.arange(150), np.concatenate([parts.train.used_tokens(), v.used_tokens()]))
    tokens[v.offsets[:-1] + 1] = unseen[-1]
    lists = Lists(pa.chunked_array([pa.LargeListArray.from_arrays(v.offsets, tokens)]))
    return Tables(parts.train, v, replace(v, tokens=lists), parts.statistics)


def run(config: Config, folder: Path | None = None, resume: Path | None = None) -> Result:
    events = Heard(folder=folder)
    if folder:
        folder.mkdir()
    return run_training(config, with_test(tables(config)), fresh_model(config), events, world=World(), resume=resume)


@pytest.mark.parametrize("average", [1, 2])
def test_weights_are_those_of_the_whole_table(average: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(train=SIZES | {"average_epochs": average}, optim=STRONG)
    training = Training(config, tables(config), fresh_model(config), World())
    assert training.reduced.table is not None and training.model.state_dict()[TABLE].shape[0] == len(training.reduced.table.used)
    reduced = run(config)
    monkeypatch.setattr("polarity.train.reduce.use_rows", lambda *_: None)
    dense, before = run(config), fresh_model(config).state_dict()[TABLE]
    for row, other in zip(reduced.state.history, dense.state.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for name, weight in dense.model.state_dict().items():
        torch.testing.assert_close(reduced.model.state_dict()[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    unused = [i for i in range(len(before)) if i not in set(training.reduced.table.used.tolist())]
    decay = dense.model.state_dict()[TABLE][unused] / before[unused]
    assert decay.max() < 0.99  # so that leaving the decay out would show
    torch.testing.assert_close(reduced.model.state_dict()[TABLE][unused], dense.model.state_dict()[TABLE][unused], rtol=1e-5, atol=0)
    for task, probabilities in dense.predictions["test"].probabilities.items():
        np.testing.assert_allclose(reduced.predictions["test"].probabilities[task], probabilities, atol=1e-4)


def test_resumed_run_is_bit_identical_and_its_checkpoints_are_small(tmp_path: Path) -> None:
    config = configured(train=SIZES, optim=STRONG)
    whole = run(config, tmp_path / "whole")
    again = run(config, tmp_path / "again", resume=tmp_path / "whole" / "epoch_0001")
    assert all(torch.equal(t, again.model.state_dict()[name]) for name, t in whole.model.state_dict().items())
    rows = load_file(tmp_path / "whole" / "epoch_0001" / "model.safetensors")[TABLE].shape[0]
    assert rows < whole.model.state_dict()[TABLE].shape[0]


def test_another_encoder_is_refused_although_no_used_row_differs(tmp_path: Path) -> None:
    config = configured(train=SIZES | {"epochs": 1})
    run(config, tmp_path / "one")
    training = Training(config, tables(config), fresh_model(config), World())
    assert training.reduced.table is not None
    unused = next(i for i in range(150) if i not in set(training.reduced.table.used.tolist()))
    model = fresh_model(config)
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight[unused] += 1e-3
    with pytest.raises(RunError, match="other encoder weights"):
        run_training(config, tables(config), model, world=World(), resume=tmp_path / "one" / "epoch_0001")
