"""Every error of this project, in one tree.

    MeteorError
    ├── UsageError            the user must change something: exit code 2
    │   ├── SettingsError     a setting is unknown, missing or out of range
    │   ├── QuestionsError    a questions file cannot be read
    │   ├── TemplateError     a prompt template is missing or cannot be rendered
    │   └── MissingExtraError an optional dependency is not installed
    ├── ModelError            a model did not give a reply to one call
    │   ├── TransientModelError   worth another try (time-out, 429, 5xx)
    │   │   └── UnreachableError  no connection to the server, or it broke off
    │   ├── RefusedCallError      this request will never be answered (400, context too long)
    │   │   └── UnrecordedCallError   a replay was asked for a call that its run never made
    │   └── NoCallSucceeds        no call to this model will succeed until the user acts: the run ends
    │       ├── CredentialsError      the key is wrong, or may not use this model
    │       └── QuotaError            the account has no credit or quota left
    ├── ServerDown            a server fails nearly every call, or ours does not come up: all is kept, the run ends
    ├── TrainingError         a training job failed: the run ends, the starting checkpoint is kept
    │   └── NothingToTrainError   none of its rows can be trained on: the round is not promoted, the run continues
    ├── StoreError            the run directory cannot be used
    └── BudgetReached         the run stopped at its budget, everything saved: exit code 3

A failed question is data on its trace; a failed store, trainer, key or setting ends the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

LONGEST_BELIEVED_S = 31 * 24 * 3600
"""A server that asks for a longer pause than a month has sent something else, such as a date."""


class MeteorError(Exception):
    """The root. `str(error)` is for people: what happened, to whom, and what to do next."""


class UsageError(MeteorError):
    """The user must change a setting, an input or the command line."""


class SettingsError(UsageError):
    """A setting is unknown, missing or out of range."""


class QuestionsError(UsageError):
    """A questions file is missing or malformed; the message names the file and the line."""


class TemplateError(UsageError):
    """A prompt template is missing, does not parse, or uses a variable that its role does not get."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'meteor-agents[{extra}]'")


class ModelError(MeteorError):
    """A model gave no reply to one call."""

    spent: tuple[int | None, int | None] | None = None
    """Input and output tokens that the server reported for the call although it failed; None where it reported none."""


class TransientModelError(ModelError):
    """Worth another try.

    `retry_after_s` is the pause that the server asked for, in seconds. One that cannot be meant (negative, not a number,
    longer than `LONGEST_BELIEVED_S`) counts as not asked for. `overload`: the server said that it is asked too much (429,
    503, 529). `late`: it did not answer in time.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, overload: bool = False, late: bool = False
    ) -> None:
        super().__init__(message)
        meant = retry_after_s is not None and math.isfinite(retry_after_s) and 0 <= retry_after_s <= LONGEST_BELIEVED_S
        self.retry_after_s = retry_after_s if meant else None
        self.overload = overload
        self.late = late


class UnreachableError(TransientModelError):
    """There is no connection to the server, or it broke off: the server may be gone."""


class RefusedCallError(ModelError):
    """The server will never answer this request."""


class UnrecordedCallError(RefusedCallError):
    """A replay has no reply to this call, since its run never made it. The message says what differs."""


class NoCallSucceeds(ModelError):
    """No call to this model will succeed until the user does something: it is not asked again, and the run ends."""


class CredentialsError(NoCallSucceeds):
    """The server does not accept the key, or the key may not use this model."""


class QuotaError(NoCallSucceeds):
    """The account has no credit or quota left: no call will succeed until someone tops it up.

    Not for a rate limit, which passes (`TransientModelError`).
    """


class ServerDown(MeteorError):
    """A server fails nearly every call, or one that we launched does not come up. The message says which, and why."""


class TrainingError(MeteorError):
    """A training job failed. The message holds the last lines of its log."""


class NothingToTrainError(TrainingError):
    """No row of a job can be trained on, for example because all are longer than `max_length`."""


class StoreError(MeteorError):
    """The run directory or its store cannot be used."""


class BudgetReached(MeteorError):
    """The run reached its budget and stopped, everything saved.

    Its text is made when it is read: calls in flight are still paid for after it was raised, and belong to the sum.
    """

    def __init__(self, told: Callable[[], str] | str = "") -> None:
        super().__init__(told)
        self._told = told

    def __str__(self) -> str:
        return self._told if isinstance(self._told, str) else self._told()
