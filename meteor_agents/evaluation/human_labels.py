"""What people found about replies, and how far the judge agrees with them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from meteor_agents.errors import SettingsError
from meteor_agents.evaluation.grading import Estimate
from meteor_agents.evaluation.statistics import kappa, spearman
from meteor_agents.messages import Message, Status, Text


class Label(Message):
    """One person's finding on one reply."""

    id: Text
    """The question's."""
    label: str | int
    """correct or incorrect; or a score from 1 to 10."""
    reply: str | None = None
    """The reply that was labelled; the last checkpoint's where there is none."""

    @field_validator("label", mode="before")
    @classmethod
    def _known(cls, label: Any) -> str | int:
        word = str(label).strip().lower()
        if word in (Status.CORRECT, Status.INCORRECT):
            return word
        if word.isdigit() and 1 <= int(word) <= 10:
            return int(word)
        raise ValueError(f"{label!r} is neither correct nor incorrect, nor a whole number from 1 to 10")


def read_labels(path: Path) -> list[Label]:
    """The labels of a JSONL or CSV file with the columns id, label and, if need be, reply.

    Raises `SettingsError` that names the file and the line. All labels of a file are of one kind.
    """
    labels: list[Label] = []
    for number, row in _rows(path):
        try:
            labels.append(Label.model_validate({name: row.get(name) or None for name in Label.model_fields}))
        except ValidationError as error:
            first = error.errors()[0]
            problem = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{path}, line {number} (evaluate.human): {first['loc'][0]}: {problem}") from error
        if type(labels[-1].label) is not type(labels[0].label):
            raise SettingsError(
                f"{path}, line {number} (evaluate.human): scores and words in one file; make it two runs"
            )
    if not labels:
        raise SettingsError(f"{path}: holds no label (evaluate.human)")
    return labels


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read (evaluate.human): {error}") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        return [(reader.line_num, row) for row in reader]
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SettingsError(f"{path}, line {number} (evaluate.human): not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise SettingsError(f"{path}, line {number} (evaluate.human): must be a JSON object")
        rows.append((number, row))
    return rows


class Agreement(Message):
    """How far one judge agrees with people."""

    judge: str
    labels: int
    unknown: int = 0
    """Labels of questions that this run does not hold out, or has no reply to."""
    judge_errors: int = 0
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """By the human's label, then the judge's; scores by the whole number nearest to them."""
    same: float | None = None
    """Share of equal labels."""
    kappa: float | None = None
    """Cohen's, for correct and incorrect."""
    correlation: Estimate | None = None
    """Spearman's, for scores."""


def agreement(judge: str, pairs: Sequence[tuple[str | int, str | float | None]], unknown: int) -> Agreement:
    """From (human's, judge's) findings; None is a judge's error."""
    read = [(human, found) for human, found in pairs if found is not None]
    named = [(str(human), found if isinstance(found, str) else f"{found:.0f}") for human, found in read]
    scores = [(float(human), float(found)) for human, found in read if isinstance(human, int)]
    ranked = spearman([h for h, _ in scores], [f for _, f in scores])
    counts = Counter(named)
    return Agreement(
        judge=judge,
        labels=len(pairs) + unknown,
        unknown=unknown,
        judge_errors=len(pairs) - len(read),
        confusion={
            human: {found: counts[human, found] for found in sorted({f for h, f in counts if h == human})}
            for human in sorted({human for human, _ in counts})
        },
        same=sum(human == found for human, found in named) / len(named) if named else None,
        kappa=kappa(named) if named and not scores else None,
        correlation=Estimate.of(ranked, len(scores)) if ranked else None,
    )
