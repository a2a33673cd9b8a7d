"""Everything the page shows except the traces, read from a run's store."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError

from meteor_agents.analysis.held_out import HeldOutFindings, read_held_out, read_replies, read_students
from meteor_agents.analysis.status import read_status
from meteor_agents.data.near_duplicates import NearDuplicatesBySet
from meteor_agents.errors import StoreError
from meteor_agents.evaluation.results import GradedReply, first_problem
from meteor_agents.pipeline.stages.measurement import OVERLAPS
from meteor_agents.store.call_records import Spent
from meteor_agents.store.records import Records

STAGE_TITLES = {
    "base": "untrained",
    "finetune": "1 distilled",
    "refine": "2 refined",
    "self-train": "3 self-trained",
}
"""What the page calls the checkpoint after each stage."""
TIME_STEPS = 120
"""Points of a curve over time."""

Curve = list[tuple[float, int, float]]
"""Points of (seconds since the run's first call, tokens so far, US dollars so far)."""
Replies = dict[str, dict[str, GradedReply]]
"""Student -> question id -> graded reply."""


class Contents(NamedTuple):
    """What the page shows, apart from the traces."""

    status: dict[str, Any]
    """The object of `meteor status --json`."""
    titles: dict[str, str]
    """A student's label -> what the page calls it."""
    heldout: list[HeldOutFindings]
    replies: dict[str, Replies]
    """Held-out set -> its replies."""
    overlaps: NearDuplicatesBySet | None
    """Held-out questions that nearly repeat a training question, if the run looked for them."""
    spent: dict[str, Spent]
    """Role -> what it has used."""
    over_time: dict[str, Curve]
    """Role -> what it used over time."""
    began: float | None
    """Unix time of the run's first stored call or trace; None before there is one."""
    ended: float | None
    """Unix time of the last one."""

    def title(self, label: str) -> str:
        """What the page calls a student, also one that the run no longer has."""
        return self.titles.get(label, STAGE_TITLES.get(label, label))


def read_contents(records: Records) -> Contents:
    """Raises `StoreError` when the store cannot be read or a row of it is damaged."""
    heldout = read_held_out(records)
    began, ended = _times(records)
    return Contents(
        status=read_status(records),
        titles={label: STAGE_TITLES.get(label, label) for label in read_students(records)},
        heldout=heldout,
        replies={
            held.name: {label: read_replies(records, found) for label, found in held.evaluations.items()}
            for held in heldout
        },
        overlaps=_overlaps(records),
        spent=records.spent_by_role(),
        over_time=_over_time(records),
        began=began,
        ended=ended,
    )


def _overlaps(records: Records) -> NearDuplicatesBySet | None:
    found = records.meta(OVERLAPS)
    try:
        return NearDuplicatesBySet.model_validate(found) if found else None
    except ValidationError as error:
        raise StoreError(f"what run.db holds about overlaps is damaged ({first_problem(error)})") from error


def _times(records: Records) -> tuple[float | None, float | None]:
    ((began, ended),) = records.read(
        "SELECT min(first), max(last) FROM (SELECT min(created) AS first, max(created) AS last FROM calls"
        " UNION ALL SELECT min(created), max(created) FROM traces)"
    )
    return began, ended


def _over_time(records: Records) -> dict[str, Curve]:
    width, spending = records.spending(TIME_STEPS)
    curves: dict[str, Curve] = {}
    for role, step, tokens, usd in spending:
        curve = curves.setdefault(role, [(0.0, 0, 0.0)])
        _, tokens_before, usd_before = curve[-1]
        curve.append(((step + 1) * width, tokens_before + tokens, usd_before + usd))
    return curves
