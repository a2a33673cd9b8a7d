"""Which requests are decoded together, and when each gets its reply.

Waiting requests are prefilled in groups, shortest prompts first, and join the rows that are being decoded. When a quarter
of the rows can be replaced or dropped, the cache is packed again without the finished ones. Beam searches and scoring run
between those. When the device's memory does not hold a batch, its unfinished requests start again, half as many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from meteor_agents.backends.local.chat_template import example_ids, opened_thought, prompt_text, text_ids
from meteor_agents.backends.local.decoding.beam_search import search_beams
from meteor_agents.backends.local.decoding.contrastive_decoding import Contrasts
from meteor_agents.backends.local.decoding.loaded_model import LoadedModel
from meteor_agents.backends.local.decoding.reply import completion, has_ended, scored
from meteor_agents.backends.local.decoding.reply_scoring import score_replies
from meteor_agents.backends.local.decoding.request import (
    PREFILL_TOKENS,
    Request,
    nearest_in_length,
    prefill_groups,
)
from meteor_agents.backends.local.decoding.rows import Rows
from meteor_agents.backends.local.weights import ModelWeights
from meteor_agents.errors import ModelError, RefusedCallError


class Scheduler:
    """The requests that wait for `loaded`, and the loop that answers them. Used by one thread only.

    `room` bounds the rows that are decoded at once. `listen` is called between steps: it takes what arrived meanwhile.
    """

    def __init__(
        self, loaded: LoadedModel, weights: ModelWeights, name: str, room: int, listen: Callable[[], None]
    ) -> None:
        self.waiting: list[Request] = []
        self._loaded = loaded
        self._weights = weights
        self._name = name
        self._room = room
        self._listen = listen
        self._contrasts = Contrasts()

    def add(self, request: Request) -> None:
        """Render and tokenise the request and let it wait; a failure goes to its caller."""
        try:
            self._prepare(request)
        except Exception as error:
            request.reply.set_exception(as_model_error(error, self._name))
        else:
            self.waiting.append(request)

    def answer_some(self) -> None:
        """Answer the oldest request, and everything that can be decoded along with it."""
        taken: list[Request] = []
        try:
            self._weights.take_memory_back()
        except Exception as error:
            lost, self.waiting = self.waiting, []
            return self._fail(lost, as_model_error(error, self._name))
        try:
            if self.waiting[0].sampling.score:
                self._score(taken)
            elif self.waiting[0].joins_a_batch:
                self._decode(taken)
            else:
                self._search(taken)
        except torch.OutOfMemoryError as error:
            self._take_fewer(taken, error)
        except Exception as error:
            self._fail(taken, as_model_error(error, self._name))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # room for a smaller batch, or for a trainer beside this model

    def forget_contrast(self) -> None:
        """Free the memory of the weaker model of contrastive decoding, if one is loaded."""
        self._contrasts = Contrasts()

    def _prepare(self, request: Request) -> None:
        tokenizer, context = self._loaded.tokenizer, self._loaded.context
        asked = request.messages[:-1] if request.sampling.score else request.messages
        text = prompt_text(tokenizer, asked)
        request.prompt = text_ids(tokenizer, text)
        request.thinking = bool(opened_thought(text))
        if request.sampling.score:
            request.given = example_ids(tokenizer, asked, request.messages[-1].content).ids[len(request.prompt) :]
        tokens = len(request.prompt) + len(request.given)
        left = context - tokens
        if left < (not request.sampling.score):
            raise RefusedCallError(f"the prompt has {tokens} tokens and {self._name} reads at most {context}")
        request.limit = min(request.sampling.max_tokens, left)

    def _decode(self, taken: list[Request]) -> None:
        """Greedy and sampled replies, one token for each row in a step, until no such request waits."""
        rows = Rows.none()
        while True:
            self._listen()
            newcomers = self._newcomers(rows)
            live = rows.live()
            if not newcomers and not live:
                return
            if 4 * (len(newcomers) + len(rows.requests) - len(live)) >= max(len(live), 1):
                taken[:] = [request for request in taken if not request.finished] + newcomers
                del self.waiting[: len(newcomers)]
                parts = [Rows.prefilled(self._loaded, group) for group in prefill_groups(newcomers)]
                for part in parts:
                    self._accept(part)
                rows = Rows.packed([rows, *parts])
                if not rows.requests:
                    continue
            rows.step(self._loaded)
            self._accept(rows)

    def _newcomers(self, rows: Rows) -> list[Request]:
        """Who may join now: in order of arrival, as many as there is room for, none ahead of a waiting beam search."""
        self.waiting = [request for request in self.waiting if not self._drop_abandoned(request)]
        room = self._room - len(rows.live())
        newcomers: list[Request] = []
        for request in self.waiting[: max(room, 0)]:
            if not request.joins_a_batch:
                break
            newcomers.append(request)
        return newcomers

    def _accept(self, rows: Rows) -> None:
        """Note the tokens just decoded, and deliver the replies that they end."""
        for request, token in zip(rows.requests, rows.tokens.tolist(), strict=True):
            if request.finished or self._drop_abandoned(request):
                continue
            request.output.append(token)
            if has_ended(request, self._loaded):
                self._deliver(request)

    def _search(self, taken: list[Request]) -> None:
        """Beam search for the oldest request and those that can run with it."""
        first = self.waiting[0]
        alike = [request for request in self.waiting if request.runs_with(first)]
        batch = self._take(taken, nearest_in_length(alike, max(1, self._room // first.sampling.beams)))
        if not batch:
            return
        search_beams(self._loaded, batch, self._contrasts)
        for request in batch:
            if not self._drop_abandoned(request):
                self._deliver(request)

    def _score(self, taken: list[Request]) -> None:
        """How likely the given replies are, for the oldest such request and those nearest to it in length."""
        first = self.waiting[0]
        rows = min(self._room, max(1, PREFILL_TOKENS // (len(first.prompt) + len(first.given))))
        alike = [request for request in self.waiting if request.sampling.score]
        batch = self._take(taken, nearest_in_length(alike, rows))
        prompts, replies = [request.prompt for request in batch], [request.given for request in batch]
        found = score_replies(self._loaded.module, prompts, replies, self._loaded.pad)
        for request, likelihood in zip(batch, found, strict=True):
            request.finished = True
            request.reply.set_result(scored(request, likelihood, self._name, self._weights.version))

    def _take(self, taken: list[Request], chosen: list[Request]) -> list[Request]:
        """Move these out of the queue; returns those whose callers still wait."""
        taken += chosen
        self.waiting = [request for request in self.waiting if request not in taken]
        return [request for request in taken if not self._drop_abandoned(request)]

    def _deliver(self, request: Request) -> None:
        request.finished = True
        request.reply.set_result(completion(request, self._loaded, self._name, self._weights.version))

    def _drop_abandoned(self, request: Request) -> bool:
        if request.abandoned and not request.finished:
            request.finished = True
            request.reply.set_exception(ModelError("the caller no longer waits for this reply"))
        return request.abandoned

    def _take_fewer(self, taken: Sequence[Request], error: torch.OutOfMemoryError) -> None:
        """Put the unfinished requests back, to be decoded half as many at once."""
        unfinished = [request for request in taken if not request.finished]
        rows = sum(request.sampling.beams for request in unfinished)
        if len(unfinished) <= 1:
            self._fail(unfinished, RefusedCallError(f"{self._name}: one request does not fit into memory: {error}"))
        else:
            self._room = max(1, rows // 2)
            self.waiting[:0] = unfinished

    def _fail(self, requests: Sequence[Request], error: ModelError) -> None:
        for request in requests:
            if not request.finished:
                request.finished = True
                request.reply.set_exception(error)


def as_model_error(error: Exception, name: str) -> ModelError:
    """The error itself if it is a `ModelError`, else one that names the model and says what happened."""
    return error if isinstance(error, ModelError) else ModelError(f"{name}: {type(error).__name__}: {error}")
