"""The saved linear floor gives the fitted one's probabilities bit for bit, from files that hold no code; damaged files are named."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from polarity.baselines.floors import fit_linear, load_linear, save_linear
from polarity.errors import RunError
from tests.tiny import tiny_comments

TASKS = {"mood": ["bad", "fair", "good"], "side": ["left", "right"]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_linear(tmp_path, fit_linear(tiny_comments(150, tasks=TASKS), TASKS, say=print), TASKS)
    return tmp_path


def quiet(_: str) -> None:
    """Said lines are no matter here."""


def test_loaded_floor_is_the_fitted_one_bit_for_bit(tmp_path: Path) -> None:
    fitted = fit_linear(tiny_comments(150, tasks=TASKS), TASKS, say=quiet)
    save_linear(tmp_path, fitted, TASKS)
    loaded, labels = load_linear(tmp_path)
    assert labels == TASKS
    held_out = tiny_comments(80, seed=1, tasks=TASKS)
    for task, probabilities in fitted.probabilities(held_out).items():
        assert np.array_equal(loaded.probabilities(held_out)[task], probabilities)


@pytest.mark.parametrize("codes", [[1, 1, 1, None], [0, 2, 0, 2]], ids=["one class", "a class never seen"])
def test_floor_of_few_classes_survives(codes: list[int | None], tmp_path: Path) -> None:
    text = pa.large_string()
    columns = {"row_id": pa.array(list("abcd"), text), "title": pa.array([""] * 4, text), "comment": pa.array(["yes", "no"] * 2, text)}
    train = pa.table({**columns, "mood": pa.array(codes, pa.int8())})
    fitted = fit_linear(train, {"mood": TASKS["mood"]}, say=quiet)
    save_linear(tmp_path, fitted, {"mood": TASKS["mood"]})
    assert np.array_equal(load_linear(tmp_path)[0].probabilities(train)["mood"], fitted.probabilities(train)["mood"])


def test_nothing_is_pickled(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["linear.json", "linear.safetensors"]
    assert json.loads((saved / "linear.json").read_text())["schema_version"] == 1


def test_damaged_files_are_named(saved: Path) -> None:
    whole = (saved / "linear.safetensors").read_bytes()
    (saved / "linear.safetensors").write_bytes(whole[:-100])
    with pytest.raises(RunError, match=r"linear\.safetensors: cannot be read"):
        load_linear(saved)
    (saved / "linear.safetensors").write_bytes(whole)
    numbers = load_file(saved / "linear.safetensors")
    save_file({**numbers, "coef/mood": numbers["coef/mood"][:, 1:].copy()}, saved / "linear.safetensors")
    with pytest.raises(RunError, match="coef/mood is float64 of shape"):
        load_linear(saved)
    content = json.loads((saved / "linear.json").read_text())
    (saved / "linear.json").write_text(json.dumps({**content, "schema_version": 2}))
    with pytest.raises(RunError, match="schema version 2"):
        load_linear(saved)
    (saved / "linear.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        load_linear(saved)
    (saved / "linear.json").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        load_linear(saved)
