"""A checkpoint that a server may be handed: complete, undamaged, and still as it was when it was first served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meteor_agents.backends.weight_state import WeightState
from meteor_agents.errors import RefusedCallError
from meteor_agents.training import Checkpoint
from meteor_agents.weight_files import damaged_weights, missing_parts


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """A checkpoint and the state of its files when it was checked."""

    checkpoint: Checkpoint
    state: WeightState

    @classmethod
    def of(cls, folder: Path, version: str) -> CheckedWeights:
        """Check the folder's headers and lengths: a server may end when it reads a damaged one.

        Raises `RefusedCallError` that names what is missing or damaged.
        """
        if missing := missing_parts(folder):
            raise RefusedCallError(f"{folder} is no complete model: it lacks {', '.join(missing)}")
        if damaged := damaged_weights(folder):
            raise RefusedCallError(f"{folder}: {damaged}")
        return cls.as_it_is(Checkpoint(version=version, path=folder.absolute()))

    @classmethod
    def as_it_is(cls, checkpoint: Checkpoint) -> CheckedWeights:
        """The checkpoint without a look at what its files hold."""
        return cls(checkpoint, WeightState.of(checkpoint.path))

    @property
    def version(self) -> str:
        """The version that replies have to carry."""
        return self.checkpoint.version

    @property
    def path(self) -> Path:
        """The folder, as an absolute path."""
        return self.checkpoint.path
