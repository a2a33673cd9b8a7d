"""The conversation engine: a bounded window of conversations over the questions still owed.

N workers share one iterator, so nothing is read ahead and memory does not grow with the data set. Each finished trace is
awaited into a sink, so a slow sink or an update of the student holds the workers back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from .errors import BudgetReached, CredentialsError, ModelError
from .messages import Question
from .traces import Outcome, Trace

Conversation = Callable[[Question], Awaitable[Trace]]
Sink = Callable[[Trace], Awaitable[None]]


class Drain:
    """Asks a run to admit no further question. Conversations in flight are finished and stored."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        self.requested = True


class Interrupted(Exception):
    """The run was asked to stop and has drained: everything that was received is stored."""


async def converse(
    questions: Iterable[Question],
    conversation: Conversation,
    sink: Sink,
    *,
    stage: str,
    concurrency: int,
    drain: Drain,
) -> None:
    """Hold at most `concurrency` conversations at once until the questions run out.

    A `ModelError` makes a failed trace and the run goes on; `CredentialsError`, a failing sink and everything
    unexpected cancel the other conversations and are raised. Raises `Interrupted` when `drain` was requested and
    `BudgetReached` when the budget was, both after the conversations in flight have ended.
    """
    owed = iter(questions)
    stopped: list[BudgetReached] = []

    async def worker() -> None:
        while not (drain.requested or stopped):
            question = next(owed, None)
            if question is None:
                return
            try:
                trace = await conversation(question)
            except BudgetReached as reached:
                stopped.append(reached)
                return
            except CredentialsError:
                raise
            except ModelError as error:
                trace = Trace(stage=stage, question=question, messages=(), outcome=Outcome.FAILED, error=str(error))
            await sink(trace)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise first_error(errors) from errors
    if stopped:
        raise stopped[0]
    if drain.requested:
        raise Interrupted


def first_error(errors: ExceptionGroup[Exception]) -> Exception:
    """The first leaf of a group: the cause, since the others were cancelled because of it."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
