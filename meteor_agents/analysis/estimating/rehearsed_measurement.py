"""The calls that measuring a run will take: the counterpart of `pipeline.measurement`, without model calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from meteor_agents.analysis.estimating.rehearsal import COMPARISONS, SCORES, VERDICTS
from meteor_agents.analysis.estimating.rehearsed_run import RehearsedRun
from meteor_agents.evaluation.comparison import compare
from meteor_agents.evaluation.grading import Panel, ask_and_grade, grade
from meteor_agents.evaluation.results import read_graded_reply
from meteor_agents.messages import Attempt, Question
from meteor_agents.method.agents import Student
from meteor_agents.models import SamplingParams
from meteor_agents.pipeline.stage_calls import greedy
from meteor_agents.pipeline.stages.measurement import finding, labelled, owed_questions
from meteor_agents.training import Checkpoint


class RehearsedMeasurement:
    """The held-out questions of one run, rehearsed."""

    def __init__(self, run: RehearsedRun) -> None:
        self._run = run
        self._settings = run.given.settings

    async def evaluate(self, checkpoint: Checkpoint | None) -> None:
        """Ask one checkpoint every held-out question; None: a student whose weights are not known yet."""
        version = checkpoint.version if checkpoint else None
        await self._examine(version, self._run.cast.student, greedy(self._settings))

    async def conclude(self, last: Checkpoint | None) -> None:
        """Measure the other models, then compare replies and examine the judges."""
        evaluation, base = self._settings.evaluate, self._run.given.base
        version = last.version if last else None
        for rival in self._run.cast.rivals:
            await self._examine(rival.version, rival.student, rival.sampling)
        if evaluation.pairwise and self._run.cast.panel.judges:
            if last != base:
                await self._compare(base.version, version)
            for rival in self._run.cast.rivals:
                await self._compare(rival.version, version)
        await self._ask_again(version)
        await self._ask_about_labelled(version)

    async def _examine(self, version: str | None, student: Student, sampling: SamplingParams) -> None:
        run, panel = self._run, self._run.cast.panel
        run.rehearsal.asked_for = SCORES
        run.rehearsal.weights = () if version is None else (version,)
        recipe, retry = run.recipes.evaluate(), self._settings.retry_failed
        for heldout, questions in run.given.questions.heldout.items():
            key = version or "", heldout, recipe
            owed: Sequence[Question] = owed_questions(run.given.records, key, questions, retry_failed=retry)
            await run.rehearse(owed, lambda question: ask_and_grade(question, student, panel, sampling=sampling))

    async def _compare(self, before: str, after: str | None) -> None:
        self._run.rehearsal.asked_for = COMPARISONS
        judges = self._run.cast.panel.judges
        firsts = dict(self._stored(before))

        for heldout, with_ in self._stored(after):

            async def compared(
                question: Question, with_: Mapping[str, str] = with_, without: Mapping[str, str] = firsts[heldout]
            ) -> None:
                await compare(question, judges, self._reply(question, without), self._reply(question, with_))

            await self._run.rehearse(self._run.given.questions.heldout[heldout], compared)

    async def _ask_again(self, version: str | None) -> None:
        """A sample of the last student's replies is scored twice."""
        self._run.rehearsal.asked_for = SCORES
        judges = Panel(judges=self._run.cast.panel.judges)
        if not judges.judges:
            return
        for questions, stored in self._sets(version):

            async def asked(question: Question, stored: Mapping[str, str] = stored) -> None:
                await grade(question, self._reply(question, stored), judges, asking=2)

            await self._run.rehearse(questions[: self._settings.evaluate.repeat], asked)

    async def _ask_about_labelled(self, version: str | None) -> None:
        """Replies that people have labelled go to every judge."""
        panel = self._run.cast.panel
        judges = [*panel.judges.values(), *([panel.verifier] if panel.verifier else [])]
        self._run.rehearsal.asked_for = VERDICTS
        labels = defaultdict(list)
        for label in self._run.given.labels:
            labels[label.id].append(label)
        for questions, stored in self._sets(version):

            async def asked(question: Question, stored: Mapping[str, str] = stored) -> None:
                last = self._reply(question, stored)
                for label in labels[question.id]:
                    for judge in judges:
                        await finding(question, labelled(label, last) or last, judge, label)

            await self._run.rehearse([question for question in questions if question.id in labels], asked)

    def _sets(self, version: str | None) -> Iterator[tuple[Sequence[Question], Mapping[str, str]]]:
        """Each held-out set's questions, with this version's stored results by question."""
        for heldout, stored in self._stored(version):
            yield self._run.given.questions.heldout[heldout], stored

    def _stored(self, version: str | None) -> Iterator[tuple[str, Mapping[str, str]]]:
        recipe = self._run.recipes.evaluate()
        for heldout in self._run.given.questions.heldout:
            yield heldout, self._run.given.records.scores(version, heldout, recipe) if version else {}

    def _reply(self, question: Question, stored: Mapping[str, str]) -> Attempt:
        known = stored.get(question.id)
        return read_graded_reply(known, question.id).attempt if known else self._run.imagined_attempt()
