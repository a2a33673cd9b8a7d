"""Any server that speaks the chat-completions interface: OpenAI's own, vLLM, SGLang, llama.cpp, gateways, Azure."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import httpx

from meteor_agents.abilities import ModelFacts
from meteor_agents.backends.http.body import MOST_BYTES, parsed
from meteor_agents.backends.http.chat_reply import Read, UnreadableReply, join_chunks, read_chat, usage_of
from meteor_agents.backends.http.dialect import CHAT_FIELDS, Accepts, Dialect, OptionalField
from meteor_agents.backends.http.error_table import Meaning
from meteor_agents.backends.http.failures import Reported, charged, error_in_body, error_within
from meteor_agents.backends.http.served_models import read_facts
from meteor_agents.backends.http.transport import (
    Access,
    Answer,
    Endpoint,
    Network,
    Secrets,
    endpoint_url,
    open_transport,
)
from meteor_agents.backends.http.waits import exhausted_s
from meteor_agents.backends.options import from_environment
from meteor_agents.errors import ModelError, RefusedCallError, TransientModelError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams

_LARGE = 2**18
"""Bytes of a body that is read beside the event loop, so that other calls do not wait for it."""
_OFFERED = 8
"""Names of models that an error offers."""
_OFFERED_WITHIN_S = 10




class OpenAICompatibleModel:
    """POSTs to `{base_url}/chat/completions`.

    The key is read from the environment once, here, and is in no error and no repr. Proxies and certificates are those of
    `open_transport`. A field that the server refuses by name is left out, or put as the server wants it, from then on;
    `note` is then called with a sentence about it, once.

    Raises `SettingsError` when the variable is not set or holds no key, and for a `base_url` that is no http(s) URL.
    """

    path = "/chat/completions"
    models_path = "/models"
    fields: tuple[OptionalField, ...] = CHAT_FIELDS

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        *,
        access: Access = Access(),
        accepts: Accepts = Accepts(),
        network: Network = Network(),
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._name = model
        key = from_environment("api_key_env", access.api_key_env) if access.api_key_env else None
        self._secrets = Secrets([key, *access.headers.values()])
        url = endpoint_url(base_url, self.path, access.query)
        self._endpoint = Endpoint(
            model,
            url,
            {**self._own_headers(key), **access.headers},
            self._secrets,
            httpx.Timeout(network.timeout_s, connect=network.connect_timeout_s, pool=None),
            network.transport or open_transport(url, network.connections),
        )
        self._token_limit = accepts.token_limit
        self._dialect = Dialect(self.fields, lambda sentence: note(f"{model}: {sentence}"), schemas=accepts.json_schema)
        self._facts: ModelFacts | None = None
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, {self._endpoint!r})"

    @property
    def name(self) -> str:
        """The model's name, as the server knows it."""
        return self._name

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> Completion:
        """One reply. Raises the errors of `ChatModel`; one that the server counted tokens for has them in `spent`."""
        if sampling.beams > 1:
            raise RefusedCallError(f"{self._name}: {self._host} has no beam search; use `beams: 1`")
        while True:
            body = self._dialect.applied(self._body(messages, sampling))
            answer = await self._endpoint.post(body)
            if not answer.ok:
                error = error_in_body(answer.content)
                if self._learns(error, answer.status, body):
                    continue
                raise await self._failure(error, answer)
            completion = await self._completion(answer, sampling)
            if self._dialect.forgets_schema(completion.text, body):
                continue
            return completion

    async def facts(self) -> ModelFacts:
        """What the server's list of models says of this model and the others; nothing where there is no such list."""
        url = self._endpoint.url
        try:
            answer = await self._endpoint.get(url.copy_with(path=url.path.removesuffix(self.path) + self.models_path))
            return read_facts(parsed(answer.content).values[0], self._name)
        except (TransientModelError, ValueError):
            return ModelFacts()

    async def aclose(self) -> None:
        """Close the connections. Can be repeated."""
        await self._endpoint.aclose()

    @property
    def _host(self) -> str:
        return self._endpoint.url.host

    def _own_headers(self, key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._token_limit: sampling.max_tokens,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.json_schema is not None:
            schema = {"name": "reply", "strict": True, "schema": json.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _joined(self, events: Iterable[Any], ended: bool) -> dict[str, Any]:
        """The reply that a stream of this interface adds up to."""
        return join_chunks(events, ended)

    def _read(self, reply: Any, max_tokens: int) -> Read:
        """What a reply of this interface says. Raises `UnreadableReply`."""
        return read_chat(reply, max_tokens)

    # A reply with a status of success

    async def _completion(self, answer: Answer, sampling: SamplingParams) -> Completion:
        if not answer.whole:
            raise RefusedCallError(
                f"{self._name}: the reply of {self._host} is longer than {MOST_BYTES // 2**20} MB and was not read to its "
                "end; lower sampling.max_tokens, or look at what the server sends"
            )
        if len(answer.content) < _LARGE:
            read = self._interpreted(answer, sampling.max_tokens)
        else:
            read = await asyncio.to_thread(self._interpreted, answer, sampling.max_tokens)
        if read.error and not read.text:
            raise charged(await self._failure(read.error, answer), read.usage)
        return Completion(
            text=read.text,
            finish_reason=read.finish_reason,
            usage=read.usage,
            model=self._name,
            weights=read.weights or self._name,
            reasoning=read.thoughts,
            pause_s=exhausted_s(answer.headers),
        )

    def _interpreted(self, answer: Answer, max_tokens: int) -> Read:
        """What a reply says.

        Raises `TransientModelError` for a body that is no JSON or was cut off, and `RefusedCallError` for JSON that holds
        no reply: asking again would cost the same and bring the same.
        """
        try:
            values, streamed, ended = parsed(answer.content)
        except ValueError as malformed:
            raise self._no_reply(answer, malformed) from None
        reply = self._joined(values, ended) if streamed else values[0]
        try:
            return self._read(reply, max_tokens)
        except UnreadableReply as unreadable:
            problem, usage = str(unreadable), usage_of(reply)
        if error := next((error for value in (reply, values[-1]) if (error := error_within(value))), None):
            return Read("", "", FinishReason.FAILED, usage, error)
        failure = RefusedCallError(
            f"{self._name}: {self._host} sent no answer that meteor can read ({problem}), and it is not asked again: "
            f"{self._secrets.quoted(answer.text)}{self._endpoint.hint}"
        )
        raise charged(failure, usage)

    def _no_reply(self, answer: Answer, malformed: ValueError) -> ModelError:
        words = self._secrets.quoted(answer.text) or "nothing at all"
        sent = f"{self._name}: {self._host} sent"
        if isinstance(malformed, json.JSONDecodeError):
            hint = self._endpoint.hint
            return TransientModelError(f"{sent} no chat completion (its body is not JSON: {malformed}): {words}{hint}")
        return RefusedCallError(f"{sent} no answer that meteor can read ({malformed}), and it is not asked again: {words}")

    # Errors

    def _learns(self, error: Reported, status: int, body: dict[str, Any]) -> bool:
        """Whether the error refused a field of `body` that can be put otherwise, and now is."""
        malformed = status == 500 and "validation error" in error.words  # llama.cpp's Python server says it with a 500
        if not malformed and (status not in (400, 422) or error.meaning(status) is not Meaning.REQUEST):
            return False
        return self._dialect.learns(error.words, body, self._secrets.quoted(error.words, 120))

    async def _failure(self, error: Reported, answer: Answer) -> ModelError:
        """The error of ours, with what helps: the models that there are, or the address that may be meant."""
        status = None if answer.ok else answer.status
        said = f"answered {answer.status} {answer.reason}".rstrip() if status else "reported an error in its reply"
        shown = self._secrets.quoted(error.words)
        failure = error.failure(f"{self._name}: {self._host} {said}", status, answer.headers, shown)
        meaning = error.meaning(status)
        if meaning is Meaning.MODEL:
            return RefusedCallError(f"{failure}{await self._offer()}")
        return RefusedCallError(f"{failure}{self._endpoint.hint}") if meaning is Meaning.ADDRESS else failure

    async def _offer(self) -> str:
        """The models that the server has, the nearest first; asked for once."""
        async with self._asking:
            if self._facts is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_OFFERED_WITHIN_S):
                        self._facts = await self.facts()
                self._facts = self._facts or ModelFacts()
        served = [self._secrets.quoted(name, 100) for name in self._facts.served if name != self._name]
        near = difflib.get_close_matches(self._name, served, n=_OFFERED, cutoff=0.4)
        offered = list(dict.fromkeys([*near, *served]))[:_OFFERED]
        more = f" and {len(served) - len(offered)} more" if len(served) > len(offered) else ""
        return f"; the server has {', '.join(offered)}{more}" if offered else ""
