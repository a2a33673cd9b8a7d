"""Validation errors of settings, in words that name the setting and the nearest known one."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Union

from pydantic import BaseModel, ValidationError

from meteor_agents.nearest import did_you_mean
from meteor_agents.safe_text import printable


def complaints(error: ValidationError, model: type[BaseModel], under: str = "") -> Iterator[str]:
    """One sentence for each wrong setting of `model`, for example:

    unknown setting 'refine.update_evry'; did you mean 'update_every'?

    `under` is the dotted name of the section that was validated. No sentence repeats a value, which may be a secret.
    """
    for problem in error.errors(include_input=False, include_url=False):
        loc = [part for part in problem["loc"] if not _is_union_tag(part)]
        key = printable(".".join([*([under] if under else []), *map(str, loc)]))
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(str(loc[-1]), _fields_at(model, loc[:-1]))
            yield f"unknown setting '{key}'{'; ' if hint else ''}{hint}"
        elif problem["type"] == "missing":
            yield f"the setting '{key}' is missing"
        else:
            yield f"{key}{': ' if key else ''}{problem['msg'].removeprefix('Value error, ')}"


def _is_union_tag(part: object) -> bool:
    """pydantic names the member of a union in an error's location, which is nothing that a user wrote."""
    return isinstance(part, str) and (part[:1].isupper() or part.startswith(("literal[", "function-", "constrained-")))


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The known keys of the section at `loc`."""
    models = [model]
    for part in loc:
        if isinstance(part, int):
            continue  # an item of a list
        models = [
            inner
            for outer in models
            if part in outer.model_fields
            for inner in _models_in(outer.model_fields[part].annotation)
        ]
    return [name for found in models for name in found.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if typing.get_origin(annotation) in (Union, types.UnionType, list):
        return [model for member in typing.get_args(annotation) for model in _models_in(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
