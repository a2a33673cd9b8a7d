"""How one server wants its requests put: what it refuses by name is left out, or named otherwise, from then on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PADDING = 64
"""White space in a row in a reply that must be JSON: the model pads for ever, which a grammar allows."""
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does ?n[o']t support|unrecognized|unknown|unexpected|not permitted|not allowed|deprecated"
    r"|cannot both|extra inputs|no longer|unavailable"
)


@dataclass(frozen=True, slots=True)
class OptionalField:
    """A field of the request's body that not every server takes."""

    name: str
    signs: tuple[str, ...]
    """Words of a refusal that mean this field, in lower case."""
    instead: str | None = None
    """Its name where the refusal asks for that; None: it is left out."""
    schema: bool = False
    """It carries the JSON schema of the reply."""
    recast: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Its value in an older form, where the refusal names that."""


def _json_object(wanted: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's Python server has the schema beside the type; servers that know no schema there still give JSON."""
    schema = wanted.get("json_schema")
    return {"type": "json_object", "schema": schema["schema"]} if schema else wanted


CHAT_FIELDS = (
    OptionalField("max_tokens", ("max_completion_tokens",), instead="max_completion_tokens"),
    OptionalField("response_format", ("json_object",), schema=True, recast=_json_object),
    OptionalField(
        "response_format", ("response_format", "json_schema", "json schema", "guided", "grammar"), schema=True
    ),
    OptionalField("top_p", ("top_p",)),
    OptionalField("temperature", ("temperature",)),
)
"""`max_tokens` became `max_completion_tokens`; models that reason refuse to be sampled otherwise than they are."""


class Dialect:
    """What has been learned about one server. `note` hears of each lesson, once."""

    def __init__(self, fields: Sequence[OptionalField], note: Callable[[str], None], *, schemas: bool = True) -> None:
        self._fields = fields
        self._note = note
        self._learned = {field for field in fields if field.schema and not schemas}

    def applied(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as the server wants it."""
        for field in self._learned:
            if field.name in body:
                value = body.pop(field.name)
                if field.instead or field.recast:
                    body[field.instead or field.name] = field.recast(value) if field.recast else value
        return body

    def learns(self, words: str, body: dict[str, Any]) -> bool:
        """Whether a refusal, in the server's `words`, named a field of `body` that can be put otherwise."""
        said = words.lower()
        for field in self._fields:
            meant = field.name in body and any(sign in said for sign in field.signs)
            if field.recast and meant:
                meant = field.recast(body[field.name]) != body[field.name]
            if meant and (field.instead or field.schema or _UNSUPPORTED.search(said)):
                self._learn(field, f"the server refuses {field.name}; meteor {_otherwise(field)} ({words[:120]})")
                return True
        return False

    def forgets_schema(self, text: str, body: dict[str, Any]) -> bool:
        """Whether a reply that had to follow a schema is padded with white space instead of being finished."""
        carriers = (field for field in self._fields if field.schema and not field.recast)
        schema = next((field for field in carriers if field.name in body), None)
        if schema is None or not re.search(rf"\s{{{PADDING}}}", text):
            return False
        self._learn(schema, f"a reply held to a schema was filled with white space; meteor {_without(schema)}")
        return True

    def _learn(self, field: OptionalField, sentence: str) -> None:
        if field not in self._learned:  # calls in flight may all meet the same refusal
            self._learned.add(field)
            self._note(sentence)


def _otherwise(field: OptionalField) -> str:
    if field.recast:
        return f"sends an older form of {field.name} from now on"
    return f"now sends {field.instead} instead" if field.instead else _without(field)


def _without(field: OptionalField) -> str:
    return "asks for JSON in words only from now on" if field.schema else f"leaves {field.name} out from now on"
