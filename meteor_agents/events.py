"""What happens during a run, as frozen values. Observers draw progress, write logs or count; none can change the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """The root of all events."""


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    stage: str
    questions: int
    done: int
    """Questions whose result is in the store already."""


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    stage: str
    seconds: float
    summary: str


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    role: str
    reused: bool
    seconds: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class CallRetried(Event):
    role: str
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class CallFailed(Event):
    role: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuestionFinished(Event):
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
class EvaluationFinished(Event):
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

    text: str = "stopping: finishing what is in flight (Ctrl-C again stops now; nothing received is lost)"


class Observer(Protocol):
    def on_event(self, event: Event) -> None: ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def on_event(self, event: Event) -> None:
        for observer in self._observers:
            observer.on_event(event)
