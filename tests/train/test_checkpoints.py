"""A checkpoint reads back what was written, and a damaged one is named."""

from pathlib import Path

import pytest
import torch

from polarity.errors import RunError
from polarity.loss import AdaptiveGamma
from polarity.train.checkpoints import Checkpoint, TrainState, load_checkpoint, save_checkpoint, seal

FILES = ["state.json", "model.safetensors", "best.safetensors", "optimizer.pt"]


def write(folder: Path, best: bool = True) -> Path:
    folder.mkdir()
    layer = torch.nn.Linear(30, 40)
    optimizer = torch.optim.AdamW(
        [{"params": [layer.weight], "names": ["weight"]}, {"params": [layer.bias], "names": ["bias"]}], fused=True
    )
    layer(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    state = TrainState(epoch=2, step=9, best_epoch=0, best_score=0.1 + 0.2, gammas={"t": AdaptiveGamma(1.5, [1.1], [1 / 3])})
    state.history.append({"kind": "step", "loss": 1 / 7, "step": 1})
    weights = layer.state_dict()
    save_checkpoint(folder, Checkpoint(state, weights, {"weight": torch.ones(2)} if best else weights, optimizer.state_dict(), {}))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    found = load_checkpoint(write(tmp_path / "c"))
    assert found.state.best_score == 0.1 + 0.2 and found.state.history[0]["loss"] == 1 / 7  # JSON keeps every bit
    assert found.state.gammas["t"].factors == [1 / 3] and found.state.epochs_without_gain() == 1
    assert found.best["weight"].tolist() == [1.0, 1.0] and found.model["weight"].shape == (40, 30)
    assert found.optimizer["state"][0]["exp_avg"].shape == (40, 30)


def test_without_an_earlier_best_the_model_is_the_best(tmp_path: Path) -> None:
    found = load_checkpoint(write(tmp_path / "c", best=False))
    assert found.best is found.model


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.98])
def test_truncated_file_is_named(file: str, left: float, tmp_path: Path) -> None:
    path = write(tmp_path / "epoch_0003") / file
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(RunError, match=r"epoch_0003.*damaged"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "optimizer.pt"])
def test_missing_file_is_named(file: str, tmp_path: Path) -> None:
    path = write(tmp_path / "epoch_0003") / file
    path.unlink()
    with pytest.raises(RunError, match=file.replace(".", r"\.")):
        load_checkpoint(path.parent)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    folder = write(tmp_path / "epoch_0003")
    torch.save({"optimizer": {"x": Path("/")}, "scaler": {}, "observed": {}}, folder / "optimizer.pt")
    seal(folder)  # checksums are no defence: whoever can write the one file can write the other
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(folder)
