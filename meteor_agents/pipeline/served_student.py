"""The student's model as the stages see it: recorded calls, and weights that may be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from meteor_agents.abilities import FreesMemory, LoadsWeights
from meteor_agents.calls.recorded import RecordedModel
from meteor_agents.errors import UsageError
from meteor_agents.training import Checkpoint


class ServedStudent:
    """The student's model, and the checkpoint that it starts from."""

    def __init__(self, calls: RecordedModel, model: object, base: Checkpoint) -> None:
        self.base = base
        self.model = model
        """The bare model, whose abilities count."""
        self._calls = calls

    async def serve(self, checkpoint: Checkpoint) -> None:
        """Use these weights from now on. Raises `UsageError` if the backend cannot load them."""
        if isinstance(self.model, LoadsWeights):
            if self.model.weights != checkpoint.version:
                await self.model.load_weights(checkpoint.path, checkpoint.version)
        elif checkpoint.version != self.base.version:
            raise UsageError("the student's backend cannot load new weights; use `backend: transformers` or `sglang`")

    async def free_memory(self) -> None:
        """Release the device's memory for the trainer, if the backend can. The next call takes it back."""
        if isinstance(self.model, FreesMemory):
            await self.model.free_memory()

    def only(self, stage: str) -> AbstractAsyncContextManager[None]:
        """While inside, only the calls of this stage reach the model; others wait."""
        return self._calls.only(stage)

    def may_reuse(self, stage: str, versions: Sequence[str]) -> None:
        """In this stage, stored replies of these weights versions (newest first) count as the student's own."""
        self._calls.also_reusable[stage] = tuple(versions)
