"""The prompts of a student's attempts. A run asks its model with them; an export only writes them down."""

from __future__ import annotations

from collections.abc import Sequence

from meteor_agents.messages import Question, Spoken
from meteor_agents.method.templates import Templates
from meteor_agents.models import ChatMessage
from meteor_agents.traces import Turn


class StudentPrompts:
    """Renders what a student is asked. Every method raises `TemplateError` when a template cannot be rendered.

    `in_one_chat`: a revision is the next turn of one chat (`student_feedback`) instead of a prompt of its own
    (`student_revise`).
    """

    def __init__(self, templates: Templates, domain: str, *, in_one_chat: bool = False) -> None:
        self._templates = templates
        self._domain = domain
        self._in_one_chat = in_one_chat

    def attempt(self, question: Question) -> tuple[ChatMessage, ...]:
        """The messages that ask the question: those of every first attempt and of every training example."""
        return self._templates.render("student_attempt", domain=self._domain, question=question)

    def revise(self, question: Question, history: Sequence[Turn]) -> tuple[ChatMessage, ...]:
        """The messages that ask for the next try after the turns of `history`."""
        if self._in_one_chat:
            return self.chat(question, history)
        return self._about(history[-1], "student_revise", question, turns=tuple(history))

    def chat(self, question: Question, history: Sequence[Turn]) -> tuple[ChatMessage, ...]:
        """The question as a chat, then each try and the feedback on it as further turns."""
        messages = list(self.attempt(question))
        for turn in history:
            messages += [said(turn.attempt), *self._about(turn, "student_feedback", question)]
        return tuple(messages)

    def _about(self, turn: Turn, template: str, question: Question, **more: object) -> tuple[ChatMessage, ...]:
        attempt, verdict, guide = turn
        return self._templates.render(
            template,
            domain=self._domain,
            question=question,
            previous=attempt,
            explanation=guide.explanation if guide else verdict.explanation,
            guide=guide.guide if guide else verdict.guide,
            **more,
        )


def said(reply: Spoken) -> ChatMessage:
    """An attempt, or the teacher's answer, as the assistant's turn of a chat."""
    return ChatMessage(role="assistant", content=reply.text)
