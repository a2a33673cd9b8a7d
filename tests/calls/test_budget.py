"""What a run spends where servers do not say it, say nonsense, or charge for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.budget import Budget, Budgeted, Price
from meteor_agents.calls.recorded import Called, RecordedModel
from meteor_agents.calls.retrying import Retrying
from meteor_agents.errors import BudgetReached, TransientModelError
from meteor_agents.events import Observers
from meteor_agents.models import ChatMessage, ChatModel, Completion, FinishReason, Occasion, SamplingParams, Usage
from meteor_agents.settings.roles import Limits
from meteor_agents.store.store import Counter, Store

PRICE = Price(1.0, 2.0)
SAMPLING = SamplingParams(max_tokens=100)


class Telling(ScriptedModel):
    """Says "y" forty times, and that it used `usage`."""

    def __init__(self, usage: Usage, finish_reason: FinishReason = FinishReason.COMPLETE) -> None:
        super().__init__(["x"], cycle=True)
        self.usage, self.ending = usage, finish_reason

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        return Completion("y" * 40, self.ending, self.usage, "m", "m")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "run.db")
    yield store
    store.close()


def recorded(model: ChatModel, store: Store, budget: Budget) -> RecordedModel:
    called = Called(role="student", identity="m", price=PRICE)
    return RecordedModel(model, called, store=store, budget=budget, observer=Observers())


async def ask(model: RecordedModel, question: str) -> Completion:
    said = [ChatMessage(role="user", content=question.ljust(80, "."))]
    return await model.complete(said, SAMPLING, Occasion("stage", question))


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(input_tokens=-1_000_000, output_tokens=-5),
        Usage(input_tokens=10**30, output_tokens=10**30),
        Usage(input_tokens=10**10),
    ],
)
def test_a_call_whose_usage_is_missing_or_absurd_is_counted_by_its_length(store: Store, usage: Usage) -> None:
    async def run() -> int:
        model = recorded(Telling(usage), store, Budget(store, tokens=100))
        for n in range(100):
            await ask(model, f"q{n}")
        return 0

    with pytest.raises(BudgetReached, match=r"budget.tokens of 100 reached \(120 used\)"):
        asyncio.run(run())
    assert store.spent().calls == 4, "each call is estimated at 80/4 + 40/4 tokens"


def test_what_was_estimated_is_still_known_when_the_run_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    asyncio.run(ask(recorded(Telling(Usage()), store, Budget(store)), "q"))
    store.close()
    store = Store(tmp_path / "run.db")
    try:
        with pytest.raises(BudgetReached, match=r"\(30 used\)"):
            Budget(store, tokens=30).check()
        with pytest.raises(BudgetReached, match=r"budget.usd"):
            Budget(store, usd=(20 * 1.0 + 10 * 2.0) / 1e6).check()
    finally:
        store.close()


def test_every_try_without_a_reply_is_counted_when_its_server_counted_tokens(store: Store) -> None:
    def reply(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        error = TransientModelError("no text in the reply")
        error.spent = (100_000, None)
        raise error

    budget = Budget(store, tokens=250_000)
    model = Retrying(Budgeted(ScriptedModel(reply), budget, "student", PRICE), Limits(retries=9), first_wait_s=0)
    with pytest.raises(BudgetReached, match=r"\(300000 used\)"):
        asyncio.run(ask(recorded(model, store, budget), "q"))


def test_the_message_tells_what_is_spent_when_it_is_read(store: Store) -> None:
    budget = Budget(store, tokens=10)
    model = recorded(Telling(Usage(input_tokens=6, output_tokens=6)), store, budget)
    asyncio.run(ask(model, "a"))
    with pytest.raises(BudgetReached) as reached:
        budget.check()
    assert "(12 used)" in str(reached.value)
    budget.spend("student", PRICE, (), Completion("", FinishReason.COMPLETE, Usage(input_tokens=5, output_tokens=3), "", ""))
    assert "(20 used)" in str(reached.value)


def test_a_reply_that_utf_8_and_sqlite_cannot_hold_is_stored_and_found_again(store: Store) -> None:
    async def run() -> tuple[Completion, Completion]:
        model = recorded(ScriptedModel(["half \ud83d and \0"]), store, Budget(store))
        return await ask(model, "odd \ud83d"), await ask(model, "odd \ud83d")

    first, again = asyncio.run(run())
    assert first.text == again.text == "half \ufffd and \ufffd"


def test_refused_and_filtered_replies_are_counted_by_role(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    for n, ending in enumerate((FinishReason.REFUSED, FinishReason.FILTERED, FinishReason.FILTERED, FinishReason.COMPLETE)):
        asyncio.run(ask(recorded(Telling(Usage(), ending), store, Budget(store)), f"q{n}"))
    store.close()
    store = Store(tmp_path / "run.db")
    counted = {name: value for _, name, value in store.counters()}
    store.close()
    assert (counted[Counter.REFUSED], counted[Counter.FILTERED]) == (1, 2)
