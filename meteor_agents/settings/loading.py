"""From the content of a settings file to validated settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meteor_agents.errors import SettingsError
from meteor_agents.safe_text import clean, printable
from meteor_agents.settings.complaints import complaints
from meteor_agents.settings.credentials import texts_in
from meteor_agents.settings.paths import with_absolute_paths
from meteor_agents.settings.run import Settings


def load_settings(content: object, *, base: Path, source: str) -> Settings:
    """Validated settings from `content`, which is a parsed YAML file.

    Relative paths are taken from `base`. `source` names the file in messages. Raises `SettingsError`, with a line for each
    wrong setting.
    """
    if content is None:
        raise SettingsError(f"{source}: is empty; it must hold settings as key: value (`meteor init` writes an example)")
    if not isinstance(content, Mapping):
        raise SettingsError(f"{source}: must hold settings as key: value, found {_KINDS.get(type(content), 'a value')}")
    for name, text in texts_in(content):
        if text != clean(text) or name != clean(name):
            raise SettingsError(
                f"{source}: {printable(name)}: holds NUL or half a surrogate pair, which cannot be stored; remove it"
            )
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        lines = dict.fromkeys(f"{source}: {complaint}" for complaint in complaints(error, Settings))
        raise SettingsError("\n".join(lines)) from error
    return with_absolute_paths(settings.based_in(base), base)


_KINDS = {list: "a list", str: "a text", bool: "a single value", int: "a single value", float: "a single value"}


def set_value(content: dict[str, Any], key: str, value: Any) -> None:
    """Set the key `a.b.c` in nested settings, making sections on the way. Raises `SettingsError`.

    >>> content = {"refine": {"iterations": 3}}
    >>> set_value(content, "refine.update_every", 7)
    >>> content
    {'refine': {'iterations': 3, 'update_every': 7}}
    """
    *sections, last = key.split(".")
    here = content
    for section in sections:
        inner = here.get(section)
        if inner is None:  # absent, or written without a value
            inner = here[section] = {}
        if not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: {section} is a value, not a section")
        here = inner
    here[last] = value
