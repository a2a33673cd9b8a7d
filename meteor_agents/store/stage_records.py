"""What a run's store knows about stages, rounds of training and evaluations, and the facts kept by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from meteor_agents.store.database import Reader
from meteor_agents.store.evaluations import EvaluationRecord, evaluation_record


@dataclass(frozen=True, slots=True)
class Round:
    """One update of the student: what it was trained on, from where, to where, and whether it was promoted."""

    stage: str
    round: int
    traces: tuple[str, ...]
    """Ids of the questions whose traces it was trained on."""
    data_hash: str
    start: str
    checkpoint: str
    promoted: bool
    reason: str
    report: dict[str, Any]


class MadeCheckpoint(NamedTuple):
    """What an update made."""

    stage: str
    recipe: str
    checkpoint: str
    promoted: bool
    right: int | None
    """Gate questions that it answered correctly; None where they were not graded."""


class StageRecord(NamedTuple):
    """Where a stage stands."""

    name: str
    recipe: str
    state: str
    questions: int
    checkpoint: str
    seconds: float


class StageRecords(Reader):
    """Reads what a run has reached. Every method raises `StoreError` when the file or a row cannot be read."""

    def current_stages(self) -> list[StageRecord]:
        """Each stage under its newest recipe, in the order in which they were run."""
        rows = self.read(
            "SELECT stage, recipe, state, questions, checkpoint, seconds FROM stages s"
            " WHERE position = (SELECT max(position) FROM stages WHERE stage = s.stage) ORDER BY position"
        )
        return [StageRecord(*row) for row in rows]

    def finished_stage(self, stage: str, recipe: str) -> str | None:
        """The checkpoint version that a finished stage ended with; None when it is not finished."""
        sql = "SELECT checkpoint FROM stages WHERE stage = ? AND recipe = ? AND state = 'done'"
        rows = self.read(sql, stage, recipe)
        return str(rows[0][0]) if rows else None

    def rounds(self, stage: str, recipe: str) -> list[Round]:
        """The updates of the student in this stage, first to last."""
        rows = self.read(
            "SELECT round, traces, data_hash, start, checkpoint, promoted, reason, report FROM rounds"
            " WHERE stage = ? AND recipe = ? ORDER BY round", stage, recipe,
        )  # fmt: skip
        return [
            Round(
                stage=stage,
                round=n,
                traces=tuple(self._json(ids, f"round {n} of {stage}")),
                data_hash=data_hash,
                start=start,
                checkpoint=checkpoint,
                promoted=bool(promoted),
                reason=reason,
                report=self._json(report, f"round {n} of {stage}"),
            )
            for n, ids, data_hash, start, checkpoint, promoted, reason, report in rows
        ]

    def checkpoints(self) -> list[MadeCheckpoint]:
        """The checkpoint of every round that was ever recorded, oldest first."""
        rows = self.read(
            "SELECT stage, recipe, checkpoint, promoted, json_extract(report, '$.gate.right') FROM rounds"
            " ORDER BY created, round"
        )
        return [MadeCheckpoint(stage, recipe, version, bool(kept), right) for stage, recipe, version, kept, right in rows]

    def scores(self, checkpoint: str, heldout: str, recipe: str) -> dict[str, str]:
        """Question id -> stored result (JSON) of one evaluation."""
        sql = "SELECT question_id, result FROM scores WHERE checkpoint = ? AND heldout = ? AND recipe = ?"
        return dict(self.read(sql, checkpoint, heldout, recipe))

    def all_scores(self, checkpoint: str) -> Iterator[tuple[str, str, str]]:
        """(held-out set, question id, result as JSON) of every evaluation of this checkpoint."""
        sql = "SELECT heldout, question_id, result FROM scores WHERE checkpoint = ?"
        return ((heldout, id_, result) for heldout, id_, result in self.each(sql, checkpoint))

    def evaluations(self) -> list[EvaluationRecord]:
        """All evaluations, oldest first."""
        columns = "checkpoint, heldout, recipe, kind, against, label, metrics"
        rows = self.read(f"SELECT {columns} FROM evaluations ORDER BY position")
        return [evaluation_record(*row) for row in rows]

    def lineage(self) -> dict[str, str]:
        """Where a checkpoint comes from (base, finetune, refine, self-train) -> its version."""
        try:
            return {label: str(content["version"]) for label, content in self.meta("lineage", {}).items()}
        except (AttributeError, LookupError, TypeError) as error:
            raise self.broken("the stored lineage of checkpoints", error) from error

    def meta(self, key: str, otherwise: Any = None) -> Any:
        """A fact kept by name (`Store.set_meta`), or `otherwise`."""
        rows = self.read("SELECT value FROM meta WHERE key = ?", key)
        return self._json(rows[0][0], f"the entry {key!r}") if rows else otherwise

    def _json(self, text: str, what: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self.broken(what, error) from error
