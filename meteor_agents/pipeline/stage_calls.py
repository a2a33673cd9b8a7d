"""From settings to each stage's conversation about one question. A run, an estimate and a replay share these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from meteor_agents.evaluation.grading import ask_and_grade
from meteor_agents.evaluation.results import GradedReply
from meteor_agents.messages import Question
from meteor_agents.method import conversations
from meteor_agents.method.decoding.opening import open_strategy
from meteor_agents.method.decoding.preference_pairs import PairRules
from meteor_agents.method.judges import Judge
from meteor_agents.models import SamplingParams
from meteor_agents.pipeline.cast import Cast
from meteor_agents.pipeline.engine import Conversation
from meteor_agents.settings.decoding import decoding
from meteor_agents.settings.roles import REFERENCE
from meteor_agents.settings.run import Settings
from meteor_agents.training import Checkpoint


def distilling(settings: Settings, cast: Cast) -> Conversation:
    """Stage 1's conversation about one question."""
    guideline = settings.distill.guideline and settings.teacher.backend != REFERENCE
    judge = cast.judge if settings.distill.revise else None
    return lambda question: conversations.distill(
        question, cast.student, cast.teacher, guideline=guideline, judge=judge
    )


def refining(settings: Settings, cast: Cast) -> Conversation:
    """Stage 2's conversation about one question."""
    stage = settings.refine
    guide_by = cast.teacher if stage.guide_from == "teacher" else None
    answer_by = cast.teacher if stage.exhausted == "teacher" else None
    return lambda question: conversations.refine(
        question,
        cast.student,
        cast.judge,
        iterations=stage.iterations,
        guide_by=guide_by,
        guided=stage.guide_from != "none",
        answer_by=answer_by,
    )


def self_training(
    settings: Settings, cast: Cast, untrained: Checkpoint, *, stage: str, parameters: int | None = None
) -> Conversation:
    """The conversation of one turn of stage 3. The student's number of `parameters` turns tokens into FLOPs."""
    low, high = (
        open_strategy(given, settings.student.sampling, cast.judge, untrained)
        for given in (settings.self_train.low, settings.self_train.high)
    )
    rules = pair_rules(settings, cast)
    return lambda question: conversations.self_train(
        question, cast.student, low=low, high=high, rules=rules, parameters=parameters, stage=stage
    )


def examining(settings: Settings, cast: Cast) -> Callable[[Question], Awaitable[GradedReply]]:
    """Ask the student a held-out question, greedily, and let the panel grade the reply."""
    sampling = greedy(settings)
    return lambda question: ask_and_grade(question, cast.student, cast.panel, sampling=sampling)


def greedy(settings: Settings) -> SamplingParams:
    """The student's sampling, made greedy: how it answers when it is measured."""
    return decoding("greedy", settings.student.sampling)


def pair_rules(settings: Settings, cast: Cast) -> PairRules:
    """The rules by which two replies make a preference pair."""
    stage = settings.self_train
    verify: Judge | None = None
    if stage.verify:
        verify = cast.student.as_judge() if stage.verify == "self" else cast.judge
    return PairRules(cast.judge, stage.near_equal, stage.max_length_ratio, verify)
