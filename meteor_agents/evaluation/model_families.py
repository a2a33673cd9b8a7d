"""Model families, told by a model's name: a judge favours replies that resemble its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME_PATTERNS = {
    "OpenAI": r"gpt|o\d(-|$)|davinci",
    "Claude": r"claude",
    "Gemini": r"gemini|gemma",
    "Llama": r"llama|vicuna|alpaca",
    "Qwen": r"qwen|qwq",
    "Mistral": r"mistral|mixtral|ministral|codestral|magistral",
    "DeepSeek": r"deepseek",
    "Phi": r"phi-?\d",
    "Command": r"command-(r|a)|aya",
    "GLM": r"glm|chatglm",
    "Yi": r"yi-\d",
    "Granite": r"granite",
    "OLMo": r"olmo|tulu",
    "SmolLM": r"smollm",
    "Kimi": r"kimi|moonshot",
    "Nemotron": r"nemotron",
    "Grok": r"grok",
}
"""Family -> pattern of the beginning of a word in its models' names. The first that matches wins."""


def model_family(model: str) -> str:
    """The family of a model, by its name; the last part of the name itself if it matches no known family.

    >>> model_family("Qwen/Qwen2.5-7B-Instruct"), model_family("/models/my-own")
    ('Qwen', 'my-own')
    """
    name = model.rstrip("/").rpartition("/")[2].lower()
    for family, pattern in NAME_PATTERNS.items():
        if re.search(rf"(?<![a-z0-9])(?:meta-)?(?:{pattern})", name):
            return family
    return name


def same_family_warnings(judges: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """One sentence for each judge that shares a family with another role; both map a role to its model's name."""
    return [
        f"the {judge} ({model}) and the {role} ({other}) are both of the family {model_family(model)}: "
        "judges favour replies like their own; name a judge of another family"
        for judge, model in judges.items()
        for role, other in others.items()
        if model_family(model) == model_family(other)
    ]
