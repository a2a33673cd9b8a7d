"""The verdicts that verifiers give, signed with the verifier's name."""

from __future__ import annotations

from meteor_agents.messages import Question, Status, Verdict


def correct(name: str) -> Verdict:
    """A verdict that the answer is right."""
    return Verdict(status=Status.CORRECT, model=f"verifier:{name}")


def incorrect(name: str, explanation: str, guide: str = "") -> Verdict:
    """A verdict that the answer is wrong, why, and a hint for the next try if there is one."""
    return Verdict(status=Status.INCORRECT, explanation=explanation, guide=guide, model=f"verifier:{name}")


def undecided(name: str, explanation: str) -> Verdict:
    """No verdict, and why: the answer may be right or wrong."""
    return Verdict(status=Status.ERROR, explanation=explanation, model=f"verifier:{name}")


def without_reference(name: str, question: Question) -> Verdict:
    """No verdict, since the question has no reference to compare with."""
    return undecided(
        name,
        f"Question {question.id} has no reference, which the verifier {name!r} compares with: add one to the data.",
    )


def quoted(text: str, limit: int = 60) -> str:
    """The text in quotes on one line, cut at `limit` characters."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= limit else line[: limit - 1] + "…"}"'
