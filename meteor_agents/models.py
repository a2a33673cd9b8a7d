"""The seam to every language model: one method, and small protocols for what only some models can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """Contrastive decoding: prefer tokens that the model finds likelier than a weaker model does.

    Sources: arXiv 2210.15097, 2309.09117.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str
    """The weaker model's weights version or name. It is part of the call's key."""
    folder: str = Field(exclude=True)
    """The folder of the weaker model's weights. It is not part of the call's key."""
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
    """A JSON schema, as text, that the reply should follow. A backend that cannot enforce it asks without it, so the
    reader of the reply must be ready for anything."""
    contrast: Contrast | None = None
    """Greedy decoding by the contrast with a weaker model; only for a model that `DecodesContrast`."""
    score: bool = False
    """Decode nothing: the last message is the assistant's, and the reply says how likely it is after the others, as
    a `Likelihood` in JSON. Only for a model that `ScoresReplies`."""

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave absent fields out, so that the keys of stored calls made without them stay as they are."""
        written: dict[str, Any] = content(self)
        absent = {"json_schema": None, "contrast": None, "score": False}
        return {name: value for name, value in written.items() if name not in absent or value != absent[name]}


class FinishReason(StrEnum):
    """How a reply ended, by what it means. Only a COMPLETE reply is judged, trained on or exported.

    The values are those that stores hold. Any value that is none of them reads as UNKNOWN: `FinishReason("other")`, which
    older stores hold, is `FinishReason.UNKNOWN`. Use `complete` to ask whether a reply may be used.

    Example:
        >>> FinishReason("stop").complete, FinishReason("length").complete
        (True, False)
    """

    COMPLETE = "stop"
    """The model ended its reply, or reached a stop string of the call."""
    CUT = "length"
    """The reply reached its token limit, or the model's context was full."""
    REFUSED = "refused"
    """The model, or the provider in its name, declined to answer."""
    FILTERED = "filtered"
    """A content filter removed the reply or ended it."""
    FAILED = "failed"
    """The server gave up on the reply: an error or an abort after it had begun."""
    PAUSED = "paused"
    """The model stopped to wait for something, such as a tool's result; the reply is not complete."""
    UNKNOWN = "unknown"
    """The server gave a reason that is not known here. It does not count as complete."""

    @classmethod
    def _missing_(cls, value: object) -> FinishReason:
        return cls.UNKNOWN

    @property
    def complete(self) -> bool:
        """Whether the reply is whole, so that it may be judged and trained on."""
        return self is FinishReason.COMPLETE

    @property
    def told(self) -> str:
        """The ending in words, to follow "the reply": for example "was cut at its token limit"."""
        return _ENDINGS_TOLD[self]


_ENDINGS_TOLD = {
    FinishReason.COMPLETE: "is complete",
    FinishReason.CUT: "was cut at its token limit (max_tokens) before it ended",
    FinishReason.REFUSED: "was refused",
    FinishReason.FILTERED: "was filtered: the server's content filter ended or removed it",
    FinishReason.FAILED: "was given up by the server after it had begun",
    FinishReason.PAUSED: "was paused by the model before it ended",
    FinishReason.UNKNOWN: "ended for a reason that is not known here, so that it does not count as complete",
}


class Usage(BaseModel):
    """The tokens of one call. `None` means that the server did not say: unknown is not zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's reply to one call, with how it ended and what it used."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    weights: str
    """The version of the weights that replied; the model's name where a server does not version them."""
    pause_s: float = 0.0
    """Seconds for which the server's headers ask for no further call, since its allowance is used up. Not stored."""
    reasoning: str = ""
    """What a reasoning model thought before it replied, where its server returns that. It is not part of the reply."""
    reused: bool = field(default=False, compare=False)
    """Whether the reply comes from the run's store, so that no call was made for it just now. Not stored."""


class ChatModel(Protocol):
    """Anything that answers a chat.

    `complete` raises `TransientModelError` when another try may succeed, `RefusedCallError` when it will not, and
    `NoCallSucceeds` (a wrong key, no credit left) when no call will. It must let `asyncio.CancelledError` pass.

    Example:
        >>> import asyncio
        >>> class Echo:
        ...     name = "echo"
        ...
        ...     async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        ...         return Completion(messages[-1].content, FinishReason.COMPLETE, Usage(), self.name, weights=self.name)
        ...
        ...     async def aclose(self) -> None:
        ...         pass
        >>> asyncio.run(Echo().complete([ChatMessage(role="user", content="Hello")], SamplingParams())).text
        'Hello'
    """

    @property
    def name(self) -> str:
        """The model's name, as messages and error messages carry it."""
        ...

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """One reply to a chat, with how it ended."""
        ...

    async def aclose(self) -> None:
        """Release connections and memory. No call may follow."""
        ...


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a call is for. `tries` tells calls apart that would otherwise ask for the same reply again."""

    stage: str
    question_id: str
    tries: int = 1
    again: int = 0
    """How often this call was made before, because its reply could not be read."""


class Speaker(Protocol):
    """A chat model as agents see it; `calls.RecordedModel` is the one that remembers its calls."""

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> Completion:
        """One reply to a chat, asked for on this occasion. Raises as `ChatModel.complete` does."""
        ...


class Likelihood(NamedTuple):
    """How likely a model finds a reply: the sum of its tokens' natural log-probabilities, end of turn included."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """The mean natural log-probability of a token."""
        return self.total / max(1, self.tokens)

    def written(self) -> str:
        """The JSON text that `read` reads back as an equal value."""
        return json.dumps({"log_likelihood": self.total, "tokens": self.tokens})

    @classmethod
    def read(cls, text: str, model: str) -> Likelihood:
        """A likelihood from the text that `written` gave. Raises `ModelError` for any other text."""
        try:
            content = json.loads(text)
            return cls(float(content["log_likelihood"]), int(content["tokens"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{model} does not tell how likely a reply is; choose another `by`") from error


CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for a prompt's tokens, before the server counts them."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How to estimate a text's tokens before a server counts them, and the name of that method."""

    count: Callable[[str], float] = lambda text: len(text) / CHARACTERS_PER_TOKEN
    name: str = f"{CHARACTERS_PER_TOKEN} characters a token"
