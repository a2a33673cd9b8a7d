"""Which models are of one family: a judge prefers what sounds like itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

FAMILIES = {
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
"""Family -> how its models' names begin, at the beginning of a word. The first that fits counts."""


def family(model: str) -> str:
    """The family that a model's name tells; the last part of the name itself where it is of none that we know."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    for known, pattern in FAMILIES.items():
        if re.search(rf"(?<![a-z0-9])(?:meta-)?(?:{pattern})", name):
            return known
    return name


def kinships(judges: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """A sentence for every judge that is of one family with another role; both map a role to its model's name."""
    return [
        f"the {judge} ({model}) and the {role} ({other}) are both of the family {family(model)}: "
        "judges favour replies like their own; name a judge of another family"
        for judge, model in judges.items()
        for role, other in others.items()
        if family(model) == family(other)
    ]
