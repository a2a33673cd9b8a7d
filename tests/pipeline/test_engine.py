from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.throttled import Throttled
from meteor_agents.errors import (
    BudgetReached,
    CredentialsError,
    ModelError,
    QuotaError,
    RefusedCallError,
    ServerDown,
    StoreError,
    TransientModelError,
)
from meteor_agents.messages import Question
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.pipeline.engine import Drain, Interrupted, Window, converse
from meteor_agents.settings.roles import Limits
from meteor_agents.traces import Outcome, Trace
from tests.support.simulated_time import run_simulated

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


@pytest.mark.parametrize("error", [CredentialsError("wrong key"), QuotaError("no credit")])
def test_a_wrong_key_or_no_credit_ends_the_run_once_what_is_in_flight_has_ended(error: Exception) -> None:
    async def conversation(question: Question) -> Trace:
        if question.id == "5":
            raise error
        await asyncio.sleep(0.05)
        return ended(question)

    sink = Sink()
    with pytest.raises(type(error)):
        asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(8), drain=Drain()))
    assert {trace.question.id for trace in sink.traces} == {"0", "1", "2", "3", "4"}, "those that had begun"


def test_a_bug_ends_the_run_and_leaves_no_task() -> None:
    async def conversation(question: Question) -> Trace:
        if question.id == "5":
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(60)
        return ended(question)

    async def run() -> set[asyncio.Task[object]]:
        with pytest.raises(ZeroDivisionError):
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


def test_a_slow_judge_gets_a_short_line_and_no_pile_of_half_done_conversations() -> None:
    student = Throttled(ScriptedModel(["x"], delay_s=0.001, cycle=True), Limits(concurrency=64))
    judge = Throttled(ScriptedModel(["x"], delay_s=0.01, cycle=True), Limits(concurrency=4))
    window = Window(64, [student, judge])
    held = run_simulated(chained(student, judge, window, questions=300))
    assert window.most == 68
    assert window.taken == 0
    assert held.seconds == pytest.approx(300 * 0.01 / 4, rel=0.05), "the judge is never idle"
    assert 4 < held.most_before_judge <= 3 * 4, "those it takes at once, as many in line, as many that come meanwhile"


def test_the_window_grows_to_what_the_roles_take() -> None:
    student = Throttled(ScriptedModel(["x"], delay_s=0.002, cycle=True), Limits(concurrency=4))
    judge = Throttled(ScriptedModel(["x"], delay_s=0.05, cycle=True), Limits(concurrency=50))
    held = run_simulated(chained(student, judge, Window(4, [student, judge]), questions=400))
    assert held.most_before_judge >= 50, "a student with 4 places can keep a slow judge with 50 busy"
    assert held.seconds < 1, "four conversations at once would take 5.2"


@dataclass
class Held:
    seconds: float = 0.0
    most_before_judge: int = 0
    """Conversations that had the student's reply and not the judge's."""


async def chained(student: Throttled, judge: Throttled, window: Window, *, questions: int) -> Held:
    """Conversations of one call to each."""
    hello, sampling = [ChatMessage(role="user", content="hello")], SamplingParams()
    held, before_judge = Held(), 0

    async def conversation(question: Question) -> Trace:
        nonlocal before_judge
        await student.complete(hello, sampling)
        before_judge += 1
        held.most_before_judge = max(held.most_before_judge, before_judge)
        await judge.complete(hello, sampling)
        before_judge -= 1
        return ended(question)

    owed = [Question(id=str(i), question="?") for i in range(questions)]
    await converse(owed, conversation, Sink(), stage="s", window=window, drain=Drain())
    held.seconds = asyncio.get_running_loop().time()
    return held


def test_a_question_whose_model_was_late_is_asked_again_after_the_others() -> None:
    asked: list[str] = []
    told: list[str] = []

    async def conversation(question: Question) -> Trace:
        asked.append(question.id)
        await asyncio.sleep(0)
        if question.id in ("3", "4") and asked.count(question.id) == 1:
            raise TransientModelError("no reply within 1 s", late=True)
        return ended(question)

    def late(question: Question, error: ModelError) -> None:
        told.append(f"{question.id}: {error}")

    sink = Sink()
    asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(3), drain=Drain(), late=late))
    assert asked[-2:] == ["3", "4"]
    assert told == ["3: no reply within 1 s", "4: no reply within 1 s"]
    assert [trace.outcome for trace in sink.traces] == [Outcome.ACCEPTED] * 40


def test_a_question_that_is_late_again_and_again_ends_as_a_failed_trace() -> None:
    asked = 0

    async def conversation(question: Question) -> Trace:
        nonlocal asked
        asked += 1
        raise TransientModelError("no reply within 1 s", late=True)

    sink = Sink()
    asyncio.run(converse(QUESTIONS[:2], conversation, sink, stage="s", window=Window(3), drain=Drain()))
    assert asked == 6
    assert [(trace.outcome, trace.error) for trace in sink.traces] == [(Outcome.FAILED, "no reply within 1 s")] * 2


def test_when_a_server_is_given_up_nothing_new_begins_and_what_is_under_way_is_kept() -> None:
    begun: list[str] = []

    async def conversation(question: Question) -> Trace:
        begun.append(question.id)
        await asyncio.sleep(0.01 if question.id != "2" else 0)
        if question.id == "2":
            raise ServerDown("the server is given up")
        return ended(question)

    sink = Sink()
    with pytest.raises(ServerDown):
        asyncio.run(converse(QUESTIONS, conversation, sink, stage="s", window=Window(5), drain=Drain()))
    assert len(begun) == 5
    assert sorted(trace.question.id for trace in sink.traces) == ["0", "1", "3", "4"]
