"""One call to the model in this process: its prompt, its limits, and the tokens decoded so far."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from meteor_agents.models import ChatMessage, Completion, SamplingParams

PREFILL_TOKENS = 2048
"""Tokens in one prefill, padding included. Bounds its memory, and keeps long prompts from padding short ones."""


@dataclass(slots=True, eq=False)
class Request:
    """One call. While its reply is decoded, it is one row of the batch."""

    messages: tuple[ChatMessage, ...]
    sampling: SamplingParams
    reply: Future[Completion] = field(default_factory=Future)
    abandoned: bool = False
    """The caller was cancelled: stop working on it."""
    prompt: list[int] = field(default_factory=list)
    thinking: bool = False
    """The prompt ends inside a thought that the chat template opened."""
    given: list[int] = field(default_factory=list)
    """The reply to score, when one is to be scored."""
    limit: int = 0
    """Tokens that the reply may have: `max_tokens`, or what is left of the context."""
    output: list[int] = field(default_factory=list)
    numbers: random.Random = field(default_factory=random.Random)
    finished: bool = False

    def restart(self) -> None:
        """Forget what was decoded, and draw the same random numbers again if the call has a seed."""
        self.output = []
        self.numbers = random.Random(self.sampling.seed)

    @property
    def joins_a_batch(self) -> bool:
        """Whether it is decoded token by token beside others. Beam search, contrast and scoring run on their own."""
        return self.sampling.beams == 1 and self.sampling.contrast is None and not self.sampling.score

    def runs_with(self, other: Request) -> bool:
        """Whether two requests that do not join a batch can run as one search."""
        return _search(self.sampling) == _search(other.sampling)


def _search(sampling: SamplingParams) -> tuple[object, ...]:
    return sampling.beams, sampling.max_tokens, sampling.contrast, sampling.score


def prefill_groups(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Groups of requests with prompts of similar length, each as large as one prefill allows."""
    group: list[Request] = []
    for request in sorted(requests, key=lambda request: len(request.prompt)):
        if group and len(request.prompt) * (len(group) + 1) > PREFILL_TOKENS:
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def nearest_in_length(requests: Sequence[Request], size: int) -> list[Request]:
    """At most `size` requests: the first, and those whose prompts are nearest to its own in length."""
    length = len(requests[0].prompt)
    return sorted(requests, key=lambda request: abs(len(request.prompt) - length))[:size]
