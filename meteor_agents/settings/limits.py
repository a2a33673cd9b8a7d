"""How fast one role may be asked (`limits` of the settings)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What one role's model may be asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=64, ge=1)
    """Calls in flight at once. A server that says it is too much gets fewer, until it takes more again."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and reply together, in any window of 60 seconds."""
    timeout_s: float = Field(default=120, gt=0)
    """Of one try at a server, in all. A model in this process has none: it is slow at times, but never lost."""
    connect_timeout_s: float = Field(default=20, gt=0)
    """Until a server takes the connection."""
    read_timeout_s: float | None = Field(default=None, gt=0)
    """Between two pieces of a reply; None: only `timeout_s` counts."""
    retries: int = Field(default=5, ge=0)
    """Further tries after a failure that may pass."""
