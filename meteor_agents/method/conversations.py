"""The method, stage by stage, as plain async functions (arXiv 2411.11933). Each reads like its pseudo-code.

A `ModelError` that a conversation meets is caught in `engine.converse`, which makes it a failed trace.
"""

from __future__ import annotations

from meteor_agents.messages import AnyMessage, Dropped, Guide, Lineage, Question, Status, Verdict
from meteor_agents.method.agents import Judge, Student, Teacher
from meteor_agents.method.decoding import Strategy, decoded
from meteor_agents.method.preference_pairs import PairRules
from meteor_agents.traces import Outcome, Trace, Turn

DISTILL, REFINE, SELF_TRAIN = "distill", "refine", "self-train"

CUT = Verdict(
    status=Status.INCORRECT,
    explanation="The reply was cut off at its token limit before it ended.",
    guide="Reason more briefly, so that the reply ends with the answer.",
    model="max_tokens",
)
"""On an attempt that did not end by itself. No judge is asked: accepted, it would teach the student not to stop."""


async def distill(question: Question, student: Student, teacher: Teacher, *, guideline: bool) -> Trace:
    """Stage 1, weak to strong: the student writes a guideline, the teacher answers with it.

    g = student.guideline(q)
    a = teacher.answer(q, g)
    accepted: (q -> a) becomes a training example; g is not part of the target
    """
    asked = await student.guideline(question, stage=DISTILL) if guideline else None
    answer = await teacher.answer(question, asked, stage=DISTILL)
    said: tuple[AnyMessage, ...] = tuple(message for message in (asked, answer) if message is not None)
    if answer is None:
        error = "the teacher has no complete answer: none in the data, or cut at max_tokens"
        return Trace(stage=DISTILL, question=question, messages=said, outcome=Outcome.FAILED, error=error)
    return Trace(stage=DISTILL, question=question, messages=said, outcome=Outcome.ACCEPTED)


async def refine(
    question: Question, student: Student, judge: Judge, *, iterations: int, guide_by: Teacher | None = None
) -> Trace:
    """Stage 2, judged refinement.

    repeat at most N times:
        y = student.attempt(q, history)
        v = judge.evaluate(q, y)          a reply cut at max_tokens is incorrect, whatever it says
        correct: accepted
        history += (y, v, guide)          the guide is the judge's, or the teacher's
    exhausted
    """
    said: list[AnyMessage] = []
    history: list[Turn] = []

    def ended(outcome: Outcome, error: str | None = None) -> Trace:
        return Trace(stage=REFINE, question=question, messages=tuple(said), outcome=outcome, error=error)

    for tries in range(1, iterations + 1):
        attempt = await student.attempt(question, history, stage=REFINE)
        said.append(attempt)
        verdict = CUT if attempt.truncated else await judge.evaluate(question, attempt, stage=REFINE, tries=tries)
        said.append(verdict)
        if verdict.status is Status.ERROR:
            return ended(Outcome.FAILED, f"no verdict from {verdict.model}: {verdict.explanation}")
        if verdict.status is Status.CORRECT:
            return ended(Outcome.ACCEPTED)
        if tries < iterations:
            guide = (
                await guide_by.guide(question, attempt, verdict, stage=REFINE, tries=tries)
                if guide_by
                else Guide(explanation=verdict.explanation, guide=verdict.guide, model=verdict.model)
            )
            said.append(guide)
            history.append(Turn(attempt, verdict, guide))
    return ended(Outcome.EXHAUSTED)


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
        cut, alike, or of lengths too far apart: no preference, the pair is dropped
        verify: kept only where y_high is found correct and y_low incorrect

    The trace's messages are low then high, each followed by its verdict when there is one, then the pair's lineage, which
    says why it was dropped if it was. `parameters` of the student turn tokens into FLOPs.
    """
    cheap = await low.decode(question, student, stage=stage)
    dear = await high.decode(question, student, stage=stage)
    said: list[AnyMessage] = [cheap.attempt, dear.attempt]
    lineage = Lineage(low=decoded(low, cheap, parameters), high=decoded(high, dear, parameters))

    def ended(dropped: Dropped | None, error: str | None = None) -> Trace:
        outcome = Outcome.FAILED if error else Outcome.EXHAUSTED if dropped else Outcome.ACCEPTED
        last = lineage.model_copy(update={"dropped": dropped})
        return Trace(stage=stage, question=question, messages=(*said, last), outcome=outcome, error=error)

    dropped = await rules.unfit(question, cheap.attempt, dear.attempt)
    if dropped is not None or rules.verify is None:
        return ended(dropped)
    below = await rules.verify.evaluate(question, cheap.attempt, stage=stage, tries=1)
    above = await rules.verify.evaluate(question, dear.attempt, stage=stage, tries=2)
    said[:] = [cheap.attempt, below, dear.attempt, above]
    for verdict in (below, above):
        if verdict.status is Status.ERROR:
            return ended(None, verdict.explanation)
    right = (below.status, above.status) == (Status.INCORRECT, Status.CORRECT)
    return ended(None if right else Dropped.UNVERIFIED)
