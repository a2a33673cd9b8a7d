from __future__ import annotations

import doctest

import pytest

from meteor_agents import nearest as module
from meteor_agents.nearest import did_you_mean, nearest


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(module).attempted == 3
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [("epoch", ["epochs", "seed"], "epochs"), ("", ["a"], None), ("x", [], None), ("e" * 100_000, ["epochs"], None)],
)
def test_the_nearest_name_is_close_or_none(name: str, known: list[str], found: str | None) -> None:
    assert nearest(name, known) == found


def test_a_hint_names_the_nearest_or_all_or_nothing() -> None:
    assert did_you_mean("trian", iter(["train", "test"])) == "did you mean 'train'?"
    assert did_you_mean("zzz", iter(["train", "test"])) == "known: train, test"
    assert did_you_mean("zzz", []) == ""
