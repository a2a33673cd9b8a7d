"""How fast one role's model may be asked (`limits` of a role)."""

from __future__ import annotations

from pydantic import Field

from meteor_agents.settings.section import Section


class Limits(Section):
    """How fast one role's model may be asked, and how long a call may take."""

    concurrency: int = Field(default=64, ge=1)
    """Calls in flight at once. A server that reports overload is given fewer for a while, and then more again."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Calls begun in any 60 seconds; no limit when absent."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies together in any 60 seconds; no limit when absent."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds that one try at a server may take in all. A model in this process has no time limit."""
    connect_timeout_s: float = Field(default=20, gt=0)
    """Seconds until the server must have accepted the connection."""
    read_timeout_s: float | None = Field(default=None, gt=0)
    """Seconds allowed between two parts of a reply; when absent, only `timeout_s` counts."""
    retries: int = Field(default=5, ge=0)
    """Further tries after a failure that may pass, such as a time-out or an overloaded server."""
