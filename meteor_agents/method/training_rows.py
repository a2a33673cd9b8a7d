"""From traces to rows to train on. A trace that gives none is counted, with the reason.

| conversion | from an accepted trace of stage 2 |
|---|---|
| final | question -> the accepted reply |
| revise | that, and: question, last wrong try and its guide -> the accepted reply |
| history | question -> every try with what was wrong about it, then the accepted reply, as one text |
| chat | the tries as one chat; the student's turns are learned |
| pairs | the accepted reply preferred over each rejected one |

In a taught trace, which the teacher ended, its answer stands for the accepted reply (in `pairs`, `history` and `chat` too).
Only complete replies are learned: not one that was cut, refused, filtered or broken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from meteor_agents.messages import Spoken, Status
from meteor_agents.method.student_prompts import StudentPrompts, said
from meteor_agents.models import FinishReason
from meteor_agents.traces import TRAINS, Outcome, Trace, Turn
from meteor_agents.training import ChatExample, Example, PreferencePair, TrainingRow

CUT_SHORT = "cut at max_tokens"
INCOMPLETE = "refused, filtered or broken off"
EMPTY = "without a target"
UNDISPUTED = "without a rejected try"
"""Reasons why a trace gives no rows, worded to follow "12 traces"."""


class TrainingRows(NamedTuple):
    """What traces gave."""

    rows: list[TrainingRow]
    left_out: Mapping[str, int]
    """How many traces gave no row, by reason."""


def distillation_rows(traces: Iterable[Trace], prompts: StudentPrompts) -> TrainingRows:
    """Stage 1: question -> the teacher's answer, of each accepted trace; after a wrong attempt, that attempt and what was
    wrong with it -> the answer, as well."""
    return _rows(traces, lambda trace: _answer(trace, prompts))


def refinement_rows(traces: Iterable[Trace], prompts: StudentPrompts, conversion: str) -> TrainingRows:
    """Stage 2: the rows of each accepted trace by one of the conversions above, in the order of the traces."""
    convert = {"final": _final, "revise": _revise, "history": _history, "chat": _chat, "pairs": _pairs}[conversion]
    return _rows(traces, lambda trace: convert(trace, prompts))


def self_training_rows(traces: Iterable[Trace], prompts: StudentPrompts) -> TrainingRows:
    """Stage 3: the high-compute reply preferred over the low-compute one, of each accepted trace."""
    return _rows(traces, lambda trace: _decoded_pair(trace, prompts))


def _rows(traces: Iterable[Trace], convert: Callable[[Trace], Sequence[TrainingRow] | str]) -> TrainingRows:
    """`convert` gives a trace's rows, or the reason why it has none."""
    rows: list[TrainingRow] = []
    left_out: Counter[str] = Counter()
    for trace in traces:
        if trace.outcome not in TRAINS:
            continue
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


def _answer(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    answer = trace.answer
    if answer is None:
        return EMPTY
    if reason := _unusable(answer):
        return reason
    final = Example(id=trace.question.id, prompt=prompts.attempt(trace.question), target=answer.text)
    return [final, *_revision(trace, _rejected(trace), answer, prompts)]


def _final(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    right = _right(trace)
    if right is None:
        return EMPTY
    if reason := _unusable(right):
        return reason
    return [Example(id=trace.question.id, prompt=prompts.attempt(trace.question), target=right.text)]


def _revise(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    final, right = _final(trace, prompts), _right(trace)
    if isinstance(final, str) or right is None:
        return final
    return [*final, *_revision(trace, _rejected(trace), right, prompts)]


def _revision(trace: Trace, rejected: Sequence[Turn], right: Spoken, prompts: StudentPrompts) -> list[Example]:
    """What to say after the last of the rejected tries; nothing without one that is complete."""
    if not rejected or _unusable(rejected[-1].attempt):
        return []
    prompt = prompts.revise(trace.question, rejected)
    return [Example(id=f"{trace.question.id}#revise", prompt=prompt, target=right.text)]


def _right(trace: Trace) -> Spoken | None:
    """The reply that a trace of stage 2 teaches: the accepted attempt, or the teacher's answer."""
    return trace.answer if trace.outcome is Outcome.TAUGHT else trace.accepted_attempt


def _rejected(trace: Trace) -> list[Turn]:
    """The tries that were found incorrect, first to last."""
    return [turn for turn in trace.turns if turn.verdict.status is Status.INCORRECT]


def _history(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    right = _right(trace)
    if right is None:
        return EMPTY
    if reason := _unusable_tries(trace):
        return reason
    parts = [part for turn in _rejected(trace) for part in (turn.attempt.text.strip(), _second_look(turn))]
    target = "\n\n".join([*parts, right.text.strip()])
    return [Example(id=trace.question.id, prompt=prompts.attempt(trace.question), target=target)]


def _second_look(turn: Turn) -> str:
    """What was wrong with a try, in the student's own voice. The reply that follows has the answer that counts."""
    guide = turn.guide.guide if turn.guide else turn.verdict.guide
    said = " ".join(filter(None, [turn.verdict.explanation.strip(), guide.strip()]))
    return f"On a second look this is wrong. {said}".strip() + "\n\nOnce more:"


def _chat(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    right = _right(trace)
    if right is None:
        return EMPTY
    if reason := _unusable_tries(trace):
        return reason
    asked = prompts.chat(trace.question, _rejected(trace))
    return [ChatExample(id=trace.question.id, messages=(*asked, said(right)))]


def _unusable_tries(trace: Trace) -> str | None:
    """Why the tries cannot be learned one after the other, if they cannot."""
    return _unusable(_right(trace), *(turn.attempt for turn in trace.turns))


def _pairs(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    accepted = _right(trace)
    if accepted is None or not accepted.text.strip():
        return EMPTY
    wrong = [turn.attempt for turn in _rejected(trace)]
    rejected = [attempt for attempt in wrong if attempt.text.strip() not in ("", accepted.text.strip())]
    if not rejected:
        return UNDISPUTED
    usable = [attempt for attempt in rejected if not _unusable(attempt)]
    if reason := _unusable(accepted) or (None if usable else _unusable(*rejected)):
        return reason
    prompt = prompts.attempt(trace.question)
    return [
        PreferencePair(id=f"{trace.question.id}#{number}", prompt=prompt, chosen=accepted.text, rejected=attempt.text)
        for number, attempt in enumerate(usable, 1)
    ]


def _decoded_pair(trace: Trace, prompts: StudentPrompts) -> Sequence[TrainingRow] | str:
    low, high = trace.attempts
    if reason := _unusable(low, high):
        return reason
    prompt = prompts.attempt(trace.question)
    return [PreferencePair(id=trace.question.id, prompt=prompt, chosen=high.text, rejected=low.text)]
