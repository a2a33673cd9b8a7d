"""The method, stage by stage, as plain async functions (arXiv 2411.11933). Each reads like its pseudo-code.

A `ModelError` that a conversation meets is caught in `engine.converse`, which makes it a failed trace.
"""

from __future__ import annotations

from collections.abc import Mapping

from meteor_agents.messages import AnyMessage, Dropped, Guide, Lineage, Question, Status, Verdict
from meteor_agents.method.agents import Student, Teacher
from meteor_agents.method.decoding.preference_pairs import PairRules
from meteor_agents.method.decoding.strategy import Strategy, decoded
from meteor_agents.method.judges import Judge
from meteor_agents.method.replies import read_attempt
from meteor_agents.models import FinishReason
from meteor_agents.traces import Outcome, Trace, Turn

DISTILL, REFINE, SELF_TRAIN = "distill", "refine", "self-train"


async def distill(
    question: Question, student: Student, teacher: Teacher, *, guideline: bool, judge: Judge | None = None
) -> Trace:
    """Stage 1, weak to strong: the student writes a guideline, the teacher answers with it.

    g = student.guideline(q)
    a = teacher.answer(q, g)
    accepted: (q -> a) becomes a training example; g is not part of the target

    With a `judge`, the student also makes one attempt, and the judge says what is wrong with it: (q, attempt, guide -> a)
    then teaches the student to revise.

    Failed, with the reason: the answer is missing, empty or not complete, or the guideline was refused, filtered or broken
    off. A guideline that was cut at its token limit is used as far as it goes.
    """
    said: list[AnyMessage] = []

    def ended(error: str | None) -> Trace:
        outcome = Outcome.FAILED if error else Outcome.ACCEPTED
        return Trace(stage=DISTILL, question=question, messages=tuple(said), outcome=outcome, error=error)

    asked = await student.guideline(question, stage=DISTILL) if guideline else None
    if asked is not None:
        said.append(asked)
        if asked.ending not in (FinishReason.COMPLETE, FinishReason.CUT):
            return ended(f"the student's guideline {asked.ending.told}")
    answer = await teacher.answer(question, asked, stage=DISTILL)
    if answer is None:
        return ended("the teacher has no answer: the question has no reference in the data")
    said.append(answer)
    if not answer.ending.complete:
        return ended(f"the teacher's reply {answer.ending.told}")
    if not answer.text.strip():
        return ended("the teacher's reply is empty")
    if judge is not None:
        attempt = await student.attempt(question, stage=DISTILL)
        verdict = UNJUDGED.get(attempt.ending) or await judge.evaluate(question, attempt, stage=DISTILL)
        said += [attempt, verdict]
    return ended(None)


async def refine(
    question: Question,
    student: Student,
    judge: Judge,
    *,
    iterations: int,
    guide_by: Teacher | None = None,
    guided: bool = True,
    answer_by: Teacher | None = None,
) -> Trace:
    """Stage 2, judged refinement.

    repeat at most N times:
        y = student.attempt(q, history)
        v = judge.evaluate(q, y)          only a complete reply is judged: see UNJUDGED
        correct: accepted
        history += (y, v, guide)          the guide is the judge's, or the teacher's
    exhausted

    Unless `guided`, the history stays empty: each try answers the same prompt. With `answer_by`, that teacher answers
    a question that the student could not, once; the trace is taught if the judge finds the answer correct.
    """
    said: list[AnyMessage] = []
    history: list[Turn] = []

    def ended(outcome: Outcome, error: str | None = None) -> Trace:
        return Trace(stage=REFINE, question=question, messages=tuple(said), outcome=outcome, error=error)

    for tries in range(1, iterations + 1):
        attempt = await student.attempt(question, history, stage=REFINE, number=tries)
        said.append(attempt)
        verdict = UNJUDGED.get(attempt.ending) or await judge.evaluate(question, attempt, stage=REFINE, tries=tries)
        said.append(verdict)
        if verdict.status is Status.ERROR:
            return ended(Outcome.FAILED, f"no verdict from {verdict.model}: {verdict.explanation}")
        if verdict.status is Status.CORRECT:
            return ended(Outcome.ACCEPTED)
        if guided and tries < iterations:
            guide = (
                await guide_by.guide(question, attempt, verdict, stage=REFINE, tries=tries)
                if guide_by
                else Guide(explanation=verdict.explanation, guide=verdict.guide, model=verdict.model)
            )
            said.append(guide)
            history.append(Turn(attempt, verdict, guide))
    answer = await answer_by.answer(question, None, stage=REFINE) if answer_by else None
    if answer is None:
        return ended(Outcome.EXHAUSTED)
    said.append(answer)
    reply = read_attempt(answer.text, model=answer.model, weights=answer.weights, ending=answer.ending)
    verdict = UNJUDGED.get(answer.ending) or await judge.evaluate(question, reply, stage=REFINE, tries=iterations + 1)
    said.append(verdict)
    if verdict.status is Status.ERROR:
        return ended(Outcome.FAILED, f"no verdict from {verdict.model} on the teacher's answer: {verdict.explanation}")
    return ended(Outcome.TAUGHT if verdict.status is Status.CORRECT else Outcome.EXHAUSTED)


def _unjudged(status: Status, model: str, ending: FinishReason, guide: str = "") -> Verdict:
    return Verdict(status=status, explanation=f"The reply {ending.told}.", guide=guide, model=model)


UNJUDGED: Mapping[FinishReason, Verdict] = {
    FinishReason.CUT: Verdict(
        status=Status.INCORRECT,
        explanation="The reply was cut off at its token limit before it ended.",
        guide="Reason more briefly, so that the reply ends with the answer.",
        model="max_tokens",
    ),
    FinishReason.REFUSED: _unjudged(
        Status.INCORRECT, "refused", FinishReason.REFUSED, "Answer the question as far as you can."
    ),
    FinishReason.FILTERED: _unjudged(Status.INCORRECT, "filtered", FinishReason.FILTERED, "Keep to the question."),
    **{
        ending: _unjudged(Status.ERROR, ending.value, ending)
        for ending in (FinishReason.FAILED, FinishReason.PAUSED, FinishReason.UNKNOWN)
    },
}
"""The verdict on an attempt that is not complete. No judge is asked: accepted, a cut reply would teach the student not to
stop. A reply that is cut, refused or filtered is the student's doing, hence incorrect and tried again; any other ending is
the server's, and leaves the trace without a verdict."""


async def self_train(
    question: Question,
    student: Student,
    *,
    low: Strategy,
    high: Strategy,
    rules: PairRules,
    parameters: int | None = None,
    stage: str = SELF_TRAIN,
) -> Trace:
    """Stage 3, no teacher: a low-FLOPs and a high-FLOPs answer, high preferred over low.

        y_low, y_high = low.decode(q), high.decode(q)
        incomplete, alike, or of lengths too far apart: no preference, the pair is dropped
        verify: kept only where y_high is found correct and y_low incorrect

    The trace's messages are low then high, each followed by its verdict when there is one, then the pair's lineage, which
    says why the pair was dropped if it was. `parameters` of the student turn tokens into FLOPs.
    """
    cheap = await low.decode(question, student, stage=stage)
    expensive = await high.decode(question, student, stage=stage)
    said: list[AnyMessage] = [cheap.attempt, expensive.attempt]
    lineage = Lineage(low=decoded(low, cheap, parameters), high=decoded(high, expensive, parameters))

    def ended(dropped: Dropped | None, error: str | None = None) -> Trace:
        outcome = Outcome.FAILED if error else Outcome.EXHAUSTED if dropped else Outcome.ACCEPTED
        last = lineage.model_copy(update={"dropped": dropped})
        return Trace(stage=stage, question=question, messages=(*said, last), outcome=outcome, error=error)

    dropped = await rules.unfit(question, cheap.attempt, expensive.attempt)
    if dropped is not None or rules.verify is None:
        return ended(dropped)
    below = await rules.verify.evaluate(question, cheap.attempt, stage=stage, tries=1)
    above = await rules.verify.evaluate(question, expensive.attempt, stage=stage, tries=2)
    said[:] = [cheap.attempt, below, expensive.attempt, above]
    for verdict in (below, above):
        if verdict.status is Status.ERROR:
            return ended(None, verdict.explanation)
    right = (below.status, above.status) == (Status.INCORRECT, Status.CORRECT)
    return ended(None if right else Dropped.UNVERIFIED)
