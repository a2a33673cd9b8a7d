"""Which rejected replies stage 2 turns into rows for self-distillation, and what these hold."""

from __future__ import annotations

from typing import Any

import pytest

from meteor_agents.backends.local.chat_template import IGNORED, example_ids, prompt_ids
from meteor_agents.backends.training.ranks.batching.encoding import encode_row, encode_rows
from meteor_agents.messages import Answer, Guide, Status, Verdict
from meteor_agents.method.training_rows import UNEXPLAINED, preference_rows, refinement_rows, teaches
from meteor_agents.models import ChatMessage
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import DistilledReply, Example
from tests.method.test_training_rows import QUESTION, RIGHT, WRONG, attempt, held, silent_student
from tests.support.tiny_model import real_tokenizer

ROW = DistilledReply(
    id="q1#1",
    prompt=(ChatMessage(role="user", content="One plus two?"),),
    informed=(ChatMessage(role="user", content="One plus two? You said 4, which is one too many."),),
    reply="Four.",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return real_tokenizer()


def judged(*turns: tuple[str, str, Guide | None], outcome: Outcome = Outcome.EXHAUSTED) -> Trace:
    """Wrong tries, each with the judge's explanation and the guide that followed."""
    said: list[Any] = []
    for text, explanation, guide in turns:
        said += [attempt(text), Verdict(status=Status.INCORRECT, explanation=explanation, model="v")]
        said += [guide] if guide else []
    return Trace(stage="refine", question=QUESTION, messages=tuple(said), outcome=outcome)


def test_each_rejected_reply_stands_after_the_question_and_after_the_very_prompt_that_asked_for_the_next() -> None:
    trace, student, speaker = held([WRONG, "Answer: 5", RIGHT])
    rows = refinement_rows([trace], student.prompts, "self_distill").rows
    assert rows == [
        DistilledReply(id=f"q1#{i}", prompt=speaker.asked[0], informed=speaker.asked[i], reply=reply)
        for i, reply in enumerate([WRONG, "Answer: 5"], 1)
    ]
    for turn, row in zip(trace.turns[:2], rows, strict=True):
        assert isinstance(row, DistilledReply)
        assert turn.verdict.explanation in row.informed[-1].content


def test_exhausted_traces_teach_with_their_last_try_too_and_failed_ones_do_not() -> None:
    trace, student, _ = held([WRONG, "Answer: 5", "Answer: 6", "Answer: 7"])
    assert trace.outcome is Outcome.EXHAUSTED
    failed = trace.model_copy(update={"outcome": Outcome.FAILED})
    converted = refinement_rows([failed, trace], student.prompts, "self_distill")
    assert [row.id for row in converted.rows] == ["q1#1", "q1#2", "q1#3", "q1#4"]
    assert converted.left_out == {}
    assert refinement_rows([trace], student.prompts, "pairs") == preference_rows([trace], student.prompts) == ([], {})


def test_taught_trace_also_teaches_the_teachers_answer() -> None:
    tries = judged((WRONG, "Wrong.", None), ("Answer: 5", "", None), outcome=Outcome.TAUGHT)
    right = (Answer(text=RIGHT, model="t", weights="t"), Verdict(status=Status.CORRECT, model="v"))
    taught = tries.model_copy(update={"messages": (*tries.messages, *right)})
    prompts = silent_student().prompts
    distilled, answer = refinement_rows([taught], prompts, "self_distill").rows
    assert isinstance(distilled, DistilledReply)
    assert distilled.reply == WRONG
    assert answer == Example(id="q1", prompt=prompts.attempt(QUESTION), target=RIGHT)


def test_only_self_distillation_counts_exhausted_traces_towards_an_update() -> None:
    counted = {(outcome, conversion) for outcome in Outcome for conversion in ("final", "pairs", "self_distill")
               if teaches(outcome, conversion)}  # fmt: skip
    always = {(outcome, conversion) for outcome in (Outcome.ACCEPTED, Outcome.TAUGHT)
              for conversion in ("final", "pairs", "self_distill")}  # fmt: skip
    assert counted == {*always, (Outcome.EXHAUSTED, "self_distill")}


def test_rejected_reply_without_a_word_on_what_was_wrong_teaches_nothing() -> None:
    silent = judged((WRONG, " ", None), (WRONG, "Wrong.", Guide(explanation="", guide="\n", model="t")))
    half = judged((WRONG, "", None), ("Answer: 5", "", Guide(explanation="", guide="Count.", model="t")))
    converted = refinement_rows([silent, half], silent_student().prompts, "self_distill")
    assert [row.id for row in converted.rows] == ["q1#2"]
    assert converted.left_out == {UNEXPLAINED: 1}


def test_both_sequences_end_with_the_same_reply_and_only_that_is_supervised(tokenizer: Any) -> None:
    row = encode_row(tokenizer, ROW)
    assert row.kind == "distilled"
    assert row.sequences == tuple(example_ids(tokenizer, prompt, ROW.reply) for prompt in (ROW.prompt, ROW.informed))
    replies = [[label for label in sequence.labels if label != IGNORED] for sequence in row.sequences]
    assert replies[0] == replies[1]
    assert [len(sequence.ids) - len(replies[0]) for sequence in row.sequences] == [
        len(prompt_ids(tokenizer, prompt)) for prompt in (ROW.prompt, ROW.informed)
    ]


def test_row_counts_by_its_longer_prompt(tokenizer: Any) -> None:
    longest = encode_row(tokenizer, ROW).length
    assert longest == len(example_ids(tokenizer, ROW.informed, ROW.reply).ids)
    shorter = ROW.model_copy(update={"informed": ROW.prompt})
    encoding = encode_rows(tokenizer, [ROW, shorter], max_length=longest - 1)
    assert (len(encoding.rows), encoding.too_long) == (1, 1)
