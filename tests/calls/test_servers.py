from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.concurrency import STEPS, AdaptiveLimit
from meteor_agents.calls.health import Breaker, BreakerRule
from meteor_agents.calls.open_files import fit_concurrency
from meteor_agents.calls.retrying import Retrying
from meteor_agents.calls.server import Server
from meteor_agents.calls.throttled import Throttled
from meteor_agents.errors import ModelError, RefusedCallError, ServerDown, TransientModelError, UnreachableError
from meteor_agents.models import ChatMessage, ChatModel, Completion, SamplingParams
from meteor_agents.settings.roles import Limits

HELLO = [ChatMessage(role="user", content="hello")]
BUSY = TransientModelError("429", overload=True)


async def ask(model: ChatModel) -> Completion:
    return await model.complete(HELLO, SamplingParams(max_tokens=5))


class Busy(ScriptedModel):
    """Says that it is too much beyond `capacity` calls at once; knows how many there were."""

    def __init__(self, capacity: int, error: TransientModelError = BUSY) -> None:
        super().__init__(["x"], cycle=True)
        self.capacity, self.error = capacity, error
        self.now = self.most = 0

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.002)
            if self.now > self.capacity:
                raise self.error
            return await super().complete(messages, sampling)
        finally:
            self.now -= 1


def play(limit: AdaptiveLimit, capacity: int) -> None:
    """One round: as many calls as are allowed; a server of `capacity` turns the others away."""
    generation, calls = limit.generation, limit.allowed
    for number in range(calls):
        if number < capacity:
            limit.succeeded(in_use=True)
        else:
            limit.overloaded(generation)


@given(st.integers(1, 2000), st.lists(st.integers(0, 2500), max_size=60))
def test_the_limit_stays_within_its_bounds_and_recovers_from_any_overload(ceiling: int, capacities: list[int]) -> None:
    limit = AdaptiveLimit(ceiling)
    for capacity in capacities:
        play(limit, capacity)
        assert 1 <= limit.allowed <= ceiling
    rounds = 0
    while limit.allowed < ceiling:
        play(limit, ceiling)
        rounds += 1
        assert rounds <= 4 * STEPS, "additive increase brings it back within a few dozen replies' time"


@given(st.integers(8, 1000), st.floats(0.1, 0.9))
def test_the_limit_settles_near_what_the_server_takes(ceiling: int, share: float) -> None:
    limit, capacity = AdaptiveLimit(ceiling), max(2, int(ceiling * share))
    for _ in range(40):
        play(limit, capacity)
    used = []
    for _ in range(40):
        used.append(min(limit.allowed, capacity))
        play(limit, capacity)
    assert sum(used) / len(used) >= 0.6 * capacity


def test_a_burst_of_overloads_of_one_generation_is_one_decrease() -> None:
    limit = AdaptiveLimit(100)
    assert [limit.overloaded(0) for _ in range(50)] == [True] + [False] * 49
    assert limit.allowed == 70


def test_a_limit_that_is_not_made_use_of_or_is_held_does_not_grow() -> None:
    limit = AdaptiveLimit(100)
    limit.overloaded(0)
    limit.succeeded(in_use=False)
    limit.held = True
    limit.succeeded(in_use=True)
    assert limit.allowed == 70


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30)), min_size=1, max_size=200))
def test_the_breaker_trips_only_after_failures_that_last(outcomes: list[tuple[bool, float]]) -> None:
    rule = BreakerRule(calls=20, least=10, share=0.95, for_s=60)
    now, breaker = 0.0, None
    breaker = Breaker(rule, lambda: now)
    recent: list[bool] = []
    bad_since: float | None = None
    for went_well, after_s in outcomes:
        now += after_s
        recent = [*recent, went_well][-20:]
        tripped = None
        if went_well:
            breaker.succeeded()
        else:
            tripped = breaker.failed(BUSY)
        bad = len(recent) >= 10 and recent.count(False) >= 0.95 * len(recent)
        if bad and not went_well and bad_since is None:
            bad_since = now
        if not bad:
            bad_since = None
        assert (tripped is not None) == (not went_well and bad and bad_since is not None and now - bad_since >= 60)


def test_refusals_of_everything_need_no_time() -> None:
    breaker = Breaker(BreakerRule(least=5), lambda: 0.0)
    said = [breaker.failed(RefusedCallError("no such model")) for _ in range(5)]
    assert said[:4] == [None] * 4
    assert said[4] is not None
    assert "5 of its last 5 calls failed, the last with: no such model" in said[4]


def test_a_pause_is_no_time_of_failing() -> None:
    now = 0.0
    breaker = Breaker(BreakerRule(least=2, for_s=10), lambda: now)
    breaker.failed(BUSY)
    breaker.failed(BUSY)
    breaker.paused_until(100)
    now = 105.0
    assert breaker.failed(BUSY) is None
    now = 110.0
    assert breaker.failed(BUSY) is not None


def test_roles_on_one_server_share_its_concurrency() -> None:
    async def run() -> int:
        server, model = Server("http://s", 4), Busy(1000)
        roles = [Throttled(model, Limits(concurrency=4), server) for _ in range(2)]
        await asyncio.gather(*(ask(role) for role in roles for _ in range(20)))
        assert server.in_flight == 0
        return model.most

    assert asyncio.run(run()) == 4


def test_an_overload_lowers_the_concurrency_and_success_raises_it_again() -> None:
    async def run() -> tuple[int, int, int]:
        server, model = Server("http://s", 32), Busy(5)
        role = Retrying(
            Throttled(model, Limits(concurrency=32, retries=50), server), Limits(retries=50), first_wait_s=0
        )
        await asyncio.gather(*(ask(role) for _ in range(100)))
        lowered = server.allowed
        model.capacity = 1000
        for _ in range(30):
            await asyncio.gather(*(ask(role) for _ in range(100)))
        return model.calls, lowered, server.allowed

    calls, lowered, recovered = asyncio.run(run())
    assert calls == 100 + 30 * 100, "every call got its reply"
    assert lowered < 20
    assert recovered == 32


def test_nothing_is_asked_of_any_role_while_the_server_wants_a_pause() -> None:
    asked: list[float] = []

    async def run() -> float:
        loop = asyncio.get_running_loop()
        server = Server("http://s", 8)

        def reply(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
            asked.append(loop.time())
            if len(asked) == 1:
                raise TransientModelError("429", retry_after_s=0.3, overload=True)
            return "x"

        student, judge = (
            Retrying(Throttled(ScriptedModel(reply), Limits(), server), Limits(), first_wait_s=0) for _ in range(2)
        )
        first = asyncio.ensure_future(ask(student))
        await asyncio.sleep(0.02)
        assert "paused" in server.why()
        await asyncio.gather(first, *(ask(judge) for _ in range(5)))
        return asked[0]

    first = asyncio.run(run())
    assert len(asked) == 7
    assert all(moment - first >= 0.29 for moment in asked[1:])


def test_headers_that_say_the_allowance_is_used_up_pause_the_server() -> None:
    class Used(ScriptedModel):
        async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
            said = await super().complete(messages, sampling)
            pause_s = 0.2 if self.calls == 1 else 0.0
            return Completion(said.text, said.finish_reason, said.usage, said.model, said.weights, pause_s)

    async def run() -> float:
        role = Throttled(Used(["x"], cycle=True), Limits(), Server("http://s", 8))
        await ask(role)
        started = asyncio.get_running_loop().time()
        await ask(role)
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(run()) >= 0.19


def test_a_server_that_fails_every_call_is_given_up_and_everyone_who_waits_is_told() -> None:
    async def run() -> list[BaseException | Completion]:
        server = Server("http://s:1/v1", 4, rule=BreakerRule(least=10, for_s=0))
        role = Retrying(
            Throttled(Busy(0, TransientModelError("500 broken")), Limits(retries=9), server),
            Limits(retries=9),
            first_wait_s=0.01,
        )
        return await asyncio.gather(*(ask(role) for _ in range(30)), return_exceptions=True)

    ended = asyncio.run(run())
    assert len(ended) == 30
    down = [error for error in ended if isinstance(error, ServerDown)]
    assert len(down) >= 20
    assert "http://s:1/v1 is given up: 10 of its last 10 calls failed, the last with: 500 broken" in str(down[0])


def test_a_rest_before_another_try_ends_when_the_server_is_given_up() -> None:
    async def run() -> None:
        server = Server("http://s", 4, rule=BreakerRule(least=1, for_s=0))
        resting = asyncio.ensure_future(server.rest(600))
        await asyncio.sleep(0)
        server.failed(await server.enter(), RefusedCallError("gone"))
        with pytest.raises(ServerDown, match="gone"):
            async with asyncio.timeout(5):
                await resting

    asyncio.run(run())


def test_a_server_that_wants_to_be_left_alone_for_a_day_is_given_up() -> None:
    async def run() -> None:
        server = Server("http://s", 4)
        server.failed(await server.enter(), TransientModelError("quota", retry_after_s=86_400, overload=True))
        with pytest.raises(ServerDown, match="pause of 1440 minutes: quota"):
            await server.enter()

    asyncio.run(run())


def test_a_long_queue_at_the_server_lowers_the_concurrency_and_an_empty_one_lets_it_grow() -> None:
    class Queue:
        depth: int | None = 30

        async def queue_depth(self) -> int | None:
            if self.depth is None:
                raise ModelError("busy")
            return self.depth

    async def run() -> list[int]:
        server, queue = Server("http://s", 20), Queue()
        server.report_queue(queue)
        seen = []
        generations = [await server.enter() for _ in range(20)]
        for depth in (30, 3, None, 0):
            queue.depth = depth
            await server.look_at_queue()
            server.succeeded()
            seen.append(server.allowed)
        assert "a long queue there" in server.why()
        assert len(generations) == 20
        return seen

    assert asyncio.run(run()) == [14, 14, 14, 14]


def test_a_caller_that_is_cancelled_in_line_leaves_no_place_taken() -> None:
    async def run() -> int:
        server = Server("http://s", 1)
        await server.enter()
        waiting = [asyncio.ensure_future(server.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        server.leave()
        waiting[1].cancel()  # it was let in just now
        await asyncio.sleep(0)
        await waiting[2]
        server.leave()
        return server.in_flight

    assert asyncio.run(run()) == 0


def test_a_role_that_always_fails_is_given_up_by_itself_beside_one_that_does_not() -> None:
    """A teacher's model that does not exist, at the address of a student that answers."""

    async def run() -> tuple[int, int]:
        server = Server("http://s", 64)
        asked = 0

        def missing(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
            nonlocal asked
            asked += 1
            raise RefusedCallError("404 no such model")

        student = Throttled(ScriptedModel(["x"], cycle=True), Limits(), server)
        teacher = Throttled(ScriptedModel(missing, name="gone"), Limits(), server)
        for _ in range(30):
            await ask(student)
            with pytest.raises(RefusedCallError):
                await ask(teacher)
        with pytest.raises(ServerDown, match=r"gone at http://s is given up: 30 of its last 30 calls failed.*404"):
            await ask(teacher)
        await ask(student)
        return asked, server.in_flight

    assert asyncio.run(run()) == (30, 0)


@pytest.mark.parametrize("pause", [float("nan"), float("inf"), -float("inf"), -5, 29_896_121_817 * 60])
def test_a_pause_that_cannot_be_meant_is_not_asked_for(pause: float) -> None:
    server = Server("http://s", 8)
    server.failed(0, TransientModelError("429", retry_after_s=pause, overload=True))
    server.succeeded(pause)
    assert "paused" not in server.why()
    assert "given up" not in server.why()


def test_running_out_of_open_files_is_not_held_against_the_server() -> None:
    async def run() -> Server:
        server = Server("http://s", 64, rule=BreakerRule(least=5, for_s=0))

        def reply(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
            raise UnreachableError(f"no connection to host [{os.strerror(errno.EMFILE)}]")

        role = Throttled(ScriptedModel(reply), Limits(), server)
        for _ in range(40):
            with pytest.raises(TransientModelError, match=r"may open no more than .* files \(ulimit -n\)"):
                await ask(role)
        return server

    server = asyncio.run(run())
    assert 1 <= server.allowed < 64, "fewer calls at once are made"
    assert "this process may not open more files" in server.why()


def test_concurrency_is_bounded_by_the_files_that_may_be_open() -> None:
    servers = [Server("a", 1000), Server("b", 500), Server("here", 64, adaptive=False)]
    assert fit_concurrency(servers, 2000) is None
    said = fit_concurrency(servers, 256)
    assert said is not None
    assert "at most 156 calls are made at once" in said
    assert [server.ceiling for server in servers] == [104, 52, 64]
    assert all(server.allowed == server.ceiling for server in servers)
