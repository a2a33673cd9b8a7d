"""Re-run a run's conversations from its store and compare, without models, servers or training.

The method's own code runs on the run's own questions and templates, and every reply comes from its store. Replies are
looked up under the weights version that each trace names, so the updates between them are not repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meteor_agents.analysis.held_out import newest_evaluations, read_replies, read_students
from meteor_agents.analysis.replayed_speaker import ReplayedSpeaker
from meteor_agents.analysis.trace_differences import changed, difference, rounded, unlike
from meteor_agents.data.near_duplicates import NearDuplicatesBySet
from meteor_agents.errors import ModelError, UnrecordedCallError
from meteor_agents.evaluation.comparison import compare, summarise_comparisons
from meteor_agents.evaluation.grading import fingerprint
from meteor_agents.evaluation.results import GradedReply, read_graded_reply, summarise
from meteor_agents.messages import Attempt, Guideline, Question
from meteor_agents.method.conversations import DISTILL, REFINE
from meteor_agents.pipeline.cast import Cast
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.stage_calls import distilling, examining, refining, self_training
from meteor_agents.pipeline.stages.measurement import OVERLAPS
from meteor_agents.settings.run import Settings
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import Records
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint

FIGURES = "(figures)"
"""Stands in for a question's id where the metrics of a whole evaluation are compared."""


class Held(NamedTuple):
    """One conversation that was re-run."""

    stage: str
    question_id: str
    difference: str = ""
    """How it differs from the recorded one; empty if it does not."""
    silent: bool = False
    """True: a model gave no reply, so there is none to repeat."""


@dataclass(frozen=True, slots=True)
class ReplaySession:
    """A recorded run whose agents repeat their models' replies."""

    settings: Settings
    records: Records
    cast: Cast
    student: ReplayedSpeaker
    """The student's speaker; it is told which weights replied in each trace."""
    heldout: Mapping[str, Mapping[str, Question]]
    """Held-out set -> id -> question."""
    base: Checkpoint


class Replay:
    """The conversations of one run, each of which can be re-run."""

    def __init__(self, session: ReplaySession) -> None:
        self._settings = session.settings
        self._records = session.records
        self._cast = session.cast
        self._speaker = session.student
        self._heldout = session.heldout
        self._base = session.base

    async def hold(self, trace: Trace) -> Held:
        """Re-run the conversation of a trace."""
        self._speaker.begin([m.weights for m in trace.messages if isinstance(m, Guideline | Attempt)])
        try:
            again = await self._conversation(trace.stage, trace.question)
        except UnrecordedCallError as missing:
            silent = trace.outcome is Outcome.FAILED and not trace.messages
            return Held(trace.stage, trace.question.id, "" if silent else str(missing), silent)
        except ModelError as error:
            again = Trace(
                stage=trace.stage, question=trace.question, messages=(), outcome=Outcome.FAILED, error=str(error)
            )
        return Held(trace.stage, trace.question.id, difference(trace, again))

    async def _conversation(self, stage: str, question: Question) -> Trace:
        settings, cast = self._settings, self._cast
        if stage == DISTILL:
            return await distilling(settings, cast)(question)
        if stage == REFINE:
            return await refining(settings, cast)(question)
        return await self_training(settings, cast, self._base, stage=stage)(question)

    async def evaluations(self, only: str | None = None) -> list[Held]:
        """Re-run the newest evaluations of the run's own checkpoints, for one question or all, and compare their figures."""
        held: list[Held] = []
        for evaluation in newest_evaluations(self._records):
            if evaluation.kind is EvaluationKind.METRICS and evaluation.label in LINEAGE:
                held += [found async for found in self._evaluate(evaluation, only)]
            elif only is None and evaluation.kind is EvaluationKind.PAIRWISE:
                held.append(await self._compare(evaluation))
        return held

    async def _evaluate(self, evaluation: EvaluationRecord, only: str | None) -> AsyncIterator[Held]:
        stage = f"evaluate {evaluation.label}: {evaluation.heldout}"
        results: dict[str, GradedReply] = {}
        for id_, recorded in read_replies(self._records, evaluation).items():
            if only not in (None, id_):
                continue
            question = self._heldout.get(evaluation.heldout, {}).get(id_)
            if question is None or fingerprint(question) != recorded.asked:
                yield Held(stage, id_, "the question, as it was asked, is not among the run's inputs")
                continue
            again, held = await self._examine(stage, question, recorded)
            if again is not None:
                results[id_] = again
            yield held
        if only is None and len(results) + evaluation.metrics["failed"] == evaluation.metrics["questions"]:
            metrics = summarise(results, asked=evaluation.metrics["questions"], near_training=self._near(evaluation))
            found = metrics.model_dump(mode="json")
            yield Held(stage, FIGURES, changed(rounded(evaluation.metrics), rounded(found)))

    def _near(self, evaluation: EvaluationRecord) -> Collection[str]:
        """Questions of the held-out set that nearly repeat one of the training set, as the run found them."""
        stored = self._records.meta(OVERLAPS)
        return NearDuplicatesBySet.model_validate(stored).sets[evaluation.heldout].ids if stored else ()

    async def _examine(self, stage: str, question: Question, recorded: GradedReply) -> tuple[GradedReply | None, Held]:
        self._speaker.begin([recorded.attempt.weights])
        try:
            again = await examining(self._settings, self._cast)(question)
        except ModelError as error:
            return None, Held(stage, question.id, str(error))
        return again, Held(stage, question.id, unlike(recorded, again))

    async def _compare(self, evaluation: EvaluationRecord) -> Held:
        """Re-run a pairwise comparison and compare its figures."""
        heldout, before = evaluation.heldout, evaluation.against
        stage = f"evaluate pairwise: {heldout} against {before}"
        recipe, versions = evaluation.recipe, read_students(self._records)
        ends = [self._records.scores(v, heldout, recipe) for v in (versions.get(before, ""), evaluation.checkpoint)]
        found, id_ = [], FIGURES
        try:
            for id_, question in self._heldout.get(heldout, {}).items():
                if all(id_ in scores for scores in ends):
                    without, with_ = (read_graded_reply(scores[id_], id_).attempt for scores in ends)
                    if without.ending.complete and with_.ending.complete:
                        found.append(await compare(question, self._cast.panel.judges, without, with_))
        except ModelError as error:
            return Held(stage, id_, str(error))
        shares = summarise_comparisons(found).model_dump(mode="json")
        return Held(stage, FIGURES, changed(rounded(evaluation.metrics), rounded(shares)))


def totals(held: Iterable[Held]) -> Iterator[tuple[str, int, int, int]]:
    """(stage, conversations, how many differ, how many had no reply), in the order of the stages."""
    counts: dict[str, Counter[str]] = {}
    for one in held:
        count = counts.setdefault(one.stage, Counter())
        if one.question_id != FIGURES:
            count.update(all=1, differ=bool(one.difference), silent=one.silent)
    return ((stage, count["all"], count["differ"], count["silent"]) for stage, count in counts.items())
