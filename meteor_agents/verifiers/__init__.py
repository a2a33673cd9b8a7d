"""The seam to every verifier: a program that checks an answer, where a program can.

`open_verifier` turns a name of the settings into a verifier. A user's own is `"module:function"`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Verdict

KNOWN = ("exact", "numeric", "choice", "math", "sql")

OptionsT = TypeVar("OptionsT", bound=BaseModel)


@runtime_checkable
class Verifier(Protocol):
    """Finds whether an answer is correct, without a model.

    Example:
        >>> from meteor_agents import Status
        >>> class Brief:
        ...     name = "brief"
        ...
        ...     def verify(self, question: Question, answer: str) -> Verdict:
        ...         status = Status.CORRECT if len(answer.split()) <= 20 else Status.INCORRECT
        ...         return Verdict(status=status, explanation="At most 20 words.", model="verifier:brief")
        ...
        ...     def close(self) -> None:
        ...         pass
        >>> isinstance(Brief(), Verifier)
        True
        >>> Brief().verify(Question(id="q", question="Why?"), "Because.").status.value
        'correct'
    """

    @property
    def name(self) -> str:
        """What the settings call it; its verdicts have the model `verifier:<name>`."""
        ...

    def verify(self, question: Question, answer: str) -> Verdict:
        """The verdict on a final answer, which comes without its reasoning.

        May block, and may be called from several threads at once. What is wrong with the answer is a verdict, never
        an exception; a question that cannot be checked gets a verdict with `Status.ERROR`.
        """
        ...

    def close(self) -> None:
        """Release what the verifier holds. `verify` is not called after it."""
        ...


@runtime_checkable
class ComparesAnswers(Protocol):
    """A verifier that can tell whether two answers come to the same."""

    def view(self, question: Question, answer: str) -> str | None:
        """The answer as the verifier sees it: answers with equal views are the same answer. None: it cannot be read.

        May block, like `verify`.
        """
        ...


def open_verifier(name: str, options: Mapping[str, Any], base: Path) -> Verifier:
    """The verifier of that name: `exact`, `numeric`, `choice`, `math`, `sql`, or a user's `module:function`.

    Paths among the options, and the user's module, are looked up relative to the folder `base`.
    Raises `SettingsError` for an unknown name or option, a value out of range, or what cannot be opened.
    """
    # Each kind is imported when it is asked for, and gets its own options parsed.
    if ":" in name:
        from meteor_agents.verifiers.function import FunctionOptions, FunctionVerifier

        return FunctionVerifier.load(name, base, parse_options(FunctionOptions, name, options))
    match name:
        case "exact":
            from meteor_agents.verifiers.exact import ExactOptions, ExactVerifier

            parse_options(ExactOptions, name, options)
            return ExactVerifier()
        case "numeric":
            from meteor_agents.verifiers.numeric import NumericOptions, NumericVerifier

            return NumericVerifier(parse_options(NumericOptions, name, options))
        case "choice":
            from meteor_agents.verifiers.choice import ChoiceOptions, ChoiceVerifier

            parse_options(ChoiceOptions, name, options)
            return ChoiceVerifier()
        case "math":
            from meteor_agents.verifiers.mathematics import MathOptions, MathVerifier

            return MathVerifier(parse_options(MathOptions, name, options))
        case "sql":
            from meteor_agents.verifiers.sql import SqlOptions, SqlVerifier

            return SqlVerifier.open(parse_options(SqlOptions, name, options), base)
        case _:
            raise SettingsError(unknown_name(name))


def parse_options(model: type[OptionsT], name: str, options: Mapping[str, Any]) -> OptionsT:
    """The options of the verifier `name` as its model. Raises `SettingsError` that names every wrong option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))} is unknown"
            if problem["type"] == "extra_forbidden"
            else f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        takes = ", ".join(model.model_fields) or "no options"
        raise SettingsError(f"Verifier {name!r}: option {'; option '.join(problems)}. It takes: {takes}.") from error


def unknown_name(name: str) -> str:
    """The message for a verifier that does not exist: the nearest known name, if one is near, and all known names."""
    nearest = difflib.get_close_matches(name, KNOWN, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"There is no verifier {name!r}.{hint} Known are {', '.join(KNOWN)}, and your own as 'module:function'."
