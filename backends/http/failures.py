"""Errors that a server reports, with a status or inside a reply, and the errors of ours that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meteor_agents.backends.http.body import parsed
from meteor_agents.backends.http.error_table import Meaning, meaning_of
from meteor_agents.backends.http.waits import asked_wait_s, wait_s
from meteor_agents.errors import CredentialsError, ModelError, QuotaError, RefusedCallError, TransientModelError
from meteor_agents.models import Usage

_ADVICE = {
    Meaning.QUOTA: "The account has no credit or quota left: add some, then give the same command again",
    Meaning.KEY: "Check the key and what it is allowed to use",
    Meaning.LENGTH: "Shorten the prompt or lower sampling.max_tokens, so that both fit",
    Meaning.FILTER: "The provider's content filter does not let this prompt pass",
    Meaning.ADDRESS: "Check base_url",
    Meaning.MODEL: "Check the model's name",
}


@dataclass(frozen=True, slots=True)
class Reported:
    """An error in a server's own terms."""

    words: str
    codes: tuple[str, ...] = ()
    """The names that the error gives itself: its code, type, status and reasons."""
    status: int | None = None
    """The HTTP status that it names, whatever the reply's was."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the provider behind a gateway, if the gateway repeats them, and the pause that the error names."""

    def meaning(self, status: int | None) -> Meaning:
        """What it means in a reply with this status; None: in one that pretends to be a success.

        Gateways wrap errors of the server behind them into a 400 or a 500: the status that such an error names counts.
        """
        return meaning_of(self.status or status if status in (None, 400, 500) else status, self.codes, self.words)

    def failure(self, where: str, status: int | None, headers: Mapping[str, str], shown: str) -> ModelError:
        """The error to raise. `where` names model, server and status; `shown` is what may be shown of the words."""
        meaning = self.meaning(status)
        message = f"{where}: {shown}"
        if meaning in (Meaning.OVERLOAD, Meaning.TRANSIENT, Meaning.LATE):
            asked_s = asked_wait_s({**self.headers, **headers}, self.words)
            return TransientModelError(
                message, retry_after_s=asked_s, overload=meaning is Meaning.OVERLOAD, late=meaning is Meaning.LATE
            )
        advice = _ADVICE.get(meaning)
        message = f"{message.rstrip('.')}. {advice}" if advice else message
        if meaning is Meaning.QUOTA:
            return QuotaError(message)
        return CredentialsError(message) if meaning is Meaning.KEY else RefusedCallError(message)


def charged(failure: ModelError, usage: Usage) -> ModelError:
    """`failure`, with the tokens that the server counted all the same."""
    if usage != Usage():
        failure.spent = (usage.input_tokens, usage.output_tokens)
    return failure


def error_in_body(body: bytes) -> Reported:
    """The error in the body of a failed request; its text, where it is not JSON."""
    try:
        return reported(parsed(body).values[0])
    except ValueError:
        return Reported(body.decode("utf-8", "replace"))


def reported(content: Any) -> Reported:
    """The error in the parsed body of a failed request.

    Knows `{"error": {"message": ...}}` and `{"error": "..."}`, lists of them (Gemini), `{"detail": ...}` (FastAPI), and
    a message at the top. Whatever else it is, its JSON is what the server said.
    """
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if not isinstance(content, dict):
        return _read(content, around={})
    errors = content.get("errors")
    inner = content.get("error") or (errors[0] if isinstance(errors, list) and errors else errors) or content.get("detail")
    return _read(inner or content, around=content if inner else {})


def error_within(content: Any) -> Reported | None:
    """The error that a reply with a status of success holds instead of, or beside, what was asked for; else None."""
    if isinstance(content, list) and content:
        content = content[0]
    if not isinstance(content, dict):
        return None
    if content.get("error"):
        return reported(content)
    named = content.get("object") == "error" or content.get("type") == "error" or "detail" in content or "errors" in content
    lone = isinstance(content.get("message"), str) and "choices" not in content and "content" not in content
    return reported(content) if named or lone else None


def _read(error: Any, around: Mapping[str, Any]) -> Reported:
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if not isinstance(error, dict):
        words = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
        return _with_names(Reported(words), around)
    message = next((error[name] for name in ("message", "msg", "detail") if isinstance(error.get(name), str)), None)
    words = message if message and "loc" not in error else json.dumps(error, ensure_ascii=False)
    metadata = error.get("metadata")
    headers: dict[str, str] = {}
    if isinstance(metadata, dict):  # of a gateway: what the provider behind it said
        if isinstance(metadata.get("raw"), str):
            words = f"{words}: {metadata['raw']}"
        if isinstance(metadata.get("headers"), dict):
            headers = {name.lower(): str(value) for name, value in metadata["headers"].items()}
    found = _with_names(Reported(words, headers=headers), error)
    if isinstance(inner := error.get("innererror"), dict):
        found = _with_names(found, inner)
    for detail in error["details"][:20] if isinstance(error.get("details"), list) else ():
        if isinstance(detail, dict):
            found = _with_names(found, {"code": detail.get("reason")})
            if (pause_s := wait_s(_text(detail.get("retryDelay")))) is not None:
                found = replace(found, headers={"retry-after": str(pause_s), **found.headers})
    return _with_names(found, around)


def _with_names(found: Reported, error: Mapping[str, Any]) -> Reported:
    """`found` with the names and the status that an error's fields hold."""
    codes, status = list(found.codes), found.status
    for name in ("code", "type", "status", "status_code", "error_code"):
        value = error.get(name)
        if isinstance(value, str) and value:
            codes.append(value)
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3 else value
        if status is None and isinstance(number, int) and 400 <= number < 600:
            status = number
    return replace(found, codes=tuple(codes), status=status)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
