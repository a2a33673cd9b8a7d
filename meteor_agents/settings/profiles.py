"""Named settings of stage 3: complete ways of self-training, to choose from or to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"low": "greedy", "high": {"beam": 10}, "verify": False, "loss": "hinge", "nll": 0.0},
    "best": {"low": "greedy", "high": {"best_of": 8, "by": "judge"}, "verify": True, "loss": "dpo", "nll": 1.0},
}
"""`paper`: greedy against beam search with 10 beams, trained with a pairwise hinge loss. `best`: DPO on pairs whose high
reply the judge finds correct and whose low one it does not, with a term that keeps the preferred reply likely."""

REPLACED = frozenset(
    {name for profile in PROFILES.values() for name in profile}
    | {"profile", "margin", "beta", "label_smoothing", "length_desensitise", "near_equal", "max_length_ratio"}
)
"""What a profile must not inherit from another: everything that decides pairs and loss. Turns, questions and training
stay."""


def under(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of stage 3 with the values of their `profile` filled in. An unknown profile is left to validation."""
    return {**PROFILES.get(str(given.get("profile")), {}), **given}


def instead(given: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of stage 3 with pairs and loss decided by `fragment` alone."""
    return {**{name: value for name, value in given.items() if name not in REPLACED}, **fragment}
