"""What happens during a run, as frozen values. Observers draw progress, write logs or count; none can change the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Event:
    """The root of all events. Observers leave them as they are."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage has begun, or goes on after an earlier process."""

    stage: str
    questions: int
    done: int
    """Questions whose result is in the store already."""


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    """A stage is done. `summary` is one line for people."""

    stage: str
    seconds: float
    summary: str


@dataclass(frozen=True, slots=True)
class CallStarted(Event):
    """A model is going to be asked."""

    role: str
    question_id: str


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A model has replied to a call; `reused` means that the reply came from the store."""

    role: str
    reused: bool
    seconds: float
    input_tokens: int
    output_tokens: int
    question_id: str = ""
    usd: float | None = None
    """None: no price is known, or no number of tokens."""


@dataclass(frozen=True, slots=True)
class CallFailed(Event):
    """A call ended without a reply and is not tried again. `reason` is the error's message."""

    role: str
    reason: str
    question_id: str = ""


@dataclass(frozen=True, slots=True)
class CallRetried(Event):
    """A try of a call failed and another one follows in `wait_s` seconds."""

    role: str
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class QuestionLate(Event):
    """No reply in time: the question goes to the end of the line."""

    stage: str
    question_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoleProgress:
    """One role's calls in this session of the run, up to now."""

    role: str
    made: int
    reused: int
    retried: int
    failed: int
    in_flight: int
    """Calls asked and not yet answered, including those that wait for their turn."""
    waiting: int
    """How many of the calls in flight wait for their turn."""
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None: no price is known."""
    calls_per_s: float
    """The rate over the last seconds."""
    calls_last_minute: int
    """How many were answered in the last 60 seconds."""
    concurrency: int | None
    """Calls at once, now; None where nothing limits them."""
    concurrency_why: str
    slowest_question: str | None
    """The question whose call has been under way for longest."""
    slowest_s: float


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """The state of the stage, sent once a second, however many calls there are."""

    stage: str
    questions: int
    done: int
    outcomes: dict[str, int]
    accepted_at_try: dict[int, int]
    late: int
    """Questions that were put back in line."""
    seconds: float
    """The time since the stage began in this session."""
    seconds_left: float | None
    """The time left at the rate of the last minute; None when that is not known."""
    roles: tuple[RoleProgress, ...]


@dataclass(frozen=True, slots=True)
class QuestionFinished(Event):
    """The conversation about a question has ended. `outcome` is a value of `traces.Outcome`."""

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
    """The time left at the mean rate of the steps so far."""


@dataclass(frozen=True, slots=True)
class TrainingNote(Event):
    """A fact about a training job worth a line: rows too long, the trainer's start."""

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
    """Before anything is trained: how many held-out questions nearly repeat one of training."""

    heldout: str
    questions: int
    exact: int
    near: int
    """The exact ones included."""
    summary: str


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Event):
    """A checkpoint has been scored on a held-out set. `summary` is one line for people."""

    checkpoint: str
    heldout: str
    summary: str


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A sentence for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """The run was asked to stop: it admits nothing new."""

    in_flight: int
    """Calls that are finished first."""

    @property
    def text(self) -> str:
        """The event as one line for people."""
        calls = "1 call" if self.in_flight == 1 else f"{self.in_flight} calls"
        return f"stopping: finishing {calls} in flight (Ctrl-C again stops now; nothing received is lost)"


class Observer(Protocol):
    """Anything that is told of events: a progress display, a log, a tally."""

    def on_event(self, event: Event) -> None:
        """Take note of an event. Called where the event happens, so it must return quickly."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def on_event(self, event: Event) -> None:
        """Pass the event to every observer, in the order given."""
        for observer in self._observers:
            observer.on_event(event)
