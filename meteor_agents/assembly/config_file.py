"""The settings file: from YAML or a preset and `--set` to settings, and back to YAML without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from meteor_agents import configs
from meteor_agents.errors import SettingsError
from meteor_agents.nearest import nearest
from meteor_agents.safe_text import printable
from meteor_agents.settings import ModelSettings, Settings, load_settings
from meteor_agents.settings.credentials import without_secrets
from meteor_agents.settings.evaluation import VerifierSettings
from meteor_agents.settings.loading import set_value
from meteor_agents.settings.yaml_text import parse_yaml
from meteor_agents.text_encoding import decoded

PRESETS = Path(configs.__file__).resolve().parent
"""The folder of the packaged settings files."""
PROJECT_FILE = "meteor.yaml"
"""The settings file of a project folder, as `meteor init` names it."""


def find_config(config: str) -> Path:
    """The path of the settings file that `config` names: a file, a preset, or a folder with a `meteor.yaml`.

    Raises `SettingsError` if there is none.
    """
    if "\0" in config:
        raise SettingsError(f"{printable(config)}: no file can have this name")
    path = Path(config)
    if path.is_file():
        return path
    presets = {preset.stem: preset for preset in sorted(PRESETS.glob("*.yaml"))}
    if config in presets:
        return presets[config]
    if (path / PROJECT_FILE).is_file():
        return path / PROJECT_FILE
    if path.is_dir():
        raise SettingsError(f"{config}: is a folder without {PROJECT_FILE}; name the settings file in it")
    near = nearest(config, presets)
    hint = f"did you mean the preset {near}?" if near else f"presets: {', '.join(presets)}"
    raise SettingsError(f"{printable(config)}: no such settings file or preset; {hint}")


def read_config(config: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Settings:
    """Validated settings of a file or preset, with absolute paths.

    `overrides` are `key.path=value` as given to `--set`, with YAML values; or values by key. Raises `SettingsError`.
    """
    path = find_config(config)
    content = read_yaml(path)
    if isinstance(content, dict):
        values = overrides if isinstance(overrides, Mapping) else dict(map(_parsed, overrides))
        for key, value in values.items():
            set_value(content, key, value)
    return load_settings(content, base=path.resolve().parent, source=str(path))


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override}: write key.path=value")
    return key, parse_yaml(value, f"--set {key}")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises `SettingsError` with the file and, if known, the line."""
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}, {error}") from error
    return parse_yaml(text, str(path))


def dump_config(settings: Settings) -> str:
    """The resolved settings as YAML, without secrets.

    API keys appear by the names of their environment variables. Other possible secrets in the options of a model or a
    verifier (headers, environments, credentials) are replaced by `***`, anywhere in the settings.
    """
    content = _without_secrets(settings, settings.model_dump(mode="json", exclude_none=True))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _without_secrets(value: Any, dumped: Any) -> Any:
    """`dumped`, the dump of `value`, with secrets hidden in the options of every model and verifier."""
    if isinstance(value, ModelSettings | VerifierSettings):
        options = {name: dumped[name] for name in value.options if name in dumped}
        return {**dumped, **without_secrets(options)}
    if isinstance(value, BaseModel):
        return {name: _without_secrets(getattr(value, name), inner) for name, inner in dumped.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, inner) for item, inner in zip(value, dumped, strict=True)]
    return dumped
