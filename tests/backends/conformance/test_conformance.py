"""The same promises, kept by every backend: before scripted servers on real sockets, with a tiny model, on a real SGLang
and llama.cpp."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.options import LaunchOptions
from meteor_agents.backends.sglang_servers.server_process import Served
from meteor_agents.errors import CredentialsError, ModelError, RefusedCallError, TransientModelError
from meteor_agents.messages import Question
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.models import ChatMessage, ChatModel, Completion, FinishReason, SamplingParams
from tests.backends.conformance.fake_server import RETRY_AFTER_S
from tests.backends.conformance.subjects import (
    LLAMA,
    NAMES,
    REAL,
    SERVED,
    Subject,
    llama_subject,
    local_subject,
    real_subject,
    scripted_subject,
    served_subject,
)
from tests.support.real_llama import MODEL as LLAMA_MODEL
from tests.support.real_llama import running_llama
from tests.support.real_sglang import CPU_FLAGS, sglang_python
from tests.support.tiny_model import make_tiny

GREEDY = SamplingParams(temperature=0, top_p=1, max_tokens=12)
Work = Callable[[ChatModel], Awaitable[None]]


@pytest.fixture(scope="module")
def real_server() -> Iterator[tuple[str, str]]:
    """URL and model of an SGLang that serves a tiny model on this CPU."""
    python = sglang_python()
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as runner:
        folder = make_tiny(Path(scratch) / "model")
        options = LaunchOptions.model_validate({"python": python, "flags": CPU_FLAGS})
        launched = LaunchedServer("judge", options, Path(scratch) / "log", note=lambda sentence: None)
        runner.run(launched.start(Served(str(folder), "tiny")))
        yield launched.server.url, str(folder)
        runner.run(launched.aclose())


def _named(names: tuple[str, ...]) -> list[object]:
    kinds = {**dict.fromkeys(REAL, pytest.mark.sglang), LLAMA: pytest.mark.llama}
    return [pytest.param(name, marks=[kinds[name], pytest.mark.slow] if name in kinds else []) for name in names]


@pytest.fixture(scope="module", params=_named(NAMES))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with ExitStack() as closing:
        if request.param in SERVED:
            yield served_subject(request.param, closing)
        elif request.param in REAL:
            yield real_subject(request.param, *request.getfixturevalue("real_server"))
        elif request.param == LLAMA:
            log = tmp_path_factory.mktemp("llama") / "log"
            yield llama_subject(closing.enter_context(running_llama(log)), LLAMA_MODEL)
        elif request.param == "transformers":
            yield local_subject(make_tiny(tmp_path_factory.mktemp("tiny")))
        else:
            yield scripted_subject()


@pytest.fixture(params=SERVED)
def server_subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with ExitStack() as closing:
        yield served_subject(request.param, closing)


def said(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=prompt)]


def with_model(subject: Subject, work: Work, **changes: object) -> None:
    async def run() -> None:
        async with subject.open(**changes) as model:
            await work(model)

    asyncio.run(run())


async def asked_before(subject: Subject, model: ChatModel, prompt: str) -> None:
    """From here on, a model that is not steady says the same to this prompt."""
    if not subject.steady:
        await model.complete(said(prompt), GREEDY)


def speaking(subject: Subject) -> None:
    if not subject.speaks:
        pytest.skip(f"{subject.name} says what it was told, however it is decoded")


# What is said


def test_a_prompt_is_answered_with_text_usage_and_a_name(subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        reply = await model.complete(said("Hello there, what is it?"), GREEDY)
        assert reply.text.strip()
        assert (reply.usage.input_tokens or 0) >= 5
        assert 1 <= (reply.usage.output_tokens or 0) <= 12
        assert reply.model == model.name
        assert reply.weights

    with_model(subject, work)


def test_greedy_decoding_says_the_same_twice(subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        await asked_before(subject, model, "Once upon a time")
        first, second = [await model.complete(said("Once upon a time"), GREEDY) for _ in range(2)]
        assert (first.text, first.finish_reason) == (second.text, second.finish_reason)

    with_model(subject, work)


def test_a_reply_that_is_cut_says_so(subject: Subject) -> None:
    speaking(subject)

    async def work(model: ChatModel) -> None:
        reply = await model.complete(said("Count as far as you can"), GREEDY.model_copy(update={"max_tokens": 4}))
        assert reply.finish_reason is FinishReason.CUT
        assert reply.usage.output_tokens == 4

    with_model(subject, work)


def test_a_stop_string_ends_the_reply_before_it(subject: Subject) -> None:
    speaking(subject)

    async def work(model: ChatModel) -> None:
        await asked_before(subject, model, "Tell me more")
        whole = (await model.complete(said("Tell me more"), GREEDY)).text
        start = len(whole) // 2
        stop = whole[start : start + 4]
        before = whole[: whole.index(stop)]
        reply = await model.complete(said("Tell me more"), GREEDY.model_copy(update={"stop": (stop,)}))
        assert (reply.text.strip(), reply.finish_reason) == (before.strip(), FinishReason.COMPLETE)

    with_model(subject, work)


def test_a_seed_decides_what_is_sampled(subject: Subject) -> None:
    if not subject.seeds:
        pytest.skip(f"{subject.name} does not keep to a seed")

    async def work(model: ChatModel) -> None:
        async def sampled(seed: int) -> str:
            sampling = SamplingParams(temperature=1, top_p=1, max_tokens=12, seed=seed)
            return (await model.complete(said("Say anything"), sampling)).text

        await asked_before(subject, model, "Say anything")
        assert await sampled(1) == await sampled(1)
        assert len({await sampled(seed) for seed in range(2, 6)}) > 1

    with_model(subject, work)


def test_a_schema_is_kept_to_or_does_no_harm(subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        schema = (
            '{"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": false}'
        )
        reply = await model.complete(said("Say a"), GREEDY.model_copy(update={"json_schema": schema, "max_tokens": 24}))
        assert reply.text.strip()
        if subject.name in (*REAL, LLAMA):
            assert json.loads(reply.text) == {"a": "x"}

    with_model(subject, work)


def test_characters_of_every_script_survive(subject: Subject) -> None:
    text = 'naïve — 日本語 🦉 \u0627\u0644\u0639 \x07 \\n "q" \u2028 end'

    async def work(model: ChatModel) -> None:
        reply = await model.complete(said(f"SAY:{text}"), GREEDY.model_copy(update={"max_tokens": 40}))
        assert (reply.usage.input_tokens or 0) >= 5
        if subject.follows or not subject.speaks:
            assert reply.text == text

    with_model(subject, work)


def test_an_empty_reply_is_a_reply() -> None:
    async def work(model: ChatModel) -> None:
        reply = await model.complete(said("SAY:"), GREEDY)
        assert (reply.text, reply.finish_reason) == ("", FinishReason.COMPLETE)

    for name in SERVED:
        with ExitStack() as closing:
            with_model(served_subject(name, closing), work)
    with_model(scripted_subject(), work)


# Many at once


def test_replies_go_to_those_who_asked(subject: Subject) -> None:
    sampling = GREEDY.model_copy(update={"max_tokens": 8})
    many = 8 if subject.name in (*REAL, LLAMA) or subject.name == "transformers" else 60

    async def work(model: ChatModel) -> None:
        prompts = [f"SAY:reply number {i}" for i in range(many)]
        replies = await asyncio.gather(*(model.complete(said(prompt), sampling) for prompt in prompts))
        assert len(replies) == many
        if subject.follows or not subject.speaks:
            assert [reply.text for reply in replies] == [f"reply number {i}" for i in range(many)]
        else:
            assert len({reply.text for reply in replies}) >= many // 2

    with_model(subject, work)


def test_a_cancelled_call_leaves_the_others_alone(subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        calls = [asyncio.create_task(model.complete(said(f"SAY:{i} and so on"), GREEDY)) for i in range(6)]
        await asyncio.sleep(0)
        calls[2].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert all(isinstance(result, Completion) for i, result in enumerate(results) if i != 2)
        assert (await model.complete(said("SAY:still here"), GREEDY)).text.strip()

    with_model(subject, work)


def test_closing_leaves_no_task_and_can_be_repeated(subject: Subject) -> None:
    async def run() -> set[asyncio.Task[object]]:
        async with subject.open() as model:
            await model.complete(said("SAY:hello"), GREEDY)
            await model.aclose()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(run()) == set()


def test_more_beams_than_it_has_are_refused(server_subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        with pytest.raises(RefusedCallError, match="beam"):
            await model.complete(said("SAY:x"), GREEDY.model_copy(update={"beams": 3}))

    with_model(server_subject, work)


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("401", CredentialsError, "no such key"),
        ("403", CredentialsError, "not allowed"),
        ("400", RefusedCallError, "context length exceeded"),
        ("429", TransientModelError, "slow down"),
        ("500", TransientModelError, "Internal Server Error"),
        ("529", TransientModelError, "Overloaded"),
        ("not json", TransientModelError, "hotel"),
        ("cut json", TransientModelError, "no chat completion"),
        ("reset", TransientModelError, "no connection"),
    ],
)
def test_a_fault_is_mapped_to_its_error(
    server_subject: Subject, fault: str, error: type[ModelError], words: str
) -> None:
    async def work(model: ChatModel) -> None:
        with pytest.raises(error, match=words) as caught:
            await model.complete(said(f"FAULT {fault}"), GREEDY)
        assert type(caught.value) in (error, *error.__subclasses__())
        if isinstance(caught.value, TransientModelError):
            assert caught.value.retry_after_s == (RETRY_AFTER_S if fault == "429" else None)

    with_model(server_subject, work)


def test_a_server_that_hangs_is_left_after_the_time_out(server_subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        async with asyncio.timeout(30):  # the server hangs for a minute
            with pytest.raises(TransientModelError, match="no reply"):
                await model.complete(said("FAULT hang"), GREEDY)

    with_model(server_subject, work, timeout_s=0.2)


def test_a_fault_does_not_spoil_the_next_call(server_subject: Subject) -> None:
    async def work(model: ChatModel) -> None:
        for fault in ("500", "cut json", "429"):
            with pytest.raises(TransientModelError):
                await model.complete(said(f"FAULT {fault}"), GREEDY)
            assert (await model.complete(said("SAY:fine"), GREEDY)).text == "fine"

    with_model(server_subject, work)


# The reference answers: a teacher that is no model


def test_references_teach_what_the_data_holds() -> None:
    async def run() -> None:
        teacher = ReferenceTeacher()
        known = Question(id="1", question="2+2?", reference="4")
        answer = await teacher.answer(known, None, stage="distill")
        assert answer is not None
        assert answer.text.endswith("4")
        assert await teacher.answer(Question(id="2", question="?"), None, stage="distill") is None

    asyncio.run(run())
