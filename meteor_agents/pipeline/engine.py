"""The conversation engine: a window of conversations over the questions still owed.

Workers share one iterator, so nothing is read ahead and memory does not grow with the data set. Each finished trace is
awaited into a sink, so a slow sink or an update of the student holds the workers back. The window follows the slowest
role: while calls pile up before a model, fewer conversations begin.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Protocol

from meteor_agents.errors import BudgetReached, ModelError, NoCallSucceeds, ServerDown, TransientModelError
from meteor_agents.messages import Question
from meteor_agents.traces import Outcome, Trace

Conversation = Callable[[Question], Awaitable[Trace]]
Sink = Callable[[Trace], Awaitable[None]]
Late = Callable[[Question, ModelError], None]

BEGUN_AT_ONCE = 8
"""Conversations that begin in one turn of the event loop. Hundreds in lockstep would hold it up again and again."""
TIMES_LATE = 2
"""How often a question whose call timed out goes back to the end of the queue. After that it has failed."""


class Drain:
    """A request to stop: no further question is admitted, and conversations in flight are finished and stored."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Ask the run to stop."""
        self.requested = True


class Interrupted(Exception):
    """The run was asked to stop and has drained: everything that was received is stored."""


class Line(Protocol):
    """The queue before one role's model (`calls.Throttled`)."""

    @property
    def ceiling(self) -> int:
        """The most calls at once."""
        ...

    @property
    def allowed(self) -> int:
        """Calls at once, now."""
        ...

    @property
    def waiting(self) -> int:
        """Calls that are not yet allowed to start."""
        ...


class Window:
    """How many conversations are held at once.

    With `lines`, at most as many as all roles together take calls. It starts with the smallest concurrency of a role and
    grows by one with each conversation that ends. While a line is long (more calls wait than are let in at once), it
    shrinks by one instead. So a slow judge has a short queue, and not a pile of half-done conversations.
    """

    def __init__(self, most: int, lines: Sequence[Line] = ()) -> None:
        self._lines = tuple(lines)
        self.most = sum(line.ceiling for line in self._lines) or most
        self.size = min((line.ceiling for line in self._lines), default=most)
        self.taken = 0
        self._blocked: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Returns when one more conversation may begin."""
        while self.taken >= self.size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._blocked.append(turn)
            await turn
        self.taken += 1

    def leave(self) -> None:
        """A conversation has ended."""
        self.taken -= 1
        if self._lines:
            long = any(line.waiting > line.allowed for line in self._lines)
            self.size = max(1, self.size - 1) if long else min(self.most, self.size + 1)
        self._wake(self.size - self.taken)

    def dismiss(self) -> None:
        """Wake all waiting workers: no further conversation will begin."""
        self._wake(len(self._blocked))

    def _wake(self, count: int) -> None:
        while count > 0 and self._blocked:
            turn = self._blocked.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1


class Owed:
    """The questions still to ask: those given, then those that were put back."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._given: Iterator[Question] = iter(questions)
        self._back: deque[Question] = deque()
        self._times: Counter[str] = Counter()

    def next(self) -> Question | None:
        """The next question to ask; None if there is none for now."""
        question = next(self._given, None)
        if question is None and self._back:
            return self._back.popleft()
        return question

    def put_back(self, question: Question) -> bool:
        """Put a question at the end of the queue; False if it has been there `TIMES_LATE` times."""
        self._times[question.id] += 1
        if self._times[question.id] > TIMES_LATE:
            return False
        self._back.append(question)
        return True


async def converse(
    questions: Iterable[Question],
    conversation: Conversation,
    sink: Sink,
    *,
    stage: str,
    window: Window,
    drain: Drain,
    late: Late = lambda question, error: None,
) -> None:
    """Hold the conversations that `window` admits until the questions run out.

    A `ModelError` makes a failed trace and the run continues. A question whose call timed out is put back in the queue
    first, and reported to `late`. A failing sink and every unexpected error cancel the other conversations and are raised.
    Raises `Interrupted` if `drain` was requested, `BudgetReached`, `ServerDown` if a server was given up, and
    `NoCallSucceeds` if there is no credit or no valid key, each after the conversations in flight have ended, since their
    replies are paid for.
    """
    owed = Owed(questions)
    stopped: list[BudgetReached | ServerDown | NoCallSucceeds] = []

    async def worker() -> None:
        while True:
            await window.enter()
            question = None if drain.requested or stopped else owed.next()
            if question is None:
                window.leave()
                window.dismiss()
                return
            try:
                trace = await talk(question)
                if trace is not None:
                    await sink(trace)
            finally:
                window.leave()

    async def talk(question: Question) -> Trace | None:
        """The trace; None when the question is still owed."""
        try:
            return await conversation(question)
        except (BudgetReached, ServerDown, NoCallSucceeds) as reached:
            stopped.append(reached)
            return None
        except ModelError as error:
            if isinstance(error, TransientModelError) and error.late and owed.put_back(question):
                late(question, error)
                return None
            return Trace(stage=stage, question=question, messages=(), outcome=Outcome.FAILED, error=str(error))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(window.most):
                group.create_task(worker())
                if number % BEGUN_AT_ONCE == 0:
                    await asyncio.sleep(0)
    except ExceptionGroup as errors:
        raise first_error(errors) from errors
    if stopped:
        raise stopped[0]
    if drain.requested:
        raise Interrupted


async def each(
    questions: Sequence[Question],
    work: Callable[[Question], Awaitable[None]],
    *,
    window: Window,
    drain: Drain,
    stage: str,
) -> None:
    """`work` on every question through the engine. Raises `ModelError` when it failed for all of them."""
    failures: list[str] = []

    async def conversation(question: Question) -> Trace:
        await work(question)
        return Trace(stage=stage, question=question, messages=(), outcome=Outcome.ACCEPTED)

    async def count(trace: Trace) -> None:
        if trace.error is not None:
            failures.append(trace.error)

    await converse(questions, conversation, count, stage=stage, window=window, drain=drain)
    if len(failures) == len(questions) and failures:
        raise ModelError(failures[0])


def first_error(errors: ExceptionGroup[Exception]) -> Exception:
    """The error that caused the group: its first leaf, since the others were cancelled because of it."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
