"""How one server wants its requests: a field that it refuses by name is left out, or sent in another form, from then on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

PADDING = 64
"""Characters of white space in a row, in a reply that must be JSON, that show a model which pads without end."""
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|instead|does ?n[o']t support|unrecognized|unknown|unexpected|not permitted|not allowed|"
    r"deprecated|cannot both|extra inputs|no longer|unavailable"
)
_ABOUT_THE_VALUE = re.compile(
    r"too (?:large|small|high|low|big|long)|at (?:most|least)|(?:greater|less|larger|smaller|more|fewer) than|between|"
    r"out of range|range|exceeds?\b|maximum value|minimum value|must be (?:positive|<|>|\d)"
)
"""The field is known, and could be sent with another value."""
_READ = 4000
"""Characters of a refusal that are looked at."""


TokenLimit = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True)
class Accepts:
    """What the server takes in a request."""

    token_limit: TokenLimit = "max_tokens"
    """The field that carries `max_tokens`."""
    json_schema: bool = True
    """False: schemas are not sent."""


@dataclass(frozen=True, slots=True)
class OptionalField:
    """A field of the request's body that not every server takes."""

    name: str
    signs: tuple[str, ...]
    """Words of a refusal that mean this field, in lower case."""
    instead: str | None = None
    """The field's other name, used where the refusal asks for it; None: the field is left out."""
    schema: bool = False
    """Whether the field carries the JSON schema of the reply."""
    recast: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Turns its value into an older form, where the refusal names that form."""


def _json_object(wanted: dict[str, Any]) -> dict[str, Any]:
    """The form of llama.cpp's Python server: the schema beside the type. Others ignore the schema and still give JSON."""
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
"""OpenAI renamed `max_tokens` to `max_completion_tokens`; reasoning models often take no temperature and no top_p."""


class Dialect:
    """What has been learned about one server. `note` is called once for each field."""

    def __init__(self, fields: Sequence[OptionalField], note: Callable[[str], None], *, schemas: bool = True) -> None:
        self._fields = fields
        self._note = note
        self._learned = {field for field in fields if field.schema and not schemas}

    def applied(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body`, changed in place into what the server takes."""
        for field in self._learned:
            if field.name in body:
                value = body.pop(field.name)
                if field.instead or field.recast:
                    body[field.instead or field.name] = field.recast(value) if field.recast else value
        return body

    def learns(self, words: str, body: dict[str, Any], shown: str) -> bool:
        """Whether a refusal, in the server's `words`, named a field of `body` that can be put otherwise.

        A field is given up when the server does not take it, not when it dislikes its value: "max_tokens is too large" is
        for the user to change. `shown` is what a note may repeat of the words.
        """
        said = words[:_READ].lower()
        for field in self._fields:
            meant = field.name in body and any(sign in said for sign in field.signs)
            if field.recast and meant:
                meant = field.recast(body[field.name]) != body[field.name]
            if meant and (field.schema or (_UNSUPPORTED.search(said) and not _ABOUT_THE_VALUE.search(said))):
                self._learn(field, f"the server refuses {field.name}; meteor {_otherwise(field)} ({shown})")
                return True
        return False

    def forgets_schema(self, text: str, body: dict[str, Any]) -> bool:
        """Whether a reply that had to follow a schema is padded with white space. If so, later requests carry no schema."""
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
