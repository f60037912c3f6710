"""The last net: what is not ours ends in one line, a file and status 70; and a terminal that lacks letters stops nothing."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from polarity import cli
from polarity.cli import net
from polarity.config import ClusterConfig
from polarity.errors import ConfigError, DataError


def run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("error", [KeyError("gone"), ZeroDivisionError(), MemoryError("no room for\nall of it"), OSError(5, "I/O error")])
def test_an_error_that_is_not_ours(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(net.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["polarity", "train", "--data", "s3://me:secret@host/x"])
    assert run(monkeypatch, error) == 70
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Traceback" not in line and type(error).__name__ in line and "please report" in line
    named = re.search(r"The traceback is in (\S+):", line)
    assert named is not None
    told = Path(named[1]).read_text("utf-8")
    assert "Traceback" in told and "in fail" in told and "secret" not in told and "--data" in told


def test_no_place_for_the_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(net.tempfile, "tempdir", str(tmp_path / "none"))
    assert run(monkeypatch, KeyError("gone")) == 70
    assert "in fail" in capsys.readouterr().err


def test_our_error_inside_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = DataError("x.csv, line 3: empty comment")
    assert run(monkeypatch, outer) == 2
    assert capsys.readouterr().err == "error: x.csv, line 3: empty comment\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_terminal_that_lacks_letters(encoding: str) -> None:
    letters = r"\u2500\u2502\u253c \u2588 \u2265 \u4eba \ud83d"
    program = f"from polarity.cli.net import print_anything; print_anything(); print('{letters}')"
    found = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    text = found.stdout.decode(encoding)
    assert text.startswith("-|+ #") and r"# >= \u4eba \ud83d" in text


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize("kind", ["gone", "not a cluster", "unknown host", "job server"])
def test_a_cluster_that_is_not_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from polarity.train import cluster

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = {
            "gone": f"127.0.0.1:{closed_port()}",
            "not a cluster": f"127.0.0.1:{other.getsockname()[1]}",
            "unknown host": "no-such-host.invalid:6379",
            "job server": "http://127.0.0.1:8265",
        }[kind]
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"RAY_ADDRESS={re.escape(address)}: .*unset RAY_ADDRESS"):
            cluster.start_ray(ClusterConfig(start_timeout_s=1.0), lambda line: None)


def test_a_temporary_folder_too_long_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    from polarity.train.cluster import _short_sockets

    told: list[str] = []
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    _short_sockets(told.append)
    assert "RAY_TMPDIR" not in os.environ and told == []
    monkeypatch.setenv("TMPDIR", "/scratch/slurm_jobdir/ñ/job_1355700/tmp")
    _short_sockets(told.append)
    assert os.environ["RAY_TMPDIR"] == "/tmp" and "TMPDIR is too long" in told[0]
    monkeypatch.setenv("RAY_TMPDIR", "/short" + "/x" * 30)
    with pytest.raises(ConfigError, match=r"RAY_TMPDIR=.*at most 36 bytes"):
        _short_sockets(told.append)
