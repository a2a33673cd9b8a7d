"""The remaining work of a command by role, in calls, tokens and US dollars."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from meteor_agents.analysis.estimating.rehearsal import Expected
from meteor_agents.calls.budget import Price
from meteor_agents.models import Usage


class RoleEstimate(BaseModel):
    """The remaining work of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int
    reused: int
    """Stored replies that are used instead of a call."""
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None: the price is unknown."""


class Estimate(BaseModel):
    """The remaining work of a command, and the assumptions behind the figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: dict[str, RoleEstimate]
    assumptions: tuple[str, ...]

    @property
    def usd(self) -> float | None:
        """US dollars of all roles; None if the price of one is unknown."""
        return added(self.roles.values()).usd

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and replies."""
        return sum(role.input_tokens + role.output_tokens for role in self.roles.values())


def added(roles: Iterable[RoleEstimate]) -> RoleEstimate:
    """The sum. Its cost is None if that of one role is."""
    each = list(roles)
    usd = [role.usd for role in each]
    return RoleEstimate(
        calls=sum(role.calls for role in each),
        reused=sum(role.reused for role in each),
        input_tokens=sum(role.input_tokens for role in each),
        output_tokens=sum(role.output_tokens for role in each),
        usd=None if None in usd else sum(cost for cost in usd if cost is not None),
    )


def rounded(expected: Expected, price: Price | None) -> RoleEstimate:
    """Expected values rounded to whole calls and tokens, with their cost."""
    calls, reused, given, said = (
        round(value) for value in (expected.calls, expected.reused, expected.input_tokens, expected.output_tokens)
    )
    return RoleEstimate(
        calls=calls,
        reused=reused,
        input_tokens=given,
        output_tokens=said,
        usd=price.usd(Usage(input_tokens=given, output_tokens=said)) if price else (None if calls else 0.0),
    )
