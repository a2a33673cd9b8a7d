"""Backend `reference`: the data's own answers as the teacher. It needs no model and costs nothing."""

from __future__ import annotations

from meteor_agents.messages import Answer, Attempt, Guide, Guideline, Question, Verdict
from meteor_agents.method.replies import join_answer
from meteor_agents.settings.roles import REFERENCE


class ReferenceTeacher:
    """Teaches with each question's `reasoning` and `reference`. It cannot read a guideline, so it ignores one."""

    async def answer(self, question: Question, guideline: Guideline | None, *, stage: str) -> Answer | None:
        """None for a question without a reference."""
        if question.reference is None:
            return None
        return Answer(text=join_answer(question.reasoning, question.reference), model=REFERENCE, weights=REFERENCE)

    async def guide(self, question: Question, attempt: Attempt, verdict: Verdict, *, stage: str, tries: int) -> Guide:
        """The question's worked reasoning as the hint; the judge's own guide where the data has none."""
        return Guide(explanation=verdict.explanation, guide=question.reasoning or verdict.guide, model=REFERENCE)
