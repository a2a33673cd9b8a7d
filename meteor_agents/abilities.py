"""What only some models can do: small protocols, each asked for with `isinstance` on the innermost model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from meteor_agents.models import ChatModel


@runtime_checkable
class RunsHere(Protocol):
    """A model that says whether it computes in this process."""

    @property
    def in_process(self) -> bool: ...


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


@runtime_checkable
class Wrapper(Protocol):
    """A chat model around another one."""

    @property
    def inner(self) -> ChatModel: ...


def innermost(model: ChatModel) -> ChatModel:
    """The model inside all wrappers: the one to ask what it can do."""
    while isinstance(model, Wrapper):
        model = model.inner
    return model
