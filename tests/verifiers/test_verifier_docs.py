"""The tables and examples of docs/verifiers.md are what the verifiers do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from meteor_agents.messages import Question
from meteor_agents.verifiers import Verifier, open_verifier

DOCUMENT = (Path(__file__).parents[2] / "docs/verifiers.md").read_text(encoding="utf-8")


class Case(NamedTuple):
    reference: str
    reply: str
    verdict: str
    why: str


def section(title: str) -> str:
    return re.split(r"^## ", DOCUMENT.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def code(title: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def cases(title: str) -> list[Case]:
    table = section(title).partition("| reference | reply | verdict | why |\n|---|---|---|---|\n")[2].partition("\n\n")[0]
    return [Case(*map(cell, line.strip()[1:-1].split("|"))) for line in table.splitlines()]


def cell(text: str) -> str:
    text = text.strip()
    fence = re.match("`*", text)
    ticks = len(fence[0]) if fence else 0
    return text[ticks : len(text) - ticks].strip().replace("↵", "\n")


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    folder = tmp_path_factory.mktemp("sql")
    (folder / "shop.sql").write_text(code("sql", "sql"))
    with closing(open_verifier("sql", {"database": "shop.sql", "timeout_s": 0.5}, folder)) as verifier:
        yield verifier


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    folder = tmp_path_factory.mktemp("function")
    (folder / "checks.py").write_text(code("Your own function", "python"))
    with closing(open_verifier("checks:same_words", {}, folder)) as verifier:
        yield verifier


def test_tables_are_found() -> None:
    assert len(cases("sql")) >= 30
    assert len(cases("Your own function")) == 4


@pytest.mark.parametrize("case", cases("sql"))
def test_sql_verdicts_are_as_documented(case: Case, sql: Verifier) -> None:
    verdict = sql.verify(Question(id="q", question="?", reference=case.reference), case.reply)
    assert str(verdict.status) == case.verdict, verdict.explanation


@pytest.mark.parametrize("case", cases("Your own function"))
def test_example_function_gives_the_documented_verdicts(case: Case, function: Verifier) -> None:
    verdict = function.verify(Question(id="q", question="?", reference=case.reference or None), case.reply)
    assert (str(verdict.status), verdict.explanation) == (case.verdict, case.why)
