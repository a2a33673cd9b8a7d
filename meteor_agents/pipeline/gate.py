"""The gate: whether a newly trained student may replace the current one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meteor_agents.evaluation.grading import ask_and_grade, fingerprint
from meteor_agents.evaluation.results import GradedReply
from meteor_agents.evaluation.statistics import sign_test
from meteor_agents.messages import Question, Status
from meteor_agents.pipeline.engine import Drain, each
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stage_calls import greedy

GATE = "gate"
"""The stage of the gate's calls."""
SIGNIFICANCE = 0.25
"""One-sided level of the sign test at which a candidate counts as worse. It favours the student that is there: a gate has
few questions, and turning an update down wrongly costs less than keeping one wrongly."""


SPEAKING_FILES = (
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""Files of a checkpoint that decide a prompt's bytes, its tokens, and the tokens that end a reply."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a new student replaces the old one, and why."""

    promoted: bool
    reason: str
    right: tuple[int, int] | None = None
    """Gate questions answered correctly before and after; None where replies are not graded."""


async def ask_gate(session: Session) -> dict[str, GradedReply]:
    """The served student's replies to the gate's questions, by id; graded only if grading costs nothing."""
    cast, sampling = session.cast, greedy(session.settings)
    results: dict[str, GradedReply] = {}

    async def asked(question: Question) -> None:
        if cast.judge.free:
            results[question.id] = await ask_and_grade(
                question, cast.student, cast.judge, sampling=sampling, stage=GATE
            )
        else:
            attempt = await cast.student.attempt(question, stage=GATE, sampling=sampling)
            results[question.id] = GradedReply(asked=fingerprint(question), attempt=attempt, status=Status.ERROR)

    await each(session.questions.gate, asked, window=session.window(), drain=Drain(), stage=GATE)
    return results


def speaks_unlike(start: Path, candidate: Path) -> str | None:
    """Why the candidate would read prompts or end replies differently than in training: the file; None if it would not."""
    for name in SPEAKING_FILES:
        trained, served = ((folder / name) for folder in (start, candidate))
        if trained.exists() != served.exists() or (trained.exists() and trained.read_bytes() != served.read_bytes()):
            return f"{name} is not that of {start.name}, with which it was trained"
    return None


def judge_candidate(before: Mapping[str, GradedReply], after: Mapping[str, GradedReply], *, free: bool) -> Gate:
    """Compare the candidate with the student that it would replace, question by question (one-sided sign test)."""
    if not before:
        return Gate(True, "loads; no gate questions")
    n = len(before)
    if any(id_ not in after for id_ in before):
        return Gate(False, f"gives no reply to {len(before.keys() - after.keys())} of {n} gate questions")
    pairs = [(before[id_], after[id_]) for id_ in before]
    if not any(new.attempt.text.strip() for _, new in pairs):
        return Gate(False, "gives empty replies")
    cut_before, cut = (sum(side.attempt.truncated for side in sides) for sides in zip(*pairs, strict=True))
    if cut > max(cut_before, n // 2):
        return Gate(False, f"does not stop: {cut} of {n} replies cut at max_tokens, {cut_before} before")
    if not free:
        return Gate(True, f"loads, answers and stops on {n} gate questions")
    right = [(old.status is Status.CORRECT, new.status is Status.CORRECT) for old, new in pairs]
    right_before, right_after = (sum(sides) for sides in zip(*right, strict=True))
    counts = f"{right_after} of {n} gate questions right, {right_before} before"
    if sign_test(better=right.count((False, True)), worse=right.count((True, False))) < SIGNIFICANCE:
        return Gate(False, f"worse: {counts}", (right_before, right_after))
    return Gate(True, counts, (right_before, right_after))
