"""A run's results on its held-out sets, from its store: metrics, differences, win shares, judge reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from meteor_agents.errors import StoreError
from meteor_agents.evaluation.comparison import WinShares
from meteor_agents.evaluation.differences import PairedDifference
from meteor_agents.evaluation.judge_reliability import JudgeReliability
from meteor_agents.evaluation.results import GradedReply, Metrics, first_problem, read_graded_reply
from meteor_agents.messages import Message
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.stages.measurement import RIVALS
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import Records

Content = TypeVar("Content", bound=Message)


class HeldOutFindings(NamedTuple):
    """Everything found on one held-out set. A student is named by its label: a stage of the lineage or a rival's name."""

    name: str
    metrics: dict[str, Metrics]
    """Student -> its metrics: the lineage in order, then the rivals."""
    evaluations: dict[str, EvaluationRecord]
    """Student -> the stored evaluation behind its metrics."""
    differences: Sequence[PairedDifference]
    pairwise: dict[str, WinShares]
    """Win shares of the last checkpoint, by the student that it was compared with."""
    reliability: JudgeReliability | None

    @property
    def own(self) -> list[str]:
        """The run's own students that were measured, without rivals, in the order of the stages."""
        return [label for label in self.metrics if label in LINEAGE]


def read_students(records: Records) -> dict[str, str]:
    """Label -> version of every student that counts now: the lineage in order, then the rivals. Raises `StoreError`."""
    lineage = records.lineage()
    rivals: dict[str, str] = records.meta(RIVALS, {})
    return {label: lineage[label] for label in LINEAGE if label in lineage} | rivals


def newest_evaluations(records: Records) -> list[EvaluationRecord]:
    """The newest evaluation of each checkpoint, held-out set and kind, oldest first. Raises `StoreError`."""
    newest: dict[tuple[str, ...], EvaluationRecord] = {}
    for evaluation in records.evaluations():
        key = (evaluation.checkpoint, evaluation.heldout, evaluation.kind, evaluation.against)
        newest.pop(key, None)
        newest[key] = evaluation
    return list(newest.values())


def read_held_out(records: Records) -> list[HeldOutFindings]:
    """The newest findings by held-out set, in the order they were first measured. Raises `StoreError`."""
    students = read_students(records)
    versions = set(students.values())
    current = [evaluation for evaluation in newest_evaluations(records) if evaluation.checkpoint in versions]
    sets = dict.fromkeys(e.heldout for e in current if e.kind is EvaluationKind.METRICS)
    return [_findings(name, students, [e for e in current if e.heldout == name]) for name in sets]


def _findings(name: str, students: dict[str, str], found: Sequence[EvaluationRecord]) -> HeldOutFindings:
    measured = {e.checkpoint: e for e in found if e.kind is EvaluationKind.METRICS}
    evaluations = {label: measured[version] for label, version in students.items() if version in measured}
    newest = {e.kind: e for e in found}  # oldest first: the newest stays
    differences, reliability = map(newest.get, (EvaluationKind.DIFFERENCES, EvaluationKind.JUDGE_RELIABILITY))
    return HeldOutFindings(
        name=name,
        metrics={label: _content(Metrics, evaluation) for label, evaluation in evaluations.items()},
        evaluations=evaluations,
        differences=_content(_Differences, differences).pairs if differences else (),
        pairwise={e.against: _content(WinShares, e) for e in found if e.kind is EvaluationKind.PAIRWISE},
        reliability=_content(JudgeReliability, reliability) if reliability else None,
    )


class _Differences(Message):
    pairs: tuple[PairedDifference, ...]


def _content(model: type[Content], evaluation: EvaluationRecord) -> Content:
    try:
        return model.model_validate(evaluation.metrics)
    except ValidationError as error:
        raise StoreError(
            f"the stored evaluation ({evaluation.kind}) on {evaluation.heldout!r} is damaged ({first_problem(error)}): "
            "restore run.db from a copy, or run `meteor evaluate` again, which writes it anew"
        ) from error


def read_replies(records: Records, evaluation: EvaluationRecord) -> dict[str, GradedReply]:
    """The graded replies behind one evaluation's metrics, by question id. Raises `StoreError`."""
    stored = records.scores(evaluation.checkpoint, evaluation.heldout, evaluation.recipe)
    return {id_: read_graded_reply(reply, id_) for id_, reply in sorted(stored.items())}
