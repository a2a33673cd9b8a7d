"""Differences between a recorded conversation and its re-run, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from meteor_agents.messages import Lineage, Message
from meteor_agents.traces import Trace

SHOWN = 60
"""Characters of a differing text that an explanation quotes."""


def difference(then: Trace, now: Trace) -> str:
    """How two traces of one question differ; empty if they do not."""
    if then.outcome is not now.outcome:
        return f"was {then.outcome}, is {now.outcome}" + (f": {now.error}" if now.error else "")
    for number, (before, after) in enumerate(zip_longest(then.messages, now.messages), 1):
        if before is None or after is None:
            return f"had {len(then.messages)} messages, has {len(now.messages)}"
        if difference := unlike(before, after):
            return f"message {number} ({after.kind}): {difference}"
    return changed({"error": then.error}, {"error": now.error})


def unlike(then: Message, now: Message) -> str:
    """The fields in which two messages differ; empty if they do not. Estimated FLOPs are not compared."""
    if isinstance(then, Lineage) and isinstance(now, Lineage):
        then, now = (_without_flops(lineage) for lineage in (then, now))
    return "" if then == now else changed(then.model_dump(mode="json"), now.model_dump(mode="json"))


def _without_flops(lineage: Lineage) -> Lineage:
    """The lineage without FLOPs, which are estimated from model files that may be missing here."""
    sides = {name: getattr(lineage, name).model_copy(update={"flops": None}) for name in ("low", "high")}
    return lineage.model_copy(update=sides)


def rounded(value: Any) -> Any:
    """The value with its numbers rounded, since the last digits of a sum depend on the order of its terms."""
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return value


def first_difference(recorded: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> str:
    """Where two prompts begin to differ: which message, which character, and the texts from there on."""
    for number, (then, here) in enumerate(zip_longest(recorded, now, fillvalue={"role": "none", "content": ""}), 1):
        if then != here:
            at = _fork(then["content"], here["content"])
            return (
                f"message {number} ({here['role']}) of the prompt differs at character {at}: "
                f"was {_shown(then['content'][at:])}, is {_shown(here['content'][at:])}"
            )
    return "the prompts are equal"


def _fork(first: str, second: str) -> int:
    """Where two texts begin to differ."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text[:SHOWN] + ("…" if len(text) > SHOWN else "")) if isinstance(value, str) else text


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The fields that differ, as `name was x, is y`; a field inside another one as `outer.name`."""
    then, now = _flat(then), _flat(now)
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {_shown(then.get(name))}, is {_shown(now.get(name))}" for name in names)


def _flat(value: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{outer}{name}.") if isinstance(inner, Mapping) else {outer + name: inner}
    return found
