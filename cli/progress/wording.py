"""Events in words, the same for the live view and the plain lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from meteor_agents.calls.server import AS_SET
from meteor_agents.durations import duration
from meteor_agents.events import (
    CallFailed,
    CallRetried,
    Draining,
    EvaluationFinished,
    Event,
    Note,
    OverlapFound,
    Progressed,
    QuestionLate,
    RoleProgress,
    StageFinished,
    TrainingNote,
    TrainingProgress,
    UpdateFinished,
)

TROUBLE_EVERY_S = 10.0
"""Seconds between two lines about the same kind of trouble with one role."""


def sentence(event: Event) -> str | None:
    """What happened, for a line of its own; None for an event that only moves a bar."""
    match event:
        case StageFinished(stage, seconds, summary):
            return f"{stage}: done in {duration(seconds)}: {summary}"
        case UpdateFinished(name, examples, loss, seconds, promoted, reason):
            trained = f"{examples} examples, " + (f"loss {loss:.3f}, " if loss is not None else "") + duration(seconds)
            return f"{name}: {'promoted' if promoted else 'NOT promoted'} ({trained}; gate: {reason})"
        case OverlapFound():
            return f"warning: {event.summary}"
        case EvaluationFinished(checkpoint, heldout, summary):
            return f"{checkpoint} on {heldout}: {summary}"
        case TrainingNote(name, text):
            return f"{name}: {text}"
        case Note(text):
            return text
        case Draining():
            return event.text
    return None


class Troubles:
    """Words for events that may come by the thousand: one line of a kind every `TROUBLE_EVERY_S`, with their number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def sentence(self, event: Event) -> str | None:
        """A line about the event; None when it is no trouble, or when one of its kind was told just now."""
        match event:
            case CallRetried(role, reason, wait_s):
                return self._seldom(f"{role}: trying again in {wait_s:.1f} s", reason, kind=f"{role} retried")
            case CallFailed(role, reason):
                return self._seldom(f"{role}: a call failed", reason, kind=f"{role} failed")
            case QuestionLate(stage, question_id, reason):
                return self._seldom(f"{stage}: {question_id} goes to the end of the line", reason, kind=f"{stage} late")
        return None

    def _seldom(self, what: str, reason: str, *, kind: str) -> str | None:
        now = self._clock()
        if now - self._told_at.get(kind, -TROUBLE_EVERY_S) < TROUBLE_EVERY_S:
            self._untold[kind] += 1
            return None
        self._told_at[kind] = now
        more = self._untold.pop(kind, 0)
        return f"{what}: {reason}" + (f" (and {more:,} more like it since the last line)" if more else "")


def stage_line(now: Progressed) -> str:
    """Where the stage stands, in one line."""
    parts = [f"{n:,} {outcome}" for outcome, n in now.outcomes.items()]
    if len(now.accepted_at_try) > 1:
        parts.append("accepted at try " + ", ".join(f"{t}: {n:,}" for t, n in now.accepted_at_try.items()))
    if now.late:
        parts.append(f"{now.late:,} put back in line, late")
    if now.seconds_left is not None and now.done < now.questions:
        parts.append(f"{duration(now.seconds_left)} left")
    return "; ".join(parts)


def role_cells(role: RoleProgress) -> dict[str, str]:
    """A role as a table row: heading -> cell."""
    return {
        "role": role.role,
        "done": f"{role.made:,}",
        "in flight": f"{role.in_flight - role.waiting:,}" + (f" (+{role.waiting:,} wait)" if role.waiting else ""),
        "reused": f"{role.reused:,}",
        "retried": f"{role.retried:,}",
        "failed": f"{role.failed:,}",
        "tokens in/out": f"{role.input_tokens:,}/{role.output_tokens:,}",
        "USD": "no price" if role.usd is None else f"{role.usd:.4f}",
        "rate": f"{role.calls_per_s:.1f}/s" if role.calls_per_s >= 1 else f"{role.calls_last_minute}/min",
        "at once": "" if role.concurrency is None else f"{role.concurrency} ({role.concurrency_why})",
        "slowest": f"{role.slowest_question} {duration(role.slowest_s)}" if role.slowest_question else "",
    }


def role_line(role: RoleProgress) -> str:
    """A role in one clause: what is in flight and for how long, what was done in the last minute and in all."""
    parts = []
    if role.in_flight:
        oldest = f", the oldest {role.slowest_question} for {duration(role.slowest_s)}" if role.slowest_question else ""
        waiting = f" (+{role.waiting:,} in line)" if role.waiting else ""
        parts.append(f"{role.in_flight - role.waiting:,} in flight{waiting}{oldest}")
    parts.append(f"{role.made:,} done, {role.calls_last_minute:,} of them in the last minute")
    counts = {"reused": role.reused, "retried": role.retried, "failed": role.failed}
    parts += [f"{count:,} {what}" for what, count in counts.items() if count]
    if role.made:
        parts.append(f"tokens {role.input_tokens:,}/{role.output_tokens:,}")
    if role.made and role.usd != 0:
        parts.append("no price" if role.usd is None else f"{role.usd:.4f} US dollars")
    if role.concurrency is not None and role.concurrency_why != AS_SET:
        parts.append(f"{role.concurrency:,} at once ({role.concurrency_why})")
    return f"{role.role}: {', '.join(parts)}"


def training_line(event: TrainingProgress) -> str:
    """Where a training job stands, in one line."""
    left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
    return (
        f"{event.name}: step {event.step} of {event.steps}, loss {event.loss:.3f}, "
        f"lr {event.learning_rate:.1e}, {event.tokens_per_s:,.0f} tokens/s{left}"
    )
