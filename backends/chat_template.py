"""From messages to token ids: the one place that inference and training share, so their prompts are equal byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from meteor_agents.errors import RefusedCallError
from meteor_agents.models import ChatMessage

IGNORED = -100
"""The label that cross-entropy leaves out."""


class EncodedExample(NamedTuple):
    """Token ids of prompt + reply + end of turn; `labels` equals `ids` on the reply and its end, IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]


def prompt_text(tokenizer: Any, messages: Sequence[ChatMessage]) -> str:
    """The prompt as the model's own chat template writes it, up to where the reply begins."""
    if tokenizer.chat_template is None:
        raise RefusedCallError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruction-tuned model"
        )
    turns = [message.model_dump() for message in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def prompt_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    return list(tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"])


def example_ids(tokenizer: Any, messages: Sequence[ChatMessage], target: str) -> EncodedExample:
    """Prompt masked, reply and end-of-turn token supervised."""
    prompt = prompt_ids(tokenizer, messages)
    reply = [*tokenizer(target, add_special_tokens=False)["input_ids"], end_of_turn_id(tokenizer)]
    return EncodedExample(ids=prompt + reply, labels=[IGNORED] * len(prompt) + reply)


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that the chat template writes right after an assistant's reply.

    Found by rendering a reply, not by trusting `eos_token`: some models end a turn with another token than a document.
    """
    marker = "meteor"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    tail = text[text.rindex(marker) + len(marker) :]
    special = set(tokenizer.all_special_ids)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise RefusedCallError(f"the tokenizer of {tokenizer.name_or_path} has no token that ends a turn")
    return int(tokenizer.eos_token_id)
