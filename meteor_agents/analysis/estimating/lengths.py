"""Lengths of prompts and replies: measured on a role's stored calls, or assumed while there are too few."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from meteor_agents.models import TokenCounter
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.store.records import Records

REPLY_SHARE = {"student": 1 / 2, "teacher": 1 / 2, "judge": 1 / 6, EVALUATED: 1 / 2}
"""Assumed length of a reply, as a share of `max_tokens`."""
ENOUGH = 5
"""With this many observations, a figure replaces the assumption."""
OBSERVED = 200
"""A figure is taken from at most this many stored calls, the newest ones."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Expected lengths of a model's prompts and replies."""

    role: str
    counter: TokenCounter
    said: Mapping[str, float]
    """Stage -> mean tokens of a reply, if there are enough; '' stands for all stages."""

    @classmethod
    def of(cls, role: str, counter: TokenCounter, records: Records) -> Lengths:
        """The lengths of one model of `role`. `counter` counts a prompt's tokens until there are enough counted calls."""
        seen = records.newest_calls(role, OBSERVED)
        known = [call for call in seen if call.input_tokens and call.output_tokens is not None]
        if len(known) < ENOUGH:
            return cls(role, counter, {})
        characters = sum(_characters(call.request) for call in known)
        per_token = characters / sum(call.input_tokens or 0 for call in known)
        counter = TokenCounter(
            lambda text: len(text) / per_token, f"{per_token:.1f} characters a token, as in its last {len(known)} calls"
        )
        stages = {call.stage for call in known}
        by_stage = {stage: [call.output_tokens or 0 for call in known if call.stage == stage] for stage in stages}
        by_stage[""] = [call.output_tokens or 0 for call in known]
        return cls(role, counter, {s: sum(said) / len(said) for s, said in by_stage.items() if len(said) >= ENOUGH})

    def reply_tokens(self, stage: str, max_tokens: int) -> float:
        """Expected tokens of a reply in a stage."""
        seen = self.said.get(stage, self.said.get(""))
        return max_tokens * REPLY_SHARE[self.role] if seen is None else min(seen, max_tokens)

    def described(self, max_tokens: int) -> str:
        """The lengths and their source, in one sentence."""
        if "" in self.said:
            return f"replies of {self.said['']:.0f} tokens on average, {self.counter.name}"
        return f"replies of {self.reply_tokens('', max_tokens):.0f} tokens (assumed), {self.counter.name}"


def _characters(request: str) -> int:
    return sum(len(message["content"]) for message in json.loads(request)["messages"])
