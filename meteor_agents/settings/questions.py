"""Where the questions come from, and which are kept for evaluation (`questions`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from meteor_agents.messages import Question
from meteor_agents.nearest import did_you_mean
from meteor_agents.settings.section import Section


class QuestionsSettings(Section):
    """The questions file and how it is split."""

    path: Path
    """A JSON, JSONL, CSV or Parquet file, relative to the settings file. A row needs `question`, and may have `id`,
    `title`, `reference`, `reasoning` and `metadata`; other columns become metadata."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Column names, where the file uses others: ours first, then the file's, such as `{question: body, id: number}`."""
    holdout: int = Field(default=64, ge=0)
    """How many questions to hold out for evaluation, drawn by `seed` and never trained on."""
    heldout: dict[str, Path] = Field(default_factory=dict)
    """More held-out sets, name to file. Each is reported on its own."""
    gate: int = Field(default=16, ge=0)
    """How many questions to set apart to decide whether an update is kept. They are asked only when the judge is a
    verifier, since asking a model judge at every update would cost money."""
    seed: int = 0
    """Decides which questions are held out and which are the gate's."""

    @field_validator("fields")
    @classmethod
    def _our_names(cls, fields: dict[str, str]) -> dict[str, str]:
        for name in fields:
            if name not in Question.model_fields:
                raise ValueError(
                    f"{name!r} is not one of our field names; {did_you_mean(name, Question.model_fields)} "
                    "(write our name first, then the file's)"
                )
        return fields

    @field_validator("heldout")
    @classmethod
    def _sets_have_names(cls, heldout: dict[str, Path]) -> dict[str, Path]:
        if any(not name.strip() for name in heldout):
            raise ValueError("every held-out set needs a name")
        return heldout
