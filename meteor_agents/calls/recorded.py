"""A model that remembers: a call whose reply is stored is not made again, and a reply is stored before it is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from meteor_agents.calls.budget import Budget, Price
from meteor_agents.calls.keys import call_key
from meteor_agents.errors import ModelError
from meteor_agents.events import CallFailed, CallFinished, CallStarted, Observer
from meteor_agents.models import ChatMessage, ChatModel, Completion, FinishReason, Occasion, SamplingParams
from meteor_agents.safe_text import clean
from meteor_agents.store.call_records import NewCall
from meteor_agents.store.storable import storable
from meteor_agents.store.store import Counter, Store


@dataclass(frozen=True, slots=True)
class Called:
    """The model that is called, as the store and the budget know it."""

    role: str
    identity: str
    """The model's name in the keys of its calls, and in the store where the run does not change its weights."""
    price: Price | None = None
    """None: unknown, so that its calls count as unpriced."""
    options: Mapping[str, Any] | None = None
    """The settings of its backend that may change a reply."""


class RecordedModel:
    """A role's model as its agent speaks through it.

    The key of a call is a hash of what decides the reply: role, model, messages, sampling, number of the try (`call_key`).
    The weights version is the second half of the key: a stored reply serves when the current weights spoke it, or, while a
    conversation is resumed, an earlier version of the same stage (`also_reusable`), since those words were really said.
    `weights` gives the version that answers now; None: the model is never trained.
    """

    def __init__(
        self,
        model: ChatModel,
        called: Called,
        *,
        store: Store,
        budget: Budget,
        observer: Observer,
        weights: Callable[[], str] | None = None,
    ) -> None:
        self._model = model
        self._role = called.role
        self._identity = called.identity
        self._price = called.price
        self._options = called.options
        self._store = store
        self._budget = budget
        self._observer = observer
        self._weights = weights
        self.also_reusable: dict[str, tuple[str, ...]] = {}
        """Stage -> older weights versions whose stored replies still count there, newest first."""
        self._only: str | None = None
        self._inside = 0
        self._admitted = asyncio.Event()
        self._asking: dict[tuple[str, int], asyncio.Event] = {}

    @asynccontextmanager
    async def only(self, stage: str) -> AsyncIterator[None]:
        """While inside, only this stage's calls reach the model; other calls wait. Calls in flight continue.

        Everyone who is inside at the same time must name the same stage.
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
        """The stored reply if one can be reused, else the model's, once it is stored.

        Raises `ModelError`, `BudgetReached`, `ServerDown` and `StoreError`.
        """
        while self._only not in (None, occasion.stage):
            await self._admitted.wait()
        try:
            key = self._key(messages, sampling, occasion)
        except UnicodeEncodeError:  # half an emoji: no server could be sent it either
            messages = [message.model_copy(update={"content": clean(message.content)}) for message in messages]
            key = self._key(messages, sampling, occasion)
        same = (key, sampling.max_tokens)
        while (stored := self._stored(key, sampling, occasion)) is None and same in self._asking:
            await self._asking[same].wait()  # another question reads the same: its reply will serve
        if stored is not None:
            self._store.count_soon(self._role, Counter.REUSED)
            self._observer.on_event(CallFinished(self._role, True, 0.0, 0, 0))
            return stored
        ended = self._asking[same] = asyncio.Event()
        try:
            return await self._ask(key, messages, sampling, occasion)
        finally:  # however it ended, others who want the same reply go on
            del self._asking[same]
            ended.set()

    def _key(self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        said = [(message.role, message.content) for message in messages]
        return call_key(self._role, self._identity, said, sampling, occasion.tries, occasion.again, self._options)

    def _stored(self, key: str, sampling: SamplingParams, occasion: Occasion) -> Completion | None:
        """The stored reply to reuse, looked up on the event loop: by index that takes less time than a hop to a thread.

        A reply that the server broke off or paused is not reused. The call is made again, so that a question that failed
        because of it can succeed. The cost of the first call stays counted.
        """
        older = self.also_reusable.get(occasion.stage, ())
        stored = self._store.find_call(key, (self._version(), *older), sampling.max_tokens)
        return None if stored is None or stored.finish_reason in BROKEN_OFF else replace(stored, reused=True)

    async def _ask(
        self, key: str, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        self._budget.check()
        self._observer.on_event(CallStarted(self._role, occasion.question_id))
        started = time.monotonic()
        try:
            reply = storable(await self._model.complete(messages, sampling))
        except ModelError as error:
            self._store.count_soon(self._role, Counter.FAILED)
            self._observer.on_event(CallFailed(self._role, str(error), occasion.question_id))
            raise
        if self._weights is None:
            reply = _as_spoken_by(reply, self._identity)
        seconds = time.monotonic() - started
        usd = self._budget.spend(self._role, self._price, messages, reply)
        if (counter := _COUNTED.get(reply.finish_reason)) is not None:
            self._store.count_soon(self._role, counter)
        call = NewCall(
            key=key,
            role=self._role,
            stage=occasion.stage,
            question_id=occasion.question_id,
            tries=occasion.tries,
            request=_request(messages, sampling),
            max_tokens=sampling.max_tokens,
            reply=reply,
            usd=usd,
            seconds=seconds,
        )
        await self._store.add_call(call)
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


BROKEN_OFF = (FinishReason.FAILED, FinishReason.PAUSED, FinishReason.UNKNOWN)
"""Endings that are the server's doing, and may be others the next time."""
_COUNTED = {FinishReason.REFUSED: Counter.REFUSED, FinishReason.FILTERED: Counter.FILTERED}
_MESSAGES = TypeAdapter(tuple[ChatMessage, ...])


@lru_cache(maxsize=64)
def _written(sampling: SamplingParams) -> str:
    return sampling.model_dump_json()


def _request(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
    return f'{{"messages":{_MESSAGES.dump_json(tuple(messages)).decode()},"sampling":{_written(sampling)}}}'


def _as_spoken_by(reply: Completion, weights: str) -> Completion:
    """A model whose weights this run does not change is stored under one name, whatever its server calls itself."""
    return reply if reply.weights == weights else replace(reply, weights=weights)
