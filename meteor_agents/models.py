"""The seam to every language model: one method, and small protocols for what only some models can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field


class ChatMessage(BaseModel):
    """One turn of a chat, as every chat-completions interface has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class SamplingParams(BaseModel):
    """How a reply is decoded.

    `temperature` 0 is greedy. `beams` > 1 is deterministic beam search (temperature and top_p do not apply); a backend
    that cannot do it refuses it by raising `RefusedCallError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    beams: int = Field(default=1, ge=1)


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


@runtime_checkable
class ReportsQueue(Protocol):
    """A model whose server says how many requests wait there."""

    async def queue_depth(self) -> int | None:
        """Requests that the server has taken and not begun; None when it does not say now."""
        ...
