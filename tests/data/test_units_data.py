"""The questions of the domain `units`: what the files promise to a run that trains on them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

import meteor_agents.configs.units as units
from benchmarks.questions.units import SEEN, UNSEEN, make_files
from meteor_agents.assembly.config_file import read_config
from meteor_agents.data.near_duplicates import repeated_questions
from meteor_agents.messages import Question, Status
from meteor_agents.verifiers import open_verifier

FOLDER = Path(units.__path__[0])
PARTS = ("train", "heldout_seen", "heldout_unseen")


@cache
def questions(part: str) -> list[Question]:
    lines = (FOLDER / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question.model_validate(json.loads(line)) for line in lines]


@pytest.mark.parametrize("part", PARTS)
def test_the_files_are_what_the_script_makes(part: str) -> None:
    made = make_files()[f"{part}.jsonl"]
    assert [question.model_dump(exclude_none=True) for question in questions(part)] == [
        Question.model_validate(row).model_dump(exclude_none=True) for row in made
    ]


def test_every_reasoning_ends_with_the_reference_and_the_verifier_accepts_it() -> None:
    verifier = open_verifier("numeric", {}, Path())
    for part in PARTS:
        for question in questions(part):
            assert verifier.verify(question, question.reference or "").status is Status.CORRECT
            assert verifier.verify(question, question.reasoning or "").status is Status.CORRECT


def test_no_question_is_asked_twice_nor_held_out_and_trained_on() -> None:
    for part in PARTS:
        assert len({question.question for question in questions(part)}) == len(questions(part))
    for part in PARTS[1:]:
        assert repeated_questions(questions("train"), questions(part)) == []


def test_unseen_families_are_not_trained_on() -> None:
    trained = {question.metadata["family"] for question in questions("train")}
    assert trained == {family.name for family in SEEN}
    assert trained.isdisjoint({question.metadata["family"] for question in questions("heldout_unseen")})
    assert {question.metadata["family"] for question in questions("heldout_unseen")} == {f.name for f in UNSEEN}


def test_each_stage_of_the_preset_finds_questions_that_the_one_before_has_not_seen() -> None:
    settings = read_config("units")
    left = len(questions("train")) - settings.questions.gate
    stages = (settings.distill, settings.refine, settings.self_train)
    ends = [stage.skip + (stage.questions or 0) for stage in stages]
    assert [stage.skip for stage in stages[1:]] == ends[:-1]
    assert ends[-1] <= left
