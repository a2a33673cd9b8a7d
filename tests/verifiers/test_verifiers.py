"""What each verifier finds, and what no answer can do to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Status
from meteor_agents.verifiers import open_verifier


def asked(reference: str | None) -> Question:
    return Question(id="q1", question="?", reference=reference)


# --- opening


@pytest.mark.parametrize(("name", "nearest"), [("numric", "numeric"), ("SQL", ""), ("exakt", "exact")])
def test_unknown_name_is_refused_with_the_known_and_the_nearest(name: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exact, numeric, choice, math, sql") as caught:
        open_verifier(name, {}, tmp_path)
    assert f"Did you mean {nearest!r}?" in str(caught.value) or not nearest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("exact", {"tolerance": 1}),
        ("numeric", {"tolerence": 0.1}),
        ("numeric", {"tolerance": -1}),
        ("choice", {"letters": "AB"}),
        ("sql", {}),
        ("sql", {"database": "x.sql", "max_rows": 0}),
        ("os.path:exists", {"option": 1}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="It takes: "):
        open_verifier(name, options, tmp_path)


@pytest.mark.parametrize("name", ["exact", "numeric", "choice"])
def test_question_without_reference_gets_no_verdict(name: str, tmp_path: Path) -> None:
    with closing(open_verifier(name, {}, tmp_path)) as verifier:
        verdict = verifier.verify(asked(None), "B 2")
    assert verdict.status is Status.ERROR
    assert "no reference" in verdict.explanation
    assert verdict.model == f"verifier:{name}"
