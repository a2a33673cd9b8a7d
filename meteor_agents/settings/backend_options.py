"""What the settings know about backends and their options. Everything else about them is in `backends/`.

Backends import the settings, so the settings cannot ask a backend which of its options matter. They need to know three
things without asking, because stored calls and runs are found by them: which options change no reply, which backends
load their model from a folder, and what is removed from the settings that a run keeps (`credentials.py`).
"""

from __future__ import annotations

NOT_DECIDING = frozenset(
    {
        "base_url",
        "headers",
        "headers_env",
        "api_key_env",
        "query",
        "token_limit",
        "device",
        "max_batch",
        "launch",
        "while_training",
    }
)
"""Options that say where and how a model is asked, but do not change what it replies.

A run with another value of one of these finds the calls that are stored already. An option that is not listed is part of
every call's key. Adding or removing a name makes existing runs ask their calls again.
"""

MODEL_FOLDERS = frozenset({"transformers", "sglang"})
"""Backends whose `model` may be a folder, relative to the settings file. For all others `model` is only a name."""
