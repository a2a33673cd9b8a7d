"""The examples in the docstrings of the package, executed."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("statistics", "results", "model_families")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"meteor_agents.evaluation.{name}"))
    assert done.attempted > 0
    assert done.failed == 0
