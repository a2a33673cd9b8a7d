"""Several real SGLang servers: behind our list of addresses, and behind SGLang's own router."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.base_model import base_version
from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import open_model
from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.opening import open_sglang
from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server import Patience
from meteor_agents.backends.sglang_servers.server_process import Served
from meteor_agents.backends.sglang_servers.student import SGLangStudent
from meteor_agents.errors import RefusedCallError
from meteor_agents.models import ChatMessage, Completion, SamplingParams
from meteor_agents.settings.roles import ModelSettings
from tests.support.real_sglang import CPU_FLAGS, sglang_python
from tests.support.tiny_model import make_tiny

GREEDY = SamplingParams(temperature=0, top_p=1, max_tokens=8)
GUARD_S = 900.0
"""Longer than anything here takes on a busy machine."""


@asynccontextmanager
async def two_servers(folder: Path, scratch: Path) -> AsyncIterator[list[LaunchedServer]]:
    """Started, watched and started again by us, so one that is killed comes back by itself."""
    options = LaunchOptions.model_validate({"python": sglang_python(), "flags": CPU_FLAGS})
    launched = [LaunchedServer("judge", options, scratch / f"{name}.log", lambda sentence: None) for name in "ab"]
    try:
        await asyncio.gather(*(server.start(Served(str(folder), "tiny")) for server in launched))
        yield launched
    finally:
        await asyncio.gather(*(server.aclose() for server in launched))


async def ask(model: Any, count: int) -> list[Completion]:
    calls = (model.complete([ChatMessage(role="user", content=f"Say {i}")], GREEDY) for i in range(count))
    return list(await asyncio.gather(*calls))


def answered(log: Path) -> int:
    """Chats that the server has answered, by its own log."""
    return log.read_text(errors="replace").count("POST /v1/chat/completions")


def kill(server: LaunchedServer) -> None:
    """kill -9 of the server's main process, not of what watches it."""
    port = server.server.url.rpartition(":")[2].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sglang.launch_server" in command and port in command and b"process_watch" not in b"".join(command):
            return os.kill(int(process.name), signal.SIGKILL)
    raise AssertionError("the server's process was not found")


@pytest.mark.sglang
@pytest.mark.slow
def test_two_servers_share_the_work_take_new_weights_and_one_that_is_killed_comes_back(tmp_path: Path) -> None:
    sglang_python()
    folder, other = make_tiny(tmp_path / "model"), make_tiny(tmp_path / "other", seed=1)

    async def work() -> None:
        async with asyncio.timeout(GUARD_S), two_servers(folder, tmp_path) as (first, second):
            urls = [first.server.url, second.server.url]
            settings = ModelSettings.model_validate(
                {"backend": "sglang", "model": str(folder), "base_url": urls, "limits": {"timeout_s": 300}}
            )
            model = open_sglang("student", settings, Surroundings(), Patience(first_pause_s=0.5, longest_pause_s=2))
            assert isinstance(model, SGLangStudent)
            try:
                await model.open()
                await model.load_weights(folder, base_version(settings))
                assert {reply.weights for reply in await ask(model, 16)} == {base_version(settings)}
                assert min(answered(tmp_path / "a.log"), answered(tmp_path / "b.log")) >= 4

                await model.load_weights(other, "v2")
                assert [await server.server.weights() for server in (first, second)] == ["v2", "v2"]

                flying = asyncio.create_task(ask(model, 24))
                kill(first)
                assert {reply.weights for reply in [*await flying, *await ask(model, 12)]} == {"v2"}
                before = answered(tmp_path / "a.log")
                while answered(tmp_path / "a.log") == before:
                    assert {reply.weights for reply in await ask(model, 4)} == {"v2"}
                    await asyncio.sleep(1)
                assert await first.server.weights() == "v2"
            finally:
                await model.aclose()

    asyncio.run(work())


@pytest.mark.sglang
@pytest.mark.slow
def test_sglangs_own_router_can_stand_in_front_of_a_model_that_is_not_trained(tmp_path: Path) -> None:
    python = sglang_python()
    if subprocess.run([python, "-c", "import sglang_router"], capture_output=True, check=False).returncode:
        pytest.skip("the environment with SGLang has no sglang-router")
    folder = make_tiny(tmp_path / "model")

    async def work() -> None:
        async with asyncio.timeout(GUARD_S), two_servers(folder, tmp_path) as launched:
            with router(python, [server.server.url for server in launched], tmp_path / "router.log") as url:
                await routed(url, launched)

    async def routed(url: str, launched: list[LaunchedServer]) -> None:
        name = launched[0].serves.model if launched[0].serves else ""
        for settings in (
            {"backend": "sglang", "model": name, "base_url": url},
            {"backend": "openai", "model": name, "base_url": f"{url}/v1"},
        ):
            model = open_model("judge", ModelSettings.model_validate(settings), Surroundings())
            try:
                assert all(reply.usage.output_tokens for reply in await ask(model, 8))
            finally:
                await model.aclose()
        trained = ModelSettings.model_validate({"backend": "sglang", "model": name, "base_url": url})
        student = open_sglang("student", trained, Surroundings())
        assert isinstance(student, SGLangStudent)
        try:
            with pytest.raises(RefusedCallError, match="name the servers behind it"):
                await student.load_weights(folder, "v2")
        finally:
            await student.aclose()

    asyncio.run(work())


@contextmanager
def router(python: Path, workers: list[str], log: Path) -> Iterator[str]:
    """SGLang's router before these servers: its address, once it passes calls on. A port that is taken is no port."""
    for port in range(38000, 38100, 7):
        process = _start_router(python, workers, log, port)
        try:
            if _ready(process, port):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    raise AssertionError(f"the router did not start: {log.read_text(errors='replace')[-800:]}")


def _start_router(python: Path, workers: list[str], log: Path, port: int) -> subprocess.Popen[bytes]:
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--prometheus-port",
        str(port + 1),
        "--policy",
        "round_robin",
    ]
    with log.open("ab") as said:
        return subprocess.Popen(
            [str(python), "-m", "sglang_router.launch_router", *options, "--worker-urls", *workers],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def _ready(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness", timeout=5) as reply:
            if reply.status == 200:
                return True
        time.sleep(0.5)
    return False


@pytest.mark.sglang
@pytest.mark.slow
def test_a_template_that_refuses_a_system_message_is_served_as_it_is_trained(tmp_path: Path) -> None:
    """As Gemma's first templates refuse it: the server's prompt has as many tokens as training's."""
    from transformers import AutoTokenizer

    from meteor_agents.backends.local.chat_template import prompt_ids

    python = sglang_python()
    folder = make_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Why?")]
    launch = {"python": str(python), "flags": CPU_FLAGS}
    settings = {"backend": "sglang", "model": str(folder), "launch": launch, "limits": {"timeout_s": 300}}

    async def work() -> None:
        model = open_sglang("student", ModelSettings.model_validate(settings), Surroundings(tmp_path))
        try:
            async with asyncio.timeout(GUARD_S):
                await model.open()
                for _ in range(2):
                    reply = await model.complete(asked, GREEDY)
                    assert reply.usage.input_tokens == len(prompt_ids(AutoTokenizer.from_pretrained(folder), asked))
        finally:
            await model.aclose()

    asyncio.run(work())
