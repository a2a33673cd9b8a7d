"""Models of the Hugging Face hub, fetched by the command from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "c0ffee" * 6 + "abcd"
KEY = "hf_not_to_be_seen"
WEIGHTS = bytes(range(256)) * 4000


class Hub(BaseHTTPRequestHandler):
    """Serves one repository: metadata, and files behind a redirect, with ranges. `server.state` says what goes wrong."""

    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        state = self.server.state
        state["asked"].append((self.command, self.path, self.headers.get("authorization"), self.headers.get("range")))
        if refusal := state.get("refusal"):
            return self._send(refusal[0], b"{}", {"x-error-code": refusal[1], "x-error-message": "no"}, body)
        files: dict[str, bytes] = state["files"]
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/name/tree/"):
            listing = [self._entry(name, content) for name, content in files.items()]
            return self._send(200, json.dumps(listing).encode(), {}, body)
        if path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name, **self._entry(name, content)} for name, content in files.items()]
            info = {"id": "org/name", "modelId": "org/name", "sha": COMMIT, "siblings": siblings, "private": False,
                    "tags": ["license:mit"], "cardData": {"license": "mit"}}  # fmt: skip
            return self._send(200, json.dumps(info).encode(), {}, body)
        name = path.rpartition("/")[2]
        if name not in files:
            return self._send(404, b"", {"x-error-code": "EntryNotFound"}, body)
        content = files[name]
        tag = {"etag": f'"{hashlib.sha256(content).hexdigest()}"', "x-repo-commit": COMMIT}
        if path.startswith("/org/name/resolve/") and name.endswith(".safetensors"):
            headers = {**tag, "x-linked-etag": tag["etag"], "x-linked-size": str(len(content)), "location": f"/cdn/{name}"}
            return self._send(302, b"", headers, body)
        return self._file(content, tag, body)

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        large = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "oid": hashlib.sha256(content).hexdigest(),
                         "size": len(content), "pointerSize": 1}} if name.endswith(".safetensors") else {}  # fmt: skip
        return {"type": "file", "path": name, "size": len(content), "oid": "0" * 40, **large}

    def _file(self, content: bytes, tag: dict[str, str], body: bool) -> None:
        asked, start = self.headers.get("range"), 0
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            tag["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = content[start:]
        self.send_response(206 if asked else 200)
        for key, value in {**tag, "content-length": str(len(sent)), "connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            cut = len(sent) > 1000 and self.server.state["cuts"] > 0
            self.server.state["cuts"] -= cut
            self.wfile.write(sent[: len(sent) // 2] if cut else sent)
        self.close_connection = True

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Any]:
    pytest.importorskip("huggingface_hub", reason="needs the packages of the extra [local]")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.state = {"asked": [], "cuts": 0, "files": {
        "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle",
        "code.py": b"raise SystemExit", "README.md": b"#",
    }}  # fmt: skip
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def models(hub: Any, tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = {"METEOR_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
                "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "meteor_agents.cli", "models", *arguments],
        env={**plain, **settings, **env}, capture_output=True, text=True, check=False, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_only_needed_files_come_at_one_commit(hub: Any, tmp_path: Path) -> None:
    done = models(hub, tmp_path, "fetch", "org/name", HF_TOKEN=KEY)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "cache/models/org/name"
    assert done.stdout == f"{folder}\n"
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors", "FETCHED"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert json.loads((folder / "FETCHED").read_text())["revision"] == COMMIT
    assert f"licence mit; commit {COMMIT}" in done.stderr
    assert any(key == f"Bearer {KEY}" for _, _, key, _ in hub.state["asked"])
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in (*kept, done.stdout.encode(), done.stderr.encode()))

    asked = len(hub.state["asked"])
    assert models(hub, tmp_path, "fetch", "org/name", HF_HUB_OFFLINE="1").returncode == 0
    assert models(hub, tmp_path, "path", "org/name").stdout == f"{folder}\n"
    assert f"mit\thttp://127.0.0.1:{hub.server_port}/org/name\t{COMMIT}" in models(hub, tmp_path, "list").stdout
    other = models(hub, tmp_path, "fetch", "org/name", "--revision", "v2")
    assert (other.returncode, f"is here at commit {COMMIT}" in other.stderr) == (2, True)
    unconfirmed = models(hub, tmp_path, "remove", "org/name")
    assert (unconfirmed.returncode, "add --yes" in unconfirmed.stderr) == (2, True)
    assert models(hub, tmp_path, "remove", "org/name", "--yes").returncode == 0
    assert not (tmp_path / "cache/models/org").exists()
    assert len(hub.state["asked"]) == asked, "the hub is asked only to fetch"


def test_a_key_that_another_program_left_on_disk_is_not_sent(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text(KEY)
    assert models(hub, tmp_path, "fetch", "org/name").returncode == 0
    assert {key for _, _, key, _ in hub.state["asked"]} == {None}


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Any, tmp_path: Path) -> None:
    large = WEIGHTS * 30  # the library keeps what has come in pieces of 10 MB
    hub.state.update(cuts=1, files={**hub.state["files"], "model.safetensors": large})
    done = models(hub, tmp_path, "fetch", "org/name")
    if done.returncode:  # versions of huggingface_hub differ in how often they try by themselves
        assert "run the command again" in done.stderr
        done = models(hub, tmp_path, "fetch", "org/name")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cache/models/org/name/model.safetensors").read_bytes() == large
    assert any(asked and not asked.startswith("bytes=0-") for *_, asked in hub.state["asked"])


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((401, "GatedRepo"), "is gated: accept its terms at"),
        ((403, "GatedRepo"), "is gated: accept its terms at"),
        ((401, "RepoNotFound"), "there is no model org/name on"),
        ((404, "RepoNotFound"), "there is no model org/name on"),
        ((404, "RevisionNotFound"), "has no revision 'v9'"),
        ((403, ""), "refused org/name"),
    ],
)
def test_refusals_are_told_in_words(hub: Any, tmp_path: Path, refusal: tuple[int, str], told: str) -> None:
    hub.state["refusal"] = refusal
    done = models(hub, tmp_path, "fetch", "org/name", "--revision", "v9", HF_TOKEN=KEY)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert KEY not in done.stderr
    assert not (tmp_path / "cache/models").exists()


def test_pickled_weights_are_refused(hub: Any, tmp_path: Path) -> None:
    del hub.state["files"]["model.safetensors"]
    done = models(hub, tmp_path, "fetch", "org/name")
    assert (done.returncode, "Python pickles only" in done.stderr) == (2, True)


def test_offline_the_hub_is_not_asked(hub: Any, tmp_path: Path) -> None:
    done = models(hub, tmp_path, "fetch", "org/name", HF_HUB_OFFLINE="1")
    assert (done.returncode, "HF_HUB_OFFLINE forbids asking" in done.stderr) == (2, True)
    assert hub.state["asked"] == []


def test_a_hub_that_is_not_there_is_told_in_words(hub: Any, tmp_path: Path) -> None:
    done = models(hub, tmp_path, "fetch", "org/name", HF_ENDPOINT="http://127.0.0.1:9")
    assert (done.returncode, "cannot be fetched from http://127.0.0.1:9" in done.stderr) == (2, True)
