"""A Hugging Face model in this process: requests that are asked together are decoded together.

The life of one request:

1. `complete` puts it into the worker's inbox and awaits its reply; the event loop never computes.
2. The worker thread, the only one that touches the model, takes what arrived, renders and tokenises it.
3. Waiting requests are prefilled, shortest first, padded on the left, and join the rows that are being decoded.
4. Every step decodes one token of every row, whatever each row's temperature; each row ends at its own end-of-turn
   token, stop string or `max_tokens`, and its reply is delivered at once.
5. When a quarter of the rows can be replaced or dropped, the cache is packed again without the finished ones.
6. Beam searches run between those, by `generate`. New weights are copied in when nothing is being decoded; requests
   asked before the new weights were are answered by the old ones.
7. While a trainer needs the memory, the weights hold none; the next request reads them again from their folder.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.local.catalog import resolve
from meteor_agents.backends.local.chat_template import end_of_turn_id, example_ids, prompt_ids
from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.errors import MissingExtraError, ModelError, RefusedCallError, SettingsError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams, Usage

try:
    import torch
    import transformers
    from safetensors import SafetensorError, safe_open
    from transformers.cache_utils import Cache, DynamicLayer
except ImportError as absent:
    raise MissingExtraError("the transformers backend", "local") from absent

from meteor_agents.backends.local.contrastive_decoding import Contrasts
from meteor_agents.backends.local.hardware import pick_device, pick_dtype
from meteor_agents.backends.local.reply_scoring import score_replies

IDLE_S = 1.0
"""After so long without a request, what decoding left behind in memory is given back."""
GATHER_S = 0.004
"""How long the first request waits for company."""
PREFILL_TOKENS = 2048
"""Tokens of one prefill, padding included: bounds its memory, and keeps long prompts from padding short ones."""
SPARE_COLUMNS = 64
"""Room for this many further tokens in a cache that is laid out anew."""
BATCHED_LAYERS = {"full_attention", "sliding_attention"}


class TransformersModel:
    """Serves a Hugging Face folder (or a name that `meteor models fetch` knows, or a hub name) from one worker thread.

    Replies carry `weights` as their weights version until `load_weights` replaces it. `max_batch` bounds the rows that
    are decoded at once; it is halved by itself when the device's memory does not hold them. `quantization` is what
    transformers takes as `quantization_config`; a model that is loaded so keeps its weights.

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
    ) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._name = name or _display_name(model)
        loaded = _load(model, device, dtype, quantization)
        self._facts = ModelFacts((self._name,), loaded.context)
        self._worker = _Worker(loaded, self._name, weights, max_batch)
        self._worker.start()
        self._max_batch = max_batch

    @property
    def name(self) -> str:
        return self._name

    @property
    def weights(self) -> str:
        return self._worker.weights

    @property
    def max_beams(self) -> int:
        return self._max_batch

    @property
    def contrasts(self) -> bool:
        return True

    @property
    def scores_replies(self) -> bool:
        return True

    @property
    def in_process(self) -> bool:
        return True

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        if sampling.beams > self._max_batch:
            raise RefusedCallError(f"{self._name}: {sampling.beams} beams do not fit into max_batch {self._max_batch}")
        request = _Request(tuple(messages), sampling)
        self._worker.put(request)
        try:
            return await asyncio.wrap_future(request.reply)
        except asyncio.CancelledError:
            request.abandoned = True
            raise

    async def facts(self) -> ModelFacts:
        return self._facts

    async def load_weights(self, folder: Path, version: str) -> None:
        done: Future[None] = Future()
        self._worker.put(_NewWeights(folder, version, done))
        await asyncio.wrap_future(done)

    async def free_memory(self) -> None:
        done: Future[None] = Future()
        self._worker.put(_FreeMemory(done))
        await asyncio.wrap_future(done)

    async def aclose(self) -> None:
        """Answer what was asked, end the thread and free the model's memory. A second call does nothing."""
        self._worker.put(_Stop())
        await asyncio.to_thread(self._worker.join)


def _display_name(model: str | Path) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else str(model)


@dataclass(slots=True, eq=False)
class _Request:
    """One call, and while it is decoded one row."""

    messages: tuple[ChatMessage, ...]
    sampling: SamplingParams
    reply: Future[Completion] = field(default_factory=Future)
    abandoned: bool = False
    """Its caller was cancelled: stop working on it."""
    prompt: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    """The reply that is to be scored, if one is."""
    limit: int = 0
    """Tokens that this reply may have: `max_tokens`, or what is left of the context."""
    output: list[int] = field(default_factory=list)
    numbers: random.Random = field(default_factory=random.Random)
    finished: bool = False

    def restart(self) -> None:
        self.output = []
        self.numbers = random.Random(self.sampling.seed)


@dataclass(slots=True, frozen=True, eq=False)
class _NewWeights:
    folder: Path
    version: str
    done: Future[None]


@dataclass(slots=True, frozen=True, eq=False)
class _FreeMemory:
    done: Future[None]


class _Stop:
    """The last thing a worker reads."""


_Order = _NewWeights | _FreeMemory | _Stop


@dataclass(slots=True, frozen=True)
class _Loaded:
    """A model that was read from disk."""

    model: Any
    tokenizer: Any
    ends: frozenset[int]
    pad: int
    context: int
    folder: Path | None
    """Where the weights were read from; None for a name on the hub, and for weights that were quantised on the way."""


def _load(model: str | Path, device: str, dtype: str, quantization: Mapping[str, Any] | None = None) -> _Loaded:
    source = _find(model)
    target = pick_device(device)
    safe: dict[str, Any] = {"trust_remote_code": False}
    # What is quantised while it is loaded has to be loaded where it stays.
    packed = {"quantization_config": dict(quantization), "device_map": {"": target}} if quantization else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=pick_dtype(dtype, target), use_safetensors=True, output_loading_info=True, **safe, **packed
        )
        module, info = loaded
    except ImportError as absent:
        raise SettingsError(f"{model}: its quantization needs a package that is not installed: {absent}") from absent
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as unreadable:
        raise SettingsError(_no_model(model, str(unreadable).split("\n", 1)[0])) from unreadable
    if info["missing_keys"]:
        raise SettingsError(_no_model(model, f"its files lack the weights {_some(info['missing_keys'])}"))
    if tokenizer.chat_template is None:
        raise SettingsError(_no_model(model, "its tokenizer has no chat template; use an instruction-tuned model"))
    config = module.config.get_text_config()
    unlike = set(getattr(config, "layer_types", None) or ()) - BATCHED_LAYERS
    if unlike:
        raise SettingsError(
            f"{model} has layers of a kind that the transformers backend does not decode ({_some(unlike)}); "
            "serve it with SGLang and use `backend: sglang`"
        )
    ends = frozenset({end_of_turn_id(tokenizer), *_as_list(module.generation_config.eos_token_id)})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    # What a checkpoint suggests for sampling does not count here: the caller's SamplingParams say all.
    module.generation_config = transformers.GenerationConfig(eos_token_id=sorted(ends), pad_token_id=pad)
    if not quantization:
        module.to(target)
    module.eval().requires_grad_(False)
    if (head := module.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(_in_one_piece)
    folder = Path(source) if Path(source).is_dir() and not quantization else None
    return _Loaded(module, tokenizer, ends, pad, int(config.max_position_embeddings), folder)


def _in_one_piece(_head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A slice of the hidden states (the last column), copied.

    From a strided one torch's product copies the whole head once a row (bfloat16 on a CPU): 3.6 GB for 64 rows of a 135M
    model, and most of a prefill's time.
    """
    return tuple(states.contiguous() for states in given)


def _find(model: str | Path) -> str:
    if Path(model).is_dir():
        return str(model)
    fetched = resolve(str(model))
    if fetched is not None:
        return str(fetched)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(model)) and not Path(model).parent.is_dir():
        return str(model)  # a name on the Hugging Face hub, or in its local cache
    raise SettingsError(_no_model(model, "there is no such folder"))


def _no_model(model: str | Path, why: str) -> str:
    return (
        f"no model under {str(model)!r}: {why}. Name a folder with config.json, *.safetensors and a tokenizer, "
        "or run `meteor models fetch smollm2-135m` and set `model: smollm2-135m`"
    )


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Worker:
    """The thread that owns the model."""

    def __init__(self, loaded: _Loaded, name: str, weights: str, max_batch: int) -> None:
        self.weights = weights
        self._loaded: _Loaded | None = loaded
        self._name = name
        self._room = max_batch
        self._folder = loaded.folder
        self._absent: list[tuple[torch.nn.Parameter, torch.Size]] = []
        """Weights that hold no memory now, and their shapes."""
        self._inbox: SimpleQueue[_Request | _Order] = SimpleQueue()
        self._waiting: list[_Request] = []
        self._order: _Order | None = None
        """What is to be done once nothing waits; what arrived later stays in the inbox until then."""
        self._stopped = False
        self._contrasts = Contrasts()
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name=f"meteor {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def put(self, item: _Request | _Order) -> None:
        with self._gate:
            if self._stopped and not isinstance(item, _Stop):
                raise ModelError(f"{self._name} is closed")
            self._stopped = self._stopped or isinstance(item, _Stop)
            self._inbox.put(item)

    def _serve(self) -> None:
        with torch.inference_mode():
            while not isinstance(self._order, _Stop) or self._waiting:
                self._listen(block=not self._waiting and self._order is None)
                if self._waiting:
                    self._answer_some()
                elif isinstance(self._order, _NewWeights):
                    self._replace_weights(self._order)
                    self._order = None
                elif isinstance(self._order, _FreeMemory):
                    self._free_memory(self._order)
                    self._order = None
        self._loaded = None
        self._contrasts = Contrasts()
        gc.collect()
        _give_back()

    def _listen(self, *, block: bool) -> None:
        """Take what arrived, up to the next order."""
        if block:
            self._take(self._first())
            time.sleep(GATHER_S)
        while self._order is None:
            try:
                self._take(self._inbox.get_nowait())
            except Empty:
                return

    def _first(self) -> _Request | _Order:
        try:
            return self._inbox.get(timeout=IDLE_S)
        except Empty:
            _give_back()
            return self._inbox.get()

    def _take(self, item: _Request | _Order) -> None:
        if not isinstance(item, _Request):
            self._order = item
        elif item.reply.set_running_or_notify_cancel():
            try:
                self._prepare(item)
            except Exception as error:
                item.reply.set_exception(_as_model_error(error, self._name))
            else:
                self._waiting.append(item)

    def _prepare(self, request: _Request) -> None:
        loaded = self._model()
        if request.sampling.score:
            *asked, reply = request.messages
            request.prompt = prompt_ids(loaded.tokenizer, asked)
            request.given = example_ids(loaded.tokenizer, asked, reply.content).ids[len(request.prompt) :]
        else:
            request.prompt = prompt_ids(loaded.tokenizer, request.messages)
        tokens = len(request.prompt) + len(request.given)
        left = loaded.context - tokens
        if left < (not request.sampling.score):
            raise RefusedCallError(f"the prompt has {tokens} tokens and {self._name} reads at most {loaded.context}")
        request.limit = min(request.sampling.max_tokens, left)

    def _model(self) -> _Loaded:
        assert self._loaded is not None, "the worker frees the model only after its last request"
        return self._loaded

    def _answer_some(self) -> None:
        """Answer the oldest request, and all that can be decoded along with it."""
        taken: list[_Request] = []
        try:
            self._take_memory_back()
        except Exception as error:
            lost, self._waiting = self._waiting, []
            return self._fail(lost, _as_model_error(error, self._name))
        try:
            if self._waiting[0].sampling.score:
                self._score(taken)
            elif _apart(self._waiting[0].sampling):
                self._search_beams(taken)
            else:
                self._decode(taken)
        except torch.OutOfMemoryError as error:
            self._take_fewer(taken, error)
        except Exception as error:
            self._fail(taken, _as_model_error(error, self._name))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # room for a smaller batch, or for a trainer beside this model

    def _take_fewer(self, taken: Sequence[_Request], error: torch.OutOfMemoryError) -> None:
        """Start the unfinished replies again, half as many at once."""
        unfinished = [request for request in taken if not request.finished]
        rows = sum(request.sampling.beams for request in unfinished)
        if len(unfinished) <= 1:
            self._fail(unfinished, RefusedCallError(f"{self._name}: one request does not fit into memory: {error}"))
        else:
            self._room = max(1, rows // 2)
            self._waiting[:0] = unfinished

    def _fail(self, requests: Sequence[_Request], error: ModelError) -> None:
        for request in requests:
            if not request.finished:
                request.finished = True
                request.reply.set_exception(error)

    def _decode(self, taken: list[_Request]) -> None:
        """Greedy and sampled replies, one token of every row a step, until no such request waits."""
        loaded = self._model()
        rows = _Rows.none()
        while True:
            self._listen(block=False)
            newcomers = self._newcomers(rows)
            live = rows.live()
            if not newcomers and not live:
                return
            if 4 * (len(newcomers) + len(rows.requests) - len(live)) >= max(len(live), 1):
                taken[:] = [row for row in taken if not row.finished] + newcomers
                del self._waiting[: len(newcomers)]
                parts = [_Rows.prefilled(loaded, group) for group in _groups(newcomers)]
                for part in parts:
                    self._accept(part)
                rows = _Rows.packed([rows, *parts])
                if not rows.requests:
                    continue
            rows.step(loaded)
            self._accept(rows)

    def _newcomers(self, rows: _Rows) -> list[_Request]:
        """Who may join now: in the order of arrival, as far as there is room, nobody ahead of a waiting beam search."""
        self._waiting = [request for request in self._waiting if not self._drop_abandoned(request)]
        room = self._room - len(rows.live())
        newcomers: list[_Request] = []
        for request in self._waiting[: max(room, 0)]:
            if _apart(request.sampling):
                break
            newcomers.append(request)
        return newcomers

    def _drop_abandoned(self, request: _Request) -> bool:
        if request.abandoned and not request.finished:
            request.finished = True
            request.reply.set_exception(ModelError("nobody waits for this reply any more"))
        return request.abandoned

    def _accept(self, rows: _Rows) -> None:
        """Note the tokens just decoded, and deliver the replies that they end."""
        for row, token in zip(rows.requests, rows.tokens.tolist(), strict=True):
            if row.finished or self._drop_abandoned(row):
                continue
            row.output.append(token)
            if token in self._model().ends or len(row.output) >= row.limit or self._stops(row):
                self._deliver(row)

    def _stops(self, row: _Request) -> bool:
        if not row.sampling.stop:
            return False
        tail = 4 * max(map(len, row.sampling.stop)) + 4  # a character is at most four tokens, one a byte
        text = self._text(row.output[-tail:])
        return any(stop in text for stop in row.sampling.stop)

    def _deliver(self, row: _Request) -> None:
        ended = row.output[-1] in self._model().ends
        text = self._text(row.output[:-1] if ended else row.output)
        cuts = [at for stop in row.sampling.stop if (at := text.find(stop)) >= 0]
        row.finished = True
        row.reply.set_result(
            Completion(
                text=text[: min(cuts)] if cuts else text,
                finish_reason=FinishReason.COMPLETE if ended or cuts else FinishReason.CUT,
                usage=Usage(input_tokens=len(row.prompt), output_tokens=len(row.output)),
                model=self._name,
                weights=self.weights,
            )
        )

    def _text(self, ids: list[int]) -> str:
        return str(self._model().tokenizer.decode(ids, skip_special_tokens=True))

    def _search_beams(self, taken: list[_Request]) -> None:
        """Deterministic beam search for the oldest request and those that are searched alike."""
        loaded = self._model()
        first = self._waiting[0].sampling
        alike = [request for request in self._waiting if _search(request.sampling) == _search(first)]
        taken += _window(alike, max(1, self._room // first.beams))
        self._waiting = [request for request in self._waiting if request not in taken]
        batch = [request for request in taken if not self._drop_abandoned(request)]
        if not batch:
            return
        ids, mask = _padded(loaded, batch)

        def abandoned(decoded: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            return torch.full((len(decoded),), all(row.abandoned for row in batch), device=decoded.device)

        replies = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=first.beams,
            do_sample=False,
            max_new_tokens=max(row.limit for row in batch),
            logits_processor=self._contrasts.processors(first.contrast, loaded.model, mask),
            stopping_criteria=transformers.StoppingCriteriaList([abandoned]),
        )
        for row, reply in zip(batch, replies[:, ids.shape[1] :].tolist(), strict=True):
            if not self._drop_abandoned(row):
                row.output = _until_end(reply, loaded.ends)[: row.limit]
                self._deliver(row)

    def _score(self, taken: list[_Request]) -> None:
        """How likely the given replies are, for the oldest such request and those nearest to it in length."""
        loaded = self._model()
        first = self._waiting[0]
        rows = min(self._room, max(1, PREFILL_TOKENS // (len(first.prompt) + len(first.given))))
        taken += _window([request for request in self._waiting if request.sampling.score], rows)
        self._waiting = [request for request in self._waiting if request not in taken]
        batch = [request for request in taken if not self._drop_abandoned(request)]
        prompts, replies = [row.prompt for row in batch], [row.given for row in batch]
        found = score_replies(loaded.model, prompts, replies, loaded.pad)
        for row, likelihood in zip(batch, found, strict=True):
            row.finished = True
            usage = Usage(input_tokens=len(row.prompt) + len(row.given), output_tokens=0)
            said = likelihood.written()
            row.reply.set_result(Completion(said, FinishReason.COMPLETE, usage, self._name, self.weights))

    def _replace_weights(self, order: _NewWeights) -> None:
        if not order.done.set_running_or_notify_cancel():
            return
        try:
            self._take_memory_back()
            copy_weights(self._model().model, order.folder)
        except Exception as error:
            order.done.set_exception(_as_model_error(error, self._name))
        else:
            self.weights, self._folder = order.version, order.folder
            order.done.set_result(None)

    def _free_memory(self, order: _FreeMemory) -> None:
        if not order.done.set_running_or_notify_cancel():
            return
        self._contrasts = Contrasts()
        if self._folder is not None and not self._absent:
            weights = list(self._model().model.parameters())
            self._absent = [(weight, weight.shape) for weight in weights]
            _resize([(weight, torch.Size([0])) for weight in weights])
            gc.collect()
        _give_back()
        order.done.set_result(None)

    def _take_memory_back(self) -> None:
        """Raises `ModelError` when the folder is gone; the next call tries again."""
        if self._absent and self._folder is not None:
            _resize(self._absent)
            copy_weights(self._model().model, self._folder)
            self._absent = []


def _resize(weights: Sequence[tuple[torch.nn.Parameter, torch.Size]]) -> None:
    """New memory for each weight, of this shape and with any content. Tied weights stay one."""
    with torch.inference_mode(False):
        for weight, shape in weights:
            weight.data = torch.empty(shape, dtype=weight.dtype, device=weight.device)


def _give_back() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_freed_memory()


def _as_model_error(error: Exception, name: str) -> ModelError:
    return error if isinstance(error, ModelError) else ModelError(f"{name}: {type(error).__name__}: {error}")


def _apart(sampling: SamplingParams) -> bool:
    """It is not decoded token by token along with others."""
    return sampling.beams > 1 or sampling.contrast is not None or sampling.score


def _search(sampling: SamplingParams) -> tuple[object, ...]:
    """What must be equal for two searches to run as one."""
    return sampling.beams, sampling.max_tokens, sampling.contrast, sampling.score


def _groups(requests: Sequence[_Request]) -> Iterator[list[_Request]]:
    """Requests of like length, as many as one prefill holds."""
    group: list[_Request] = []
    for request in sorted(requests, key=lambda request: len(request.prompt)):
        if group and len(request.prompt) * (len(group) + 1) > PREFILL_TOKENS:
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _window(requests: Sequence[_Request], size: int) -> list[_Request]:
    """The first request, and those whose prompts are nearest to its own in length."""
    length = len(requests[0].prompt)
    return sorted(requests, key=lambda request: abs(len(request.prompt) - length))[:size]


def _padded(loaded: _Loaded, requests: Sequence[_Request]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, and their attention mask: both (rows, longest prompt)."""
    width = max(len(request.prompt) for request in requests)
    ids = torch.full((len(requests), width), loaded.pad)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, width - len(request.prompt) :] = 1
    return ids.to(loaded.model.device), mask.to(loaded.model.device)


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids


@dataclass(slots=True)
class _Rows:
    """Replies that grow side by side. Each row is right-aligned: its newest token is in the last column."""

    requests: list[_Request]
    cache: Any
    mask: torch.Tensor
    """(rows, columns of the cache)"""
    tokens: torch.Tensor
    """(rows,): decoded last, not yet in the cache"""

    @classmethod
    def none(cls) -> _Rows:
        return cls([], None, torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long))

    @classmethod
    def prefilled(cls, loaded: _Loaded, requests: list[_Request]) -> _Rows:
        for request in requests:
            request.restart()
        ids, mask = _padded(loaded, requests)
        cache = Cache(layer_class_to_replicate=_GrowingLayer)
        logits = _forward(loaded, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        return cls(requests, cache, mask, choose_tokens(logits, requests))

    @classmethod
    def packed(cls, parts: Sequence[_Rows]) -> _Rows:
        """The unfinished rows of all parts, in as few columns as the longest of them needs."""
        kept = [(part, live) for part in parts if (live := part.live())]
        if not kept:
            return cls.none()
        width = max(int(part.mask[live].sum(-1).max()) for part, live in kept)
        return cls(
            requests=[part.requests[row] for part, live in kept for row in live],
            cache=_packed_cache(kept, width),
            mask=torch.cat([_right_aligned(part.mask[live][:, -width:], width) for part, live in kept]),
            tokens=torch.cat([part.tokens[live] for part, live in kept]),
        )

    def live(self) -> list[int]:
        return [row for row, request in enumerate(self.requests) if not request.finished]

    def step(self, loaded: _Loaded) -> None:
        """Put the last tokens into the cache and choose the next ones."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.requests), 1)], dim=1)
        positions = self.mask.sum(-1, keepdim=True) - 1
        logits = _forward(loaded, self.tokens[:, None], self.mask, positions, self.cache)
        self.tokens = choose_tokens(logits, self.requests)


def _forward(
    loaded: _Loaded, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits of the last column, (rows, vocabulary), in float32."""
    output = loaded.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits.float()


def _right_aligned(mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _packed_cache(kept: Sequence[tuple[_Rows, list[int]]], width: int) -> Any:
    cache = Cache(layer_class_to_replicate=_GrowingLayer)
    for layers in zip(*(part.cache.layers for part, _ in kept), strict=True):
        lives = [live for _, live in kept]
        layer = _GrowingLayer()
        layer.adopt(
            _packed_tensor([layer.keys for layer in layers], lives, width),
            _packed_tensor([layer.values for layer in layers], lives, width),
            width,
        )
        cache.layers.append(layer)
    return cache


def _packed_tensor(tensors: Sequence[torch.Tensor], lives: Sequence[list[int]], width: int) -> torch.Tensor:
    """(rows, heads, width + room to grow, head size). Columns in front of a short row stay zero, the mask hides them."""
    _, heads, _, size = tensors[0].shape
    packed = tensors[0].new_zeros(sum(map(len, lives)), heads, width + SPARE_COLUMNS, size)
    start = 0
    for tensor, live in zip(tensors, lives, strict=True):
        columns = min(tensor.shape[2], width)
        packed[start : start + len(live), :, width - columns : width] = tensor[live, :, -columns:]
        start += len(live)
    return packed


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's keys and values in a buffer with room, where the library's own copies all of them every step."""

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, columns: int) -> None:
        """Take buffers of which the first `columns` are in use."""
        self.lazy_initialization(keys, values)
        self._key_buffer, self._value_buffer = keys, values
        self.keys, self.values = keys[:, :, :columns], values[:, :, :columns]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.adopt(key_states, value_states, key_states.shape[2])
        else:
            used = _filled(self.keys).shape[2]
            self._key_buffer = _written(self._key_buffer, key_states, used)
            self._value_buffer = _written(self._value_buffer, value_states, used)
            columns = used + key_states.shape[2]
            self.keys, self.values = self._key_buffer[:, :, :columns], self._value_buffer[:, :, :columns]
        return _filled(self.keys), _filled(self.values)


def _filled(states: torch.Tensor | None) -> torch.Tensor:
    assert states is not None, "the layer was given states before"
    return states


def _written(buffer: torch.Tensor, states: torch.Tensor, used: int) -> torch.Tensor:
    columns = used + states.shape[2]
    if buffer.shape[2] < columns:
        rows, heads, _, size = buffer.shape
        larger = buffer.new_empty(rows, heads, columns + SPARE_COLUMNS, size)
        larger[:, :, :used] = buffer[:, :, :used]
        buffer = larger
    buffer[:, :, used:columns] = states
    return buffer


def choose_tokens(logits: torch.Tensor, requests: Sequence[_Request]) -> torch.Tensor:
    """The next token of every row, as its own sampling parameters and its own random numbers say."""
    tokens = logits.argmax(-1)
    sampled = [row for row, request in enumerate(requests) if request.sampling.temperature > 0 and not request.finished]
    if sampled:
        rows = [requests[row] for row in sampled]
        temperature = logits.new_tensor([[max(row.sampling.temperature, 1e-4)] for row in rows])  # below: overflow
        probabilities = torch.softmax(logits[sampled] / temperature, dim=-1)
        top_p = [row.sampling.top_p for row in rows]
        tokens[sampled] = sample_nucleus(probabilities, top_p, [row.numbers.random for row in rows])
    return tokens


def sample_nucleus(
    probabilities: torch.Tensor, top_p: Sequence[float], draw: Sequence[Callable[[], float]]
) -> torch.Tensor:
    """One token a row from the smallest set of likeliest tokens that holds `top_p`, (rows, vocabulary) -> (rows,).

    By rejection instead of sorting the vocabulary: a drawn token is in that set if the likelier ones together hold less
    than `top_p`. If it is not, it and all less likely ones are ruled out, and the row draws again from the rest, which
    still contains the whole set; so what is accepted has exactly the distribution of the set, renormalised.
    """
    tokens = torch.zeros(len(probabilities), dtype=torch.long, device=probabilities.device)
    bound = probabilities.new_tensor(top_p)
    open_rows = list(range(len(probabilities)))
    ruled_out = probabilities.new_zeros(len(probabilities), 1)
    while open_rows:
        rows = probabilities[open_rows]
        cumulative = rows.where(rows > ruled_out[open_rows], 0).cumsum(-1, dtype=torch.float64)
        numbers = cumulative.new_tensor([[draw[row]()] for row in open_rows])
        drawn = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
        drawn = drawn.clamp(max=rows.shape[-1] - 1)
        chance = rows.gather(-1, drawn)
        outside = (rows.where(rows > chance, 0).sum(-1) >= bound[open_rows]).tolist()
        tokens[open_rows] = drawn[:, 0]
        ruled_out[open_rows] = chance
        open_rows = [row for row, again in zip(open_rows, outside, strict=True) if again]
    return tokens


def copy_weights(model: Any, folder: Path) -> None:
    """Copy the safetensors of `folder` into `model`. Everything is checked before the first weight is touched.

    Tied weights may be stored once or under each of their names. Raises `ModelError`.
    """
    own: dict[str, torch.Tensor] = model.state_dict()
    with ExitStack() as opened:
        stored = _open_weights(folder, opened)
        _check_weights(own, {name: shard.get_slice(name).get_shape() for name, shard in stored.items()}, folder)
        with torch.no_grad():
            for name, shard in stored.items():
                own[name].copy_(shard.get_tensor(name))


def _open_weights(folder: Path, opened: ExitStack) -> dict[str, Any]:
    """Name of each weight -> the open file that holds it."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        stored: dict[str, Any] = {}
        for name in sorted(names):
            shard = opened.enter_context(safe_open(folder / name, framework="pt"))
            stored.update(dict.fromkeys(shard.keys(), shard))
    except (OSError, ValueError, KeyError, SafetensorError) as unreadable:
        raise ModelError(f"no weights can be read from {folder}: {unreadable}") from unreadable
    return stored


def _check_weights(own: dict[str, torch.Tensor], shapes: dict[str, list[int]], folder: Path) -> None:
    stored_places = {own[name].data_ptr() for name in shapes if name in own}
    missing = [name for name, weight in own.items() if weight.data_ptr() not in stored_places]
    unknown = [name for name in shapes if name not in own]
    unlike = [name for name, shape in shapes.items() if name in own and list(own[name].shape) != shape]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes of", unlike)):
        if names:
            raise ModelError(f"{folder} does not hold this model: it {what} {_some(names)}")
