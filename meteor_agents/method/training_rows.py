"""From traces to rows to train on. A trace that gives none is counted, with the reason.

| conversion | from an accepted trace of stage 2 |
|---|---|
| final | question -> the accepted reply |
| history | question -> every try with what was wrong about it, then the accepted reply, as one text |
| chat | the tries as one chat; the student's turns are learned |
| pairs | the accepted reply preferred over each rejected one |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from meteor_agents.messages import Status
from meteor_agents.method.agents import Student
from meteor_agents.traces import Outcome, Trace, Turn
from meteor_agents.training import ChatExample, Example, PreferencePair, TrainingRow

CUT = "cut at max_tokens"
EMPTY = "without a target"
UNDISPUTED = "without a rejected try"


class Converted(NamedTuple):
    """What traces gave."""

    rows: list[TrainingRow]
    left_out: Mapping[str, int]
    """Why traces gave nothing -> how many."""


def distilled(traces: Iterable[Trace], student: Student) -> Converted:
    """Stage 1: question -> the teacher's answer, of accepted traces."""
    return _converted(traces, lambda trace: _answered(trace, student))


def refined(traces: Iterable[Trace], student: Student, conversion: str) -> Converted:
    """Stage 2, by one of the conversions above, of accepted traces; in the order of the traces."""
    convert = {"final": _final, "history": _history, "chat": _chat, "pairs": _pairs}[conversion]
    return _converted(traces, lambda trace: convert(trace, student))


def _converted(traces: Iterable[Trace], convert: Callable[[Trace], Sequence[TrainingRow] | str]) -> Converted:
    """`convert` gives a trace's rows, or the reason why there are none."""
    rows: list[TrainingRow] = []
    left_out: Counter[str] = Counter()
    for trace in traces:
        if trace.outcome is not Outcome.ACCEPTED:
            continue
        found = convert(trace)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            rows += found
    return Converted(rows, dict(left_out))


def _answered(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    if trace.answer is None or not trace.answer.text.strip():
        return EMPTY
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=trace.answer.text)]


def _final(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    accepted = trace.accepted_attempt
    if accepted is None or not accepted.text.strip():
        return EMPTY
    if accepted.truncated:
        return CUT
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=accepted.text)]


def _history(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    if reason := _no_chain(trace):
        return reason
    *rejected, last = trace.turns
    parts = [part for turn in rejected for part in (turn.attempt.text.strip(), _second_look(turn))]
    target = "\n\n".join([*parts, last.attempt.text.strip()])
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=target)]


def _second_look(turn: Turn) -> str:
    """What was wrong with a try, as the student's own words. The reply that follows has the answer that counts."""
    guide = turn.guide.guide if turn.guide else turn.verdict.guide
    said = " ".join(filter(None, [turn.verdict.explanation.strip(), guide.strip()]))
    return f"On a second look this is wrong. {said}".strip() + "\n\nOnce more:"


def _chat(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    if reason := _no_chain(trace):
        return reason
    *rejected, last = trace.turns
    asked = student.chat_prompt(trace.question, rejected)
    return [ChatExample(id=trace.question.id, messages=(*asked, student.said(last.attempt)))]


def _no_chain(trace: Trace) -> str | None:
    """Why the tries cannot be learned one after the other, if they cannot."""
    if trace.accepted_attempt is None or not all(turn.attempt.text.strip() for turn in trace.turns):
        return EMPTY
    return CUT if any(turn.attempt.truncated for turn in trace.turns) else None


def _pairs(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    accepted = trace.accepted_attempt
    if accepted is None or not accepted.text.strip():
        return EMPTY
    wrong = [turn.attempt for turn in trace.turns if turn.verdict.status is Status.INCORRECT]
    rejected = [attempt for attempt in wrong if attempt.text.strip() not in ("", accepted.text.strip())]
    if not rejected:
        return UNDISPUTED
    whole = [attempt for attempt in rejected if not attempt.truncated]
    if accepted.truncated or not whole:
        return CUT
    prompt = student.prompt(trace.question)
    return [
        PreferencePair(id=f"{trace.question.id}#{number}", prompt=prompt, chosen=accepted.text, rejected=attempt.text)
        for number, attempt in enumerate(whole, 1)
    ]
