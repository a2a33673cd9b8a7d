"""A model that remembers: no call whose reply is in the store is made again, and every reply is stored before it is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from meteor_agents.calls.keys import call_key
from meteor_agents.errors import BudgetReached, ModelError
from meteor_agents.events import CallFailed, CallFinished, CallStarted, Observer
from meteor_agents.models import ChatMessage, ChatModel, Completion, Occasion, SamplingParams, Usage
from meteor_agents.store.store import Store


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def usd(self, usage: Usage) -> float | None:
        """None when the server did not say how many tokens it used, unless tokens cost nothing."""
        if not (self.input or self.output):
            return 0.0
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


class Budget:
    """Tokens and money of the whole run, over all roles. Stops new calls; those in flight are paid and kept."""

    def __init__(self, store: Store, *, usd: float | None = None, tokens: int | None = None) -> None:
        spent = store.spent()
        self._usd, self._tokens = spent.usd, spent.tokens
        self._max_usd, self._max_tokens = usd, tokens

    def check(self) -> None:
        """Raises `BudgetReached`."""
        if self._max_usd is not None and self._usd >= self._max_usd:
            raise BudgetReached(f"budget.usd of {self._max_usd:g} reached ({self._usd:.2f} spent); raise it to go on")
        if self._max_tokens is not None and self._tokens >= self._max_tokens:
            raise BudgetReached(f"budget.tokens of {self._max_tokens} reached ({self._tokens} used); raise it to go on")

    def spend(self, usage: Usage, usd: float | None) -> None:
        self._tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._usd += usd or 0.0


class Budgeted:
    """Asks `inner` while the budget lasts. Inside the limits: a call that waited for its turn is not sent after the end."""

    def __init__(self, inner: ChatModel, budget: Budget) -> None:
        self.inner = inner
        self._budget = budget

    @property
    def name(self) -> str:
        return self.inner.name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        self._budget.check()
        return await self.inner.complete(messages, sampling)

    async def aclose(self) -> None:
        await self.inner.aclose()


class RecordedModel:
    """A role's model as its agent speaks through it.

    The call's key is a hash of what decides the reply: role, model, messages, sampling, try number (`call_keys`). The
    weights version is the second half of the key: a stored reply serves when the current weights spoke it, or, while a
    conversation is resumed, an earlier version of the same stage (`also_reusable`), since those words were really said.
    `options` are the settings of the backend that may change a reply.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        role: str,
        identity: str,
        store: Store,
        budget: Budget,
        observer: Observer,
        price: Price | None = None,
        weights: Callable[[], str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._role = role
        self._identity = identity
        self._store = store
        self._budget = budget
        self._observer = observer
        self._price = price
        self._weights = weights
        self._options = options
        self.also_reusable: dict[str, tuple[str, ...]] = {}
        """Stage -> older weights versions whose stored replies still count there, newest first."""
        self._only: str | None = None
        self._inside = 0
        self._admitted = asyncio.Event()
        self._asking: dict[tuple[str, int], asyncio.Event] = {}

    @asynccontextmanager
    async def only(self, stage: str) -> AsyncIterator[None]:
        """While inside, only this stage's calls reach the model; others wait. Calls in flight are not held back.

        Whoever is inside at the same time has to name the same stage.
        """
        self._admitted.clear()
        self._only = stage
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._only = None
                self._admitted.set()

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        while self._only not in (None, occasion.stage):
            await self._admitted.wait()
        said = [(message.role, message.content) for message in messages]
        key = call_key(self._role, self._identity, said, sampling, occasion.tries, occasion.again, self._options)
        same = (key, sampling.max_tokens)
        while (stored := self._stored(key, sampling, occasion)) is None and same in self._asking:
            await self._asking[same].wait()  # another question reads the same: its reply will serve
        if stored is not None:
            self._store.count_soon(self._role, "reused")
            self._observer.on_event(CallFinished(self._role, True, 0.0, 0, 0))
            return stored
        with self._told(same):
            return await self._ask(key, messages, sampling, occasion)

    def _stored(self, key: str, sampling: SamplingParams, occasion: Occasion) -> Completion | None:
        """Looked up on the loop: by index, which takes less than the way to a thread and back."""
        older = self.also_reusable.get(occasion.stage, ())
        return self._store.find_call(key, (self._version(), *older), sampling.max_tokens)

    @contextmanager
    def _told(self, same: tuple[str, int]) -> Iterator[None]:
        """Whoever wants the same reply waits until the body ends, however it does."""
        ended = self._asking[same] = asyncio.Event()
        try:
            yield
        finally:
            del self._asking[same]
            ended.set()

    async def _ask(
        self, key: str, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        self._budget.check()
        self._observer.on_event(CallStarted(self._role, occasion.question_id))
        started = time.monotonic()
        try:
            reply = await self._model.complete(messages, sampling)
        except ModelError as error:
            self._store.count_soon(self._role, "failed")
            self._observer.on_event(CallFailed(self._role, str(error), occasion.question_id))
            raise
        if self._weights is None:
            reply = _as_spoken_by(reply, self._identity)
        seconds = time.monotonic() - started
        usd = self._price.usd(reply.usage) if self._price else None
        self._budget.spend(reply.usage, usd)
        await self._store.add_call(
            key,
            self._role,
            occasion.stage,
            occasion.question_id,
            occasion.tries,
            _request(messages, sampling),
            reply,
            usd,
            seconds,
            max_tokens=sampling.max_tokens,
        )
        self._observer.on_event(
            CallFinished(
                self._role,
                False,
                seconds,
                reply.usage.input_tokens or 0,
                reply.usage.output_tokens or 0,
                occasion.question_id,
                usd,
            )
        )
        return reply

    def _version(self) -> str:
        return self._weights() if self._weights else self._identity


_MESSAGES = TypeAdapter(tuple[ChatMessage, ...])


@lru_cache(maxsize=64)
def _written(sampling: SamplingParams) -> str:
    return sampling.model_dump_json()


def _request(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
    return f'{{"messages":{_MESSAGES.dump_json(tuple(messages)).decode()},"sampling":{_written(sampling)}}}'


def _as_spoken_by(reply: Completion, weights: str) -> Completion:
    """A model whose weights this run does not change is stored under one name, whatever its server calls itself."""
    return replace(reply, weights=weights)
