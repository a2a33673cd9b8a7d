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


def conversation_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> EncodedExample:
    """Every reply of the assistant and its end of turn supervised, whatever lies between them masked.

    Each reply stands behind the very text that inference would ask it with. Raises `RefusedCallError` where the chat
    template writes earlier turns otherwise once others follow (some leave thoughts out): no single sequence could then
    hold what was said at each turn.
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
        asked = list(tokenizer(prompt[len(said) :], add_special_tokens=False)["input_ids"])
        text = _as_written(tokenizer, messages[: turn + 1], prompt)
        reply = [*tokenizer(text, add_special_tokens=False)["input_ids"], end]
        ids += asked + reply
        labels += [IGNORED] * len(asked) + reply
        said = prompt + text + tokenizer.convert_ids_to_tokens(end)
    return EncodedExample(ids, labels)


def _as_written(tokenizer: Any, messages: Sequence[ChatMessage], prompt: str) -> str:
    """The last reply as the template writes it: some take white space off its ends."""
    text = messages[-1].content
    whole = str(tokenizer.apply_chat_template([message.model_dump() for message in messages], tokenize=False))
    return text if whole.startswith(prompt + text) else text.strip()


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
