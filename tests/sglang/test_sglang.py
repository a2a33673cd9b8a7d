"""SGLang's side of the bargain: many servers, launched servers, new weights. The servers are real processes and sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.abilities import LoadsWeights
from meteor_agents.backends.base_model import costs_money
from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import open_model
from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.member import FAILURES
from meteor_agents.backends.sglang_servers.opening import open_sglang
from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server import Patience
from meteor_agents.backends.sglang_servers.server_process import Served
from meteor_agents.errors import ModelError, RefusedCallError, ServerDown, SettingsError, TransientModelError
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.roles import ModelSettings
from tests.backends.conformance import fake_server
from tests.backends.conformance.fake_server import FakeServer

GREEDY = SamplingParams(temperature=0, top_p=1, max_tokens=50)
PATIENCE = Patience(first_pause_s=0.05)
IMPATIENCE = Patience(first_pause_s=0.05, token_s=2.0, grace_s=0.1)
GUARD_S = 60.0
"""Longer than anything here takes: a guard against hanging."""


def said(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=prompt)]


def checkpoint(folder: Path, **extra: str) -> Path:
    """A folder that looks complete: a safetensors file without tensors, and what `extra` names."""
    folder.mkdir(parents=True)
    header = b"{}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    for name, content in extra.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "base")


@contextmanager
def servers(count: int) -> Iterator[list[FakeServer]]:
    fakes = [FakeServer() for _ in range(count)]
    with fakes[0].running():
        if count == 1:
            yield fakes
            return
        with fakes[1].running():
            yield fakes


@asynccontextmanager
async def opened(
    role: str, settings: dict[str, Any], notes: list[str], logs: Path | None = None, patience: Patience = PATIENCE
) -> AsyncIterator[Any]:
    """The model of these settings, opened, with less patience than in a run."""
    surroundings = Surroundings(logs, notes.append)
    model = open_sglang(role, ModelSettings.model_validate(settings), surroundings, patience)
    try:
        await model.open()
        yield model
    finally:
        await model.aclose()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(GUARD_S):
            await work()

    asyncio.run(guarded())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in threads and processes
        await asyncio.sleep(0.01)


# Several servers


def test_calls_go_to_the_server_with_the_least_work() -> None:
    with servers(2) as (slow, quick):
        slow.delay_s, quick.delay_s = 0.4, 0.01

        async def work() -> None:
            async with opened(
                "judge", {"backend": "sglang", "model": "m", "base_url": [slow.url, quick.url]}, []
            ) as model:
                waiting = asyncio.Semaphore(4)

                async def ask(i: int) -> None:
                    async with waiting:
                        await model.complete(said(f"SAY:{i}"), GREEDY)

                await asyncio.gather(*(ask(i) for i in range(40)))

        run(work)
        assert len(quick.asked("/v1/chat/completions")) > 3 * len(slow.asked("/v1/chat/completions")) > 0


def test_a_dead_server_is_left_out_and_taken_back_when_it_speaks() -> None:
    notes: list[str] = []
    with servers(1) as (alive,):
        dead = FakeServer()
        with dead.running():
            port = int(dead.url.rsplit(":", 1)[1])

        async def work() -> None:
            settings = {"backend": "sglang", "model": "m", "base_url": [alive.url, dead.url]}
            async with opened("judge", settings, notes) as model:
                for i in range(6):
                    assert (await model.complete(said(f"SAY:{i}"), GREEDY)).text == str(i)
                assert any("left out" in note for note in notes)
                with dead.running(port):
                    await until(lambda: any("taken back" in note for note in notes))
                    await asyncio.gather(*(model.complete(said("SAY:x"), GREEDY) for _ in range(6)))
                assert dead.asked("/generate")
                assert dead.asked("/v1/chat/completions")

        run(work)


@pytest.mark.parametrize("fault", ["reset", "500", "cut json"])
def test_a_call_that_meets_a_broken_server_is_answered_by_another(fault: str) -> None:
    with servers(2) as (first, second):
        first.fault = fault

        async def work() -> None:
            settings = {"backend": "sglang", "model": "m", "base_url": [first.url, second.url]}
            async with opened("judge", settings, []) as model:
                replies = await asyncio.gather(*(model.complete(said(f"SAY:{i}"), GREEDY) for i in range(8)))
                assert [reply.text for reply in replies] == [str(i) for i in range(8)]

        run(work)
        assert 1 <= len(first.asked("/v1/chat/completions")) <= 8


@pytest.mark.parametrize(("generates", "left_out"), [(True, False), (False, True)])
def test_a_server_that_is_late_is_left_out_only_if_it_generates_nothing(generates: bool, left_out: bool) -> None:
    notes: list[str] = []
    with servers(1) as (server,):
        server.fault = "hang"
        server.unknown = set() if generates else {"/health_generate"}

        async def work() -> None:
            settings = {"backend": "sglang", "model": "m", "base_url": server.url, "limits": {"timeout_s": 0.2}}
            async with opened("judge", settings, notes) as model:
                for _ in range(FAILURES):
                    with pytest.raises(TransientModelError, match="no reply"):
                        await model.complete(said("SAY:x"), GREEDY)
                await until(lambda: not model._pool.looks or notes)

        run(work)
    assert any("left out" in note for note in notes) is left_out


def test_no_server_at_all_is_said_before_the_first_call() -> None:
    gone = FakeServer()
    with gone.running():
        pass

    async def work() -> None:
        with pytest.raises(ModelError, match=r"127\.0\.0\.1:\d+: no connection"):
            async with opened("judge", {"backend": "sglang", "model": "m", "base_url": gone.url}, []):
                pytest.fail("opened")

    run(work)


def test_the_queue_of_all_servers_is_reported() -> None:
    with servers(2) as (first, second):
        first.waiting, second.waiting = 3, 4

        async def work() -> None:
            settings = {"backend": "sglang", "model": "m", "base_url": [first.url, second.url]}
            async with opened("judge", settings, []) as model:
                assert await model.queue_depth() == 7

        run(work)


def test_a_server_that_others_use_gets_less() -> None:
    with servers(2) as (busy, idle):
        busy.waiting = 50

        async def work() -> None:
            settings = {"backend": "sglang", "model": "m", "base_url": [busy.url, idle.url]}
            async with opened("judge", settings, []) as model:
                await model.queue_depth()
                await asyncio.gather(*(model.complete(said("SAY:x"), GREEDY) for _ in range(20)))

        run(work)
        assert not busy.asked("/v1/chat/completions")


def test_a_seed_that_a_server_does_not_keep_to_is_said_once() -> None:
    notes: list[str] = []
    with servers(1) as (server,):
        server.seeds = False

        async def work() -> None:
            async with opened("judge", {"backend": "sglang", "model": "m", "base_url": server.url}, notes) as model:
                for _ in range(2):
                    await model.complete(said("SAY:x"), GREEDY.model_copy(update={"seed": 1}))

        run(work)
    (note,) = notes
    assert "--enable-deterministic-inference" in note


# New weights


def student(base: Path, urls: list[str], **more: Any) -> dict[str, Any]:
    return {"backend": "sglang", "model": str(base), "base_url": urls, **more}


def test_only_a_student_with_a_folder_takes_new_weights(base: Path) -> None:
    with servers(1) as (server,):
        for role, model_name, takes in (
            ("student", str(base), True),
            ("student", "org/name", False),
            ("judge", str(base), False),
        ):
            settings = {"backend": "sglang", "model": model_name, "base_url": server.url}
            model = open_model(role, ModelSettings.model_validate(settings))
            assert isinstance(model, LoadsWeights) is takes
            asyncio.run(model.aclose())


def test_new_weights_are_loaded_on_every_server_and_read_back(base: Path, tmp_path: Path) -> None:
    new = checkpoint(tmp_path / "new")
    with servers(2) as fakes:

        async def work() -> None:
            async with opened("student", student(base, [fake.url for fake in fakes]), []) as model:
                assert model.weights == ""
                await model.load_weights(new, "refine-001")
                assert model.weights == "refine-001"
                replies = await asyncio.gather(*(model.complete(said("SAY:x"), GREEDY) for _ in range(4)))
                assert {reply.weights for reply in replies} == {"refine-001"}

        run(work)
        for fake in fakes:
            assert fake.asked("/update_weights_from_disk") == [{"model_path": str(new), "weight_version": "refine-001"}]


def test_calls_in_flight_finish_before_new_weights_are_loaded_and_later_ones_wait(base: Path, tmp_path: Path) -> None:
    new = checkpoint(tmp_path / "new")
    with servers(1) as (server,):
        server.script.weights = "old"

        async def work() -> None:
            async with opened("student", student(base, [server.url]), []) as model:
                await model.load_weights(base, "old")
                server.delay_s = 0.3
                before = [asyncio.create_task(model.complete(said(f"SAY:{i}"), GREEDY)) for i in range(4)]
                await until(lambda: len(server.asked("/v1/chat/completions")) == 4)
                loading = asyncio.create_task(model.load_weights(new, "new"))
                await until(lambda: not model._door.is_open)
                after = [asyncio.create_task(model.complete(said(f"SAY:{i}"), GREEDY)) for i in range(4)]
                await loading
                assert {reply.weights for reply in await asyncio.gather(*before)} == {"old"}
                assert {reply.weights for reply in await asyncio.gather(*after)} == {"new"}

        run(work)
        assert [path for path, _, _ in server.requests if path != "/generate"] == [
            "/update_weights_from_disk",
            *["/v1/chat/completions"] * 4,
            "/update_weights_from_disk",
            *["/v1/chat/completions"] * 4,
        ]


def test_weights_that_a_server_refuses_leave_all_on_the_old_ones(base: Path, tmp_path: Path) -> None:
    refused = checkpoint(tmp_path / "refused", refuse="")
    with servers(2) as fakes:

        async def work() -> None:
            async with opened("student", student(base, [fake.url for fake in fakes]), []) as model:
                await model.load_weights(base, "base")
                with pytest.raises(RefusedCallError, match="shapes differ"):
                    await model.load_weights(refused, "refine-001")
                assert model.weights == "base"
                assert (await model.complete(said("SAY:x"), GREEDY)).weights == "base"

        run(work)


def test_servers_that_are_gone_are_no_verdict_on_new_weights(base: Path, tmp_path: Path) -> None:
    server = FakeServer()

    async def work() -> None:
        with server.running():
            async with opened("student", student(base, [server.url]), []) as model:
                await model.load_weights(base, "base")
                server.stop()
                with pytest.raises(ServerDown, match=r"no server to load refine-001 into: .*run the same command"):
                    await model.load_weights(checkpoint(tmp_path / "new"), "refine-001")

    run(work)


def test_a_server_that_says_yes_but_serves_something_else_is_found_out(base: Path, tmp_path: Path) -> None:
    lie = checkpoint(tmp_path / "lie", lie="")
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("student", student(base, [server.url]), []) as model:
                with pytest.raises(ModelError, match="was given the weights refine-001, but serves default"):
                    await model.load_weights(lie, "refine-001")

        run(work)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing"])
def test_a_damaged_folder_is_not_handed_to_a_server(base: Path, tmp_path: Path, damage: str) -> None:
    folder = checkpoint(tmp_path / "damaged")
    weights = folder / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(len(header).to_bytes(8, "little") + header if damage == "cut" else b"no such thing at all")
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("student", student(base, [server.url]), []) as model:
                with pytest.raises(RefusedCallError, match=r"safetensors"):
                    await model.load_weights(folder, "refine-001")

        run(work)
        assert not server.asked("/update_weights_from_disk")


def test_a_reply_of_other_weights_is_thrown_away_and_the_right_ones_are_loaded_again(base: Path) -> None:
    notes: list[str] = []
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("student", student(base, [server.url]), notes) as model:
                await model.load_weights(base, "base")
                server.script.weights = "somebody else's"
                with pytest.raises(TransientModelError, match="instead of base"):
                    await model.complete(said("SAY:x"), GREEDY)
                await until(lambda: any("taken back" in note for note in notes))
                assert (await model.complete(said("SAY:x"), GREEDY)).weights == "base"

        run(work)
        assert len(server.asked("/update_weights_from_disk")) == 2


def test_a_router_that_cannot_take_weights_says_what_to_do(base: Path) -> None:
    with servers(1) as (server,):
        server.unknown = {"/update_weights_from_disk"}

        async def work() -> None:
            async with opened("student", student(base, [server.url]), []) as model:
                await model.load_weights(base, "base")

        with pytest.raises(ModelError, match=r"answered 404 .*name the servers behind it in base_url"):
            run(work)


# Memory


def test_memory_is_released_for_training_and_taken_back_by_the_next_call(base: Path, tmp_path: Path) -> None:
    with servers(1) as (server,):
        server.memory_saver = True

        async def work() -> None:
            async with opened("student", student(base, [server.url], while_training="free"), []) as model:
                await model.load_weights(base, "base")
                await model.free_memory()
                assert server.released
                assert await model.queue_depth() is None
                await model.complete(said("SAY:x"), GREEDY)
                assert not server.released
                await model.free_memory()
                await model.load_weights(checkpoint(tmp_path / "new"), "new")
                assert not server.released

        run(work)


def test_a_server_that_cannot_release_memory_is_refused_at_the_start(base: Path) -> None:
    with servers(1) as (server,):

        async def work() -> None:
            async with opened("student", student(base, [server.url], while_training="free"), []):
                pytest.fail("opened")

        with pytest.raises(SettingsError, match="without --enable-memory-saver"):
            run(work)


def test_memory_stays_where_it_is_by_default(base: Path) -> None:
    with servers(1) as (server,):
        server.memory_saver = True

        async def work() -> None:
            async with opened("student", student(base, [server.url]), []) as model:
                await model.free_memory()

        run(work)
        assert not server.asked("/release_memory_occupation")


# Launched servers


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """A program that takes what `python -m sglang.launch_server` takes."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake_server.__file__} "$@"\n')
    program.chmod(0o755)
    return program


def launching(base: Path, python: Path, flags: str = "", **more: Any) -> dict[str, Any]:
    launch = {"python": str(python), "flags": flags, "restarts": more.pop("restarts", 3)}
    return {"backend": "sglang", "model": str(base), "launch": launch, **more}


def processes_of(folder: Path) -> list[int]:
    """Living processes whose command line names the folder, the watch among them; the server is the last."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return sorted(found)


def test_a_launched_server_serves_the_student_and_is_gone_afterwards(
    base: Path, fake_python: Path, tmp_path: Path
) -> None:
    notes: list[str] = []

    async def work() -> None:
        async with opened("student", launching(base, fake_python), notes, tmp_path / "logs") as model:
            reply = await model.complete(said("SAY:hello"), GREEDY)
            assert (reply.text, reply.weights) == ("hello", model.weights)
            assert model.weights.startswith("base-")
            assert processes_of(base)

    run(work)
    assert not processes_of(base)
    assert "starting" in (tmp_path / "logs" / "sglang-student.log").read_text()
    assert [note for note in notes if "starting an SGLang server" in note and "sglang-student.log" in note]


def test_calls_wait_while_a_killed_server_is_started_again(base: Path, fake_python: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    new = checkpoint(tmp_path / "new")

    async def work() -> None:
        settings = launching(base, fake_python, "--start-delay 0.3", limits={"timeout_s": 0.5})
        async with opened("student", settings, notes, tmp_path / "logs") as model:
            await model.load_weights(new, "refine-001")
            os.kill(processes_of(base)[-1], signal.SIGKILL)
            replies = await asyncio.gather(*(model.complete(said(f"SAY:{i}"), GREEDY) for i in range(8)))
            assert [reply.text for reply in replies] == [str(i) for i in range(8)]
            assert {reply.weights for reply in replies} == {"refine-001"}
            assert processes_of(new), "it is started again with the weights that it served"

    run(work)
    assert sum("starting it again" in note for note in notes) == 1
    assert sum("answers again" in note for note in notes) == 1
    assert not processes_of(tmp_path)


def test_weights_that_kill_the_server_are_refused_and_the_old_ones_come_back(
    base: Path, fake_python: Path, tmp_path: Path
) -> None:
    deadly = checkpoint(tmp_path / "deadly", crash="")

    async def work() -> None:
        async with opened("student", launching(base, fake_python), [], tmp_path) as model:
            version = model.weights
            with pytest.raises(RefusedCallError, match="did not survive"):
                await model.load_weights(deadly, "refine-001")
            assert model.weights == version
            assert (await model.complete(said("SAY:x"), GREEDY)).weights == version

    run(work)


def test_a_stopped_server_frees_its_memory_and_comes_back_with_the_new_weights(
    base: Path, fake_python: Path, tmp_path: Path
) -> None:
    new, bad = checkpoint(tmp_path / "new"), checkpoint(tmp_path / "bad")

    async def work() -> None:
        settings = launching(base, fake_python, "--refuse-model bad", while_training="free")
        async with opened("student", settings, [], tmp_path / "logs") as model:
            await model.free_memory()
            assert not processes_of(base)
            await model.load_weights(new, "refine-001")
            assert (await model.complete(said("SAY:x"), GREEDY)).weights == "refine-001"
            await model.free_memory()
            with pytest.raises(RefusedCallError, match="cannot load this model"):
                await model.load_weights(bad, "refine-002")
            assert (await model.complete(said("SAY:x"), GREEDY)).weights == "refine-001"
            await model.free_memory()
            assert (await model.complete(said("SAY:x"), GREEDY)).weights == "refine-001"

    run(work)


def test_a_server_that_never_starts_ends_with_the_end_of_its_log(base: Path, fake_python: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with opened("student", launching(base, fake_python, "--refuse-model base"), [], tmp_path / "logs"):
            pytest.fail("opened")

    with pytest.raises(ServerDown, match=r"exit code 1(?s:.*)cannot load this model") as caught:
        run(work)
    assert "sglang-student.log" in str(caught.value)
    assert not processes_of(base)


def test_a_server_that_keeps_crashing_is_given_up(base: Path, fake_python: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "stop").mkdir()

    async def work() -> None:
        async with opened("student", launching(base, fake_python, restarts=2), notes, tmp_path / "logs") as model:
            fake_python.write_text("#!/bin/sh\necho out of memory\nexit 3\n")  # noqa: ASYNC240 - a test may wait
            os.kill(processes_of(base)[-1], signal.SIGKILL)
            with pytest.raises(ServerDown, match=r"after 2 restarts in a row(?s:.*)out of memory"):
                await model.complete(said("SAY:x"), GREEDY)

    run(work)
    assert sum("starting it again" in note for note in notes) == 2


def test_a_server_that_stops_answering_is_started_again(base: Path, fake_python: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    async def work() -> None:
        settings = launching(base, fake_python, limits={"timeout_s": 0.3})
        async with opened("student", settings, notes, tmp_path / "logs", IMPATIENCE) as model:
            os.kill(processes_of(base)[-1], signal.SIGSTOP)
            for _ in range(FAILURES):
                with pytest.raises(TransientModelError, match="no reply"):
                    await model.complete(said("SAY:x"), GREEDY)
            assert (await model.complete(said("SAY:x"), GREEDY)).text == "x"

    run(work)
    assert any("does not answer; starting it again" in note for note in notes)


def test_a_launched_server_is_gone_after_kill_9_of_the_run(base: Path, fake_python: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from meteor_agents.backends.sglang_servers.launch import LaunchedServer
        from meteor_agents.backends.sglang_servers.server_process import Served
        from meteor_agents.backends.sglang_servers.options import LaunchOptions

        async def main():
            options = LaunchOptions(python={str(fake_python)!r})
            launched = LaunchedServer("student", options, Path({str(tmp_path / "log")!r}), print)
            await launched.start(Served({str(base)!r}, "base"))
            print("READY", flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as ours:
        assert ours.stdout is not None
        assert any("READY" in line for line in ours.stdout)
        (watch, server) = [pid for pid in processes_of(base) if pid != ours.pid]
        os.kill(ours.pid, signal.SIGKILL)
    deadline = time.monotonic() + GUARD_S
    while processes_of(base) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not {watch, server} & set(processes_of(base))


def test_a_python_that_is_not_there_is_a_setting_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"student\.launch\.python: .*/no-such is not a program"):
        open_model("student", ModelSettings.model_validate(launching(base, tmp_path / "no-such")))


# Settings


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, "name either base_url .* or launch"),
        ({"base_url": "http://a", "launch": {"python": "/x"}}, "name either base_url .* or launch"),
        ({"base_url": ["http://a", "http://a"]}, "names a server twice"),
        ({"launch": {"python": "/x", "flags": "--port 3"}}, "--port is set by meteor; use launch.port"),
        ({"launch": {"python": "/x", "flags": ["--host=0.0.0.0"]}}, "--host is set by meteor"),
        ({"launch": {"python": "/x", "flags": "--api-key s3cret"}}, "would write a key into this file"),
        ({"launch": {"python": "/x", "environment": {"HF_TOKEN": "s3cret"}}}, "HF_TOKEN looks like a credential"),
        ({"launch": {"pyton": "/x"}}, r"judge\.launch\.p"),
        ({"base_url": "http://a", "while_training": "release"}, "while_training"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        open_model("judge", ModelSettings.model_validate({"backend": "sglang", "model": "m", **changes}))
    assert "s3cret" not in str(caught.value)


def test_an_address_with_a_password_is_refused_in_a_list_too() -> None:
    judge = {"backend": "sglang", "model": "m", "base_url": ["http://a", "http://me:s3cret@b"]}
    content = {
        "name": "run", "domain": "sums", "questions": {"path": "q.jsonl"}, "teacher": {"backend": "reference"},
        "student": {"backend": "scripted"}, "judge": judge,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="judge: the address in base_url holds a user name or a key") as caught:
        load_settings(content, base=Path(), source="x")
    assert "s3cret" not in str(caught.value)


def test_flags_pass_through_as_a_string_or_a_list() -> None:
    for flags in ("--tp 2 --json '{\"a\": 1}'", ["--tp", "2", "--json", '{"a": 1}']):
        options = LaunchOptions.model_validate({"python": "/x", "flags": flags})
        assert options.flags == ("--tp", "2", "--json", '{"a": 1}')


def test_a_launch_gives_the_server_its_own_environment(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "PATH=$PATH PYTHONPATH=$PYTHONPATH GPU=$CUDA_VISIBLE_DEVICES $@" > {tmp_path}/seen\n'
    )
    program.chmod(0o755)
    options = LaunchOptions(python=program, environment={"CUDA_VISIBLE_DEVICES": "1"}, flags=("--tp", "2"))
    launched = LaunchedServer("student", options, tmp_path / "log", lambda note: None)

    async def work() -> None:
        with pytest.raises(ServerDown):
            await launched.start(Served(str(base), "base"))
        await launched.aclose()

    run(work)
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith(f"PATH={program.parent}:")
    assert "PYTHONPATH= GPU=1 -m sglang.launch_server" in seen
    assert "--host 127.0.0.1" in seen
    assert "--tp 2" in seen


def test_a_launched_model_costs_no_money() -> None:
    assert not costs_money(ModelSettings.model_validate({"backend": "sglang", "launch": {"python": "/x"}}))
    assert costs_money(ModelSettings.model_validate({"backend": "sglang", "base_url": "http://a"}))


@pytest.mark.parametrize(
    "flags",
    ["--hos 0.0.0.0", "--ho=0.0.0.0", "--h 0.0.0.0", "--por 3", "--po=3", "--model-p x", "--mod x", "--weight x", "--co f"],
)
def test_a_shortened_flag_is_refused_as_the_whole_one_is(flags: str) -> None:
    with pytest.raises(ValueError, match=r"is set by meteor; use "):
        LaunchOptions.model_validate({"python": "/x", "flags": flags})


@pytest.mark.parametrize("flags", ["--api-k s3cret", "--admin-api s3cret", "--ap=s3cret", "--admin_api_key s3cret"])
def test_a_shortened_flag_for_a_key_is_refused_without_the_key(flags: str) -> None:
    launch = {"python": "/x", "flags": flags}
    judge = ModelSettings.model_validate({"backend": "sglang", "model": "m", "launch": launch})
    with pytest.raises(SettingsError, match="would write a key into this file") as caught:
        open_model("judge", judge)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("flags", ["--tp 2", "--host-cache-size 3", "--ports-per-node 2", "-1 --stream-interval 4"])
def test_flags_that_only_look_like_ours_pass(flags: str) -> None:
    assert LaunchOptions.model_validate({"python": "/x", "flags": flags}).flags == tuple(flags.split())


@pytest.mark.parametrize("name", ["SGLANG_HOST_IP", "HOST_IP", "SGLANG_PORT", "sglang_host"])
def test_an_address_cannot_be_set_by_the_environment(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} would change where the server listens"):
        LaunchOptions.model_validate({"python": "/x", "environment": {name: "0.0.0.0"}})
