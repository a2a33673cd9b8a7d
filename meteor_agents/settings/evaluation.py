"""How the student is evaluated on held-out questions (`evaluate`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from meteor_agents.models import SamplingParams
from meteor_agents.settings.decoding import decoding
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.section import Section

EVALUATED = "evaluated"
"""The role of the models that are evaluated beside the student (`evaluate.models`)."""
CHECKPOINT_NAMES = ("base", "finetune", "refine", "self-train")
"""What the run's own checkpoints are called in tables."""


class RivalSettings(ModelSettings):
    """Another model that answers the held-out questions, to compare the student with."""

    name: str = Field(min_length=1)
    """What tables call the model."""

    @field_validator("name")
    @classmethod
    def _no_checkpoints_name(cls, name: str) -> str:
        if name in CHECKPOINT_NAMES:
            raise ValueError(f"{name!r} is what a checkpoint of the run is called; choose another name")
        return name

    @property
    def version(self) -> str:
        """What the store calls the model. It changes with anything that decides the model's replies."""
        content = [self.identity, self.deciding_options, self.sampling.model_dump(mode="json")]
        hashed = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.name}-{hashed[:8]}"

    def greedy(self, students: SamplingParams) -> SamplingParams:
        """Sampling parameters of the evaluation: greedy, with the student's limits unless the model has its own."""
        return decoding("greedy", self.sampling if "sampling" in self.model_fields_set else students)


class VerifierSettings(BaseModel):
    """A verifier with its options, written as in `judge`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verifier: str
    """`exact`, `numeric`, `choice`, `sql`, or `module:function` for your own."""

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the verifier."""
        return dict(self.model_extra or {})


class EvaluateSettings(Section):
    """What is measured on the held-out questions, and by whom."""

    sample: int | None = Field(default=None, ge=1)
    """At most this many questions of each held-out set; all when absent."""
    pairwise: bool = True
    """With a model judge: also compare replies side by side, in both orders. Compared are the first checkpoint with the
    last, and the last with each of `models`."""
    models: list[RivalSettings] = Field(default_factory=list)
    """Other models that answer the held-out questions too: APIs, servers or folders, each with a `name`."""
    judges: list[ModelSettings] = Field(default_factory=list)
    """More model judges, used only for evaluation. Figures are then means over the whole panel."""
    verifier: VerifierSettings | None = None
    """With a model judge: a verifier that checks the replies as well."""
    repeat: int = Field(default=10, ge=0)
    """Questions of each held-out set that model judges score twice, to measure how steady they are."""
    human: Path | None = None
    """A JSONL or CSV file of people's findings, to measure how well the judge agrees with them. Each row has `id`, `label`
    (correct, incorrect, or 1 to 10) and optionally `reply`."""

    @model_validator(mode="after")
    def _names_differ(self) -> EvaluateSettings:
        for what, names in (("models", [m.name for m in self.models]), ("judges", [j.identity for j in self.judges])):
            if double := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"two {what} are named {double!r}; give one another name")
        return self
