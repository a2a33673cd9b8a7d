"""The settings file: YAML, a preset's name, `--set` over it, and back to YAML without secrets."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from meteor_agents import configs
from meteor_agents.backends.options import HIDDEN
from meteor_agents.errors import SettingsError
from meteor_agents.settings.settings import ROLES, Settings, load_settings, set_value

PRESETS = Path(configs.__file__).resolve().parent


def find_config(config: str) -> Path:
    """A file, or a preset of that name. Raises `SettingsError`."""
    path = Path(config)
    if path.is_file():
        return path
    presets = {preset.stem: preset for preset in sorted(PRESETS.glob("*.yaml"))}
    if config in presets:
        return presets[config]
    near = difflib.get_close_matches(config, presets, n=1)
    hint = f"did you mean the preset {near[0]}?" if near else f"presets: {', '.join(presets)}"
    raise SettingsError(f"{config}: no such settings file or preset; {hint}")


def read_config(config: str, overrides: Sequence[str] = ()) -> tuple[Settings, Path]:
    """Validated settings with absolute paths, and the folder that relative paths were taken from."""
    path = find_config(config)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not readable as YAML: {_one_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    if isinstance(content, dict):
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not key:
                raise SettingsError(f"--set {override}: write key.path=value")
            try:
                set_value(content, key, yaml.safe_load(value))
            except yaml.YAMLError as error:
                raise SettingsError(f"--set {key}: the value is not readable as YAML") from error
    base = path.resolve().parent
    return load_settings(content, base=base, source=str(path)), base


def dump_config(settings: Settings) -> str:
    """The resolved settings as YAML, without secrets: keys by their environment variable, headers without their values."""
    content: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    for role in ROLES:
        if isinstance(headers := content[role].get("headers"), dict):
            content[role]["headers"] = dict.fromkeys(headers, HIDDEN)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
