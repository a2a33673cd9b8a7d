"""An estimate kept from the start of a command, and how far off it was."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from meteor_agents.analysis.estimating.figures import Estimate, RoleEstimate
from meteor_agents.store.records import Records

FORECAST = "forecast"
"""The name under which the store keeps the forecast."""


class Forecast(BaseModel):
    """An estimate made when a command began: the totals that the store is expected to show when it has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    """A hash of the command and its settings. Resuming the command keeps the forecast."""
    command: str
    roles: dict[str, RoleEstimate]

    @classmethod
    def made(cls, of: str, command: str, found: Estimate, records: Records) -> Forecast:
        """The totals that `found` leads to: what the run has used already, plus the remaining work."""
        before = records.spent_by_role()
        roles = {}
        for name, role in found.roles.items():
            spent = before.get(name)
            known = role.usd is not None and (spent is None or not spent.unpriced)
            roles[name] = RoleEstimate(
                calls=role.calls + (spent.calls if spent else 0),
                reused=role.reused,
                input_tokens=role.input_tokens + (spent.input_tokens if spent else 0),
                output_tokens=role.output_tokens + (spent.output_tokens if spent else 0),
                usd=(role.usd or 0) + (spent.usd if spent else 0) if known else None,
            )
        return cls(of=of, command=command, roles=roles)


def stored_forecast(records: Records) -> Forecast | None:
    """The forecast that the run keeps; None if no command has made one."""
    content: Any = records.meta(FORECAST)
    return Forecast.model_validate(content) if content else None


def misses(forecast: Forecast, records: Records) -> list[str]:
    """One line a role: used so far, estimated, and by how much the two differ."""
    spent = records.spent_by_role()
    lines = []
    for name, role in forecast.roles.items():
        used = spent.get(name)
        pairs: list[tuple[str, float, float]] = [
            ("calls", role.calls, used.calls if used else 0),
            ("tokens", role.input_tokens + role.output_tokens, used.tokens if used else 0),
        ]
        if role.usd and used and not used.unpriced:
            pairs.append(("US dollars", role.usd, used.usd))
        parts = [
            f"{_figure(now)} of {_figure(expected)} {what} ({_off(expected, now)})"
            for what, expected, now in pairs
            if expected
        ]
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _off(expected: float, now: float) -> str:
    return f"{(now - expected) / expected:+.0%}"
