"""The JSON API under Ray Serve: many requests of mixed sizes at once, each with its own answers, and requests that are refused."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from polarity.errors import RunError
from polarity.predict import load_classifier
from polarity.predict.batch import ScoreOptions
from polarity.workflows.serve import start
from tests.tiny import tiny_comments
from tests.trained import trained_run

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def address(run: Path, ray_cluster: None) -> Iterator[str]:
    from ray import serve

    yield start(ScoreOptions(str(run), device="cpu"), host="127.0.0.1", port=_free_port(), replicas=1, say=lambda _: None)
    serve.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send(address: str, bodies: list[Any], path: str = "/predict") -> list[tuple[int, Any]]:
    """Status and content of the answers to requests that are all sent at once."""
    import aiohttp

    async def one(session: aiohttp.ClientSession, body: Any) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post(address + path, data=content, headers={"Content-Type": "application/json"}) as answer:
            return answer.status, await answer.json(content_type=None)

    async def all_of_them() -> list[tuple[int, Any]]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=240)) as session:
            return list(await asyncio.gather(*(one(session, body) for body in bodies)))

    return asyncio.run(all_of_them())


def test_concurrent_requests_of_mixed_sizes_get_their_own_answers(address: str, run: Path) -> None:
    comments = tiny_comments(300, seed=9)
    texts, titles = comments["comment"].to_pylist(), comments["title"].to_pylist()
    whole = load_classifier(str(run), device="cpu").predict_table(texts, titles).to_pylist()
    sizes = [1 + (17 * i) % 23 for i in range(300)]
    rows = [[(i * 7 + k) % 300 for k in range(size)] for i, size in enumerate(sizes)]
    bodies = [{"comments": [{"text": texts[row], "title": titles[row]} for row in chosen]} for chosen in rows]
    answers = send(address, bodies)
    assert {status for status, _ in answers} == {200}
    for chosen, (_, answer) in zip(rows, answers, strict=True):
        assert len(answer["predictions"]) == len(chosen)
        for row, found in zip(chosen, answer["predictions"], strict=True):
            assert found["sentiment"]["label"] == whole[row]["sentiment"]
            assert found["polarization"]["probabilities"]["partisan"] == pytest.approx(whole[row]["polarization_p_partisan"], abs=1e-4)


REFUSED: dict[str, tuple[Any, int, str]] = {
    "no comments": ({"comments": []}, 422, "comments"),
    "no such key": ({"texts": ["a"]}, 422, "Field required"),
    "blank": ({"comments": [{"text": "fine"}, {"text": " \u200b"}]}, 422, "body.comments.1.text"),
    "half a character": (b'{"comments": [{"text": "\\ud800"}]}', 422, "unicode"),
    "1 MB of text": ({"comments": [{"text": "a" * 1_000_000}]}, 422, "20000"),
    "too many": ({"comments": [{"text": "a"}] * 1001}, 422, "1000"),
    "too large": (b" " * ((32 << 20) + 1), 413, "33,554,432"),
    "no JSON": (b"{", 422, "JSON"),
}


def test_refused_requests_say_why_and_harm_no_other(address: str) -> None:
    good = {"comments": [{"text": "ang tao"}]}
    answers = send(address, [body for refused, _, _ in REFUSED.values() for body in (refused, good)])
    for (case, (_, status, fragment)), (got, content) in zip(REFUSED.items(), answers[::2], strict=True):
        assert got == status and fragment in str(content), case
        assert len(str(content)) < 1000, f"{case}: the text is not sent back"
    assert {status for status, _ in answers[1::2]} == {200}


def test_health_labels_and_description(address: str) -> None:
    import requests

    assert requests.get(f"{address}/health", timeout=30).json() == {"status": "ok", "run": "run"}
    assert requests.get(f"{address}/labels", timeout=30).json()["sentiment"] == ["negative", "neutral", "positive"]
    assert "/predict" in requests.get(f"{address}/openapi.json", timeout=30).json()["paths"]
    assert requests.get(f"{address}/docs", timeout=30).status_code == 200


def listening() -> dict[int, set[str]]:
    """{port: local addresses} that processes of this machine listen on, from Linux's tables; hexadecimal, as they stand there."""
    found: dict[int, set[str]] = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            local, state = line.split()[1], line.split()[3]
            address, _, port = local.partition(":")
            if state == "0A":
                found.setdefault(int(port, 16), set()).add(address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_a_service_is_reachable_from_this_machine_only(address: str) -> None:
    assert listening()[int(address.rpartition(":")[2])] == {"0100007F"}


def test_taken_port_and_bad_run(address: str, run: Path, tmp_path: Path) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(RunError, match="--port"):
        start(ScoreOptions(str(run)), host="127.0.0.1", port=port, replicas=1, say=lambda _: None)
    with pytest.raises(RunError, match="no run here"):
        start(ScoreOptions(str(tmp_path)), host="127.0.0.1", port=port, replicas=1, say=lambda _: None)


def test_the_command_serves_until_it_is_told_to_end(run: Path) -> None:
    """By its name, in a process of its own; Ray's processes end with it and the port is free again. Ray's own SIGTERM leaves at once."""
    import requests

    port = _free_port()
    command = [str(Path(sys.executable).with_name("polarity")), "serve", run.as_uri(), "--port", str(port), "--device", "cpu"]
    if not Path(command[0]).exists():
        command[:1] = [sys.executable, "-m", "polarity"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("serving "):
                    break
            address = f"http://127.0.0.1:{port}"
            assert lines and f"{address}/predict" in lines[-1], (lines, process.poll())
            assert requests.get(f"{address}/health", timeout=30).json() == {"status": "ok", "run": "run"}
            answer = requests.post(f"{address}/predict", json={"comments": [{"text": "ang tao", "title": "mayor"}]}, timeout=60)
            expected = load_classifier(str(run), device="cpu").predict_table(["ang tao"], ["mayor"]).to_pylist()[0]
            found = answer.json()["predictions"][0]["sentiment"]
            assert found["label"] == expected["sentiment"] and found["confidence"] == pytest.approx(
                expected["sentiment_confidence"], abs=1e-4
            )
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and rest.splitlines()[-1] == "stopped", (process.returncode, rest, errors)
    assert "Traceback" not in errors
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
