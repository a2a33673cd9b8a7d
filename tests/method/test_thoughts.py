"""Thoughts are told apart from the reply wherever they stand, and a mention of their marks stays where it is."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from meteor_agents.thoughts import split_thoughts

VERDICT = '{"explanation":"x","status":"correct","guide":""}'


@pytest.mark.parametrize(
    ("text", "thoughts", "reply"),
    [
        ("<think>six by seven</think>42", "six by seven", "42"),
        ("\n<think>\nsix by seven\n</think>\n\n42", "six by seven", "42"),
        ("six by seven</think>42", "six by seven", "42"),
        ("six by seven\n</think>\n42", "six by seven", "42"),
        ("<think>six by", "six by", ""),
        ("42\n<think>or is it", "or is it", "42\n"),
        ("<think></think>42", "", "42"),
        ("</think>42", "", "42"),
        ("<THINK>a</Think> b", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("<thinking>a</thinking>b", "a", "b"),
        ("<reasoning>a</reasoning>b", "a", "b"),
        ("<seed:think>a</seed:think>b", "a", "b"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "a", "b"),
        ("<|channel>thought\na<channel|>b", "a", "b"),
        ("<think>a</think>\n<think>b</think>\nc", "a\n\nb", "c"),
        ("Sure.\n<think>a</think>\n\n42", "a", "Sure.\n42"),
        ("Sure. <think>a</think> 42", "a", "Sure. 42"),
        ("Sure.<think>a</think> 42", "a", "Sure. 42"),
        ("<think>a <think> b</think> c</think>d", "a <think> b\n\nc", "d"),
        ("<thinking>a <think>b</think> c</thinking>d", "a <think>b</think> c", "d"),
        ("<thinking>a</think>b", "a", "b"),
        ('<think>it ends with "</think>" soon</think>b', 'it ends with "</think>" soon', "b"),
        ('draft {"status":"incorrect"}\n</think>\n' + VERDICT, 'draft {"status":"incorrect"}', VERDICT),
        ('{"explanation": "cut draft\n</think>\n' + VERDICT, '{"explanation": "cut draft', VERDICT),
        ("```python\nx = 1\n</think>\n```python\nx = 2\n```", "```python\nx = 1", "```python\nx = 2\n```"),
    ],
)
def test_thoughts_are_told_apart(text: str, thoughts: str, reply: str) -> None:
    assert split_thoughts(text) == (thoughts, reply)


@pytest.mark.parametrize(
    ("text", "thoughts", "reply"),
    [
        (
            "<|channel|>analysis<|message|>six by seven<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
            "six by seven",
            "42",
        ),
        ("six by seven<|end|><|start|>assistant<|channel|>final<|message|>42", "six by seven", "42"),
        ("<|channel|>analysis<|message|>six by", "six by", ""),
        ("<|channel|>final<|message|>42", "", "42"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f "
            "<|constrain|>json<|message|>b<|call|><|start|>assistant<|channel|>final<|message|>42",
            "a\n\nb",
            "42",
        ),
        ("analysisWe need six by seven.assistantfinal42", "We need six by seven.", "42"),
        ("analysisWe need six", "We need six", ""),
        ("assistantfinal42", "", "42"),
    ],
)
def test_the_channels_of_the_harmony_format_are_told_apart(text: str, thoughts: str, reply: str) -> None:
    assert split_thoughts(text) == (thoughts, reply)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "analysis of variance",
        "The <think> tag opens a thought.",
        "The tag `</think>` ends a thought.",
        "The tag '</think>' ends a thought.",
        'He wrote "use </think> here" and left.',
        "So it looks:\n```\n<think>\nsix by seven\n</think>\n42\n```\nas said.",
        '{"explanation": "The reply has <think> and </think> in it.", "status": "incorrect", "guide": ""}',
        'My verdict: {"explanation": "It says </think>\\n here", "status": "incorrect", "guide": ""} That is all.',
        '{"explanation": "`<|channel|>final<|message|>` is left in it", "status": "incorrect", "guide": ""}',
        "a < b and [THINKING] twice",
    ],
)
def test_a_mention_of_a_mark_is_no_thought(text: str) -> None:
    assert split_thoughts(text) == ("", text)


@pytest.mark.parametrize(
    ("text", "thoughts", "reply"),
    [
        ("six by seven</think>42", "six by seven", "42"),
        ("six by", "six by", ""),
        ("<think>\nsix</think>42", "six", "42"),
        ("[/THINK]42", "", "42"),
        ("six by seven<|end|><|start|>assistant<|channel|>final<|message|>42", "six by seven", "42"),
    ],
)
def test_a_template_may_have_opened_the_thought(text: str, thoughts: str, reply: str) -> None:
    assert split_thoughts(text, opened=True) == (thoughts, reply)


UNMARKED = some.characters(codec="utf-8", exclude_characters="<>[]◁▷`'\"“”‘’")
MARKS = ["<think>", "</think>", "[THINK]", "<|channel|>final<|message|>", "<|end|>", "`", '"', "```\n", "{", "}", "\n", "a "]


@given(some.lists(some.one_of(some.sampled_from(MARKS), some.text(max_size=5)), max_size=30).map("".join), some.booleans())
def test_any_text_splits_and_nothing_is_made_up(text: str, opened: bool) -> None:
    thoughts, reply = split_thoughts(text, opened)
    assert not Counter("".join((thoughts + reply).split())) - Counter(text)


@given(some.text(UNMARKED), some.text(UNMARKED), some.sampled_from([("<think>", "</think>"), ("[THINK]\n", "[/THINK]\n")]))
def test_what_was_put_together_is_told_apart(thoughts: str, reply: str, marks: tuple[str, str]) -> None:
    assert split_thoughts(marks[0] + thoughts + marks[1] + reply) == (thoughts.strip(), reply.lstrip())


@given(some.text())
def test_a_text_without_marks_is_its_own_reply(text: str) -> None:
    if not any(mark in text.lower() for mark in ("think", "thought", "reasoning", "channel", "analysis", "assistant")):
        assert split_thoughts(text) == ("", text)


@pytest.mark.parametrize("before", ["", "x</think>", "analysis"])
@pytest.mark.parametrize(
    "unit",
    ["<think>", "</think>", "<think></think>", '{"', "{a", "“", '"', "`", "```\n", "<|channel|>", "assistantfinal", " ",
     "<|channel|>final<|message|>", "\n   ```", '{"a":"\\', "<a:think", "[THINK]\n", "a" * 15 + ":"],
)  # fmt: skip
def test_a_megabyte_of_one_mark_takes_less_than_a_second(unit: str, before: str) -> None:
    text = before + unit * (1_000_000 // len(unit))
    began = time.process_time()
    split_thoughts(text, opened=not before)
    assert time.process_time() - began < 1
