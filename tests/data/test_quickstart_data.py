"""The quickstart's questions: what the files promise to a run that trains on them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import meteor_agents.configs.quickstart as quickstart
from benchmarks.questions.families import Family
from benchmarks.questions.quickstart import (
    HELD_OUT_PHRASINGS,
    MORE_PHRASINGS,
    make_files,
    training_families,
    training_phrasings,
)
from benchmarks.questions.unseen_families import unseen_families
from meteor_agents.messages import Question, Status
from meteor_agents.verifiers import Verifier, open_verifier

FOLDER = Path(quickstart.__path__[0])
PARTS = ("train", "heldout_seen", "heldout_unseen")


@cache
def questions(part: str) -> list[Question]:
    lines = (FOLDER / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question.model_validate(json.loads(line)) for line in lines]


def every_question() -> list[Question]:
    return [question for part in PARTS for question in questions(part)]


def family(question: Question) -> str:
    name: Any = question.metadata["family"]
    assert isinstance(name, str)
    return name


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


@pytest.fixture(scope="module")
def library() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript((FOLDER / "library.sql").read_text(encoding="utf-8"))
        yield connection


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with closing(open_verifier("sql", {"database": "library.sql"}, FOLDER)) as verifier:
        yield verifier


def test_script_makes_the_files_that_are_shipped() -> None:
    files = make_files()
    assert {name: (FOLDER / name).read_bytes() for name in files} == {
        name: text.encode() for name, text in files.items()
    }


def test_data_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in make_files()) < 1_000_000


def test_counts_of_rows_and_families() -> None:
    counts = {part: Counter(map(family, questions(part))) for part in PARTS}
    assert counts["train"].total() >= 640
    assert len(counts["train"]) >= 26
    assert counts["heldout_seen"].total() == 72
    assert counts["heldout_unseen"].total() == 64
    assert len(counts["heldout_unseen"]) >= 5
    assert counts["heldout_seen"].keys() == counts["train"].keys()
    assert not counts["heldout_unseen"].keys() & counts["train"].keys()


def test_first_160_rows_have_all_families_about_evenly() -> None:
    start = Counter(family(question) for question in questions("train")[:160])
    assert start.keys() == {family(question) for question in questions("train")}
    assert max(start.values()) - min(start.values()) <= 1


def test_no_question_occurs_twice_in_any_file() -> None:
    every = every_question()
    assert len({folded(question.question) for question in every}) == len(every)
    assert len({question.id for question in every}) == len(every)


@pytest.mark.parametrize("known", training_families(), ids=lambda known: known.name)
def test_held_out_phrasings_and_values_are_not_in_training(known: Family) -> None:
    trained = [question for question in questions("train") if family(question) == known.name]
    held = [question for question in questions("heldout_seen") if family(question) == known.name]
    for question in held:
        phrasings = [at for at, text in enumerate(known.phrasings) if fits(text, question.question, known)]
        assert min(phrasings) >= len(known.phrasings) - HELD_OUT_PHRASINGS
    if known.values:
        assert not {question.reference for question in held} & {question.reference for question in trained}


def fits(phrasing: str, question: str, known: Family) -> bool:
    return any(phrasing.format(**slot) == question for slot in known.slots)


def test_unseen_families_ask_for_queries_that_training_never_shows() -> None:
    def shape(question: Question) -> str:
        return re.sub(r"'[^']*'|\b\d+\b", "?", question.reference or "")

    trained = {shape(question) for question in questions("train")}
    assert not trained & {shape(question) for question in questions("heldout_unseen")}


def test_every_family_has_several_phrasings() -> None:
    assert all(len(known.phrasings) >= 5 for known in training_families())
    assert all(len(known.phrasings) >= 3 for known in unseen_families())


@pytest.mark.parametrize("known", training_families(), ids=lambda known: known.name)
def test_training_goes_round_many_phrasings_of_every_family(known: Family) -> None:
    phrasings = training_phrasings(known)
    assert len(set(map(folded, phrasings))) == len(phrasings) >= 12
    assert not set(map(folded, MORE_PHRASINGS[known.name])) & set(map(folded, known.phrasings))
    start = [question.question for question in questions("train")[:360] if family(question) == known.name]
    used = [frozenset(text for text in phrasings if fits(text, question, known)) for question in start]
    assert len(start) == 10
    assert all(used)
    assert len(set(used)) == len(used)


def test_no_held_out_question_is_a_training_phrasing() -> None:
    held = {folded(question.question) for part in PARTS[1:] for question in questions(part)}
    for known in training_families():
        for text in training_phrasings(known):
            assert not held & {folded(text.format(**slot)) for slot in known.slots}, text


def test_questions_and_reasonings_are_short() -> None:
    for question in every_question():
        assert 3 <= len(question.question.split()) <= 32, question.question
        assert question.reasoning
        assert 8 <= len(question.reasoning.split()) <= 18, question.reasoning


def test_values_are_named_in_the_question_as_in_the_database() -> None:
    for question in every_question():
        for value in re.findall(r"'%?([^'%]*)%?'", question.reference or ""):
            assert value in question.question


def test_every_reference_is_correct_against_itself(verifier: Verifier) -> None:
    for question in every_question():
        assert verifier.verify(question, f"```sql\n{question.reference};\n```").status is Status.CORRECT, question.id


def test_almost_every_reference_gives_rows(library: sqlite3.Connection) -> None:
    every = every_question()
    empty = [question.id for question in every if not library.execute(question.reference or "").fetchall()]
    assert len(empty) <= 0.03 * len(every)


def test_results_tell_questions_apart(library: sqlite3.Connection) -> None:
    for part in PARTS:
        results = Counter(repr(library.execute(question.reference or "").fetchall()) for question in questions(part))
        assert max(results.values()) <= 0.12 * results.total(), results.most_common(1)


def test_references_are_one_line_in_one_style() -> None:
    for question in every_question():
        reference = question.reference or ""
        assert re.match(r"SELECT [^\n;]+\Z", reference)
        assert " AS " not in reference
        for joined, key in re.findall(r"JOIN (\w+) ON (\w+)\.id = ", reference):
            assert joined == key
