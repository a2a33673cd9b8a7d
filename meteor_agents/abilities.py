"""Abilities that only some models have: small protocols, checked with `isinstance` on the innermost model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from meteor_agents.models import ChatModel


@runtime_checkable
class RunsHere(Protocol):
    """A model that says whether it computes in this process."""

    @property
    def in_process(self) -> bool:
        """Whether the model computes in this process, on this machine's device."""
        ...


@runtime_checkable
class LoadsWeights(Protocol):
    """A model whose weights can be replaced while it stays up."""

    @property
    def weights(self) -> str:
        """The version of the weights that reply now."""
        ...

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
    def max_beams(self) -> int:
        """The largest number of beams of one search."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model or its server says about itself."""

    served: tuple[str, ...] = ()
    """The names of the models that are served; empty where the server does not say."""
    context: int | None = None
    """The context size in tokens, prompt and reply together; None where it is not known."""


@runtime_checkable
class TellsFacts(Protocol):
    """A model that can be asked about itself at no cost."""

    async def facts(self) -> ModelFacts:
        """The facts known now. Unknown ones are left out; no `ModelError` is raised."""
        ...


@runtime_checkable
class DecodesContrast(Protocol):
    """A model that honours `SamplingParams.contrast`."""

    @property
    def contrasts(self) -> bool:
        """True. Having this property is what marks such a model."""
        ...


@runtime_checkable
class ScoresReplies(Protocol):
    """A model that honours `SamplingParams.score`."""

    @property
    def scores_replies(self) -> bool:
        """True. Having this property is what marks such a model."""
        ...


@runtime_checkable
class Opens(Protocol):
    """A model that must start or look up something before its first call."""

    async def open(self) -> None:
        """Returns when the model can be asked. Raises `MeteorError` when it cannot."""
        ...


@runtime_checkable
class FreesMemory(Protocol):
    """A model that can release its device's memory while the trainer works."""

    async def free_memory(self) -> None:
        """Release all device memory. The next call, or `load_weights`, takes it back."""
        ...


@runtime_checkable
class ReportsQueue(Protocol):
    """A model whose server reports how many requests wait there."""

    async def queue_depth(self) -> int | None:
        """Requests that the server has accepted but not begun; None if it does not report them."""
        ...


@runtime_checkable
class BoundsItsCalls(Protocol):
    """A model that enforces its own time-out, because some of the waiting is not its server's fault."""

    @property
    def call_timeout_s(self) -> float:
        """Seconds after which the model itself gives up a call."""
        ...


@runtime_checkable
class Wrapper(Protocol):
    """A chat model around another one."""

    @property
    def inner(self) -> ChatModel:
        """The model that this one calls."""
        ...


def innermost(model: ChatModel) -> ChatModel:
    """The model inside all wrappers, whose abilities count."""
    while isinstance(model, Wrapper):
        model = model.inner
    return model
