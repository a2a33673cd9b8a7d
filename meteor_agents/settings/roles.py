"""The models of a run: who answers, who teaches, who judges (`student`, `teacher`, `judge`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from meteor_agents.models import SamplingParams
from meteor_agents.settings.credentials import secret_in_address, texts_in
from meteor_agents.settings.section import Section

ROLES = ("student", "teacher", "judge")
REFERENCE = "reference"
"""The backend of a teacher that answers with the references of the data."""


# Backends import the settings, so the settings cannot ask a backend which of its options matter. They need to know two
# things without asking, because stored calls and runs are found by them: which options change no reply, and which
# backends load their model from a folder.
NOT_DECIDING = frozenset(
    {
        "base_url",
        "headers",
        "headers_env",
        "api_key_env",
        "query",
        "token_limit",
        "device",
        "max_batch",
        "launch",
        "while_training",
    }
)
"""Options that say where and how a model is asked, but do not change what it replies.

A run with another value of one of these finds the calls that are stored already. An option that is not listed is part of
every call's key. Adding or removing a name makes existing runs ask their calls again.
"""
MODEL_FOLDERS = frozenset({"transformers", "sglang"})
"""Backends whose `model` may be a folder, relative to the settings file. For all others `model` is only a name."""


class Limits(Section):
    """How fast one role's model may be asked, and how long a call may take."""

    concurrency: int = Field(default=64, ge=1)
    """Calls in flight at once. A server that reports overload is given fewer for a while, and then more again."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Calls begun in any 60 seconds; no limit when absent."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies together in any 60 seconds; no limit when absent."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds that one try at a server may take in all. A model in this process has no time limit."""
    connect_timeout_s: float = Field(default=20, gt=0)
    """Seconds until the server must have accepted the connection."""
    read_timeout_s: float | None = Field(default=None, gt=0)
    """Seconds allowed between two parts of a reply; when absent, only `timeout_s` counts."""
    retries: int = Field(default=5, ge=0)
    """Further tries after a failure that may pass, such as a time-out or an overloaded server."""


class PriceSettings(Section):
    """What a model's tokens cost."""

    input: float = Field(ge=0)
    """US dollars per million tokens of prompts."""
    output: float = Field(ge=0)
    """US dollars per million tokens of replies."""


class ModelSettings(BaseModel):
    """One role's model. Keys that are not named here are options of the backend, which checks them.

    >>> ModelSettings(backend="openai", model="gpt-4o", base_url="https://api.openai.com/v1").options
    {'base_url': 'https://api.openai.com/v1'}
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    backend: str
    """What runs the model: `transformers`, `sglang`, `openai`, `anthropic`, `scripted`, `reference` (teacher only), or one
    that an installed package adds."""
    model: str | None = None
    """A model folder (relative to the settings file), a name that `meteor models fetch` knows, or the name that the server
    uses."""
    sampling: SamplingParams = SamplingParams()
    """How replies are decoded. Keys that are left out keep the role's own defaults: a judge that is given only
    `max_tokens` still decodes greedily."""
    limits: Limits = Limits()
    """How fast the model may be asked."""
    price: PriceSettings | None = None
    """What its tokens cost; needed for a budget in dollars and for estimates."""

    @field_validator("sampling", mode="before")
    @classmethod
    def _over_the_roles_default(cls, given: Any) -> Any:
        default: SamplingParams = cls.model_fields["sampling"].default
        return {**default.model_dump(), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _no_secret_in_an_address(self) -> Self:
        for name, text in texts_in(self.options):
            if what := secret_in_address(text):
                raise ValueError(
                    f"the address in {name} holds {what}, and a settings file must hold no secret; leave it out, export "
                    f"it as an environment variable and write api_key_env: VARIABLE"
                )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the backend."""
        return dict(self.model_extra or {})

    @property
    def deciding_options(self) -> dict[str, Any]:
        """The options that may change a reply, and so are part of call keys and recipes; no secrets, no addresses."""
        return {name: value for name, value in self.options.items() if name not in NOT_DECIDING}

    @property
    def identity(self) -> str:
        """What the store calls the model."""
        return self.model or self.backend


class StudentSettings(ModelSettings):
    """The small model that is trained."""

    sampling: SamplingParams = SamplingParams(temperature=0.7, top_p=0.9)
    """How the student decodes its replies."""


class TeacherSettings(ModelSettings):
    """The large model that writes the answers of stage 1."""

    sampling: SamplingParams = SamplingParams(temperature=0.7, top_p=1.0, max_tokens=1024)
    """How the teacher decodes its replies."""


class JudgeSettings(ModelSettings):
    """What decides whether an answer is correct: a model (`backend`), or a program (`verifier`) with its options."""

    backend: str = ""
    """What runs the judge's model; left out for a verifier."""
    verifier: str | None = None
    """`exact`, `numeric`, `choice`, `math`, `sql`, or `module:function` for your own."""
    sampling: SamplingParams = SamplingParams(temperature=0.0, top_p=1.0, max_tokens=1024)
    """How a judge model decodes its verdicts; greedily unless told otherwise."""

    @model_validator(mode="after")
    def _one_of_two(self) -> JudgeSettings:
        if bool(self.backend) == bool(self.verifier):
            raise ValueError("a judge has either a backend or a verifier")
        return self

    @property
    def identity(self) -> str:
        """What the store calls the judge: the model's name, or `verifier:NAME`."""
        return f"verifier:{self.verifier}" if self.verifier else super().identity
