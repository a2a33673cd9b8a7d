"""The gate: whether a newly trained student may take the place of the one it would replace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meteor_agents.evaluation.results import GradedReply
from meteor_agents.evaluation.statistics import sign_test
from meteor_agents.messages import Status

GATE = "gate"
"""The stage of the gate's calls."""
SIGNIFICANCE = 0.05
"""One-sided level of the sign test at which a candidate counts as worse."""


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
"""Of a checkpoint: what decides a prompt's bytes, its tokens, and the tokens that end a reply."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a new student takes the old one's place, and why."""

    promoted: bool
    reason: str


def speaks_unlike(start: Path, candidate: Path) -> str | None:
    """Which file would have the candidate read prompts or end replies otherwise than it was trained; None: none."""
    for name in SPEAKING_FILES:
        trained, served = ((folder / name) for folder in (start, candidate))
        if trained.exists() != served.exists() or (trained.exists() and trained.read_bytes() != served.read_bytes()):
            return f"{name} is not that of {start.name}, with which it was trained"
    return None


def judge_candidate(before: dict[str, GradedReply], after: dict[str, GradedReply], *, free: bool) -> Gate:
    """Compare the candidate with the student it would replace, question by question."""
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
        return Gate(False, f"worse beyond noise: {counts}")
    return Gate(True, counts)
