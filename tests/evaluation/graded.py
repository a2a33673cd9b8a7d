"""Graded replies, and judges that always say the same, for the tests of this folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meteor_agents import prompts
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.evaluation.grading import Panel, ask_and_grade
from meteor_agents.evaluation.results import GradedReply
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import ModelJudge
from meteor_agents.method.replies import CRITERIA
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, Completion, FinishReason, Occasion, SamplingParams

QUESTION = Question(id="q", question="What is one plus one?", reference="2")
TEMPLATES = Templates(Path(prompts.__file__).parent)


class Asked:
    """A model as agents see it, that remembers the occasions."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.model = ScriptedModel(lambda messages, sampling: reply(messages[-1].content))
        self.occasions: list[Occasion] = []

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        self.occasions.append(occasion)
        return await self.model.complete(messages, sampling)


def voice(reply: Callable[[str], str]) -> Voice:
    return Voice(Asked(reply), TEMPLATES, "sums", SamplingParams())


def scoring(score: int) -> ModelJudge:
    return ModelJudge(voice(lambda text: json.dumps({"justification": f"a {score}", **dict.fromkeys(CRITERIA, score)})))


def attempt(text: str) -> Attempt:
    return Attempt(text=text, reasoning="", answer=text, model="m", weights="w")


def result(score: float | None = None, status: Status = Status.CORRECT, text: str = "2", **more: Any) -> GradedReply:
    scores: dict[str, float] | None = None if score is None else dict.fromkeys(CRITERIA, score)
    return GradedReply(asked="x", attempt=attempt(text), status=status, scores=scores, **more)


class Ending(ScriptedModel):
    """Says the right answer and ends its reply in one way."""

    def __init__(self, ending: FinishReason) -> None:
        super().__init__(["Answer: 2"])
        self.ending = ending

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion | None = None
    ) -> Completion:
        return replace(await super().complete(messages, sampling), finish_reason=self.ending)


def examined(panel: Panel, ending: FinishReason = FinishReason.COMPLETE) -> GradedReply:
    student = Student(Voice(Ending(ending), TEMPLATES, "sums", SamplingParams()))
    return asyncio.run(ask_and_grade(QUESTION, student, panel, sampling=SamplingParams()))
