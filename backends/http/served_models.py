"""What a server's list of models says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.http.chat_reply import first_count

MOST_MODELS = 5000
"""Entries of a list that are read; the largest gateways have some hundreds."""


def read_facts(listed: Any, name: str) -> ModelFacts:
    """The facts about the model `name` in a list of models: all names, and how much this one reads.

    A server with a single model may know it by another name than ours: that model's context counts. Whatever is no such
    list gives no facts.
    """
    data = listed.get("data") if isinstance(listed, dict) else listed
    models = [model for model in data[:MOST_MODELS] if isinstance(model, dict)] if isinstance(data, list) else []
    named = [model for model in models if isinstance(model.get("id"), str)]
    own = next((model for model in named if model["id"] == name), named[0] if len(named) == 1 else None)
    return ModelFacts(tuple(model["id"] for model in named), _context(own) if own else None)


def _context(model: Mapping[str, Any]) -> int | None:
    """vLLM and SGLang, gateways, and llama.cpp's own server each have a name of their own for it."""
    meta = model.get("meta")
    return (
        first_count(model, "max_model_len", "context_length", "context_window", "max_context_length")
        or (first_count(meta, "n_ctx", "n_ctx_train") if isinstance(meta, dict) else None)
        or None
    )
