"""From traces to rows to train on. A trace that gives none is counted, with the reason.

| conversion | from an accepted trace of stage 2; self_distill also from an exhausted one |
|---|---|
| final | question -> the accepted reply |
| history | question -> every try with what was wrong about it, then the accepted reply, as one text |
| chat | the tries as one chat; the student's turns are learned |
| pairs | the accepted reply preferred over each rejected one; as with `final` where there is none |
| self_distill | each rejected reply, after the question alone and after the prompt that says what is wrong with it |

Only complete replies are learned: not one that was cut, refused, filtered or broken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from meteor_agents.messages import Spoken, Status
from meteor_agents.method.agents import Student
from meteor_agents.models import FinishReason
from meteor_agents.traces import Outcome, Trace, Turn
from meteor_agents.training import ChatExample, DistilledReply, Example, PreferencePair, TrainingRow

CUT_SHORT = "cut at max_tokens"
INCOMPLETE = "refused, filtered or broken off"
EMPTY = "without a target"
UNDISPUTED = "without a rejected try"
UNEXPLAINED = "without a word on what was wrong"
"""Reasons why a trace gives no rows, worded to follow "12 traces"."""


class TrainingRows(NamedTuple):
    """What traces gave."""

    rows: list[TrainingRow]
    left_out: Mapping[str, int]
    """How many traces gave no row, by reason."""


def distillation_rows(traces: Iterable[Trace], student: Student) -> TrainingRows:
    """Stage 1: question -> the teacher's answer, of each accepted trace."""
    return _accepted_rows(traces, lambda trace: _answer(trace, student))


def refinement_rows(traces: Iterable[Trace], student: Student, conversion: str) -> TrainingRows:
    """Stage 2: the rows of each trace that `teaches` by one of the conversions above, in the order of the traces."""
    convert = {
        "final": _final, "history": _history, "chat": _chat, "pairs": _pairs_or_final, "self_distill": _self_distill
    }[conversion]  # fmt: skip
    return _rows((trace for trace in traces if teaches(trace.outcome, conversion)), lambda trace: convert(trace, student))


def teaches(outcome: Outcome, conversion: str) -> bool:
    """Whether a trace of stage 2 that ended so counts towards an update with this conversion."""
    return outcome is Outcome.ACCEPTED or (outcome is Outcome.EXHAUSTED and conversion == "self_distill")


def preference_rows(traces: Iterable[Trace], student: Student) -> TrainingRows:
    """Stage 2: the accepted reply preferred over each rejected one, of each accepted trace that has both."""
    return _accepted_rows(traces, lambda trace: _pairs(trace, student))


def self_training_rows(traces: Iterable[Trace], student: Student) -> TrainingRows:
    """Stage 3: the high-compute reply preferred over the low-compute one, of each accepted trace."""
    return _accepted_rows(traces, lambda trace: _decoded_pair(trace, student))


def _accepted_rows(traces: Iterable[Trace], convert: Callable[[Trace], Sequence[TrainingRow] | str]) -> TrainingRows:
    return _rows((trace for trace in traces if trace.outcome is Outcome.ACCEPTED), convert)


def _rows(traces: Iterable[Trace], convert: Callable[[Trace], Sequence[TrainingRow] | str]) -> TrainingRows:
    """`convert` gives a trace's rows, or the reason why it has none."""
    rows: list[TrainingRow] = []
    left_out: Counter[str] = Counter()
    for trace in traces:
        found = convert(trace)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            rows += found
    return TrainingRows(rows, dict(left_out))


def _unusable(*replies: Spoken | None) -> str | None:
    """Why replies cannot be learned, if one of them cannot."""
    if any(reply is None or not reply.text.strip() for reply in replies):
        return EMPTY
    endings = {reply.ending for reply in replies if reply is not None} - {FinishReason.COMPLETE}
    if not endings:
        return None
    return CUT_SHORT if endings == {FinishReason.CUT} else INCOMPLETE


def _answer(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    answer = trace.answer
    if answer is None:
        return EMPTY
    if reason := _unusable(answer):
        return reason
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=answer.text)]


def _final(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    accepted = trace.accepted_attempt
    if accepted is None:
        return EMPTY
    if reason := _unusable(accepted):
        return reason
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=accepted.text)]


def _history(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    if reason := _unusable_tries(trace):
        return reason
    *rejected, last = trace.turns
    parts = [part for turn in rejected for part in (turn.attempt.text.strip(), _second_look(turn))]
    target = "\n\n".join([*parts, last.attempt.text.strip()])
    return [Example(id=trace.question.id, prompt=student.prompt(trace.question), target=target)]


def _second_look(turn: Turn) -> str:
    """What was wrong with a try, in the student's own voice. The reply that follows has the answer that counts."""
    guide = turn.guide.guide if turn.guide else turn.verdict.guide
    said = " ".join(filter(None, [turn.verdict.explanation.strip(), guide.strip()]))
    return f"On a second look this is wrong. {said}".strip() + "\n\nOnce more:"


def _chat(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    if reason := _unusable_tries(trace):
        return reason
    *rejected, last = trace.turns
    asked = student.chat_prompt(trace.question, rejected)
    return [ChatExample(id=trace.question.id, messages=(*asked, student.said(last.attempt)))]


def _unusable_tries(trace: Trace) -> str | None:
    """Why the tries cannot be learned one after the other, if they cannot."""
    return _unusable(trace.accepted_attempt, *(turn.attempt for turn in trace.turns))


def _pairs(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    accepted = trace.accepted_attempt
    if accepted is None or not accepted.text.strip():
        return EMPTY
    wrong = [turn.attempt for turn in trace.turns if turn.verdict.status is Status.INCORRECT]
    rejected = [attempt for attempt in wrong if attempt.text.strip() not in ("", accepted.text.strip())]
    if not rejected:
        return UNDISPUTED
    usable = [attempt for attempt in rejected if not _unusable(attempt)]
    if reason := _unusable(accepted) or (None if usable else _unusable(*rejected)):
        return reason
    prompt = student.prompt(trace.question)
    return [
        PreferencePair(id=f"{trace.question.id}#{number}", prompt=prompt, chosen=accepted.text, rejected=attempt.text)
        for number, attempt in enumerate(usable, 1)
    ]


def _pairs_or_final(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    pairs = _pairs(trace, student)
    return _final(trace, student) if isinstance(pairs, str) else pairs


def _self_distill(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    rejected = [number for number, turn in enumerate(trace.turns, 1) if turn.verdict.status is Status.INCORRECT]
    explained = [number for number in rejected if _has_feedback(trace.turns[number - 1])]
    if not explained:
        return UNEXPLAINED if rejected else UNDISPUTED
    usable = [number for number in explained if not _unusable(trace.turns[number - 1].attempt)]
    if not usable:
        return _unusable(*(trace.turns[number - 1].attempt for number in explained)) or EMPTY
    return [
        DistilledReply(
            id=f"{trace.question.id}#{number}",
            prompt=student.prompt(trace.question),
            informed=student.revise_prompt(trace.question, trace.turns[:number]),
            reply=trace.turns[number - 1].attempt.text,
        )
        for number in usable
    ]


def _has_feedback(turn: Turn) -> bool:
    feedback = turn.guide or turn.verdict
    return bool(feedback.explanation.strip() or feedback.guide.strip())


def _decoded_pair(trace: Trace, student: Student) -> Sequence[TrainingRow] | str:
    low, high = trace.attempts
    if reason := _unusable(low, high):
        return reason
    prompt = student.prompt(trace.question)
    return [PreferencePair(id=trace.question.id, prompt=prompt, chosen=high.text, rejected=low.text)]
