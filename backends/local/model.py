"""A Hugging Face model in this process. Requests that arrive together are decoded together.

The life of one request:

1. `complete` puts it into the worker's inbox and awaits its reply; the event loop never computes.
2. The worker thread, the only one that touches the model, takes what has arrived, renders and tokenises it.
3. Waiting requests are prefilled, shortest first, and join the rows that are being decoded (`scheduler.py`).
4. Every step decodes one token of every row, whatever each row's temperature (`decoding/rows.py`). A row ends at its own
   end-of-turn token, stop string or `max_tokens`, and its reply is delivered at once (`decoding/reply.py`).
5. Beam searches run between those, by the library's `generate`.
6. New weights are copied in when nothing is being decoded; requests that arrived before the new weights are answered by
   the old ones (`weights.py`).
7. While a trainer needs the memory, the weights hold none; the next request reads them again from their folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from meteor_agents.abilities import ModelFacts
from meteor_agents.errors import MissingExtraError, RefusedCallError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams

try:
    import safetensors as safetensors
    import torch as torch
    import transformers as transformers
except ImportError as absent:
    raise MissingExtraError("the transformers backend", "local") from absent

from meteor_agents.backends.local.decoding.request import Request
from meteor_agents.backends.local.loading import load_model
from meteor_agents.backends.local.quiet import silence_libraries
from meteor_agents.backends.local.worker import FreeMemory, NewWeights, Stop, Worker


class TransformersModel:
    """Serves a Hugging Face folder (or a name that `meteor models fetch` knows, or a hub name) from one worker thread.

    Replies carry `weights` as their weights version until `load_weights` replaces it. `max_batch` bounds the rows that
    are decoded at once; it is halved when the device's memory does not hold them. `quantization` is what transformers
    takes as `quantization_config`; a model that is loaded so keeps its weights. `note` hears sentences for the people who
    watch the run.

    Raises `SettingsError` when there is no usable model under that name. Only safetensors are read, and no code of the
    model's folder is ever run.
    """

    def __init__(
        self,
        model: str | Path,
        weights: str = "base",
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int = 64,
        quantization: Mapping[str, Any] | None = None,
        name: str | None = None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        silence_libraries()
        self._name = name or _display_name(model)
        loaded = load_model(model, device, dtype, quantization)
        self._context = loaded.context
        self._worker = Worker(loaded, self._name, weights, max_batch)
        self._worker.start()
        self._max_batch = max_batch
        self._note = note
        self._context_was_full = False

    @property
    def name(self) -> str:
        """What replies name as their model."""
        return self._name

    @property
    def weights(self) -> str:
        """The version of the weights that answer now."""
        return self._worker.weights.version

    @property
    def max_beams(self) -> int:
        """The most beams of one call: `max_batch`."""
        return self._max_batch

    @property
    def contrasts(self) -> bool:
        """True: contrastive decoding is supported."""
        return True

    @property
    def scores_replies(self) -> bool:
        """True: the likelihood of given replies can be asked for."""
        return True

    @property
    def in_process(self) -> bool:
        """True: the model computes in this process."""
        return True

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """The reply to `messages`; see `meteor_agents.models.ChatModel`.

        Raises `RefusedCallError` when the prompt does not fit into the model's context or memory, when its chat template
        refuses the messages, or when there are more beams than `max_batch`; `ModelError` when the model itself fails.
        """
        if sampling.beams > self._max_batch:
            raise RefusedCallError(f"{self._name}: {sampling.beams} beams do not fit into max_batch {self._max_batch}")
        request = Request(tuple(messages), sampling)
        self._worker.put(request)
        try:
            reply = await asyncio.wrap_future(request.reply)
        except asyncio.CancelledError:
            request.abandoned = True
            raise
        if reply.finish_reason is FinishReason.CUT and request.limit < sampling.max_tokens:
            self._say_once_that_the_context_was_full(request)
        return reply

    def _say_once_that_the_context_was_full(self, request: Request) -> None:
        if not self._context_was_full:
            self._context_was_full = True
            self._note(
                f"{self._name}: a reply was cut after {request.limit} tokens, before max_tokens "
                f"({request.sampling.max_tokens}), because its prompt of {len(request.prompt)} tokens left no more room "
                f"in the model's context of {self._context}; shorten the prompts, or use a model with a longer context"
            )

    async def facts(self) -> ModelFacts:
        """The name and the context length."""
        return ModelFacts((self._name,), self._context)

    async def load_weights(self, folder: Path, version: str) -> None:
        """See `meteor_agents.abilities.LoadsWeights`."""
        done: Future[None] = Future()
        self._worker.put(NewWeights(folder, version, done))
        await asyncio.wrap_future(done)

    async def free_memory(self) -> None:
        """See `meteor_agents.abilities.FreesMemory`."""
        done: Future[None] = Future()
        self._worker.put(FreeMemory(done))
        await asyncio.wrap_future(done)

    async def aclose(self) -> None:
        """Answer what was asked, end the thread and free the model's memory. A second call does nothing."""
        self._worker.put(Stop())
        await asyncio.to_thread(self._worker.join)


def _display_name(model: str | Path) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else str(model)
