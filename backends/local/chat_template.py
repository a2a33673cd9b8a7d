"""From messages to token ids. Inference and training share this one place, so their prompts are equal byte for byte.

Two peculiarities of chat templates are met here:

- Some refuse a system message (Gemma's first ones). Its text is then put before the first user message.
- Some end the prompt with an opened thought (DeepSeek-R1's). What is learned or scored after such a prompt begins with
  the end of that thought, since a reply that stood inside it would be taken for a thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jinja2

from meteor_agents.backends.system_messages import system_before_first_user
from meteor_agents.errors import RefusedCallError
from meteor_agents.models import ChatMessage
from meteor_agents.thoughts import split_thoughts

IGNORED = -100
"""The label that cross-entropy leaves out."""


class EncodedExample(NamedTuple):
    """Token ids of prompt, reply and end of turn. `labels` equals `ids` on the reply and its end, IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]


def prompt_text(tokenizer: Any, messages: Sequence[ChatMessage]) -> str:
    """The prompt as the model's own chat template writes it, up to where the reply begins.

    Raises `RefusedCallError` when the tokenizer has no chat template, or when it refuses the messages.
    """
    return _rendered(tokenizer, messages, add_generation_prompt=True)


def prompt_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """The token ids of `prompt_text`."""
    return text_ids(tokenizer, prompt_text(tokenizer, messages))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text in which the template has written all special tokens already."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def example_ids(tokenizer: Any, messages: Sequence[ChatMessage], target: str) -> EncodedExample:
    """Prompt masked, reply and end-of-turn token supervised. Raises `RefusedCallError` like `prompt_text`."""
    text = prompt_text(tokenizer, messages)
    prompt = text_ids(tokenizer, text)
    reply = [*text_ids(tokenizer, as_generated(text, target)), end_of_turn_id(tokenizer)]
    return EncodedExample(ids=prompt + reply, labels=[IGNORED] * len(prompt) + reply)


def conversation_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> EncodedExample:
    """Every reply of the assistant and its end of turn supervised, everything between them masked.

    Each reply stands after exactly the text that inference would prompt it with. Raises `RefusedCallError` where the
    chat template writes earlier turns differently once others follow (some leave thoughts out): no single sequence could
    then hold what was said at each turn.
    """
    end = end_of_turn_id(tokenizer)
    ids: list[int] = []
    labels: list[int] = []
    said = ""
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = prompt_text(tokenizer, messages[:turn])
        if not prompt.startswith(said):
            raise RefusedCallError(
                f"the chat template of {tokenizer.name_or_path} rewrites earlier turns of a chat, so a chat cannot be "
                "learned as it was held; use refine.conversion=final, or examples of one reply each"
            )
        asked = text_ids(tokenizer, prompt[len(said) :])
        text = _as_written(tokenizer, messages[: turn + 1], prompt)
        reply = [*text_ids(tokenizer, text), end]
        ids += asked + reply
        labels += [IGNORED] * len(asked) + reply
        said = prompt + text + tokenizer.convert_ids_to_tokens(end)
    return EncodedExample(ids, labels)


def _as_written(tokenizer: Any, messages: Sequence[ChatMessage], prompt: str) -> str:
    """The last reply as the template writes it: some templates strip white space."""
    text = messages[-1].content
    whole = _rendered(tokenizer, messages, add_generation_prompt=False)
    return as_generated(prompt, text if whole.startswith(prompt + text) else text.strip())


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that the chat template writes right after an assistant's reply.

    It is found by rendering a reply: `eos_token` is not reliable, since some models end a turn with another token than a
    document. Raises `RefusedCallError` when there is no such token.
    """
    marker = "meteor"
    turns = [ChatMessage(role="user", content="x"), ChatMessage(role="assistant", content=marker)]
    text = _rendered(tokenizer, turns, add_generation_prompt=False)
    tail = text[text.rindex(marker) + len(marker) :]
    special = set(tokenizer.all_special_ids)
    for token in text_ids(tokenizer, tail):
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise RefusedCallError(f"the tokenizer of {tokenizer.name_or_path} has no token that ends a turn")
    return int(tokenizer.eos_token_id)


def _rendered(tokenizer: Any, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
    if tokenizer.chat_template is None:
        raise RefusedCallError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruction-tuned model"
        )

    def render(turns: Sequence[ChatMessage]) -> str:
        content = [turn.model_dump() for turn in turns]
        text = tokenizer.apply_chat_template(content, tokenize=False, add_generation_prompt=add_generation_prompt)
        return str(text)

    try:
        return render(messages)
    except jinja2.TemplateError as error:
        refusal = error
    with suppress(jinja2.TemplateError):
        if (without_system := system_before_first_user(messages)) != list(messages):
            return render(without_system)
    raise RefusedCallError(
        f"the chat template of {tokenizer.name_or_path} refuses the turns {', '.join(turn.role for turn in messages)}: "
        f"{refusal}. Change the blocks of your prompt templates so that they fit, or use another model"
    ) from refusal


# thoughts ---------------------------------------------------------------------------------------------------------------


def opened_thought(prompt: str) -> str:
    """The mark at the end of a prompt that opens a thought, for example `<think>`; empty when there is none.

    >>> opened_thought("<|assistant|><think>\\n")
    '<think>'
    >>> opened_thought("<|assistant|>")
    ''
    """
    tail = prompt[-64:].rstrip()
    starts = [at for opening in "<[◁" if (at := tail.rfind(opening)) >= 0]
    mark = tail[max(starts) :] if starts else ""
    return mark if mark and split_thoughts(f"{mark}x") == ("x", "") else ""


def as_generated(prompt: str, reply: str) -> str:
    """What the model has to generate after `prompt` so that `reply` is read as its reply.

    That is `reply` itself, except after a prompt that opened a thought: there the thought is closed first, empty, unless
    `reply` closes it already.

    >>> as_generated("<think>\\n", "42")
    '\\n</think>\\n\\n42'
    """
    mark = opened_thought(prompt)
    if not mark or split_thoughts(reply, opened=True)[1]:
        return reply
    for closing in (f"{mark[0]}/{mark[1:]}", mark.replace("START", "END"), mark.replace("begin", "end"), "<channel|>"):
        if split_thoughts(f"{mark}x{closing}y") == ("x", "y"):
            return f"\n{closing}\n\n{reply}"
    raise RefusedCallError(f"the chat template opens a thought with {mark}, and no mark is known that closes it")
