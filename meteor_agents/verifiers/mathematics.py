"""`math`: the answer is the same mathematical object as the reference, by math-verify (an extra).

math-verify reads LaTeX and plain expressions with SymPy and compares them symbolically. It may run without end on some
expressions, and its own time-outs need the main thread; so it runs in child processes, which are ended at `timeout_s`.
"""

from __future__ import annotations

import importlib.util
import re
import string
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.errors import MissingExtraError, SettingsError
from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.child import Phase
from meteor_agents.verifiers.markup import boxes, tail, visible
from meteor_agents.verifiers.verdicts import Unread, both_read, correct, incorrect, quoted, undecided
from meteor_agents.verifiers.wording import DOUBT, NEGATION, OR, announced
from meteor_agents.verifiers.workers import Ended, Job, Workers

FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\$(.+?)\$"
    r"|(?<!\\)\\\[((?:\\\\|(?!\\[\[\]]).)++)\\\]|(?<!\\)\\\(((?:\\\\|(?!\\[()]).)++)\\\)",
    re.DOTALL,
)
"""A formula between its marks. None opens within another, so that many that never close are passed over in linear time."""
ALTERNATIVE = re.compile(rf"(?<!\w){OR}(?!\w)", re.IGNORECASE)
PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sinh|cosh|tanh|log|exp|pi\b)[A-Za-z]{4,}")
"""A word that is no function of mathematics: the text around a formula, not the formula."""
AROUND = string.whitespace + ".*_`"
"""Marks around a formula that stands alone on its line."""
LONGEST = 500
"""Characters of a formula that is read."""


UNREAD = Unread(
    "holds no single formula",
    "gives no single formula",
    "End the answer with one formula, such as: The answer is $x + 1$.",
)


class MathOptions(BaseModel):
    """How formulas are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: float = Field(default=10.0, gt=0, le=600)
    """A comparison that takes longer is ended; the answer is then incorrect."""
    workers: int = Field(default=2, ge=1, le=64)
    """Comparisons at once, each in a process of its own (about 80 MB)."""


class MathVerifier:
    """Compares formulas symbolically: `(x+1)^2` is `x^2+2x+1`. Raises `MissingExtraError` without math-verify."""

    name = "math"

    def __init__(self, options: MathOptions | None = None) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("the verifier math", "math")
        given = options or MathOptions()
        self._workers = Workers(Job(f"{__name__}:serve_mathematics", {}, timeout_s=given.timeout_s), most=given.workers)
        try:
            self._workers.start()
        except (OSError, SettingsError) as error:
            raise SettingsError(f"Verifier 'math': {error}") from error

    def verify(self, question: Question, answer: str) -> Verdict:
        """The verdict on the one formula that the answer gives. An answer with several, or with doubt, is incorrect."""
        read = both_read(self.name, question, answer, formula(question.reference or ""), formula(answer), UNREAD)
        if isinstance(read, Verdict):
            return read
        expected, given = read
        found = self._workers.ask("verify", question, given, expected=expected)
        if isinstance(found, Ended):
            return incorrect(self.name, f"The answer {quoted(given)} could not be compared: {found.reason}.")
        if found == "no reference":
            return undecided(self.name, f"The reference of question {question.id} cannot be read as mathematics.")
        if found == "no answer":
            return incorrect(self.name, f"The answer {quoted(given)} cannot be read as mathematics.")
        return correct(self.name) if found is True else incorrect(self.name, "The answer is not the expected value.")

    def close(self) -> None:
        """Ends the processes, also in the middle of a comparison."""
        self._workers.close()


def formula(text: str) -> str | None:
    """The one formula that a text gives as its answer; None for none, several different ones, or an open answer."""
    plain = tail(visible(text)).strip()
    at, denied = announced(plain)
    if denied:
        return None
    plain = plain[at:] if at is not None else plain
    if boxed := {box.inner.strip() for box in boxes(plain)}:
        return _only(boxed)
    around = FORMULA.sub(" ", plain)
    if any(pattern.search(around) for pattern in (ALTERNATIVE, NEGATION, DOUBT)):
        return None
    if found := {next(filter(None, match.groups())).strip() for match in FORMULA.finditer(plain)}:
        return _only(found)
    lines = [line for written in plain.splitlines() if (line := written.strip(AROUND).strip())]
    return None if len(lines) != 1 or PROSE.search(lines[0]) else _only({lines[0]})


def _only(found: set[str]) -> str | None:
    return next(iter(found)) if len(found) == 1 and 0 < len(min(found)) <= LONGEST else None


class ServedMathematics:
    """What a child process serves. Its process has the time limit, so math-verify's own are off."""

    def call(self, method: str, question: Question, answer: str, extra: dict[str, Any], phase: Phase) -> Any:
        """True or False; "no reference" or "no answer" for what math-verify cannot read."""
        from math_verify import parse, verify

        expected, given = (parse(f"${text}$", parsing_timeout=None) for text in (extra["expected"], answer))
        if not expected:
            return "no reference"
        return verify(expected, given, timeout_seconds=None) if given else "no answer"


def serve_mathematics(blobs: Sequence[bytes]) -> ServedMathematics:
    """The object that `child` serves. Importing math-verify takes some seconds, and is done here, before the first check."""
    import logging

    import math_verify

    logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)  # it warns that its own time-outs are off
    return ServedMathematics()
