"""The environment that runs a real SGLang, if there is one: what the tests marked `sglang` need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "METEOR_TEST_SGLANG"
"""The Python of that environment."""

CPU_FLAGS = (
    "--device cpu --dtype float32 --attention-backend torch_native --sampling-backend pytorch "
    "--grammar-backend llguidance --disable-overlap-schedule --disable-radix-cache --mem-fraction-static 0.2 "
    "--max-total-tokens 16384 --skip-server-warmup --constrained-json-disable-any-whitespace"
)


def sglang_python() -> Path:
    """Skips where there is none."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"needs an environment with SGLang: run `make test-sglang`, or name its Python in {VARIABLE}")
    assert os.access(python, os.X_OK), f"{VARIABLE}={python} is no program"
    return Path(python)
