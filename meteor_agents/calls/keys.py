"""What decides a reply, as one hash: two calls with the same key ask for the same reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from meteor_agents.models import SamplingParams

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


def call_key(
    role: str,
    identity: str,
    messages: Iterable[tuple[str, str]],
    sampling: SamplingParams,
    tries: int,
    again: int = 0,
    options: Mapping[str, Any] | None = None,
) -> str:
    """A hash of role, model, messages (role, content), sampling, number of the try, and the backend's own options.

    `max_tokens` is not part of it: it decides where a reply is cut, and no more, so the store keeps it beside the reply.
    Beam search is the exception, since there it also decides which reply wins.
    """
    content = [role, identity, list(messages), deciding(sampling), tries, again]
    if options:
        content.append(options)
    return hashlib.sha256(_ENCODER.encode(content).encode()).hexdigest()


@lru_cache(maxsize=64)
def deciding(sampling: SamplingParams) -> str:
    """The sampling parameters that decide what is said, as JSON."""
    return sampling.model_dump_json(exclude=None if sampling.beams > 1 else {"max_tokens"})
