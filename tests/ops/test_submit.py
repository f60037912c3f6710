"""`polarity submit` beside a cluster: what is sent, where to, and what is said when the other side is not a job server."""

import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polarity.errors import RunError
from polarity.ops.doctor import payload
from polarity.ops.submit import DEFAULT_ADDRESS, connect, job_server, use_token

ROOT = Path(__file__).parents[2]
SENT = [".gitignore", ".rayignore", "pyproject.toml", "README.md", "polarity", "jobs", "cluster", "tests"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This project's folder as a user has it, with data, runs and an environment lying about."""
    folder = tmp_path / "polarity"
    folder.mkdir()
    for name in SENT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    litter = ["data/comments.csv", "comments.csv", "crawl/part-0.parquet", "new.jsonl", "runs/first/model/model.safetensors"]
    litter += ["encoder/model.safetensors", ".venv/lib/python3.11/site-packages/x.py", ".git/objects/ab", "predicted.tsv", "optimizer.pt"]
    for name in litter:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"secret rows" * 10_000)
    return folder


def test_the_package_has_the_code_and_not_the_data(checkout: Path, tmp_path: Path) -> None:
    """As Ray itself packs it."""
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    with zipfile.ZipFile(package) as opened:
        names = [name for name in opened.namelist() if not name.endswith("/")]
        assert not [name for name in names if b"secret rows" in opened.read(name)]
    assert {"jobs/train.py", "jobs/predict.py", "polarity/__main__.py", "polarity/presets/small.yaml"} <= set(names)
    code = {p.relative_to(checkout).as_posix() for p in (checkout / "polarity").rglob("*") if p.is_file()}
    assert code <= set(names), "every module, preset, template and schema"
    assert not [name for name in names if name.startswith("tests/")]
    assert package.stat().st_size < 2_000_000


def test_what_the_doctor_measures_is_what_is_sent(checkout: Path) -> None:
    found = payload(checkout)
    assert found.level == "ok" and "MB in" in found.what
    (checkout / "polarity" / "forgotten.bin").write_bytes(b"x" * 120_000_000)
    found = payload(checkout)
    assert found.level == "problem" and "polarity/forgotten.bin (120.0 MB)" in found.what and ".rayignore" in found.remedy


def test_the_address_given_wins_over_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert job_server(None) == DEFAULT_ADDRESS
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265")
    assert job_server(None) == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:8265")
    assert job_server(None) == "http://two:8265"
    assert job_server("http://three:8265") == "http://three:8265"
    with pytest.raises(RunError, match="http://HOST:8265"):
        job_server("head:8265")


def test_the_token_is_sent_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ, HOME=str(tmp_path)))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    use_token()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled", "what the user said stands"


@contextmanager
def server(status: int, body: str) -> Iterator[str]:
    """The address of a server that answers everything with this."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_port}"
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, "Unauthorized: Missing authentication token", "refuses this client.*RAY_AUTH_TOKEN"),
        (403, "Forbidden: Invalid authentication token", "refuses this client.*RAY_AUTH_TOKEN"),
        (404, "not here", "no job server answers there"),
        (500, "broken", "no job server answers there"),
        (200, "<html>Welcome to nginx</html>", "no job server answers there"),
        (200, json.dumps({"hello": 1}), "no job server answers there"),
        (200, json.dumps({"ray_version": "1.2.0"}), "no job server answers there"),
    ],
)
def test_another_server_is_told_apart_in_one_line(status: int, body: str, words: str) -> None:
    with server(status, body) as address, pytest.raises(RunError, match=words) as refusal:
        connect(address)
    assert address in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid:8265", "gopher://x:1", "http://"])
def test_an_address_without_a_server_is_told_in_one_line(address: str) -> None:
    with pytest.raises(RunError, match="no job server answers there") as refusal:
        connect(address)
    assert "\n" not in str(refusal.value)


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    look: Callable[[], str | None] = lambda: os.environ.get("RAY_API_SERVER_ADDRESS")  # noqa: E731
    for before in (None, "http://other:1"):
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        if before:
            monkeypatch.setenv("RAY_API_SERVER_ADDRESS", before)
        with pytest.raises(RunError):
            connect("http://127.0.0.1:9")
        assert look() == before
