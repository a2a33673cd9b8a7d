"""What chat templates do that trips a model up: refuse a system message, open a thought, mark thoughts by special tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.local.chat_template import (
    IGNORED,
    as_generated,
    conversation_ids,
    example_ids,
    opened_thought,
    prompt_ids,
    prompt_text,
)
from meteor_agents.backends.system_messages import system_before_first_user
from meteor_agents.errors import RefusedCallError
from meteor_agents.models import ChatMessage, Completion, FinishReason, SamplingParams
from meteor_agents.thoughts import split_thoughts
from tests.support.tiny_model import make_tiny, real_tokenizer

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Gemma's first templates have it."""
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
)
"""As Mistral's first templates have it."""
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""As DeepSeek-R1's and QwQ's have it."""

SYSTEM, USER = ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Why?")
REPLY = ChatMessage(role="assistant", content="So.")


def tokenizer_with(template: str) -> Any:
    import copy

    tokenizer = copy.deepcopy(real_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [NO_SYSTEM, ALTERNATING])
def test_where_a_template_refuses_a_system_message_its_text_stands_before_the_first_user_message(template: str) -> None:
    tokenizer = tokenizer_with(template)
    merged = [ChatMessage(role="user", content="Be brief.\n\nWhy?")]
    assert prompt_text(tokenizer, [SYSTEM, USER]) == prompt_text(tokenizer, merged)
    assert "Be brief.\n\nWhy?" in prompt_text(tokenizer, [SYSTEM, USER])


@pytest.mark.parametrize("template", [NO_SYSTEM, ALTERNATING, THINKING])
def test_training_prompts_are_those_of_inference_whatever_the_template_refuses(template: str) -> None:
    tokenizer = tokenizer_with(template)
    prompt = prompt_ids(tokenizer, [SYSTEM, USER])
    for example in (example_ids(tokenizer, [SYSTEM, USER], "So."), conversation_ids(tokenizer, [SYSTEM, USER, REPLY])):
        assert example.ids[: len(prompt)] == prompt
        assert set(example.labels[: len(prompt)]) == {IGNORED}
        assert IGNORED not in example.labels[len(prompt) :]


def test_a_system_message_that_is_accepted_stays_one() -> None:
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompt_text(real_tokenizer(), [SYSTEM, USER])


def test_turns_that_a_template_refuses_altogether_are_named_with_its_words() -> None:
    with pytest.raises(RefusedCallError, match=r"refuses the turns system, user, user: .*alternate.*prompt templates"):
        prompt_text(tokenizer_with(ALTERNATING), [SYSTEM, USER, USER])
    with pytest.raises(RefusedCallError, match=r"refuses the turns user: "):
        prompt_text(tokenizer_with("{{ messages[0]['content']['missing']['key'] }}"), [USER])


def test_a_system_message_alone_becomes_the_user_message() -> None:
    assert system_before_first_user([SYSTEM]) == [ChatMessage(role="user", content="Be brief.")]
    assert [turn.role for turn in system_before_first_user([SYSTEM, REPLY])] == ["user", "assistant"]
    assert system_before_first_user([USER, REPLY]) == [USER, REPLY]


@pytest.mark.parametrize(
    "mark", ["<think>", "<thinking>", "<seed:think>", "[THINK]", "◁think▷", "<|START_THINKING|>", "<|begin_of_thought|>"]
)
@pytest.mark.parametrize("space", ["", "\n", "\n\n"])
def test_a_thought_that_the_prompt_opens_is_closed_before_what_is_learned(mark: str, space: str) -> None:
    prompt = f"<|assistant|>{mark}{space}"
    assert opened_thought(prompt) == mark
    learned = as_generated(prompt, "So.")
    assert split_thoughts(learned, opened=True) == ("", "So.")
    assert as_generated(prompt, learned) == learned, "a reply that closes the thought itself stays as it is"


@pytest.mark.parametrize("prompt", ["", "<|assistant|>", "[INST] Why? [/INST]", "<think>x</think>", "a < b", "1. ["])
def test_a_prompt_that_opens_no_thought_changes_nothing(prompt: str) -> None:
    assert opened_thought(prompt) == ""
    assert as_generated(prompt, "So.") == "So."


def test_what_follows_an_opened_thought_is_learned_as_a_reply() -> None:
    tokenizer = tokenizer_with(THINKING)
    example = example_ids(tokenizer, [USER], "So.")
    learned = [token for token, label in zip(example.ids, example.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == "\n</think>\n\nSo.<|im_end|>"


def asked(folder: Path, sampling: SamplingParams, notes: list[str] | None = None, prompt: str = "why") -> Completion:
    from meteor_agents.backends.local.model import TransformersModel

    async def run() -> Completion:
        model = TransformersModel(folder, device="cpu", dtype="float32", note=(notes if notes is not None else []).append)
        try:
            reply = await model.complete([ChatMessage(role="user", content=prompt)], sampling)
            assert await model.complete([ChatMessage(role="user", content=prompt)], sampling) == reply
            return reply
        finally:
            await model.aclose()

    return asyncio.run(run())


def test_a_reply_in_a_thought_that_the_prompt_opened_is_all_thought(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "plain")
    greedy = SamplingParams(temperature=0, max_tokens=8)
    plain = asked(folder, greedy)
    assert (plain.text != "", plain.reasoning) == (True, "")
    (folder / "chat_template.jinja").write_text(THINKING)
    thinking = asked(folder, greedy)
    assert (thinking.text, thinking.finish_reason) == ("", FinishReason.CUT)
    assert thinking.reasoning != ""


@pytest.mark.parametrize(
    ("opened", "said", "reasoning", "text"),
    [
        (False, "It is 42.", "", "It is 42."),
        (False, "<think>6 x 7</think>\n42", "6 x 7", "42"),
        (False, "6 x 7</think>42", "6 x 7", "42"),
        (True, "6 x 7\n</think>\n\n42", "6 x 7", "42"),
        (True, "6 x 7", "6 x 7", ""),
        (False, "[THINK]6 x 7[/THINK]42", "6 x 7", "42"),
        (False, "<|channel|>analysis<|message|>6 x 7<|end|><|start|>assistant<|channel|>final<|message|>42", "6 x 7", "42"),
    ],
)
def test_thoughts_are_kept_apart_also_where_special_tokens_mark_them(
    opened: bool, said: str, reasoning: str, text: str
) -> None:
    import copy

    from meteor_agents.backends.local.decoding.loaded_model import LoadedModel, thought_marks
    from meteor_agents.backends.local.decoding.reply import completion
    from meteor_agents.backends.local.decoding.request import Request

    tokenizer = copy.deepcopy(real_tokenizer())
    marks = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks, "<|other|>"]})
    assert sorted(thought_marks(tokenizer).values()) == sorted(marks)
    loaded = LoadedModel(None, tokenizer, frozenset({2}), 2, 512, None, thought_marks(tokenizer))
    request = Request((USER,), SamplingParams(), thinking=opened)
    request.output = [*tokenizer("<|other|>" + said, add_special_tokens=False)["input_ids"], 2]
    reply = completion(request, loaded, "m", "v1")
    assert (reply.reasoning, reply.text, reply.finish_reason) == (reasoning, text, FinishReason.COMPLETE)


def test_a_reply_that_the_context_cuts_is_said_once_with_the_lengths(tmp_path: Path) -> None:
    folder, notes = make_tiny(tmp_path / "model"), list[str]()
    reply = asked(folder, SamplingParams(temperature=0, max_tokens=500), notes, "word " * 450)
    assert reply.finish_reason is FinishReason.CUT
    (note,) = notes
    written, read = reply.usage.output_tokens, reply.usage.input_tokens
    assert f"cut after {written} tokens, before max_tokens (500)" in note
    assert f"prompt of {read} tokens" in note
    assert "context of 512" in note
    notes.clear()
    assert asked(folder, SamplingParams(temperature=0, max_tokens=4), notes).finish_reason is FinishReason.CUT
    assert notes == [], "max_tokens is what the user set"
