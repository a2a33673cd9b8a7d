"""The seam to every language model: one method, and small protocols for what only some models can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from meteor_agents.errors import ModelError


class ChatMessage(BaseModel):
    """One turn of a chat, as every chat-completions interface has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Contrast(BaseModel):
    """Contrastive decoding: what the model finds likelier than a weaker one does (arXiv 2210.15097, 2309.09117)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str
    """The weaker model's weights version or name; part of what decides a reply."""
    folder: str = Field(exclude=True)
    """Where its weights are; no part of that."""
    alpha: float = Field(default=0.1, gt=0, le=1)
    """A token counts only if the model gives it at least this share of its likeliest token's probability."""
    beta: float = Field(default=0.5, gt=0)
    """Weight of the weaker model: tokens are ranked by (1 + beta) x own - beta x weaker logits."""


class SamplingParams(BaseModel, frozen=True, extra="forbid"):
    """How a reply is decoded.

    `temperature` 0 is greedy. `beams` > 1 is deterministic beam search (temperature and top_p do not apply); a backend
    that cannot do it refuses it by raising `RefusedCallError`.
    """

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    beams: int = Field(default=1, ge=1)
    json_schema: str | None = None
    """The JSON schema, as text, that the reply should follow. A backend that cannot hold a model to it asks without:
    whoever reads the reply must be ready for one that is something else."""
    contrast: Contrast | None = None
    """Greedy, by the contrast with a weaker model; only for a model that `Contrasts`."""
    score: bool = False
    """No reply is decoded. The last message is the assistant's; told is how likely it is after the others, as
    `replies.Likelihood` in JSON; only for a model that `ScoresReplies`."""

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not there is not written, so that the keys of stored calls without it stay as they are."""
        written: dict[str, Any] = content(self)
        absent = {"json_schema": None, "contrast": None, "score": False}
        return {name: value for name, value in written.items() if name not in absent or value != absent[name]}


class FinishReason(StrEnum):
    """How a reply ended, by what it means. Only a COMPLETE reply is judged, trained on or exported.

    The values are those that stores hold. Any value that is none of them reads as UNKNOWN: `FinishReason("other")`, which
    older stores hold, is `FinishReason.UNKNOWN`. Use `complete` to ask whether a reply may be used.
    """

    COMPLETE = "stop"
    """The model ended its reply by itself, or at a stop string of the call."""
    CUT = "length"
    """The reply reached its token limit, or the model's context was full."""
    REFUSED = "refused"
    """The model, or the provider in its name, declined to answer."""
    FILTERED = "filtered"
    """A content filter removed the reply or ended it."""
    FAILED = "failed"
    """The server gave up on the reply: an error or an abort after it had begun."""
    PAUSED = "paused"
    """The model stopped to wait for something, such as a tool's result; what is there is no whole reply."""
    UNKNOWN = "unknown"
    """The server gave a reason that is not known here. It does not count as complete."""

    @classmethod
    def _missing_(cls, value: object) -> FinishReason:
        return cls.UNKNOWN

    @property
    def complete(self) -> bool:
        """Whether the reply is whole, so that it may be judged and trained on."""
        return self is FinishReason.COMPLETE


class Usage(BaseModel):
    """Tokens of one call. `None` where the server did not say: unknown is not zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    weights: str
    """The version of the weights that spoke; the model's name where a server does not version them."""
    pause_s: float = 0.0
    """How long the server, by its headers, wants no further call: its allowance is used up. Not stored."""
    reasoning: str = ""
    """What a reasoning model thought before it spoke, where its server hands it out. No part of the reply."""


class ChatModel(Protocol):
    """Anything that answers a chat.

    `complete` raises `TransientModelError` when another try may succeed, `RefusedCallError` when it will not, and
    `NoCallSucceeds` (a wrong key, no credit left) when no call will. It must let `asyncio.CancelledError` pass.
    """

    @property
    def name(self) -> str: ...

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion: ...

    async def aclose(self) -> None: ...






















@dataclass(frozen=True, slots=True)
class Occasion:
    """What a call is for. `tries` tells calls apart that would otherwise ask for the same reply again."""

    stage: str
    question_id: str
    tries: int = 1
    again: int = 0
    """How often the very same was asked before, because the reply could not be read."""


class Speaker(Protocol):
    """A chat model as agents see it; `calls.RecordedModel` is the one that remembers."""

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion: ...


class Likelihood(NamedTuple):
    """How likely a model finds a reply: the sum of its tokens' natural log-probabilities, end of turn included."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / max(1, self.tokens)

    def written(self) -> str:
        """The text that `read` reads back as this."""
        return json.dumps({"log_likelihood": self.total, "tokens": self.tokens})

    @classmethod
    def read(cls, text: str, model: str) -> Likelihood:
        """Raises `ModelError` for any other text: the model does not score replies."""
        try:
            content = json.loads(text)
            return cls(float(content["log_likelihood"]), int(content["tokens"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{model} does not tell how likely a reply is; choose another `by`") from error


CHARACTERS_PER_TOKEN = 4
"""For guessing a prompt's tokens before the server counts them."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How a text's tokens are counted before a server has counted them, and what to call that."""

    count: Callable[[str], float] = lambda text: len(text) / CHARACTERS_PER_TOKEN
    name: str = f"{CHARACTERS_PER_TOKEN} characters a token"






