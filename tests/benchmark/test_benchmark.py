"""The benchmark's contestants do the same work, and the command writes what it measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from polarity.benchmark import rows
from polarity.benchmark.result import render, render_benchmark
from polarity.benchmark.rows import in_process, write_rows, write_tokens
from polarity.benchmark.training import Setting, training_contestants
from polarity.errors import ConfigError
from polarity.model.flops import flops_per_row, peak_flops
from polarity.resolve import resolve
from tests.train.runs import encoder_folder

SETS = ["data.source=sample:300", "train.precision=fp32", "train.global_batch_size=16", "train.micro_batch_size=8"]


def setting(most: int = 48, *more: str) -> Setting:
    """A tiny encoder on the sample corpus."""
    return Setting.of(resolve("small", sets=[*SETS, f"model.encoder={encoder_folder()}", *more]).config, most)


def test_all_contestants_train_on_every_row_once() -> None:
    here = setting()
    done = {name: run() for name, run in training_contestants(here).items()}
    assert {m.units["rows"] for m in done.values()} == {48.0}
    assert {m.units["tokens"] for m in done.values()} == {float(here.corpus.lengths.sum())}
    padding = {name: m.units["padded_tokens"] for name, m in done.items()}
    assert padding["polarity"] == padding["bare loop"] < padding["Trainer"]


def test_techniques_that_the_peers_lack_are_refused() -> None:
    with pytest.raises(ConfigError, match="R-Drop"):
        training_contestants(setting(48, "loss.r_drop_alpha=0.5"))


def test_flops_of_a_row_against_torchs_own_count() -> None:
    """torch counts the products of the whole forward pass; heads and pooling are not in ours, so it may have a little more."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    here = setting()
    model = here.model()
    ids = torch.ones(1, 24, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert counter.get_total_flops() == pytest.approx(flops_per_row(here.encoder, 24, training=False), rel=0.02)


def test_the_peak_is_what_a_product_takes() -> None:
    import torch

    assert 1e8 < peak_flops("fp32", torch.device("cpu"), size=256) < 1e13


@pytest.mark.parametrize("method", ["pandas", "imbalanced-learn"])
def test_peers_of_oversampling_give_the_same_number_of_rows(method: str, tmp_path: Path) -> None:
    pytest.importorskip("imblearn")
    write_rows(tmp_path / "rows.parquet", 2000)
    runs = [in_process("oversampling", m, str(tmp_path / "rows.parquet"), str(tmp_path / "out.parquet")) for m in ("pyarrow take", method)]
    counts = [run["out_rows"] for run in runs if not isinstance(run, str)]
    assert counts[0] == counts[1] > 2000


@pytest.mark.slow
@pytest.mark.cluster
def test_a_contestant_that_leaves_too_little_memory_is_ended_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    measured = rows.in_process
    monkeypatch.setattr(rows, "in_process", lambda what, method, *files: (started.append(method), measured(what, method, *files))[1])
    monkeypatch.setattr(rows, "_low_on_memory", lambda: len(started) == 2)  # once the second runs
    monkeypatch.setattr(rows, "OVERSAMPLERS", ("polarity", "pandas", "pyarrow take"))
    said: list[str] = []
    found = rows.compare_oversampling(1000, repeats=1, say=said.append)
    assert "too little memory" in found["pandas"]["failed"] and any("too little memory" in line for line in said)
    assert found["pyarrow take"]["out_rows"] == found["polarity"]["out_rows"] > 1000
    ours, theirs = found["polarity"]["seconds"]["median"], found["pyarrow take"]["seconds"]["median"]
    assert found["pyarrow take"]["ratio"]["median"] == pytest.approx(theirs / ours)
    everything = {"about": {"device": "", "threads": 1, "precision": "", "encoder": "", "repeats": 1}, "oversampling": {"1000": found}}
    assert "too little memory" in render(everything) and "too little memory" in render_benchmark(everything)


def test_without_its_packages_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from polarity.cli import main
    from polarity.workflows import benchmark

    monkeypatch.setattr(benchmark, "find_spec", lambda name: None if name == "imblearn" else name)
    monkeypatch.setattr("sys.argv", ["polarity", "benchmark", "--quick", "--encoder", str(encoder_folder())])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "needs imbalanced-learn: pip install 'polarity[benchmark]'" in capsys.readouterr().err


def test_the_command_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from polarity.cli import main

    out = tmp_path / "speed.json"
    sets = [part for value in [*SETS, "train.eval_batch_size=8"] for part in ("--set", value)]
    command = [
        "benchmark",
        "--encoder",
        str(encoder_folder()),
        "--parts",
        "training,prediction,limit,checkpoint",
        "--rows",
        "48",
        "--repeats",
        "2",
    ]
    monkeypatch.setattr("sys.argv", ["polarity", *command, *sets, "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    figures = json.loads(out.read_text())
    runs = figures["training"]["runs"]
    ratios = [a["rows"] / a["seconds"] / (b["rows"] / b["seconds"]) for a, b in zip(runs["polarity"], runs["Trainer"], strict=True)]
    assert figures["training"]["ratios"]["Trainer"]["median"] == pytest.approx(float(np.median(ratios)))
    assert figures["checkpoint"]["rates"]["polarity"]["mb"]["median"] > 0
    page = out.with_suffix(".html").read_text()
    shown = figures["training"]["ratios"]["Trainer"]["median"]
    assert f"{shown:.2f} times as fast as Trainer" in page and "<script" not in page and "least to greatest" in page
    assert 0 < figures["limit"]["mfu_real_tokens"]["median"] <= figures["limit"]["mfu_padded_tokens"]["median"] < 1
    assert "padding" in capsys.readouterr().out


def test_the_peak_is_the_contestants_own(tmp_path: Path) -> None:
    """Not that of the process that started it, which here is made large on purpose."""
    ballast = np.ones(150_000_000)  # 1.2 GB
    write_rows(tmp_path / "rows.parquet", 1000)
    measured = in_process("oversampling", "pyarrow take", str(tmp_path / "rows.parquet"), str(tmp_path / "out.parquet"))
    assert 20 < measured["peak_mb"] < ballast.nbytes / 2**20


@pytest.mark.slow
@pytest.mark.cluster
def test_time_between_trials_is_what_training_leaves() -> None:
    from polarity.benchmark.startup import trials

    sets = [part for value in (*SETS, "train.eval_batch_size=8") for part in ("--set", value)]
    found = trials(["--preset", "small", "--encoder", str(encoder_folder()), *sets], repeats=1, say=lambda _: None)
    assert 0 < found["next"]["low"] <= found["next"]["median"] <= found["next"]["high"] < 60
    assert found["training"]["low"] > 0


@pytest.mark.parametrize("method", ["polarity", "datasets + DataLoader"])
def test_loading_reads_as_many_rows_as_asked(method: str, tmp_path: Path) -> None:
    write_tokens(tmp_path, 3000)
    run = in_process("loading", method, str(tmp_path), "20")
    assert not isinstance(run, str) and run["rows"] == 20 * 32
    assert run["first_s"] > 0 and run["seconds"] > 0 and run["peak_mb"] > 20
