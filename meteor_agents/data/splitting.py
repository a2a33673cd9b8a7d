"""Which questions are held out, which decide about updates, and which are trained on."""

from __future__ import annotations

import random
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


class SetApart(BaseModel):
    """Which rows a split set apart, and by which settings. It is stored with the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: tuple[int, int, int]
    """questions.holdout, questions.gate, questions.seed"""
    holdout: tuple[str, ...]
    """Ids of the questions that are held out."""
    gate: tuple[str, ...]
    """Ids of the gate's questions."""


class Split(NamedTuple):
    """Disjoint parts of one file."""

    train: QuestionPool
    gate: list[Question]
    """A few questions that decide whether an update is kept. They are never trained on and never reported."""
    holdout: list[Question]

    def set_apart(self, *, holdout: int, gate: int, seed: int) -> SetApart:
        """What the next split of this run takes as `before`."""
        return SetApart(
            settings=(holdout, gate, seed),
            holdout=tuple(question.id for question in self.holdout),
            gate=tuple(question.id for question in self.gate),
        )


def split_questions(
    questions: QuestionPool, *, holdout: int, gate: int, seed: int, before: SetApart | None = None
) -> Split:
    """Split the questions by a seeded draw of ids: the file's order does not matter, and training rows keep it.

    `before` is the split that the run began with. Under the same settings it stays as it was: rows that were added to the
    file are for training, and no row that was trained on is ever held out. Raises `QuestionsError` when nothing is left to
    train on.
    """
    if holdout + gate >= len(questions):
        raise QuestionsError(
            f"questions.holdout {holdout} and questions.gate {gate} leave nothing to train on: "
            f"the file holds {len(questions)} questions"
        )
    if before is not None and before.settings == (holdout, gate, seed):
        held, gated = set(before.holdout), set(before.gate)
    else:
        ids = sorted(questions.ids)
        random.Random(seed).shuffle(ids)
        held, gated = set(ids[:holdout]), set(ids[holdout : holdout + gate])
    return Split(
        train=questions.where(lambda id_: id_ not in held and id_ not in gated),
        gate=list(questions.where(gated.__contains__)),
        holdout=list(questions.where(held.__contains__)),
    )
