from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from meteor_agents.abilities import LoadsWeights, innermost
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.retrying import Retrying
from meteor_agents.calls.throttled import Throttled
from meteor_agents.errors import CredentialsError, ModelError, QuotaError, RefusedCallError, TransientModelError
from meteor_agents.models import ChatMessage, ChatModel, Completion, SamplingParams
from meteor_agents.settings.roles import Limits

HELLO = [ChatMessage(role="user", content="hello there")]
SAMPLING = SamplingParams(max_tokens=10)


async def ask(model: ChatModel) -> Completion:
    return await model.complete(HELLO, SAMPLING)


def failing(errors: list[ModelError]) -> ScriptedModel:
    """Raises the errors one after the other, then answers."""

    def reply(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    return ScriptedModel(reply)


class CountingModel(ScriptedModel):
    """Knows how many calls were in flight at once."""

    def __init__(self) -> None:
        super().__init__(["x"], cycle=True)
        self.now = self.most = 0

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.005)
        self.now -= 1
        return await super().complete(messages, sampling)


class LocalModel(ScriptedModel):
    @property
    def in_process(self) -> bool:
        return True


def test_never_more_calls_at_once_than_allowed() -> None:
    async def run() -> CountingModel:
        model = CountingModel()
        throttled = Throttled(model, Limits(concurrency=3))
        await asyncio.gather(*(ask(throttled) for _ in range(20)))
        return model

    model = asyncio.run(run())
    assert (model.calls, model.most) == (20, 3)


def test_requests_beyond_the_minute_wait_for_the_next_one() -> None:
    async def run() -> float:
        throttled = Throttled(ScriptedModel(["x"], cycle=True), Limits(requests_per_minute=4), minute_s=0.2)
        started = time.monotonic()
        await asyncio.gather(*(ask(throttled) for _ in range(10)))
        return time.monotonic() - started

    assert 0.4 <= asyncio.run(run()) < 2


def test_tokens_beyond_the_minute_wait_for_the_next_one() -> None:
    async def run() -> float:
        throttled = Throttled(ScriptedModel(["x"], cycle=True), Limits(tokens_per_minute=24), minute_s=0.2)
        started = time.monotonic()
        await asyncio.gather(*(ask(throttled) for _ in range(4)))  # 12 tokens expected each, then 3 counted
        return time.monotonic() - started

    assert asyncio.run(run()) < 0.19, "a call that used less than expected gives the rest back"


def test_token_window_holds_back_what_does_not_fit() -> None:
    async def run() -> float:
        limits = Limits(tokens_per_minute=3)
        throttled = Throttled(ScriptedModel(["x"], cycle=True), limits, minute_s=0.2)
        started = time.monotonic()
        for _ in range(3):
            await ask(throttled)
        return time.monotonic() - started

    assert 0.4 <= asyncio.run(run()) < 2


def test_late_reply_is_a_transient_error() -> None:
    throttled = Throttled(ScriptedModel(["x"], delay_s=5), Limits(timeout_s=0.02))
    with pytest.raises(TransientModelError, match=r"no reply within 0\.02 s"):
        asyncio.run(ask(throttled))


def test_waiting_for_a_slot_is_not_part_of_the_time_out() -> None:
    async def run() -> list[Completion]:
        throttled = Throttled(ScriptedModel(["x"], delay_s=0.03, cycle=True), Limits(concurrency=1, timeout_s=0.2))
        return await asyncio.gather(*(ask(throttled) for _ in range(10)))

    assert len(asyncio.run(run())) == 10


def test_model_in_this_process_has_no_time_out() -> None:
    throttled = Throttled(LocalModel(["slow"], delay_s=0.05), Limits(timeout_s=0.01))
    assert asyncio.run(ask(throttled)).text == "slow"


def test_transient_errors_are_tried_again_and_told() -> None:
    told: list[tuple[str, float]] = []
    model = failing([TransientModelError("busy"), TransientModelError("still busy")])
    retrying = Retrying(model, Limits(), lambda reason, wait_s: told.append((reason, wait_s)), first_wait_s=0)
    assert asyncio.run(ask(retrying)).text == "answer"
    assert told == [("busy", 0), ("still busy", 0)]
    assert model.calls == 3


def test_last_error_is_raised_after_all_retries() -> None:
    model = failing([TransientModelError(f"busy {n}") for n in range(10)])
    with pytest.raises(TransientModelError, match="busy 2"):
        asyncio.run(ask(Retrying(model, Limits(retries=2), first_wait_s=0)))
    assert model.calls == 3


def test_no_retries_means_one_call() -> None:
    model = failing([TransientModelError("busy")])
    with pytest.raises(TransientModelError, match="busy"):
        asyncio.run(ask(Retrying(model, Limits(retries=0), first_wait_s=0)))
    assert model.calls == 1


@pytest.mark.parametrize("error", [RefusedCallError("no"), CredentialsError("no"), QuotaError("no"), ModelError("no")])
def test_other_errors_are_not_tried_again(error: ModelError) -> None:
    model = failing([TransientModelError("busy"), error])
    with pytest.raises(ModelError, match="no"):
        asyncio.run(ask(Retrying(model, Limits(), first_wait_s=0)))
    assert model.calls == 2


@pytest.mark.parametrize("error", [CredentialsError("no"), QuotaError("no")])
def test_after_a_refusal_that_holds_for_every_call_none_that_waits_is_sent(error: ModelError) -> None:
    model = failing([error] * 9)
    throttled = Throttled(model, Limits(concurrency=2))

    async def run() -> list[object]:
        return await asyncio.gather(*(ask(throttled) for _ in range(9)), return_exceptions=True)

    assert asyncio.run(run()) == [error] * 9
    assert model.calls <= 2


def test_pause_is_at_least_what_the_server_asked_for() -> None:
    pauses: list[float] = []
    model = failing([TransientModelError("busy", retry_after_s=0.05)])
    retrying = Retrying(model, Limits(), lambda reason, wait_s: pauses.append(wait_s), first_wait_s=0)
    started = time.monotonic()
    asyncio.run(ask(retrying))
    assert pauses == [0.05]
    assert time.monotonic() - started >= 0.05


def test_pause_of_a_day_is_not_waited_for() -> None:
    model = failing([TransientModelError("quota", retry_after_s=86_400)])
    with pytest.raises(TransientModelError, match="quota"):
        asyncio.run(ask(Retrying(model, Limits())))


def test_cancelled_pause_ends_at_once() -> None:
    async def run() -> None:
        model = failing([TransientModelError("busy", retry_after_s=60)])
        async with asyncio.timeout(0.05):
            await ask(Retrying(model, Limits()))

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_model_inside_the_wrappers_is_found() -> None:
    model = ScriptedModel(["x"], name="deep")
    wrapped = Retrying(Throttled(model, Limits()), Limits())
    assert innermost(wrapped) is model
    assert wrapped.name == "deep"
    assert isinstance(innermost(wrapped), LoadsWeights)
