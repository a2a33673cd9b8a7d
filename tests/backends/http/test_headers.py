"""What goes with a request beside its body: headers, query, keys; and through which proxy, under which certificate."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from meteor_agents.backends.registry import open_model
from meteor_agents.errors import ModelError, SettingsError, TransientModelError
from meteor_agents.settings.roles import ModelSettings
from tests.backends.conformance.fake_server import FakeServer
from tests.backends.http.dialect_asking import ask, settings_of

KEY = "sk-test-0123456789-planted"


@pytest.fixture(params=["openai", "anthropic"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_azures_way_of_asking() -> None:
    with FakeServer().running() as server:
        settings = settings_of("openai", server, query={"api-version": "2024-10-21"}, headers={"X-Team": "a b"})
        ask(settings, "SAY:x")
        ((path, _, headers),) = server.requests
    assert path == "/v1/chat/completions?api-version=2024-10-21"
    assert headers["x-team"] == "a b"


def test_a_credential_in_the_query_is_refused() -> None:
    with FakeServer().running() as server, pytest.raises(SettingsError, match="api-key looks like a credential"):
        ask(settings_of("openai", server, query={"api-key": "planted"}), "SAY:x")


def test_each_interface_has_its_own_header_for_the_key(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METEOR_TEST_KEY", KEY)
    with FakeServer().running() as server:
        ask(settings_of(backend, server, api_key_env="METEOR_TEST_KEY"), "SAY:x")
        ((_, _, headers),) = server.requests
    if backend == "openai":
        assert headers["authorization"] == f"Bearer {KEY}"
    else:
        assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
        assert "authorization" not in headers


def test_anthropics_key_is_looked_for_where_everyone_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(
        SettingsError, match=r"teacher\.api_key_env: the environment variable ANTHROPIC_API_KEY is not set"
    ):
        open_model("teacher", ModelSettings.model_validate({"backend": "anthropic", "model": "claude-x"}))


def test_a_proxy_of_the_environment_is_used_but_never_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer().running() as proxy, FakeServer().running() as server:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert ask(settings_of("openai", server), "SAY:direct")[0].text == "direct"
        assert not proxy.requests
        elsewhere = settings_of("openai", server).model_copy(update={"base_url": "http://models.example.invalid/v1"})
        with pytest.raises(ModelError, match="404"):  # the proxy heard it, and knows no such path
            ask(elsewhere, "SAY:x")
        ((path, _, _),) = proxy.requests
    assert path.startswith("http://models.example.invalid/v1/chat")


def test_a_certificate_authority_of_the_environment_is_trusted_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with FakeServer(tls=context).running() as server:
        settings = settings_of("openai", server).model_copy(
            update={"base_url": server.url.replace("http://127.0.0.1", "https://localhost") + "/v1"}
        )
        with pytest.raises(TransientModelError, match=r"(?i)certificate"):
            ask(settings, "SAY:x")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert ask(settings, "SAY:trusted")[0].text == "trusted"
