"""People's labels of replies, and how far a judge agrees with them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from meteor_agents.errors import SettingsError
from meteor_agents.evaluation.results import Statistic
from meteor_agents.evaluation.statistics import kappa, spearman
from meteor_agents.messages import Message, Status, Text
from meteor_agents.text_encoding import LONGEST_CELL


class HumanLabel(Message):
    """One person's label of one reply."""

    id: Text
    """The question's id."""
    label: str | int
    """`correct` or `incorrect`, or a score from 1 to 10."""
    reply: str | None = None
    """The reply that was labelled; None stands for the last checkpoint's reply."""

    @field_validator("label", mode="before")
    @classmethod
    def _known(cls, label: Any) -> str | int:
        word = str(label).strip().lower()
        if word in (Status.CORRECT, Status.INCORRECT):
            return word
        if word.isdecimal() and 1 <= int(word) <= 10:
            return int(word)
        raise ValueError(f"{label!r} is neither correct nor incorrect, nor a whole number from 1 to 10")


def read_labels(path: Path) -> list[HumanLabel]:
    """The labels in a JSONL or CSV file with the columns `id`, `label` and, optionally, `reply`.

    Raises `SettingsError` that names the file and the line. A file holds either words or scores, not both.
    """
    labels: list[HumanLabel] = []
    for number, row in _rows(path):
        try:
            labels.append(HumanLabel.model_validate({name: row.get(name) or None for name in HumanLabel.model_fields}))
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
    """(line number, row) of every row. Raises `SettingsError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read (evaluate.human): {error}") from error
    if path.suffix.lower() == ".csv":
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            return [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise SettingsError(f"{path}, line {reader.line_num} (evaluate.human): not CSV: {error}") from error
    lines = enumerate(text.split("\n"), 1)
    return [(number, _object(line, f"{path}, line {number} (evaluate.human)")) for number, line in lines if line.strip()]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is legal in JSON and no text
    except json.JSONDecodeError as error:
        raise SettingsError(f"{where}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise SettingsError(f"{where}: must be a JSON object")
    return row


class HumanAgreement(Message):
    """How far one judge agrees with people."""

    judge: str
    labels: int
    """All labels of this held-out set."""
    unknown: int = 0
    """Labels of questions that the run has no reply to."""
    judge_errors: int = 0
    """Labelled replies that the judge gave no readable label for."""
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Counts by the person's label, then the judge's; a judge's score is rounded to a whole number."""
    same: float | None = None
    """Share of equal labels; None without any."""
    kappa: float | None = None
    """Cohen's kappa, for the labels correct and incorrect."""
    correlation: Statistic | None = None
    """Spearman's rank correlation, for scores."""


def human_agreement(
    judge: str, pairs: Sequence[tuple[str | int, str | float | None]], unknown: int
) -> HumanAgreement:
    """The agreement over pairs of (person's label, judge's label); None stands for a judge's error."""
    read = [(human, found) for human, found in pairs if found is not None]
    named = [(str(human), found if isinstance(found, str) else f"{found:.0f}") for human, found in read]
    scores = [(float(human), float(found)) for human, found in read if isinstance(human, int)]
    ranked = spearman([h for h, _ in scores], [f for _, f in scores])
    counts = Counter(named)
    return HumanAgreement(
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
        correlation=Statistic.of(ranked, len(scores)) if ranked else None,
    )
