"""Run folders: what is refused, what is written whole or not at all, and the same on a filesystem that is not local."""

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from polarity.artifacts import CONFIG, METRICS, MODEL, RunFolder, default_run_dir, user_cache_dir
from polarity.encoders import EncoderFiles
from polarity.environment import describe_environment, git_state
from polarity.errors import RunError


def test_a_run_folder_holds_what_was_written(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "one")
    run.write_text(CONFIG, "data: {}\n")
    run.write_json(METRICS, {"score": np.float32(0.5), "counts": np.array([1, 2])})
    table = pa.table({"row_id": ["a"], "p": pa.array([0.5], pa.float32())})
    run.write_parquet("predictions.parquet", table)
    again = RunFolder.open(tmp_path / "runs" / "one")
    assert again.read_text(CONFIG) == "data: {}\n"
    assert again.read_json(METRICS) == {"schema_version": 1, "score": 0.5, "counts": [1, 2]}
    assert again.read_parquet("predictions.parquet").equals(table)
    assert sorted(p.name for p in (tmp_path / "runs" / "one").iterdir()) == [CONFIG, METRICS, "predictions.parquet"]


def test_a_new_run_does_not_touch_an_old_one(tmp_path: Path) -> None:
    RunFolder.create(tmp_path).write_text(CONFIG, "old")
    with pytest.raises(RunError, match=r"already holds a run \(config.yaml\).*--resume.*--run-dir"):
        RunFolder.create(tmp_path)
    assert RunFolder.create(tmp_path, resume=True).read_text(CONFIG) == "old"
    with pytest.raises(RunError, match="holds no run to resume"):
        RunFolder.create(tmp_path / "other", resume=True)
    assert not (tmp_path / "other").exists()
    with pytest.raises(RunError, match="no run here"):
        RunFolder.open(tmp_path / "other")


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places: list[tuple[str | Path, str]] = [
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "file"),
        ("/proc/polarity", "cannot write here"),
        ("nothing://bucket/run", "not a folder or URI"),
        (" ", "is empty"),
    ]
    for place, message in places:
        with pytest.raises(RunError, match=message):
            RunFolder.create(place)


def test_uris_and_relative_paths_are_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.create("runs/a b").write_text(CONFIG, "x")
    assert RunFolder.open(f"file://{tmp_path}/runs/a%20b").read_text(CONFIG) == "x"
    assert RunFolder.open("runs/a b").local == tmp_path / "runs" / "a b"


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EIO, "cannot write")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_half_written(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_text(CONFIG, "old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    run.write_folder(MODEL, tmp_path / "model")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError, match=message):
        run.write_text(CONFIG, "new")
    (tmp_path / "model" / "weights").write_text("new")
    with pytest.raises(RunError, match=message):
        run.write_folder(MODEL, tmp_path / "model")
    assert run.read_text(CONFIG) == "old"
    assert run.read_text(f"{MODEL}/weights") == "old"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [CONFIG, MODEL]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a").write_text("1")
    run.write_folder(MODEL, source)
    (source / "deep" / "a").rename(source / "b")
    run.write_folder(MODEL, source)
    assert sorted(str(p.relative_to(tmp_path / "run" / MODEL)) for p in (tmp_path / "run" / MODEL).rglob("*")) == ["b", "deep"]
    assert run.fetch_folder(MODEL, tmp_path / "unused") == tmp_path / "run" / MODEL
    with pytest.raises(RunError, match="has no checkpoints"):
        run.fetch_folder("checkpoints", tmp_path)


def test_a_filesystem_that_is_not_local(tmp_path: Path) -> None:
    """A SubTreeFileSystem takes the same road as a bucket: no local path, whole objects through streams."""
    (tmp_path / "bucket").mkdir()
    run = RunFolder("bucket", pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem()), "run")
    run.filesystem.create_dir("run")
    run.write_json(METRICS, {"a": 1})
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(b"\x1f\x8bnot gzip")
    run.write_folder(MODEL, source)
    run.write_folder(MODEL, source)
    assert run.local is None
    assert run.read_json(METRICS)["a"] == 1
    assert run.read_bytes(f"{MODEL}/weights") == b"\x1f\x8bnot gzip"
    fetched = run.fetch_folder(MODEL, tmp_path / "fetched")
    assert [p.name for p in fetched.iterdir()] == ["weights"]


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    for content, message in [
        (b"{", "metrics.json: damaged JSON, line 1"),
        (b"\xff", "not UTF-8"),
        (b'{"schema_version": 2}', r"another schema version \(2; this polarity reads 1\)"),
        (b"[]", r"another schema version \(None"),
    ]:
        run.write_bytes(METRICS, content)
        with pytest.raises(RunError, match=message):
            run.read_json(METRICS)
    run.write_bytes("history.parquet", b"PAR1")
    with pytest.raises(RunError, match=r"history.parquet: damaged Parquet"):
        run.read_parquet("history.parquet")
    with pytest.raises(RunError, match=r"has no predictions.parquet"):
        run.read_parquet("predictions.parquet")


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunFolder.create(tmp_path).write_json(METRICS, {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_run_dir("small", datetime(2026, 11, 24, 8, 25, 1, tzinfo=UTC)) == "runs/small-20261124T082501Z"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache_dir() == Path("/somewhere/polarity")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache_dir() == Path.home() / ".cache" / "polarity"


def test_the_environment_says_what_ran_and_keeps_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    (tmp_path / "a.csv").write_text("x\n")
    (tmp_path / "saved").mkdir()
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"GPU {index}")
    torch: Any = SimpleNamespace(cuda=cuda)
    found = describe_environment(
        seeds={"run": 0, "split": 42},
        sources=[str(tmp_path / "a.csv"), str(tmp_path / "saved"), "sample:10"],
        encoder=EncoderFiles("e", tmp_path, "abc", "123"),
        torch=torch,
    )
    text = json.dumps(found)
    assert "hf_very_secret" not in text
    assert found["data"][str(tmp_path / "a.csv")] == "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
    assert found["data"]["sample:10"] is None and len(found["data"][str(tmp_path / "saved")]) == 64
    assert found["gpus"] == ["GPU 0", "GPU 1"]
    assert found["packages"]["pyarrow"] == pa.__version__
    assert found["encoder"] == {"name": "e", "revision": "123", "sha256": "abc"}
    assert (found["seeds"], found["platform"]["cpus"]) == ({"run": 0, "split": 42}, os.cpu_count())


def test_a_commit_is_the_packages_own(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True
        )

    package = tmp_path / "polarity"
    package.mkdir()
    (package / "errors.py").write_text("")
    assert git_state(package) is None
    git("init")
    assert git_state(package) is None
    git("add", ".")
    git("commit", "-m", "one")
    state = git_state(package)
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False
    (package / "errors.py").write_text("x")
    changed = git_state(package)
    assert changed is not None and changed["dirty"] is True
