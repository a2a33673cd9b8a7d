"""From settings to questions: read, split, and checked for leaks between training and held-out sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from meteor_agents.data.near_duplicates import NearDuplicatesBySet, find_near_duplicates_by_set, repeated_questions
from meteor_agents.data.questions import read_questions
from meteor_agents.data.splitting import SetApart, split_questions
from meteor_agents.errors import QuestionsError, SettingsError
from meteor_agents.events import Note, Observer, OverlapFound
from meteor_agents.messages import Question
from meteor_agents.pipeline.session import QuestionSets
from meteor_agents.pipeline.stages.measurement import OVERLAPS
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import Records

SET_APART = "set apart"
"""The store's name for the ids that a run set apart from its training questions."""


def open_questions(
    settings: Settings, *, limit: int | None, observer: Observer, records: Records | None = None
) -> QuestionSets:
    """Read and split the questions.

    `limit` caps the training questions, from which every stage takes its own, and each held-out set. Questions that the run
    of `records` has set apart stay so, even if rows were added to the file. Raises `QuestionsError` when a held-out
    question occurs in training.
    """
    given = settings.questions
    questions = read_questions(given.path, given.fields)
    before = records.meta(SET_APART) if records else None
    split = split_questions(
        questions,
        holdout=given.holdout,
        gate=given.gate,
        seed=given.seed,
        before=SetApart.model_validate(before) if before else None,
    )
    heldout: dict[str, Sequence[Question]] = {"held out": split.holdout} if split.holdout else {}
    for name, path in given.heldout.items():
        if name in heldout:
            raise SettingsError(f"questions.heldout: the name {name!r} is taken by the questions held out by number")
        heldout[name] = read_questions(path, given.fields)
    for name, held in heldout.items():
        leaked = repeated_questions(chain(split.train, split.gate), held)
        if leaked:
            raise QuestionsError(
                f"held-out set {name!r}: {len(leaked)} of its questions occur in {given.path} as well, "
                f"the first is {leaked[0].id!r}; remove them from one of the two"
            )
    cap = settings.evaluate.sample if limit is None else min(limit, settings.evaluate.sample or limit)
    if not heldout:
        observer.on_event(Note("no held-out questions: nothing will be measured (questions.holdout or .heldout)"))
    if split.gate:
        observer.on_event(Note(_gate_told(len(split.gate), len(split.train))))
    return QuestionSets(
        train=split.train,
        gate=split.gate[:limit],
        heldout={name: list(held[:cap]) for name, held in heldout.items()},
        set_apart=split.set_apart(holdout=given.holdout, gate=given.gate, seed=given.seed),
    )


def _gate_told(gate: int, train: int) -> str:
    return (
        f"{gate:,} of the {gate + train:,} questions that are not held out are set apart for the gate, which checks each "
        "update of the student; the stages do not ask them (questions.gate: 0 sets none apart)"
    )


def with_overlaps(questions: QuestionSets, observer: Observer, records: Records | None = None) -> QuestionSets:
    """The question sets with their near duplicates between training and held-out questions, which are reported too."""
    if not questions.heldout:
        return questions
    before = records.meta(OVERLAPS) if records else None
    found = find_near_duplicates_by_set(
        [questions.train, questions.gate], questions.heldout, NearDuplicatesBySet.model_validate(before) if before else None
    )
    for name, one in found.sets.items():
        if one.near:
            observer.on_event(OverlapFound(name, one.questions, one.exact, len(one.near), one.sentence(name)))
    return replace(questions, overlaps=found)


def limited(settings: Settings, limit: int | None) -> Settings:
    """The settings with at most `limit` questions for each stage; unchanged without a limit."""
    if limit is None:
        return settings
    stages = {
        name: (stage := getattr(settings, name)).model_copy(
            update={"questions": min(limit, stage.questions or limit), "skip": min(stage.skip, limit * i)}
        )
        for i, name in enumerate(("distill", "refine", "self_train"))
    }
    return settings.model_copy(update=stages)
