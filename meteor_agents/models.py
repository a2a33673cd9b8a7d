"""The seam to every language model: one method, and small protocols for what only some models can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


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
    STOP = "stop"
    LENGTH = "length"
    OTHER = "other"


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
    `CredentialsError` when no call will. It must let `asyncio.CancelledError` pass.
    """

    @property
    def name(self) -> str: ...

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class LoadsWeights(Protocol):
    """A model whose weights can be replaced while it stays up."""

    @property
    def weights(self) -> str: ...

    async def load_weights(self, folder: Path, version: str) -> None:
        """Serve the Hugging Face folder `folder` from the next call on; replies then carry `version`.

        Calls in flight finish with the weights they started with. Raises `ModelError` and keeps the old weights when
        the folder cannot be loaded.
        """
        ...


@runtime_checkable
class DecodesBeams(Protocol):
    """A model that honours `SamplingParams.beams`."""

    @property
    def max_beams(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model, or its server, says of itself."""

    served: tuple[str, ...] = ()
    """The names of the models that it serves; empty where it does not say."""
    context: int | None = None
    """How many tokens it reads and writes in one call; None where it does not say."""


@runtime_checkable
class TellsFacts(Protocol):
    """A model that can be asked about itself, at no cost."""

    async def facts(self) -> ModelFacts:
        """What is known now. Never raises `ModelError`: what cannot be found out is left out."""
        ...


@runtime_checkable
class Contrasts(Protocol):
    """A model that honours `SamplingParams.contrast`."""

    @property
    def contrasts(self) -> bool: ...


@runtime_checkable
class ScoresReplies(Protocol):
    """A model that honours `SamplingParams.score`."""

    @property
    def scores_replies(self) -> bool: ...


@runtime_checkable
class Opens(Protocol):
    """A model that has something to start or to find before its first call."""

    async def open(self) -> None:
        """Returns when the model can be asked. Raises `MeteorError` when it cannot."""
        ...


@runtime_checkable
class FreesMemory(Protocol):
    """A model that can give its device's memory to the trainer for a while."""

    async def free_memory(self) -> None:
        """Hold no memory of the device. The next call, or `load_weights`, takes it back by itself."""
        ...


@runtime_checkable
class ReportsQueue(Protocol):
    """A model whose server says how many requests wait there."""

    async def queue_depth(self) -> int | None:
        """Requests that the server has taken and not begun; None when it does not say now."""
        ...


@runtime_checkable
class BoundsItsCalls(Protocol):
    """A model that keeps the time of a try by itself, because some of the waiting is not its server's fault."""

    @property
    def call_timeout_s(self) -> float: ...
