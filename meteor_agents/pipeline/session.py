"""The state that the stages of one run share: settings, questions, agents, store and the checkpoints so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from meteor_agents.abilities import FreesMemory, LoadsWeights
from meteor_agents.calls.recorded import RecordedModel
from meteor_agents.calls.throttled import Throttled
from meteor_agents.data.near_duplicates import NearDuplicatesBySet
from meteor_agents.data.question_pool import QuestionPool
from meteor_agents.data.splitting import SetApart
from meteor_agents.errors import UsageError
from meteor_agents.evaluation.human_labels import HumanLabel
from meteor_agents.events import Note, Observer
from meteor_agents.messages import Question
from meteor_agents.pipeline.cast import Cast
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.engine import Drain, Window
from meteor_agents.pipeline.recipes import Recipes
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import TakeSettings
from meteor_agents.store.store import Store
from meteor_agents.training import Checkpoint, Trainer


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """The questions of a run, already split; no held-out question is in `train`."""

    train: QuestionPool
    gate: Sequence[Question]
    """Questions for the gate, which compares a new student with the one that it would replace."""
    heldout: Mapping[str, Sequence[Question]]
    """Held-out set -> its questions."""
    set_apart: SetApart | None = None
    """The ids removed from the training questions, so that a resumed run removes the same ones."""
    overlaps: NearDuplicatesBySet | None = None
    """Held-out questions that nearly repeat a training question; None if this was not checked."""


@dataclass(slots=True)
class Session:
    """One open run. The stages read it; only the lineage changes."""

    settings: Settings
    questions: QuestionSets
    cast: Cast
    student: ServedStudent
    recipes: Recipes
    store: Store
    trainer: Trainer | None
    """None: conversations only (`--no-train`)."""
    folder: Path
    """Where checkpoints are written."""
    observer: Observer
    drain: Drain
    lineage: dict[str, Checkpoint] = field(default_factory=dict)
    """Where a checkpoint comes from (base, finetune, refine, self-train) -> the checkpoint, in this order."""
    lines: Mapping[str, Throttled] = field(default_factory=dict)
    """Name of a model -> the queue before it; the window of conversations follows the longest."""
    labels: Sequence[HumanLabel] = ()
    """People's labels of held-out replies."""

    @property
    def base(self) -> Checkpoint:
        """The untrained student."""
        return self.student.base

    def window(self) -> Window:
        """A new window of conversations, for one pass over questions."""
        return Window(self.settings.student.limits.concurrency, tuple(self.lines.values()))

    def taken(self, stage: TakeSettings) -> QuestionPool:
        """The training questions that a stage takes."""
        end = None if stage.questions is None else stage.skip + stage.questions
        return self.questions.train[stage.skip : end]

    def latest(self, *, before: str | None = None) -> Checkpoint:
        """The newest checkpoint of the lineage, or the newest that comes before the stage `before`."""
        end = LINEAGE.index(before) if before else len(LINEAGE)
        return next((self.lineage[label] for label in reversed(LINEAGE[:end]) if label in self.lineage), self.base)

    async def arrived(self, label: str, checkpoint: Checkpoint) -> None:
        """Continue the lineage with this checkpoint. Later checkpoints of an earlier run leave the lineage."""
        if self.trainer is None:
            return
        self.lineage = {k: v for k, v in self.lineage.items() if LINEAGE.index(k) < LINEAGE.index(label)}
        self.lineage[label] = checkpoint
        await self.save_lineage()

    async def save_lineage(self) -> None:
        """Store the lineage."""
        await self.store.set_meta("lineage", {k: v.model_dump(mode="json") for k, v in self.lineage.items()})

    def note(self, sentence: str) -> None:
        """Send a sentence to the observers."""
        self.observer.on_event(Note(sentence))


class ServedStudent:
    """The model that speaks as the student, and the checkpoint that it starts from."""

    def __init__(self, calls: RecordedModel, model: object, base: Checkpoint) -> None:
        self.base = base
        self.model = model
        """The bare model, to ask what it can do (`abilities`)."""
        self._calls = calls

    async def serve(self, checkpoint: Checkpoint) -> None:
        """Speak with these weights from now on. Raises `UsageError` where the backend cannot load them."""
        if isinstance(self.model, LoadsWeights):
            if self.model.weights != checkpoint.version:
                await self.model.load_weights(checkpoint.path, checkpoint.version)
        elif checkpoint.version != self.base.version:
            raise UsageError("the student's backend cannot load new weights; use `backend: transformers` or `sglang`")

    async def free_memory(self) -> None:
        """Give the device's memory to the trainer, where the backend can. The next call takes it back."""
        if isinstance(self.model, FreesMemory):
            await self.model.free_memory()

    def only(self, stage: str) -> AbstractAsyncContextManager[None]:
        """While inside, only the calls of this stage reach the model; others wait."""
        return self._calls.only(stage)

    def may_reuse(self, stage: str, versions: Sequence[str]) -> None:
        """In this stage, stored replies of these weights versions (newest first) count as the student's own."""
        self._calls.also_reusable[stage] = tuple(versions)
