"""What a fetch tells the person who waits for it."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Hears what a fetch does."""

    def say(self, sentence: str) -> None:
        """A step begins, or something is worth reading."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` parts, tensors or bytes are through; `what` names the step, such as `downloading parts`."""


class Unwatched:
    """A `Watch` that tells nobody."""

    def say(self, sentence: str) -> None:
        """Nothing happens."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Nothing happens."""
