"""The events of a run, as frozen values. Observers draw progress, write logs or count; none can change the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Event:
    """The base class of all events."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage begins or resumes."""

    stage: str
    questions: int
    done: int
    """Questions whose result is in the store already."""


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    """A stage is done."""

    stage: str
    seconds: float
    summary: str


@dataclass(frozen=True, slots=True)
class CallStarted(Event):
    """A call that has no stored reply is about to be made."""

    role: str
    question_id: str


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A reply is available: from the model, or reused from the store."""

    role: str
    reused: bool
    seconds: float
    input_tokens: int
    output_tokens: int
    question_id: str = ""
    usd: float | None = None
    """None: the price or the number of tokens is unknown."""


@dataclass(frozen=True, slots=True)
class CallFailed(Event):
    """A call brought no reply, after all tries."""

    role: str
    reason: str
    question_id: str = ""


@dataclass(frozen=True, slots=True)
class CallRetried(Event):
    """A try failed, and another follows after a pause."""

    role: str
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class QuestionLate(Event):
    """A call timed out: its question goes to the end of the queue."""

    stage: str
    question_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoleProgress:
    """One role's calls so far in this session of the run."""

    role: str
    made: int
    reused: int
    retried: int
    failed: int
    in_flight: int
    """Calls without a reply so far, waiting ones included."""
    waiting: int
    """Calls of `in_flight` that wait for their turn."""
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None: the price is unknown."""
    calls_per_s: float
    """The rate over the last seconds."""
    calls_last_minute: int
    """Calls answered in the last 60 seconds."""
    concurrency: int | None
    """How many calls may be made at once now; None without a limit."""
    concurrency_why: str
    slowest_question: str | None
    """The question whose call has taken longest so far."""
    slowest_s: float


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """The state of the stage, once a second, for any number of calls."""

    stage: str
    questions: int
    done: int
    outcomes: dict[str, int]
    accepted_at_try: dict[int, int]
    late: int
    """Questions that were put back in the queue."""
    seconds: float
    """Seconds since the stage began in this session."""
    seconds_left: float | None
    """Estimated from the rate of the last minute; None if that is unknown."""
    roles: tuple[RoleProgress, ...]


@dataclass(frozen=True, slots=True)
class QuestionFinished(Event):
    """A question's conversation has ended and its trace is stored."""

    stage: str
    question_id: str
    outcome: str
    tries: int


@dataclass(frozen=True, slots=True)
class TrainingProgress(Event):
    """One optimizer step of a training job."""

    name: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens_per_s: float
    seconds_left: float | None = None
    """Estimated from the mean rate of the steps so far."""


@dataclass(frozen=True, slots=True)
class TrainingNote(Event):
    """A sentence about a training job: rows too long, the trainer's start."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class UpdateFinished(Event):
    """One update of the student: a round of stage 2, or the training of stage 1 or 3."""

    name: str
    examples: int
    loss: float | None
    seconds: float
    promoted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class OverlapFound(Event):
    """Found before training: held-out questions that nearly repeat a training question."""

    heldout: str
    questions: int
    exact: int
    near: int
    """Near repetitions, exact ones included."""
    summary: str


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Event):
    """A checkpoint or another model has been measured on one held-out set."""

    checkpoint: str
    heldout: str
    summary: str


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A sentence for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """The run was asked to stop and begins no further question."""

    in_flight: int
    """Calls that it waits for."""

    @property
    def text(self) -> str:
        """The event in words."""
        calls = "1 call" if self.in_flight == 1 else f"{self.in_flight} calls"
        return f"stopping: finishing {calls} in flight (Ctrl-C again stops now; nothing received is lost)"


class Observer(Protocol):
    """Anything that receives the events of a run."""

    def on_event(self, event: Event) -> None:
        """Called with each event, on the event loop: it must return quickly."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def on_event(self, event: Event) -> None:
        """Pass the event to each observer, in order."""
        for observer in self._observers:
            observer.on_event(event)
