"""Counting a prompt's tokens before it is sent, by the model's own tokenizer where it is on this machine."""

from __future__ import annotations

from meteor_agents.backends.base_model import base_checkpoint, trains_here
from meteor_agents.errors import SettingsError
from meteor_agents.models import TokenCounter
from meteor_agents.settings.roles import ModelSettings


def local_counter(settings: ModelSettings) -> TokenCounter | None:
    """A counter with the model's own tokenizer; None where the model's folder has no tokenizer.json.

    Nothing is fetched, and torch is not imported.
    """
    if not trains_here(settings):
        return None
    try:
        from tokenizers import Tokenizer

        file = base_checkpoint(settings).path / "tokenizer.json"
    except (ImportError, SettingsError):
        return None
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    return TokenCounter(
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)), f"the tokenizer of {settings.model}"
    )
