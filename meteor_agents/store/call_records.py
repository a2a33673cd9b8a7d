"""What a run's store knows about calls: replies to use again, tokens and money spent, prompts that were sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meteor_agents.models import Completion, FinishReason, Usage
from meteor_agents.store.database import Reader


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls have used: those of one role, or all."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float
    unpriced: int
    """Calls whose price is not known; `usd` is what the others cost."""

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens


class NewCall(NamedTuple):
    """A call that a model has answered, as it is stored. Its key and weights version are how it is found again."""

    key: str
    role: str
    stage: str
    question_id: str
    tries: int
    request: str
    """Messages and sampling, as JSON."""
    max_tokens: int
    reply: Completion
    """Made `storable`."""
    usd: float | None
    """None where the price is not known."""
    seconds: float


class CallRecord(NamedTuple):
    """What one call was asked, as JSON, and how long it was."""

    stage: str
    request: str
    input_tokens: int | None
    output_tokens: int | None


class AskedCall(NamedTuple):
    """A call about one question: what was asked (JSON), in which try, and the weights version that answered."""

    request: str
    tries: int
    weights: str


class SpendingStep(NamedTuple):
    """What one role used within one of several equal stretches of time; `step` counts from 0."""

    role: str
    step: int
    tokens: int
    usd: float


class CallRecords(Reader):
    """Reads calls. Every method raises `StoreError` when the file cannot be read."""

    def find_call(self, key: str, weights: Sequence[str], max_tokens: int) -> Completion | None:
        """A stored reply to the call `key` that serves for `max_tokens`, from the first of these weights that has one.

        A reply serves if it was asked for with the same limit, or if it ended by itself within this one. A reply that was
        cut serves for no other limit: a higher one may continue it, a lower one would have cut it earlier.
        """
        rows = self.read(
            "SELECT weights, max_tokens, reply, finish_reason, input_tokens, output_tokens, model FROM calls"
            " WHERE key = ?", key,
        )  # fmt: skip
        if not rows:
            return None
        stored = {(row[0], row[1]): _reply(*row) for row in rows}
        for version in weights:
            if (version, max_tokens) in stored:
                return stored[version, max_tokens]
            for (spoken_by, limit), reply in stored.items():
                if spoken_by == version and _ended_within(max_tokens, reply, limit):
                    return reply
        return None

    def newest_calls(self, role: str, count: int) -> list[CallRecord]:
        """At most `count` of the role's calls, newest first."""
        rows = self.read(
            "SELECT stage, request, input_tokens, output_tokens FROM"
            " (SELECT * FROM calls ORDER BY rowid DESC LIMIT ?) WHERE role = ? LIMIT ?", count * 10, role, count,
        )  # fmt: skip
        return [CallRecord(*row) for row in rows]

    def nearest_call(self, role: str, stage: str, question_id: str, tries: int) -> AskedCall | None:
        """The role's newest call about this question in this stage; one of the same try is preferred."""
        rows = self.read(
            "SELECT request, tries, weights FROM calls WHERE role = ? AND stage = ? AND question_id = ?"
            " ORDER BY tries = ? DESC, rowid DESC LIMIT 1", role, stage, question_id, tries,
        )  # fmt: skip
        return AskedCall(*rows[0]) if rows else None

    def prompts(self, role: str, stage: str) -> dict[str, str]:
        """Question id -> the last message that the role was sent about it in this stage."""
        rows = self.each(
            "SELECT question_id, request FROM calls WHERE rowid IN"
            " (SELECT max(rowid) FROM calls WHERE role = ? AND stage = ? GROUP BY question_id)", role, stage,
        )  # fmt: skip
        try:
            return {id_: str(json.loads(request)["messages"][-1]["content"]) for id_, request in rows}
        except (ValueError, LookupError) as error:
            raise self.broken("a stored request", error) from error

    def spent(self) -> Spent:
        """What the whole run has used, over all roles."""
        by_role = self.spent_by_role().values()
        return Spent(
            calls=sum(spent.calls for spent in by_role),
            input_tokens=sum(spent.input_tokens for spent in by_role),
            output_tokens=sum(spent.output_tokens for spent in by_role),
            usd=sum(spent.usd for spent in by_role),
            unpriced=sum(spent.unpriced for spent in by_role),
        )

    def spent_by_role(self) -> dict[str, Spent]:
        """Role -> what it has used."""
        rows = self.read(
            "SELECT role, sum(calls), sum(input_tokens), sum(output_tokens), sum(usd), sum(unpriced) FROM totals"
            " GROUP BY role"
        )
        return {role: Spent(*totals) for role, *totals in rows}

    def tokens_by_stage(self) -> dict[str, int]:
        """Stage -> tokens in and out of all roles."""
        return dict(self.read("SELECT stage, sum(input_tokens + output_tokens) FROM totals GROUP BY stage"))

    def spending(self, steps: int) -> tuple[float, list[SpendingStep]]:
        """Seconds in one step, and what each role used in each step, by role and time.

        The time between the first call and the last is cut into `steps` equal parts; the last call alone may be in one more.
        """
        ((first, last),) = self.read("SELECT min(created), max(created) FROM calls")
        if first is None:
            return 0.0, []
        width = max((last - first) / steps, 1e-6)
        rows = self.each(
            "SELECT role, CAST((created - ?) / ? AS INTEGER) AS step,"
            " sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), sum(coalesce(usd, 0)) FROM calls"
            " GROUP BY role, step ORDER BY role, step", first, width,
        )  # fmt: skip
        return width, [SpendingStep(*row) for row in rows]

    def counters(self) -> list[tuple[str, str, int]]:
        """(role, name, value) of every counter; `Counter` has the names."""
        return [(role, name, value) for role, name, value in self.read("SELECT role, name, value FROM counters")]


def _reply(
    weights: str,
    max_tokens: int,
    text: str,
    finish_reason: str,
    input_tokens: int | None,
    output_tokens: int | None,
    model: str,
) -> Completion:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return Completion(text, FinishReason(finish_reason), usage, model, weights)


def _ended_within(max_tokens: int, reply: Completion, limit: int) -> bool:
    """Whether a reply that was asked for with `limit` would have been the same with `max_tokens`."""
    if reply.finish_reason is FinishReason.CUT:
        return False
    said = reply.usage.output_tokens
    return limit <= max_tokens or (said is not None and said <= max_tokens)
