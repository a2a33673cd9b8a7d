"""Names of the settings -> objects: built-in backends, their options, and backends of other packages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.base_model import check_trainable, costs_money
from meteor_agents.backends.registry import backend_names, open_model, open_trainer
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.errors import SettingsError
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.roles import ModelSettings

SERVER = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def settings(**content: Any) -> ModelSettings:
    return ModelSettings.model_validate(content)


def refused(role: str, **content: Any) -> str:
    with pytest.raises(SettingsError) as error:
        open_model(role, settings(**content))
    return str(error.value)


def test_knowing_the_names_imports_no_backend() -> None:
    program = (
        "import sys; from meteor_agents.backends.registry import backend_names; print(*backend_names());"
        "sys.exit(bool({'torch', 'transformers', 'httpx', 'aiohttp', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"openai", "reference", "scripted", "sglang", "transformers"} <= set(done.stdout.split())


def test_a_name_opens_its_backend() -> None:
    assert isinstance(open_model("student", settings(backend="scripted", replies=["a"])), ScriptedModel)


def test_an_unknown_name_is_refused_with_the_nearest_or_all() -> None:
    assert refused("judge", backend="sglnag").endswith(
        "judge.backend: unknown backend 'sglnag'; did you mean 'sglang'?"
    )
    assert "known: anthropic, openai, reference, scripted" in refused("judge", backend="qqq")


def test_an_unknown_option_is_refused_with_its_role_and_the_nearest() -> None:
    complaint = refused("teacher", **SERVER, api_key_evn="K")
    assert "unknown setting 'teacher.api_key_evn' for the backend openai; did you mean 'api_key_env'?" in complaint


def test_a_wrong_value_of_an_option_is_named_with_its_role() -> None:
    assert "student.max_batch" in refused("student", backend="transformers", model="m", max_batch="many")
    assert "teacher.base_url: Field required" in refused("teacher", backend="openai", model="m")


@pytest.mark.parametrize("role", ["student", "judge"])
def test_references_only_teach(role: str) -> None:
    assert f"{role}.backend: reference is a teacher only" in refused(role, backend="reference")


@pytest.mark.parametrize("function", ["nowhere:f", "posixpath:nothing", "posixpath:sep", "posixpath"])
def test_a_script_that_cannot_be_used_is_named_with_its_role(function: str) -> None:
    assert refused("student", backend="scripted", function=function).startswith("student.function")


# Headers


@pytest.mark.parametrize(
    "name",
    ["Authorization", "authorization", "Proxy-Authorization", "api-key", "X-API-Key", "apikey", "X-Auth-Token", "Cookie",
     "X-Access-Token", "Ocp-Apim-Subscription-Key", "X-Client-Secret", "x_api_key"],
)  # fmt: skip
def test_a_header_that_looks_like_a_credential_is_refused_in_plain(name: str) -> None:
    complaint = refused("judge", **SERVER, headers={name: "planted"})
    assert complaint.startswith("judge.headers")
    assert f"headers_env: {{{name}: VARIABLE}}" in complaint
    assert "planted" not in complaint


@pytest.mark.parametrize("name", ["X-Team", "OpenAI-Organization", "HTTP-Referer", "X-Author", "X-Monkey"])
def test_other_headers_are_taken_and_sent(name: str) -> None:
    role = settings(backend="openai", model="m", base_url="", headers={name: "planted"})
    assert f"{name.lower()}: planted" in asyncio.run(_headers_that_arrive(role)).lower()


@pytest.mark.parametrize("headers", [{"X Team": "a"}, {"X-Team:": "a"}, {"": "a"}, {"X-Team": "\u00e9"}, {"X-Team": "a\nb"}])
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, str]) -> None:
    assert refused("judge", **SERVER, headers=headers).startswith("judge.headers: ")
    if "X-Team" not in headers:
        assert refused("judge", **SERVER, headers_env=headers).startswith("judge.headers_env: ")


def test_a_header_that_was_blanked_when_settings_were_saved_is_not_sent() -> None:
    assert "write it again" in refused("judge", **SERVER, headers={"X-Team": "***"})


def test_a_secret_header_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"X-Api-Key": "METEOR_TEST_HEADER"}
    complaint = refused("judge", **SERVER, headers_env=secret)
    assert "judge.headers_env.X-Api-Key: the environment variable METEOR_TEST_HEADER is not set" in complaint
    monkeypatch.setenv("METEOR_TEST_HEADER", "planted")
    heard = asyncio.run(_headers_that_arrive(settings(backend="openai", model="m", base_url="", headers_env=secret)))
    assert "x-api-key: planted" in heard.lower()


async def _headers_that_arrive(role: ModelSettings) -> str:
    """Ask a server that refuses everything; the head of the request that it got."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        model = open_model("judge", settings(**{**role.model_dump(), "base_url": f"http://127.0.0.1:{port}/v1"}))
        with pytest.raises(Exception, match="400"):
            await model.complete([ChatMessage(role="user", content="hello")], SamplingParams())
        await model.aclose()
    return heads[0]


# Training


def trainable(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def test_training_starts_from_a_complete_folder_only(tmp_path: Path) -> None:
    folder = trainable(tmp_path / "student")
    check_trainable(settings(backend="transformers", model=str(folder)))
    (folder / "config.json").unlink()
    with pytest.raises(SettingsError, match=r"student\.model: .* lacks config\.json"):
        check_trainable(settings(backend="transformers", model=str(folder)))
    with pytest.raises(
        SettingsError, match=r"'org/name' is no folder on this machine.*fetch it first: meteor models fetch org/name"
    ):
        check_trainable(settings(backend="transformers", model="org/name"))


def test_a_known_model_that_is_not_there_yet_is_to_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METEOR_CACHE", str(tmp_path))
    with pytest.raises(SettingsError, match="fetch it first: meteor models fetch smollm2-135m"):
        check_trainable(settings(backend="transformers", model="smollm2-135m"))


@pytest.mark.parametrize(
    ("training", "complaint"),
    [
        ({"training": {"backend": "trl"}}, "unknown backend 'trl'; known: deepspeed"),
        ({"training": {"config": "zreo2"}}, "'zreo2' is neither a DeepSpeed preset"),
        ({"self_train": {"training": {"config": "mine.json"}}}, "mine.json' is neither a DeepSpeed preset"),
    ],
)
def test_a_training_that_cannot_be_used_is_refused_before_it_starts(
    tmp_path: Path, training: dict[str, Any], complaint: str
) -> None:
    content = {
        "name": "run", "domain": "sums", "questions": {"path": "q.jsonl"}, "teacher": {"backend": "reference"},
        "student": {"backend": "transformers", "model": "m"}, "judge": {"verifier": "exact"}, **training,
    }  # fmt: skip
    with pytest.raises(SettingsError, match=complaint):
        open_trainer(load_settings(content, base=tmp_path, source="x"))


def test_only_what_certainly_computes_here_is_free() -> None:
    free = {name for name in backend_names() if not costs_money(settings(backend=name))}
    assert free == {"transformers", "reference", "scripted"}


# Backends of other packages

OTHER_PACKAGE = """
from meteor_agents.backends.scripted import ScriptedModel

def open_parrot(settings):
    return ScriptedModel([settings.options["word"]], settings.identity)
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution, as pip leaves it: a module and its metadata."""
    (tmp_path / "parrot_backend.py").write_text(OTHER_PACKAGE)
    info = tmp_path / "parrot_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[meteor_agents.backends]\nparrot = parrot_backend:open_parrot\nbroken = no_such_module:open\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("other_package")
def test_a_backend_of_another_package_is_found_by_its_entry_point() -> None:
    assert "parrot" in backend_names()
    model = open_model("judge", settings(backend="parrot", model="polly", word="hello"))
    reply = asyncio.run(model.complete([ChatMessage(role="user", content="say")], SamplingParams()))
    assert (reply.text, reply.model) == ("hello", "polly")
    assert costs_money(settings(backend="parrot"))
    assert "did you mean 'parrot'?" in refused("judge", backend="parot")


@pytest.mark.usefixtures("other_package")
def test_a_backend_of_another_package_that_cannot_be_imported_is_said() -> None:
    assert "judge.backend: broken (no_such_module:open) cannot be imported" in refused("judge", backend="broken")
