"""Reply text -> typed content. A reply that cannot be read becomes an error state, never a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from meteor_agents.messages import Status, Verdict

_ANSWER_LINE = re.compile(r"^[ \t>*#_]*(?:final[ \t]+)?answer[ \t*_]*:(?:\*\*|__)?[ \t]*", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)```", re.DOTALL)
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)

READING = 2
"""Raise it when replies are read otherwise: traces are then made again, from the stored replies, without a new call."""

CRITERIA = ("accuracy", "completeness", "relevance", "coherence", "reliability")
"""The five criteria of the paper's evaluation, each scored 1 to 10."""


def _schema(**properties: object) -> str:
    """Of an object that has exactly these properties, in this order."""
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


_TEXT = {"type": "string"}
_SCORE = {"type": "integer", "enum": list(range(1, 11))}
_WINNER = {"type": "string", "enum": ["A", "B", "tie"]}

VERDICT_SCHEMA = _schema(explanation=_TEXT, status={"type": "string", "enum": ["correct", "incorrect"]}, guide=_TEXT)
"""What `parse_verdict` reads; the explanation first, so that it is not made up for a status that stands already."""
SCORES_SCHEMA = _schema(justification=_TEXT, **dict.fromkeys(CRITERIA, _SCORE))
COMPARISON_SCHEMA = _schema(justification=_TEXT, **dict.fromkeys(CRITERIA, _WINNER))




class AnswerParts(NamedTuple):
    reasoning: str
    answer: str


def split_answer(text: str) -> AnswerParts:
    """Which part of a student's reply is reasoning and which is the final answer.

    The answer is what follows the last line that begins with `Answer:`; without one, the last fenced block; without
    that, the whole reply. A fence around the answer is taken off.
    """
    marks = list(_ANSWER_LINE.finditer(text))
    if marks:
        reasoning, answer = text[: marks[-1].start()], text[marks[-1].end() :]
        fences = _FENCE.findall(answer)
        return AnswerParts(reasoning.strip(), (fences[0] if fences else answer).strip())
    blocks = list(_FENCE.finditer(text))
    if blocks:
        return AnswerParts(text[: blocks[-1].start()].strip(), blocks[-1].group(1).strip())
    return AnswerParts("", text.strip())


def join_answer(reasoning: str | None, answer: str) -> str:
    """The reply that `split_answer` reads back as these two parts."""
    return f"{reasoning}\nAnswer: {answer}" if reasoning else f"Answer: {answer}"


def parse_verdict(text: str, model: str, quoted: Sequence[str] = ()) -> Verdict:
    """The judge's reply as a verdict; `Status.ERROR` when it holds no readable one, or several that differ.

    Wanted is a JSON object with `status` ("correct" or "incorrect"), `explanation` and `guide`. The status must be
    exactly one of the two words: "not correct" is neither. An object that stands in `quoted` (the texts that were judged)
    is no verdict: the judge repeats what it has read.
    """
    found = [object_ for object_, source in json_objects(text) if not any(source in given for given in quoted)]
    if not found:
        return Verdict(status=Status.ERROR, explanation=_unreadable("a JSON object", text), model=model)
    statuses = {_said(object_) for object_ in found if "status" in object_}
    if len(statuses) > 1:
        return Verdict(status=Status.ERROR, explanation=_unreadable("one verdict: they differ", text), model=model)
    if not statuses <= {Status.CORRECT, Status.INCORRECT} or not statuses:
        wanted = 'a "status" of "correct" or "incorrect"'
        return Verdict(status=Status.ERROR, explanation=_unreadable(wanted, text), model=model)
    reply = next(object_ for object_ in reversed(found) if "status" in object_)
    return Verdict(
        status=Status(_said(reply)),
        explanation=str(reply.get("explanation") or "").strip(),
        guide=str(reply.get("guide") or "").strip(),
        model=model,
    )


def _said(reply: Mapping[str, Any]) -> str:
    status = reply["status"]
    return status.strip().lower() if isinstance(status, str) else "no text"


def parse_scores(text: str) -> dict[str, int] | None:
    """Five criteria, each an integer from 1 to 10; None when one is missing or out of range."""
    reply = json_object(text)
    if reply is None:
        return None
    scores: dict[str, int] = {}
    for criterion in CRITERIA:
        value = reply.get(criterion)
        if isinstance(value, Mapping):
            value = value.get("score")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10 or value != int(value):
            return None
        scores[criterion] = int(value)
    return scores


def parse_comparison(text: str) -> dict[str, str] | None:
    """For each criterion "A", "B" or "tie"; None when one is missing or something else."""
    reply = json_object(text)
    if reply is None:
        return None
    winners = {criterion: str(reply.get(criterion, "")).strip() for criterion in CRITERIA}
    return winners if all(winner in ("A", "B", "tie") for winner in winners.values()) else None


def json_object(text: str) -> dict[str, Any] | None:
    """The last complete JSON object in a reply, past a model's thinking and around any fence or prose."""
    found = json_objects(text)
    return found[-1].content if found else None


class Found(NamedTuple):
    content: dict[str, Any]
    source: str
    """As it stands in the text."""


def json_objects(text: str) -> list[Found]:
    """All complete JSON objects in a reply that stand in no other one, past a model's thinking. One that has a key twice,
    with values that differ, says two things, and counts as two objects.
    """
    text = _THINKING.sub("", text)
    found: list[Found] = []
    position = text.find("{")
    while position != -1:
        doubled: list[tuple[str, Any]] = []
        decoder = json.JSONDecoder(strict=False, object_pairs_hook=partial(_object, doubled=doubled))
        try:
            value, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            end = position + 1
        else:
            source = text[position:end]
            found += [Found({**value, key: other}, source) for key, other in doubled]
            found.append(Found(value, source))
        position = text.find("{", end)
    return found


def _object(pairs: list[tuple[str, Any]], *, doubled: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    doubled.clear()  # only the outermost object counts, and it is made last
    doubled += [(key, value) for key, value in pairs if content[key] != value]
    return content


def _unreadable(wanted: str, text: str) -> str:
    shown = text.strip()
    return f"the judge's reply holds no {wanted}: {shown[:200]!r}"
