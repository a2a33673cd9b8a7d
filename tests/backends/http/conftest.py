"""What every test of a server has: a key in the environment."""

from __future__ import annotations

import pytest

from tests.backends.http.chat_handlers import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
