"""What the head of the page says about a run: its models, its seeds and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meteor_agents.errors import SettingsError
from meteor_agents.settings.yaml_text import parse_yaml

HIDDEN = "(hidden)"
"""Stands for the value of an HTTP header, which may be a secret."""


@dataclass(frozen=True, slots=True)
class About:
    """Facts about a run that its settings tell."""

    domain: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What -> value, in the order in which the page shows them."""
    settings: str = ""
    """The resolved settings as YAML; empty if they could not be read."""


def read_about(config: Path) -> About:
    """The facts in a run's `config.yaml`; empty if the file cannot be read. Values of HTTP headers are hidden."""
    try:
        content = parse_yaml(config.read_text(encoding="utf-8"), str(config))
    except (OSError, UnicodeDecodeError, SettingsError):
        return About()
    if not isinstance(content, dict):
        return About()
    facts = {role: _model(content.get(role)) for role in ("student", "teacher", "judge")} | {"seeds": _seeds(content)}
    return About(
        domain=str(content.get("domain") or ""),
        facts={what: value for what, value in facts.items() if value},
        settings=yaml.safe_dump(_without_headers(content), sort_keys=False, allow_unicode=True, width=100),
    )


def _model(role: Any) -> str:
    if not isinstance(role, dict):
        return ""
    if role.get("verifier"):
        return f"verifier {role['verifier']}"
    model = str(role.get("model") or role.get("backend") or "").rstrip("/")
    return model.rpartition("/")[2]


def _seeds(content: Mapping[str, Any]) -> str:
    """One number if all seeds are the same, else each with what it is for."""
    places = {"questions": ("questions",), "sampling": ("student", "sampling"), "training": ("training",)}
    seeds = {name: seed for name, path in places.items() if (seed := _seed(content, path)) is not None}
    if len(set(seeds.values())) == 1:
        return str(next(iter(seeds.values())))
    return ", ".join(f"{name} {seed}" for name, seed in seeds.items())


def _seed(content: Any, path: tuple[str, ...]) -> int | None:
    for name in (*path, "seed"):
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, int) else None


def _without_headers(content: Any) -> Any:
    if isinstance(content, list):
        return [_without_headers(inner) for inner in content]
    if not isinstance(content, dict):
        return content
    return {
        name: dict.fromkeys(inner, HIDDEN) if name == "headers" and isinstance(inner, dict) else _without_headers(inner)
        for name, inner in content.items()
    }
