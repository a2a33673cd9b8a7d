"""Reply text -> typed content. A reply that cannot be read becomes an error state, never a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from meteor_agents.messages import Attempt, Status, Verdict
from meteor_agents.method.judge_json import Stated, stated_objects, with_fields
from meteor_agents.models import FinishReason
from meteor_agents.safe_text import clean

Agreed = TypeVar("Agreed")

READING = 3
"""The version of the parsers here. Raise it when replies are read differently: traces are then made again, from the stored
replies, without a new call."""

CRITERIA = ("accuracy", "completeness", "relevance", "coherence", "reliability")
"""The five criteria of the paper's evaluation, each scored 1 to 10."""


def _schema(**properties: object) -> str:
    """The JSON schema of an object that has exactly these properties, in this order."""
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


_TEXT = {"type": "string"}
_SCORE = {"type": "integer", "enum": list(range(1, 11))}
_WINNER = {"type": "string", "enum": ["A", "B", "tie"]}

VERDICT_SCHEMA = _schema(explanation=_TEXT, status={"type": "string", "enum": ["correct", "incorrect"]}, guide=_TEXT)
"""What `parse_verdict` reads. The explanation comes first, so that it is not made up to suit a status already given."""
SCORES_SCHEMA = _schema(justification=_TEXT, **dict.fromkeys(CRITERIA, _SCORE))
"""What `parse_scores` reads."""
COMPARISON_SCHEMA = _schema(justification=_TEXT, **dict.fromkeys(CRITERIA, _WINNER))
"""What `parse_comparison` reads."""


class AnswerParts(NamedTuple):
    """The two parts of a student's reply, both stripped of white space."""

    reasoning: str
    answer: str


_ANSWER_LINE = re.compile(r"^[ \t>*#_]*(?:final[ \t]+)?answer[ \t*_]*:(?:\*\*|__)?[ \t]*", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"`{3,}")
_LANGUAGE = re.compile(r"[\w+-]*[ \t]*\n|(?:sql|python|json|text|math|latex)[ \t]+", re.IGNORECASE)


def split_answer(text: str) -> AnswerParts:
    """Split a student's reply into its reasoning and its final answer.

    The answer is what follows the last line that begins with `Answer:`; without one, the last fenced block; without
    that, the whole reply. A fence around the answer is taken off. Takes time in proportion to the text's length.

    >>> split_answer("Half of 42.\\nAnswer: 21")
    AnswerParts(reasoning='Half of 42.', answer='21')
    """
    marks = list(_ANSWER_LINE.finditer(text))
    if marks:
        reasoning, answer = text[: marks[-1].start()], text[marks[-1].end() :]
        blocks = _fenced_blocks(answer)
        return AnswerParts(reasoning.strip(), (blocks[0].content if blocks else answer).strip())
    blocks = _fenced_blocks(text)
    if blocks:
        return AnswerParts(text[: blocks[-1].start].strip(), blocks[-1].content.strip())
    return AnswerParts("", text.strip())


class _Block(NamedTuple):
    start: int
    content: str
    """The text inside the fences, without the language's name."""


def _fenced_blocks(text: str) -> list[_Block]:
    """The fenced blocks that are closed, in order."""
    fences = list(_FENCE.finditer(text))
    blocks: list[_Block] = []
    for opening, closing in zip(fences[::2], fences[1::2], strict=False):
        content = text[opening.end() : closing.start()]
        language = _LANGUAGE.match(content)
        blocks.append(_Block(opening.start(), content[language.end() :] if language else content))
    return blocks


def read_attempt(text: str, *, model: str, weights: str, ending: FinishReason = FinishReason.COMPLETE) -> Attempt:
    """A reply of any model as an attempt, split into reasoning and answer, so that a judge can judge it."""
    parts = split_answer(text)
    return Attempt(text=text, reasoning=parts.reasoning, answer=parts.answer, ending=ending, model=model, weights=weights)


def join_answer(reasoning: str | None, answer: str) -> str:
    """The reply that `split_answer` splits into these two parts again."""
    return f"{reasoning}\nAnswer: {answer}" if reasoning else f"Answer: {answer}"


VERDICT_FIELDS = ("explanation", "status", "guide")


def parse_verdict(text: str, model: str, quoted: Collection[str] = ()) -> Verdict:
    """The judge's reply as a verdict; `Status.ERROR`, with the reason, when it states none or several that differ.

    Wanted is one JSON object with `explanation`, `status` and `guide`. As the whole reply it may lack the explanation or the
    guide; amid other text it must have all three. The status must be "correct" or "incorrect", but for capitals and a full
    stop: "not correct" and "partially correct" are neither. An object that stands in one of the `quoted` texts, which the
    judge was asked about, is repeated and no verdict.
    """
    stated = stated_objects(text, quoted)
    if stated is None:
        return _no_verdict("JSON object that can be read as a whole", text, model)
    with_status = with_fields(stated, ("status",))
    if not with_status:
        return _no_verdict('JSON object with a "status"', text, model)
    statuses = {_word(content["status"]) for content in with_status}
    if len(statuses) > 1:
        return _no_verdict("single verdict: they differ", text, model)
    status = statuses.pop()
    if status not in (Status.CORRECT, Status.INCORRECT):
        return _no_verdict('a "status" of "correct" or "incorrect"', text, model)
    whole = with_status if stated.alone else with_fields(stated, VERDICT_FIELDS)
    if not whole:
        wanted = f"JSON object with {', '.join(VERDICT_FIELDS)}, which is needed amid other text"
        return _no_verdict(wanted, text, model)
    return Verdict(
        status=Status(status),
        explanation=_prose(whole[-1].get("explanation")),
        guide=_prose(whole[-1].get("guide")),
        model=model,
    )


def _no_verdict(wanted: str, text: str, model: str) -> Verdict:
    shown = clean(text.strip()[:200])
    return Verdict(status=Status.ERROR, explanation=f"the judge's reply holds no {wanted}: {shown!r}", model=model)


def parse_scores(text: str, quoted: Collection[str] = ()) -> dict[str, float] | None:
    """The five criteria, each from 1 to 10; None when one is missing or out of range, or two objects differ.

    A score may be written as a number, as `"8"` or as `"8/10"`. Half points are kept.
    """
    return _agreed([_scores(content) for content in _graded(text, quoted)])


def parse_comparison(text: str, quoted: Collection[str] = ()) -> dict[str, str] | None:
    """Criterion -> "A", "B" or "tie". None when a criterion is missing or has another value, or when two objects differ."""
    return _agreed([_winners(content) for content in _graded(text, quoted)])


def parse_justification(text: str, quoted: Collection[str] = ()) -> str:
    """What the judge says for its scores; empty where it says nothing."""
    return next((_prose(content.get("justification")) for content in _graded(text, quoted)), "")


def _graded(text: str, quoted: Collection[str]) -> list[dict[str, Any]]:
    """The stated objects that have all five criteria."""
    stated: Stated | None = stated_objects(text, quoted)
    return with_fields(stated, CRITERIA) if stated else []


def _agreed(found: list[Agreed | None]) -> Agreed | None:
    """What all say, if they say the same."""
    return found[0] if found and all(one == found[0] for one in found) else None


_NUMBER = re.compile(r"(\d{1,2}(?:\.\d{1,4})?)\s?(?:/\s?10|out of 10)?")


def _scores(content: Mapping[str, Any]) -> dict[str, float] | None:
    scores: dict[str, float] = {}
    for criterion in CRITERIA:
        score = _score(content[criterion])
        if score is None:
            return None
        scores[criterion] = score
    return scores


def _score(value: Any) -> float | None:
    """A number from 1 to 10; None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("score")
    if isinstance(value, str):
        written = _NUMBER.fullmatch(_word(value))
        value = float(written[1]) if written else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10:
        return None
    return int(value) if value == int(value) else value


_WINNERS = {name: winner for winner in ("A", "B") for name in (winner.lower(), f"reply {winner.lower()}")} | {"tie": "tie"}


def _winners(content: Mapping[str, Any]) -> dict[str, str] | None:
    winners = {criterion: _WINNERS.get(_word(content[criterion])) for criterion in CRITERIA}
    known = {criterion: winner for criterion, winner in winners.items() if winner is not None}
    return known if len(known) == len(CRITERIA) else None


def _word(value: Any) -> str:
    """A single word or number as the judge meant it: without capitals, spaces, full stop and emphasis."""
    return value.strip(" \t\r\n.!*_`\"'").casefold() if isinstance(value, str) else ""


def _prose(value: Any) -> str:
    if value is None:
        return ""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()
