"""What checks SQL in a child process: runs the answer and the reference on the user's data, and on less of it."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.child import Phase
from meteor_agents.verifiers.sql.answers import candidates
from meteor_agents.verifiers.sql.comparison import Expected, difference, expected_of, viewed
from meteor_agents.verifiers.sql.database import Failure, Result, SqlDatabase
from meteor_agents.verifiers.sql.guide import guide_for_failure, guide_for_result
from meteor_agents.verifiers.verdicts import correct, incorrect, undecided

NAME = "sql"
ANSWER, STATES = "answer", "states"
"""The phases that are reported to the parent: the answer runs on the user's data, and then on its other states."""
MEMORY = 512 * 2**20
"""Bytes that a query and its rows may take beside the databases."""
REMEMBERED = 256
"""References whose rows are kept."""
LONGEST_VIEW = 1000

T = TypeVar("T")


def serve_sql(max_rows: int, timeout_s: float, blobs: Sequence[bytes]) -> SqlChecker:
    """Opens the user's database and its other states, and takes no more memory than `MEMORY` from then on."""
    databases = [SqlDatabase(image, max_rows=max_rows, timeout_s=timeout_s) for image in blobs]
    limit_memory(MEMORY)
    return SqlChecker(databases)


class SqlChecker:
    """Compares queries on several databases, of which the first one is the user's."""

    def __init__(self, databases: Sequence[SqlDatabase]) -> None:
        self.real, *self.states = databases
        self._references: OrderedDict[str, Expected | Failure] = OrderedDict()
        self._in_states: OrderedDict[str, list[Expected | None]] = OrderedDict()

    def call(self, method: str, question: Question, answer: str, extra: dict[str, Any], phase: Phase) -> Any:
        """The verdict, or with `view` the text that stands for the rows of the query."""
        if method == "view":
            return self.view(question, answer)
        return self.verify(question, answer, extra["states"], phase).model_dump(mode="json")

    def verify(self, question: Question, answer: str, states: bool, phase: Phase) -> Verdict:
        """The verdict; with `states`, a query must be right on those as well."""
        reference, expected = self._reference(question.reference or "")
        if isinstance(expected, Failure):
            return undecided(NAME, f"The reference of question {question.id} fails: {expected.reason}.")
        phase(ANSWER)
        sql, given = first_readable(answer, self.real.run)
        if isinstance(given, Failure):
            return incorrect(NAME, f"{given.reason.rstrip('.')}.", guide_for_failure(given.reason, sql, self.real.tables))
        wrong = difference(given, expected)
        if expected.result.reads and not given.reads:
            wrong = "The query reads no table."
        elif not wrong and states and self.states and expected.result.reads:
            phase(STATES)
            if self._is_right_by_chance(sql, reference, expected):
                wrong = "The rows are right for this data by chance: with fewer rows in the tables they are wrong."
        if not wrong:
            return correct(NAME)
        return incorrect(NAME, wrong, guide_for_result(sql, given, reference, expected.result))

    def view(self, question: Question, answer: str) -> str | None:
        """Equal for queries with the same rows, in their order only where the reference has one. None: it fails."""
        _, given = first_readable(answer, self.real.run)
        if isinstance(given, Failure):
            return None
        rows = [tuple(map(viewed, row)) for row in given.rows]
        expected = self._reference(question.reference)[1] if question.reference else None
        ordered = isinstance(expected, Expected) and expected.ordered
        text = repr((given.columns, rows if ordered else sorted(rows, key=repr)))
        return text if len(text) <= LONGEST_VIEW else hashlib.sha256(text.encode(errors="replace")).hexdigest()

    def _reference(self, text: str) -> tuple[str, Expected | Failure]:
        def run(sql: str) -> Expected | Failure:
            return remembered(self._references, sql, lambda: expected_of(self.real, sql))

        return first_readable(text, run)

    def _is_right_by_chance(self, sql: str, reference: str, expected: Expected) -> bool:
        """Whether the rows are wrong in another state, and not because the query leaves open what the data decided."""
        until = time.monotonic() + self.real.timeout_s
        wanted = remembered(self._in_states, reference, lambda: self._usable(reference, expected, until))
        for database, there in zip(self.states, wanted, strict=True):
            if there is None:
                continue
            given = database.run(sql, until=until)
            if isinstance(given, Failure):
                return not given.exhausted
            if difference(given, there) and not (
                leaves_open(database, sql, expected.ordered, until)
                and not leaves_open(self.real, sql, expected.ordered, until)
            ):
                return True
        return False

    def _usable(self, reference: str, real: Expected, until: float) -> list[Expected | None]:
        """What the reference gives in each state; None where a right query may well give something else there."""
        found: list[Expected | None] = []
        if not real.settled(order=False):  # any of several rows will do, also one that is missing elsewhere
            return [None for _ in self.states]
        for database in self.states:
            there = expected_of(database, reference, until)
            reverse = database.run(reference, until=until, reverse=True)
            usable = (
                isinstance(there, Expected)
                and isinstance(reverse, Result)
                and there.result.rows
                and gaps(there.result) <= gaps(real.result)
                and there.settled(order=False)
                and not difference(reverse, there)
            )
            found.append(there if usable and isinstance(there, Expected) else None)
        return found


def first_readable(text: str, run: Callable[[str], T | Failure]) -> tuple[str, T | Failure]:
    """The first query of the text that can be parsed, with what it gives; the first of all if none can be."""
    first: tuple[str, T | Failure] | None = None
    for sql in candidates(text):
        found = run(sql)
        if not isinstance(found, Failure) or not found.unreadable:
            return sql, found
        first = first or (sql, found)
    assert first is not None
    return first


def leaves_open(database: SqlDatabase, sql: str, order: bool, until: float) -> bool:
    """Whether the query gives other rows, with `order` in another order too, when tables are read another way."""
    found = expected_of(database, sql, until)
    reverse = database.run(sql, until=until, reverse=True)
    if isinstance(found, Failure) or isinstance(reverse, Failure):
        return True
    return not found.settled(order=order) or bool(difference(reverse, found))


def gaps(result: Result) -> set[Any]:
    """Which of NULL, zero and the empty text there are: where rows are missing, right queries differ in these."""
    return {value for row in result.rows for value in row if not value}


def remembered(memory: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """The value for `key`, made if it is not in `memory`. The value that was not used for longest is dropped when full."""
    if key in memory:
        memory.move_to_end(key)
        return memory[key]
    value = make()
    memory[key] = value
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
    return value


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes beyond its present memory, on systems that report it."""
    import resource

    held = Path("/proc/self/statm")
    if held.exists():
        limit = int(held.read_text().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
