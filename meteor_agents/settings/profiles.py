"""Named settings of stage 3: whole ways of self-training, to choose or to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"low": "greedy", "high": {"beam": 10}, "verify": False, "loss": "hinge", "nll": 0.0},
    "best": {"low": "greedy", "high": {"best_of": 8, "by": "judge"}, "verify": True, "loss": "dpo", "nll": 1.0},
}
"""paper: greedy versus beam-10, with a pairwise hinge. best: DPO on pairs of which the judge finds the high side right and
the low one wrong, and the preferred reply kept likely."""

REPLACED = frozenset(
    {name for profile in PROFILES.values() for name in profile}
    | {"profile", "margin", "beta", "label_smoothing", "length_desensitise", "near_equal", "max_length_ratio"}
)
"""What one profile must not inherit from another: all that decides pairs and loss. Turns, questions and training stay."""


def under(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of stage 3 with those of the profile that they name beneath them; an unknown name is left to validation."""
    return {**PROFILES.get(str(given.get("profile")), {}), **given}


def instead(given: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of stage 3 in which `fragment` decides pairs and loss alone."""
    return {**{name: value for name, value in given.items() if name not in REPLACED}, **fragment}
