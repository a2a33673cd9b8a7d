"""Families of models, told by their names."""

from __future__ import annotations

import pytest

from meteor_agents.evaluation.model_families import model_family, same_family_warnings


@pytest.mark.parametrize(
    ("model", "of"),
    [
        ("gpt-4o", "OpenAI"), ("o3-mini", "OpenAI"), ("openai/gpt-oss-120b", "OpenAI"), ("meta-llama/Llama-3-8B", "Llama"),
        ("Meta-Llama-3-70B", "Llama"), ("models/Qwen2.5-7B-Instruct/", "Qwen"), ("smollm2-135m", "SmolLM"),
        ("claude-opus-4", "Claude"), ("my-own", "my-own"), ("proto3", "proto3"),
    ],
)  # fmt: skip
def test_a_models_family_is_read_from_its_name(model: str, of: str) -> None:
    assert model_family(model) == of


def test_a_judge_of_the_teachers_or_students_family_is_warned_about() -> None:
    (warning,) = same_family_warnings({"judge": "Qwen2.5-72B"}, {"teacher": "gpt-4o", "student": "qwen2-7b"})
    assert "the judge (Qwen2.5-72B) and the student (qwen2-7b) are both of the family Qwen" in warning
