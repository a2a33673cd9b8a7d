"""What a run's store knows about conversations: how each ended, which are still owed, and what was said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.messages import Question
from meteor_agents.store.stage_records import StageRecords
from meteor_agents.traces import Outcome, Trace


class TraceRow(NamedTuple):
    """A trace as it is stored, for those who show it: parsed from JSON, but not validated."""

    stage: str
    question_id: str
    outcome: str
    tries: int
    question: dict[str, Any]
    messages: list[dict[str, Any]]
    error: str | None


_ROW = "SELECT stage, question_id, outcome, tries, question, messages, error FROM traces"


class TraceRecords(StageRecords):
    """Reads traces. Every method raises `StoreError` when the file or a row cannot be read."""

    def outcomes(self, stage: str, recipe: str) -> Iterator[tuple[str, Outcome]]:
        """Question id and outcome, in the order in which the traces were finished."""
        rows = self.each(
            "SELECT question_id, outcome FROM traces WHERE stage = ? AND recipe = ? ORDER BY position", stage, recipe
        )
        return ((question_id, Outcome(outcome)) for question_id, outcome in rows)

    def owed(self, stage: str, recipe: str, questions: QuestionPool, *, retry_failed: bool = True) -> QuestionPool:
        """The questions that have no settled trace as they read now.

        A failed trace is not settled, so its question is asked again: what failed may have been the server's trouble of
        that day. Without `retry_failed` it is settled once its stage is done.
        """
        settled = not retry_failed and self.finished_stage(stage, recipe) is not None
        rows = self.each(
            "SELECT question_id, question FROM traces WHERE stage = ? AND recipe = ? AND (? OR outcome <> ?)",
            stage, recipe, settled, Outcome.FAILED.value,
        )  # fmt: skip
        return questions.without((id_, asked) for id_, asked in rows)

    def outcome_counts(self, stage: str, recipe: str, questions: QuestionPool) -> Counter[Outcome]:
        """How the conversations about these questions ended. Each of them must have a trace."""
        counts: Counter[Outcome] = Counter()
        for outcome, _, traces in self.trace_totals(stage, recipe):
            counts[Outcome(outcome)] += traces
        if counts.total() == len(questions):
            return counts
        wanted = set(questions.ids)  # the run has held more: it was started with another number of questions
        return Counter(outcome for id_, outcome in self.outcomes(stage, recipe) if id_ in wanted)

    def trace_totals(self, stage: str, recipe: str) -> list[tuple[str, int, int]]:
        """(outcome, tries, number of traces)."""
        sql = "SELECT outcome, tries, traces FROM trace_totals WHERE stage = ? AND recipe = ? AND traces > 0"
        return [(outcome, tries, traces) for outcome, tries, traces in self.read(sql, stage, recipe)]

    def first_error(self, stage: str, recipe: str) -> str | None:
        """Why the first of a stage's failed traces failed."""
        sql = "SELECT error FROM traces WHERE stage = ? AND recipe = ? AND error IS NOT NULL ORDER BY position LIMIT 1"
        rows = self.read(sql, stage, recipe)
        return str(rows[0][0]) if rows else None

    def traces(self, stage: str, recipe: str, question_ids: Iterable[str] | None = None) -> list[Trace]:
        """Traces in the order in which they were finished; with `question_ids`, only those, in the order given."""
        sql = "SELECT question_id, question, messages, outcome, error FROM traces WHERE stage = ? AND recipe = ?"
        if question_ids is None:
            return [self._trace(stage, *row) for row in self.each(f"{sql} ORDER BY position", stage, recipe)]
        rows = [self.read(f"{sql} AND question_id = ?", stage, recipe, id_) for id_ in question_ids]
        return [self._trace(stage, *row) for found in rows for row in found]

    def current_traces(self) -> Iterator[Trace]:
        """The traces of each stage's newest recipe, by stage and in the order in which they were finished."""
        for stage in self.current_stages():
            yield from self.traces(stage.name, stage.recipe)

    def current_trace_rows(self, *, at_most: int) -> Iterator[TraceRow]:
        """The first of `current_traces`, as they are stored."""
        for stage in self.current_stages():
            sql = f"{_ROW} WHERE stage = ? AND recipe = ? ORDER BY position LIMIT ?"
            for row in self.each(sql, stage.name, stage.recipe, at_most):
                at_most -= 1
                yield self._row(*row)

    def find_trace_rows(
        self, *, question_id: str | None, stage: str | None, outcome: str | None, at_most: int
    ) -> list[TraceRow]:
        """The first traces of any recipe that fit what is given, in the order in which they were finished."""
        wanted = {"question_id": question_id, "stage": stage, "outcome": outcome}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "1"
        rows = self.read(f"{_ROW} WHERE {where} ORDER BY position LIMIT ?", *given.values(), at_most)
        return [self._row(*row) for row in rows]

    def _trace(self, stage: str, id_: str, question: str, messages: str, outcome: str, error: str | None) -> Trace:
        try:
            return Trace.model_validate(
                {
                    "stage": stage,
                    "question": Question.model_validate_json(question),
                    "messages": json.loads(messages),
                    "outcome": outcome,
                    "error": error,
                }
            )
        except (ValueError, RecursionError) as broken:
            raise self.broken(f"the trace of question {id_!r} in {stage}", broken) from broken

    def _row(
        self, stage: str, id_: str, outcome: str, tries: int, question: str, messages: str, error: str | None
    ) -> TraceRow:
        try:
            asked, said = json.loads(question), json.loads(messages)
        except (ValueError, RecursionError) as broken:
            raise self.broken(f"the trace of question {id_!r} in {stage}", broken) from broken
        return TraceRow(stage, id_, outcome, tries, asked, said, error)
