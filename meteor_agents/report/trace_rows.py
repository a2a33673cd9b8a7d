"""The traces of a run as the rows that the page's browser of traces reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meteor_agents.evaluation.grading import EVALUATE
from meteor_agents.evaluation.results import GradedReply
from meteor_agents.messages import Lineage, Question
from meteor_agents.report.contents import Contents
from meteor_agents.store.records import Records
from meteor_agents.store.trace_records import TraceRow

HeldOutQuestions = Mapping[str, Mapping[str, Question]]
"""Held-out set -> question id -> question."""

_SHOWN = ("kind", "text", "status", "explanation", "guide", "weights", "model", "truncated")
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError)
"""What reading a damaged row raises."""


def count_traces(records: Records) -> int:
    """The number of traces under the run's current settings. Raises `StoreError`."""
    return sum(n for stage in records.current_stages() for _, _, n in records.trace_totals(stage.name, stage.recipe))


def read_traces(records: Records, *, at_most: int) -> Iterator[dict[str, Any]]:
    """The first `at_most` traces under the run's current settings, stage by stage. Raises `StoreError`."""
    for row in records.current_trace_rows(at_most=at_most):
        try:
            yield _trace(row)
        except _DAMAGE as error:
            raise records.broken(f"the trace of question {row.question_id!r} in {row.stage}", error) from error


def _trace(row: TraceRow) -> dict[str, Any]:
    said = [_message(message) for message in row.messages]
    trace = {"stage": row.stage, "id": row.question_id, "outcome": row.outcome, "tries": row.tries, "messages": said}
    more = {"error": row.error, "reference": row.question.get("reference")}
    return trace | _question_text(row.question.get("title"), row.question["question"]) | _present(more)


def _question_text(title: str | None, question: str) -> dict[str, str]:
    return {"question": f"{title}\n\n{question}" if title else question}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message["kind"] == "lineage":
        return {"kind": "lineage", "text": "\n".join(Lineage.model_validate(message).sentences())}
    return {name: message[name] for name in _SHOWN if message.get(name)}


def held_out_traces(records: Records, contents: Contents, questions: HeldOutQuestions) -> Iterator[dict[str, Any]]:
    """Each held-out question as a trace: every student's reply and how it was graded. Raises `StoreError`.

    A question that is not among `questions` is shown as the prompt that the student was given.
    """
    prompts = None
    for held in contents.heldout:
        replies = contents.replies[held.name]
        for id_ in dict.fromkeys(id_ for graded in replies.values() for id_ in graded):
            given = {label: graded[id_] for label, graded in replies.items() if id_ in graded}
            last = next(given[label] for label in [*reversed(held.own), *given] if label in given)
            question = questions.get(held.name, {}).get(id_)
            if question is None and prompts is None:
                prompts = records.prompts("student", EVALUATE)
            asked = (
                _question_text(question.title, question.question) | _present({"reference": question.reference})
                if question
                else {"question": (prompts or {}).get(id_, id_)}
            )
            yield {
                "stage": f"held out: {held.name}",
                "id": id_,
                "outcome": _outcome(last),
                "tries": 1,
                "messages": [part for label, reply in given.items() for part in _reply(contents.title(label), reply)],
                **asked,
            }


def _outcome(reply: GradedReply) -> str:
    return "scored" if reply.correct is None and reply.scores else reply.status.value


def _reply(title: str, reply: GradedReply) -> tuple[dict[str, Any], dict[str, Any]]:
    scores = ", ".join(f"{name} {score:g}" for name, score in (reply.scores or {}).items())
    explanation = "\n".join(filter(None, (scores, reply.explanation)))
    verdict = {"kind": "verdict", "status": _outcome(reply), "explanation": explanation}
    said = {"kind": "attempt", "text": reply.attempt.text, "weights": title}
    return said | _present({"truncated": reply.attempt.truncated}), verdict
