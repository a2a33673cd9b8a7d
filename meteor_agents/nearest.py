"""The known name that is nearest to a wrong one, for messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for; None when none is close.

    >>> nearest("refien", ["distill", "refine"])
    'refine'
    """
    found = difflib.get_close_matches(name[:_LONGEST], list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], *, among: str = "known") -> str:
    """A hint to end an error message with: the nearest name, or else all names, or "" when there are none.

    >>> did_you_mean("refien", ["distill", "refine"])
    "did you mean 'refine'?"
    >>> did_you_mean("x", ["distill", "refine"], among="stages")
    'stages: distill, refine'
    """
    names = list(known)
    if near := nearest(name, names):
        return f"did you mean {near!r}?"
    return f"{among}: {', '.join(names)}" if names else ""


_LONGEST = 200
"""Characters of a wrong name that are compared; comparing takes longer than linear time."""
