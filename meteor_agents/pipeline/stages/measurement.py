"""Measure a run's students on the held-out questions, compare them, and measure the reliability of their judges.

Results are stored question by question under the evaluation's recipe; questions that have one are not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from meteor_agents.evaluation.comparison import PairComparison, compare, summarise_comparisons
from meteor_agents.evaluation.differences import PairedDifference, paired_differences
from meteor_agents.evaluation.grading import EVALUATE, Panel, ask_and_grade, fingerprint, grade, is_graded
from meteor_agents.evaluation.human_labels import HumanAgreement, HumanLabel, human_agreement
from meteor_agents.evaluation.judge_reliability import (
    JudgeReliability,
    length_effect,
    panel_agreements,
    self_agreement,
)
from meteor_agents.evaluation.results import GradedReply, read_graded_reply, summarise
from meteor_agents.events import EvaluationFinished, QuestionFinished, StageFinished, StageStarted
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import Judge
from meteor_agents.method.replies import read_attempt
from meteor_agents.models import SamplingParams
from meteor_agents.pipeline.cast import related_models
from meteor_agents.pipeline.engine import each
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stage_calls import greedy
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import Records
from meteor_agents.training import Checkpoint

RIVALS, OVERLAPS = "rivals", "overlap"
"""Keys of the store's `meta` table: rivals' versions by name, and held-out questions that repeat training questions."""


class Measurement:
    """The evaluation of one run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.store
        self._recipe = session.recipes.evaluate()
        self._panel = session.cast.panel
        self._rivals = session.cast.rivals

    async def checkpoints(self, labels: Sequence[str]) -> None:
        """Score these checkpoints of the lineage on every held-out set."""
        session, sampling = self._session, greedy(self._session.settings)
        for label in labels:
            checkpoint = session.lineage[label]

            async def served(checkpoint: Checkpoint = checkpoint) -> None:
                await session.student.serve(checkpoint)

            for heldout in session.questions.heldout:
                await self._examine(label, checkpoint.version, heldout, session.cast.student, sampling, served)

    async def conclude(self) -> None:
        """After all checkpoints are scored: score the rivals, then store differences, win shares and judge reliability."""
        session, rivals = self._session, self._rivals
        for rival in rivals:
            for heldout in session.questions.heldout:
                await self._examine(rival.name, rival.version, heldout, rival.student, rival.sampling, _nothing)
        await self._store.set_meta(RIVALS, {rival.name: rival.version for rival in rivals})
        for warning in related_models(session.settings):
            session.note(f"warning: {warning}")
        for heldout in session.questions.heldout:
            results = {label: self._results(version, heldout) for label, version in self._versions()}
            await self._tell_apart(heldout, results)
            await self._compare(heldout, results)
            await self._judge_reliability(heldout, results)

    def _versions(self) -> Iterator[tuple[str, str]]:
        """Label and version of each checkpoint of the lineage, each version once, then of the rivals."""
        seen: set[str] = set()
        for label, checkpoint in self._session.lineage.items():
            if checkpoint.version not in seen:
                seen.add(checkpoint.version)
                yield label, checkpoint.version
        yield from ((rival.name, rival.version) for rival in self._rivals)

    def _results(self, version: str, heldout: str) -> dict[str, GradedReply]:
        """Question id -> stored result, in the questions' order, without questions that were edited since."""
        stored = self._store.scores(version, heldout, self._recipe)
        questions = self._session.questions.heldout[heldout]
        results = {q.id: read_graded_reply(stored[q.id], q.id) for q in questions if q.id in stored}
        return {q.id: results[q.id] for q in questions if q.id in results and results[q.id].asked == fingerprint(q)}

    # one model on one held-out set -----------------------------------------------------------------------------------

    async def _examine(
        self,
        label: str,
        version: str,
        heldout: str,
        student: Student,
        sampling: SamplingParams,
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        session, questions = self._session, self._session.questions.heldout[heldout]
        stage = f"evaluate {label}: {heldout}"
        results = self._results(version, heldout)
        key = version, heldout, self._recipe
        owed = owed_questions(self._store, key, questions, retry_failed=session.settings.retry_failed)

        async def examined(question: Question) -> None:
            result = await ask_and_grade(question, student, self._panel, sampling=sampling)
            results[question.id] = result
            await self._store.add_score(version, heldout, self._recipe, question.id, result.model_dump_json())
            session.observer.on_event(QuestionFinished(stage, question.id, result.status.value, 1))

        started = time.monotonic()
        session.observer.on_event(StageStarted(stage, len(questions), len(questions) - len(owed)))
        if owed:
            await begin()
            await self._each(owed, examined, stage)
        overlaps = session.questions.overlaps
        near = overlaps.sets[heldout].ids if overlaps else ()
        metrics = summarise(results, asked=len(questions), near_training=near)
        await self._keep(version, heldout, EvaluationKind.METRICS, label, metrics.model_dump(mode="json"))
        session.observer.on_event(StageFinished(stage, time.monotonic() - started, metrics.headline()))
        session.observer.on_event(EvaluationFinished(label, heldout, metrics.headline()))

    # models against one another --------------------------------------------------------------------------------------

    def _pairs(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        """Each stage against the one before, the last against the first, and against every rival."""
        rivals = [rival.name for rival in self._rivals]
        own = [label for label in labels if label not in rivals]
        ends = [(own[0], own[-1])] if len(own) > 1 else []
        against = [(rival, own[-1]) for rival in rivals if own]
        return list(dict.fromkeys([*ends, *pairwise(own), *against]))

    async def _tell_apart(self, heldout: str, results: Mapping[str, Mapping[str, GradedReply]]) -> None:
        found: list[PairedDifference] = []
        for before, after in self._pairs(list(results)):
            found += paired_differences(before, after, results[before], results[after])
        if found:
            rows = {"pairs": [difference.model_dump(mode="json") for difference in found]}
            await self._keep_conclusion(heldout, EvaluationKind.DIFFERENCES, rows)

    async def _compare(self, heldout: str, results: Mapping[str, Mapping[str, GradedReply]]) -> None:
        """Let model judges compare the last checkpoint with the first and with every rival, in both orders.

        Only questions with two complete replies are compared.
        """
        judges = self._panel.judges
        labels = list(results)
        if not judges or not self._session.settings.evaluate.pairwise:
            return
        own = [label for label in labels if label in self._session.lineage]
        others = [*(own[:1] if len(own) > 1 else []), *(rival.name for rival in self._rivals)]
        for before in others:
            without, with_ = results[before], results[own[-1]]
            whole = [{id_ for id_, reply in side.items() if reply.attempt.ending.complete} for side in (without, with_)]
            both = [q for q in self._session.questions.heldout[heldout] if all(q.id in ids for ids in whole)]
            if not both:
                continue
            found: dict[str, PairComparison] = {}

            async def compared(
                question: Question,
                without: Mapping[str, GradedReply] = without,
                with_: Mapping[str, GradedReply] = with_,
                found: dict[str, PairComparison] = found,
            ) -> None:
                sides = without[question.id].attempt, with_[question.id].attempt
                found[question.id] = await compare(question, judges, *sides)

            await self._each(both, compared, "compare")
            shares = summarise_comparisons([found[q.id] for q in both if q.id in found])
            await self._keep_conclusion(heldout, EvaluationKind.PAIRWISE, shares.model_dump(mode="json"), against=before)

    # judges -----------------------------------------------------------------------------------------------------------

    async def _judge_reliability(self, heldout: str, results: Mapping[str, Mapping[str, GradedReply]]) -> None:
        last = next((results[label] for label in reversed(list(results)) if label in self._session.lineage), {})
        everyone = [reply for found in results.values() for reply in found.values()]
        sample = [q for q in self._session.questions.heldout[heldout] if q.id in last and last[q.id].scores]
        sample = sample[: self._session.settings.evaluate.repeat]
        again: dict[str, GradedReply] = {}
        judges_only = Panel(judges=self._panel.judges)

        async def asked_again(question: Question) -> None:
            again[question.id] = await grade(question, last[question.id].attempt, judges_only, asking=2)

        await self._each(sample, asked_again, "ask again")
        both = [q.id for q in sample if q.id in again]
        reliability = JudgeReliability(
            repeats=self_agreement([last[id_] for id_ in both], [again[id_] for id_ in both]),
            panel=panel_agreements(everyone),
            length=length_effect(everyone),
            human=tuple(await self._agreements(heldout, last)),
            kinships=related_models(self._session.settings),
        )
        await self._keep_conclusion(heldout, EvaluationKind.JUDGE_RELIABILITY, reliability.model_dump(mode="json"))

    async def _agreements(self, heldout: str, last: Mapping[str, GradedReply]) -> list[HumanAgreement]:
        """Each judge's agreement with people's labels in this held-out set."""
        questions = {q.id: q for q in self._session.questions.heldout[heldout]}
        labels = [label for label in self._session.labels if label.id in questions]
        replied = {id_: result.attempt for id_, result in last.items()}
        known = [(label, labelled(label, replied.get(label.id))) for label in labels]
        pairs = [(label, attempt) for label, attempt in known if attempt is not None]
        panel = self._panel
        judges: dict[str, Judge] = dict(panel.judges)
        if panel.verifier is not None:
            judges["verifier"] = panel.verifier
        found: dict[tuple[str, int], str | float | None] = {}

        async def judged(question: Question) -> None:
            for number, (label, attempt) in enumerate(pairs):
                if label.id == question.id:
                    for name, judge in judges.items():
                        found[name, number] = await finding(question, attempt, judge, label)

        wanted = list(dict.fromkeys(label.id for label, _ in pairs))
        await self._each([questions[id_] for id_ in wanted], judged, "human labels")
        return [
            human_agreement(
                name,
                [(label.label, found.get((name, number))) for number, (label, _) in enumerate(pairs)],
                len(labels) - len(pairs),
            )
            for name in judges
            if labels
        ]

    # shared ----------------------------------------------------------------------------------------------------------

    async def _keep_conclusion(
        self, heldout: str, kind: EvaluationKind, content: dict[str, Any], *, against: str = ""
    ) -> None:
        """Store a result about several students under the last checkpoint."""
        await self._keep(self._session.latest().version, heldout, kind, "", content, against)

    async def _keep(
        self, version: str, heldout: str, kind: EvaluationKind, label: str, content: dict[str, Any], against: str = ""
    ) -> None:
        record = EvaluationRecord(version, heldout, self._recipe, kind, against, label, content)
        await self._store.add_evaluation(record)

    async def _each(
        self, questions: Sequence[Question], work: Callable[[Question], Awaitable[None]], stage: str
    ) -> None:
        session = self._session
        await each(questions, work, window=session.window(), drain=session.drain, stage=stage)


async def _nothing() -> None:
    """A rival needs no weights to be loaded."""


def owed_questions(
    records: Records, key: tuple[str, str, str], questions: Sequence[Question], *, retry_failed: bool
) -> list[Question]:
    """The questions of a held-out set that a checkpoint or rival still has to be asked.

    `key` is the checkpoint's version, the set's name and the recipe. Without `retry_failed`, a set of as many questions
    whose figures are stored is measured, whatever failed or could not be read: only edited questions are owed.
    """
    stored = {id_: read_graded_reply(result, id_) for id_, result in records.scores(*key).items()}
    identity = (*key, EvaluationKind.METRICS)
    measured = (row.metrics for row in records.evaluations() if row[:4] == identity)
    if retry_failed or all(metrics.get("questions") != len(questions) for metrics in measured):
        return [q for q in questions if not is_graded(stored.get(q.id), q)]
    return [q for q in questions if q.id in stored and stored[q.id].asked != fingerprint(q)]


def labelled(label: HumanLabel, last: Attempt | None) -> Attempt | None:
    """The reply that a label is about: the one it contains, or else the last checkpoint's."""
    if label.reply is None:
        return last
    return read_attempt(label.reply, model="labelled", weights="labelled")


async def finding(question: Question, attempt: Attempt, judge: Judge, label: HumanLabel) -> str | float | None:
    """A judge's finding of the same kind as the label: a status or a score. None if the judge failed."""
    if isinstance(label.label, int):
        return (await grade(question, attempt, Panel.of(judge))).overall
    status = (await judge.evaluate(question, attempt, stage=EVALUATE)).status
    return None if status is Status.ERROR else status.value
