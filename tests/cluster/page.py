"""A page as a person sees it: headless Chromium driven by its own protocol, with a header of ours on every request."""

import asyncio
import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp


def text_of(
    url: str, *, until: str, headers: Mapping[str, str], browser: str, picture: Path | None = None, patience_s: float = 40.0
) -> str:
    """The visible text once `until` is in it, and a screenshot in `picture`. AssertionError with the text where it does not come."""
    with tempfile.TemporaryDirectory(prefix="pol-chromium-", ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"]
        command += ["--disable-extensions", "--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
        command += ["--window-size=1280,900", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        with (Path(profile) / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            return asyncio.run(_read(port, url, until, dict(headers), picture, patience_s))
        finally:
            process.terminate()
            process.wait(20)


def _port(file: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        if file.is_file() and file.read_text().count("\n"):
            return int(file.read_text().split()[0])
        time.sleep(0.1)
    raise AssertionError(f"Chromium did not start: {file.with_name('log').read_text()[-2000:]}")


async def _read(port: int, url: str, until: str, headers: dict[str, str], picture: Path | None, patience_s: float) -> str:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in await answer.json(content_type=None) if target["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            talk = _Protocol(socket)
            await talk.call("Network.enable")
            await talk.call("Network.setExtraHTTPHeaders", headers=headers)
            await talk.call("Page.navigate", url=url)
            text, deadline = "", time.monotonic() + patience_s
            while until not in text:
                assert time.monotonic() < deadline, f"{url}: no {until!r} in {patience_s:g} s; the page says: {text}"
                await asyncio.sleep(0.3)
                found = await talk.call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
                text = str(found["result"].get("value", ""))
            if picture is not None:
                picture.write_bytes(base64.b64decode((await talk.call("Page.captureScreenshot"))["data"]))
            return text


class _Protocol:
    """Commands by number; events in between are passed over."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._sent = socket, 0

    async def call(self, method: str, **params: Any) -> Any:
        self._sent += 1
        await self._socket.send_str(json.dumps({"id": self._sent, "method": method, "params": params}))
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError("Chromium closed the connection")
