"""The machines of a training, from a hostfile as DeepSpeed reads it: `host slots=N`, a line each."""

from __future__ import annotations

import re
from pathlib import Path

from meteor_agents.errors import SettingsError

_LINE = re.compile(r"(?P<host>[A-Za-z0-9][\w.:-]*)\s+slots=(?P<slots>[1-9]\d*)")


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks by host, in the file's order; the first one is this machine. Raises `SettingsError` that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"training.hostfile {path} cannot be read: {error.strerror}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise SettingsError(f"training.hostfile {path}, line {number}: expected `host slots=N`, found {text!r}")
        if found["host"] in hosts:
            raise SettingsError(f"training.hostfile {path}, line {number}: {found['host']} is named twice")
        hosts[found["host"]] = int(found["slots"])
    if not hosts:
        raise SettingsError(f"training.hostfile {path} names no host")
    return hosts
