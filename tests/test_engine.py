from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from meteor_agents.engine import Drain, Interrupted, Window, converse
from meteor_agents.errors import BudgetReached, CredentialsError, RefusedCallError, StoreError
from meteor_agents.messages import Question
from meteor_agents.traces import Outcome, Trace

QUESTIONS = [Question(id=str(i), question=f"question {i}") for i in range(40)]


def ended(question: Question) -> Trace:
    return Trace(stage="s", question=question, messages=(), outcome=Outcome.ACCEPTED)


class Sink:
    def __init__(self) -> None:
        self.traces: list[Trace] = []

    async def __call__(self, trace: Trace) -> None:
        self.traces.append(trace)


def test_never_more_than_the_window_is_in_flight_and_every_question_is_asked_once() -> None:
    running = most = 0

    async def conversation(question: Question) -> Trace:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return ended(question)

    sink = Sink()
    asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(7), drain=Drain()))
    assert most == 7
    assert sorted(trace.question.id for trace in sink.traces) == sorted(q.id for q in QUESTIONS)


def test_questions_are_not_read_ahead() -> None:
    read = 0

    def questions() -> Iterator[Question]:
        nonlocal read
        for question in QUESTIONS:
            read += 1
            yield question

    ahead: list[int] = []

    async def conversation(question: Question) -> Trace:
        ahead.append(read - len(sink.traces))
        await asyncio.sleep(0)
        return ended(question)

    sink = Sink()
    asyncio.run(converse(questions(), conversation, sink, stage="s", window=Window(3), drain=Drain()))
    assert max(ahead) <= 3


def test_a_model_error_is_a_failed_trace_and_the_run_goes_on() -> None:
    async def conversation(question: Question) -> Trace:
        if question.id == "3":
            raise RefusedCallError("too long")
        return ended(question)

    sink = Sink()
    asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(4), drain=Drain()))
    failed = [trace for trace in sink.traces if trace.outcome is Outcome.FAILED]
    assert [(trace.question.id, trace.error) for trace in failed] == [("3", "too long")]
    assert len(sink.traces) == 40


@pytest.mark.parametrize("error", [CredentialsError("wrong key"), ZeroDivisionError("a bug")])
def test_a_wrong_key_or_a_bug_ends_the_run_and_leaves_no_task(error: Exception) -> None:
    async def conversation(question: Question) -> Trace:
        if question.id == "5":
            raise error
        await asyncio.sleep(60)
        return ended(question)

    async def run() -> set[asyncio.Task[object]]:
        with pytest.raises(type(error)):
            await converse(QUESTIONS, conversation, Sink(), stage="s", window=Window(8), drain=Drain())
        return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    assert asyncio.run(run()) == set()


def test_a_failing_sink_ends_the_run() -> None:
    async def conversation(question: Question) -> Trace:
        return ended(question)

    async def sink(trace: Trace) -> None:
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(2), drain=Drain()))


def test_a_drain_finishes_what_is_in_flight_and_admits_nothing_new() -> None:
    drain, started = Drain(), []

    async def conversation(question: Question) -> Trace:
        started.append(question.id)
        if len(started) == 5:
            drain.request()
        await asyncio.sleep(0.001)
        return ended(question)

    sink = Sink()
    with pytest.raises(Interrupted):
        asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(5), drain=drain))
    assert sorted(trace.question.id for trace in sink.traces) == sorted(started)
    assert len(started) == 5


def test_at_the_budget_nothing_new_is_admitted_and_the_rest_is_kept() -> None:
    async def conversation(question: Question) -> Trace:
        await asyncio.sleep(0.001)
        if int(question.id) >= 10:
            raise BudgetReached("spent")
        return ended(question)

    sink = Sink()
    with pytest.raises(BudgetReached):
        asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(5), drain=Drain()))
    assert len(sink.traces) == 10


def test_cancelling_leaves_no_task() -> None:
    async def conversation(question: Question) -> Trace:
        await asyncio.sleep(60)
        return ended(question)

    async def run() -> int:
        task = asyncio.ensure_future(
            converse(QUESTIONS, conversation, Sink(), stage="s", window=Window(8), drain=Drain())
        )
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(run()) == 0
