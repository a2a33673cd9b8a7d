"""A headless Chromium, spoken to over its own DevTools protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--remote-debugging-port=0",
    "--remote-allow-origins=*", "--window-size=1280,900",
)  # fmt: skip
HANG_S = 300


class Page:
    """One tab: what it logged, what it asked of the network, and what its scripts say."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._loaded = False
        self.complaints: list[str] = []
        """Errors and warnings of the console, and uncaught exceptions."""
        self.requests: list[str] = []
        """Addresses that the page asked for, its own apart."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            said = json.loads(await self._socket.receive_str(timeout=HANG_S))
            if said.get("id") == self._number:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            self._heard(**said)

    def _heard(self, method: str, params: dict[str, Any], **_: Any) -> None:
        content = params
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(content["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])

    async def open(self, path: Path) -> None:
        """Return when the page says that it has drawn itself."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._heard(**json.loads(await self._socket.receive_str(timeout=HANG_S)))
        await self.until("document.documentElement.dataset.state === 'ready'")
        self.requests = [url for url in self.requests if url != path.as_uri()]

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, condition: str) -> None:
        async with asyncio.timeout(HANG_S):
            while not await self.run(condition):  # noqa: ASYNC110  # the page has no event of ours to wait for
                await asyncio.sleep(0.05)

    async def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Page]:
    """A page of its own browser, open and drawn."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        nowhere = asyncio.subprocess.DEVNULL
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank", stdin=nowhere, stdout=nowhere, stderr=nowhere
        )
        try:
            port = await asyncio.to_thread(_port, Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as listed:
                    (tab, *_) = [tab for tab in await listed.json() if tab["type"] == "page"]
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    await page.open(path)
                    yield page
        finally:
            browser.kill()
            await browser.wait()


def _port(told: Path) -> int:
    """Chromium writes the port that it was given, and the path of its own socket, to this file."""
    until = time.monotonic() + HANG_S
    while time.monotonic() < until:
        lines = told.read_text().splitlines() if told.exists() else []
        if len(lines) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError(f"Chromium has not said in {HANG_S} s where it can be spoken to")
