"""What every agent that speaks through a model has: the model, its prompts and how it samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meteor_agents.method.templates import Templates
from meteor_agents.models import ChatMessage, Completion, Occasion, SamplingParams, Speaker
from meteor_agents.safe_text import clean
from meteor_agents.thoughts import split_thoughts


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker, with the prompts, the domain and the sampling that an agent uses."""

    speaker: Speaker
    templates: Templates
    domain: str
    sampling: SamplingParams

    def prompt(self, template: str, **variables: object) -> tuple[ChatMessage, ...]:
        """The messages of a prompt. Raises `TemplateError` when it cannot be rendered."""
        return self.templates.render(template, domain=self.domain, **variables)

    async def complete(
        self, messages: tuple[ChatMessage, ...], occasion: Occasion, sampling: SamplingParams | None = None
    ) -> Completion:
        """The reply, as text that can be stored and without thoughts, whatever the backend left in it.

        `sampling` replaces the voice's own. Raises `ModelError` as `ChatModel.complete` does.
        """
        reply = await self.speaker.complete(messages, sampling or self.sampling, occasion)
        thoughts, text = split_thoughts(clean(reply.text))
        if text == reply.text and not thoughts:
            return reply
        return replace(reply, text=text, reasoning=reply.reasoning or thoughts)
