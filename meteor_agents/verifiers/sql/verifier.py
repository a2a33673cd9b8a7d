"""`sql`: a query whose rows are those of the reference query, on the user's database."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.sql_database import Failure, Result, SqlDatabase, Value
from meteor_agents.verifiers.sql_guide import guide_for_failure, guide_for_result
from meteor_agents.verifiers.sql_text import is_ordered, unfenced
from meteor_agents.verifiers.verdicts import correct, incorrect, quoted, undecided, without_reference

Row = tuple[Value, ...]


class SqlOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    database: Path
    """A `.sql` script, which is run once into memory, or a SQLite file, which is only read."""
    max_rows: int = Field(default=1000, ge=1)
    """A query that gives more rows than this is not correct."""
    timeout_s: float = Field(default=2.0, gt=0, allow_inf_nan=False)


class SqlVerifier:
    """Runs the answer and the reference, and compares what they give.

    Rows may come in any order unless the reference has ORDER BY of its own. Column names do not count, and numbers may
    differ by rounding. An answer that is not one reading query is incorrect; it cannot change or reach anything.
    """

    name = "sql"

    def __init__(self, database: SqlDatabase) -> None:
        self.database = database

    @classmethod
    def open(cls, options: SqlOptions, base: Path) -> SqlVerifier:
        """Raises `SettingsError` when the database cannot be opened. A relative path starts at `base`."""
        path = base / options.database
        return cls(SqlDatabase.open(path, max_rows=options.max_rows, timeout_s=options.timeout_s))

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.reference is None:
            return without_reference(self.name, question)
        reference, sql = unfenced(question.reference), unfenced(answer)
        expected = self.database.run(reference)
        if isinstance(expected, Failure):
            return undecided(self.name, f"The reference of question {question.id} fails: {expected.reason}.")
        given = self.database.run(sql)
        if isinstance(given, Failure):
            guide = guide_for_failure(given.reason, sql, self.database.tables)
            return incorrect(self.name, sentence(given.reason), guide)
        if expected.reads and not given.reads:
            return incorrect(self.name, "The query reads no table.", guide_for_result(sql, given, reference, expected))
        difference = compare(given, expected, ordered=is_ordered(reference))
        if not difference:
            return correct(self.name)
        return incorrect(self.name, difference, guide_for_result(sql, given, reference, expected))

    def view(self, question: Question, answer: str) -> str | None:
        """What the query gives: its rows, in their order only where the reference has one."""
        given = self.database.run(unfenced(answer))
        if isinstance(given, Failure):
            return None
        rows = [tuple(map(rounded, row)) for row in given.rows]
        ordered = question.reference is not None and is_ordered(unfenced(question.reference))
        return repr((given.columns, rows if ordered else sorted(rows, key=repr)))

    def close(self) -> None:
        self.database.close()


def compare(given: Result, expected: Result, *, ordered: bool) -> str:
    """What is wrong with the rows given, without telling the right ones; empty if nothing is."""
    if given.columns != expected.columns:
        return f"{counted(given.columns, 'column')} where {expected.columns} {was(expected.columns)} expected."
    if len(given.rows) != len(expected.rows):
        wanted = len(expected.rows)
        return f"{counted(len(given.rows), 'row')} where {wanted} {was(wanted)} expected.{first_row(given)}"
    if all(map(same_row, given.rows, expected.rows)):
        return ""
    if same_rows_in_any_order(given.rows, expected.rows):
        return "" if not ordered else f"The rows are right but not in the expected order.{first_row(given)}"
    return f"The number of rows is right, but not what they hold.{first_row(given)}"


def same_rows_in_any_order(given: list[Row], expected: list[Row]) -> bool:
    """Whether both hold the same rows, each as often. Equal rows are paired off first, then those that are close."""
    missing = Counter(expected) - Counter(given)
    left = list(missing.elements())
    for row in (Counter(given) - Counter(expected)).elements():
        match = next((i for i, other in enumerate(left) if same_row(row, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def same_row(given: Row, expected: Row) -> bool:
    return len(given) == len(expected) and all(map(same_value, given, expected))


def same_value(given: Value, expected: Value) -> bool:
    if isinstance(given, int | float) and isinstance(expected, int | float):
        return given == expected or math.isclose(given, expected, rel_tol=1e-6, abs_tol=1e-9)
    return given == expected


def rounded(value: Value) -> Value:
    """Numbers that differ by rounding alone become one."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return int(value) if value.is_integer() else float(f"{value:.6g}")


def first_row(result: Result) -> str:
    if not result.rows:
        return ""
    values = ", ".join("NULL" if value is None else str(value) for value in result.rows[0][:5])
    return f" The first row it gives is {quoted(values, 40)}."


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def was(number: int) -> str:
    return "was" if number == 1 else "were"


def sentence(reason: str) -> str:
    return reason if reason.endswith(".") else f"{reason}."
