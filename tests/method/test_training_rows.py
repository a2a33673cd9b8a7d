"""What traces teach: the rows of each conversion, what is left out and said so, and which tokens are learned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meteor_agents import prompts
from meteor_agents.backends.local.chat_template import (
    IGNORED,
    conversation_ids,
    end_of_turn_id,
    example_ids,
    prompt_ids,
    prompt_text,
)
from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.backends.training.ranks.encoding import encode_rows
from meteor_agents.errors import RefusedCallError, SettingsError, UsageError
from meteor_agents.events import TrainingNote
from meteor_agents.messages import Answer, Attempt, Guide, Question, Status, Verdict
from meteor_agents.method import conversations
from meteor_agents.method.agents import Student
from meteor_agents.method.judges import VerifierJudge
from meteor_agents.method.templates import Templates
from meteor_agents.method.training_rows import (
    CUT_SHORT,
    EMPTY,
    INCOMPLETE,
    UNDISPUTED,
    distillation_rows,
    refinement_rows,
    self_training_rows,
)
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, FinishReason, SamplingParams
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import ChatExample, Example, PairwiseLoss, PreferencePair, TrainingRow
from meteor_agents.verifiers import open_verifier
from tests.pipeline.test_pipeline import Events, FolderTrainer, Learner, Run, settings
from tests.support.tiny_model import real_tokenizer

QUESTION = Question(id="q1", question="What is one plus two?", reference="3")
WRONG, RIGHT = "One and two.\nAnswer: 4", "One, two, three.\nAnswer: 3"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return real_tokenizer()


def silent_student(*, in_one_chat: bool = False) -> Student:
    templates = Templates(Path(prompts.__file__).parent)
    return Student(Voice(Recorder([]), templates, "sums", SamplingParams()), in_one_chat=in_one_chat)


class Recorder:
    """Speaks a list of replies, and keeps what it was asked."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.asked: list[tuple[ChatMessage, ...]] = []
        self._replies = list(replies)

    async def complete(self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: object) -> Any:
        self.asked.append(tuple(messages))
        reply = self._replies.pop(0)
        return await ScriptedModel(lambda messages, sampling: reply).complete(messages, sampling)


def held(replies: Sequence[str], *, in_one_chat: bool = False) -> tuple[Trace, Student, Recorder]:
    """A real stage-2 conversation in which the student says these replies."""
    speaker = Recorder(replies)
    templates = Templates(Path(prompts.__file__).parent)
    student = Student(Voice(speaker, templates, "sums", SamplingParams()), in_one_chat=in_one_chat)
    judge = VerifierJudge(open_verifier("numeric", {}, Path()))
    trace = asyncio.run(conversations.refine(QUESTION, student, judge, iterations=4))
    return trace, student, speaker


def attempt(text: str, *, truncated: bool = False, ending: FinishReason = FinishReason.COMPLETE) -> Attempt:
    ending = FinishReason.CUT if truncated else ending
    return Attempt(text=text, reasoning="", answer=text, ending=ending, model="m", weights="w")


def trace_of(*tries: Attempt) -> Trace:
    """Accepted at the last try."""
    said: list[Any] = []
    for each in tries[:-1]:
        verdict = Verdict(status=Status.INCORRECT, explanation="Wrong.", guide="Count.", model="v")
        said += [each, verdict, Guide(explanation="Wrong.", guide="Count.", model="v")]
    said += [tries[-1], Verdict(status=Status.CORRECT, model="v")]
    return Trace(stage="refine", question=QUESTION, messages=tuple(said), outcome=Outcome.ACCEPTED)


# The rows


def test_final_teaches_the_accepted_reply_to_the_bare_question() -> None:
    trace, student, _ = held([WRONG, RIGHT])
    (row,) = refinement_rows([trace], student.prompts, "final").rows
    assert row == Example(id="q1", prompt=student.prompts.attempt(QUESTION), target=RIGHT)


def test_revise_also_teaches_the_accepted_reply_to_the_very_prompt_that_asked_for_it() -> None:
    trace, student, speaker = held([WRONG, "Answer: 5", RIGHT])
    final, revision = refinement_rows([trace], student.prompts, "revise").rows
    assert final == Example(id="q1", prompt=student.prompts.attempt(QUESTION), target=RIGHT)
    assert revision == Example(id="q1#revise", prompt=tuple(speaker.asked[2]), target=RIGHT)


def test_revise_of_a_first_try_is_that_try() -> None:
    trace, student, _ = held([RIGHT])
    revise, final = (refinement_rows([trace], student.prompts, conversion) for conversion in ("revise", "final"))
    assert revise.rows == final.rows


@pytest.mark.parametrize("conversion", ["final", "revise", "history", "chat", "pairs"])
def test_the_teachers_answer_stands_for_the_accepted_reply_in_a_taught_trace(conversion: str) -> None:
    trace = trace_of(attempt(WRONG), attempt("Answer: 5"))
    wrong = Verdict(status=Status.INCORRECT, explanation="Wrong.", guide="Count.", model="v")
    right = (Answer(text=RIGHT, model="t", weights="t"), Verdict(status=Status.CORRECT, model="v"))
    said = (*trace.messages[:-1], wrong, *right)
    trace = trace.model_copy(update={"messages": said, "outcome": Outcome.TAUGHT})
    rows, left_out = refinement_rows([trace], silent_student(in_one_chat=conversion == "chat").prompts, conversion)
    assert left_out == {}
    learned = [row.chosen if isinstance(row, PreferencePair) else row.messages[-1].content
               if isinstance(row, ChatExample) else row.target for row in rows]  # fmt: skip
    assert learned
    assert all(text.endswith(RIGHT) for text in learned)
    if conversion == "revise":
        revision = rows[1]
        assert isinstance(revision, Example)
        assert "Answer: 5" in revision.prompt[-1].content  # the last try, though it had no guide of its own
    if conversion == "pairs":
        assert [row.rejected for row in rows if isinstance(row, PreferencePair)] == [WRONG, "Answer: 5"]


def test_stage_one_with_a_wrong_attempt_also_teaches_to_revise_it() -> None:
    wrong = Verdict(status=Status.INCORRECT, explanation="Wrong.", guide="Count.", model="v")
    said = (Answer(text=RIGHT, model="t", weights="t"), attempt(WRONG), wrong)
    trace = Trace(stage="distill", question=QUESTION, messages=said, outcome=Outcome.ACCEPTED)
    final, revision = distillation_rows([trace], silent_student().prompts).rows
    assert isinstance(final, Example)
    assert isinstance(revision, Example)
    assert (final.target, revision.target) == (RIGHT, RIGHT)
    assert WRONG in revision.prompt[-1].content
    assert "Count." in revision.prompt[-1].content
    right = trace.model_copy(update={"messages": (*said[:2], Verdict(status=Status.CORRECT, model="v"))})
    assert distillation_rows([right], silent_student().prompts).rows == [final]


def test_history_teaches_every_try_with_what_was_wrong_and_ends_with_the_answer_that_counts() -> None:
    from meteor_agents.method.replies import split_answer

    trace, student, _ = held([WRONG, "Answer: 5", RIGHT])
    (row,) = refinement_rows([trace], student.prompts, "history").rows
    assert isinstance(row, Example)
    assert row.prompt == student.prompts.attempt(QUESTION)
    parts = [WRONG, trace.turns[0].verdict.explanation, "Answer: 5", trace.turns[1].verdict.explanation, RIGHT]
    places = [row.target.index(part) for part in parts]
    assert places == sorted(places)
    assert split_answer(row.target).answer == "3"


def test_history_of_a_first_try_is_that_try() -> None:
    trace, student, _ = held([RIGHT])
    history, final = (refinement_rows([trace], student.prompts, conversion) for conversion in ("history", "final"))
    assert history.rows == final.rows


def test_chat_is_learned_behind_the_very_messages_that_asked_each_turn() -> None:
    trace, student, speaker = held([WRONG, "Answer: 5", RIGHT], in_one_chat=True)
    (row,) = refinement_rows([trace], student.prompts, "chat").rows
    assert isinstance(row, ChatExample)
    replies = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    assert [row.messages[:i] for i in replies] == speaker.asked
    assert [row.messages[i].content for i in replies] == [WRONG, "Answer: 5", RIGHT]


def test_pairs_prefer_the_accepted_reply_over_each_rejected_one() -> None:
    trace, student, _ = held([WRONG, "Answer: 5", RIGHT])
    rows = refinement_rows([trace], student.prompts, "pairs").rows
    assert rows == [
        PreferencePair(id=f"q1#{i}", prompt=student.prompts.attempt(QUESTION), chosen=RIGHT, rejected=rejected)
        for i, rejected in enumerate([WRONG, "Answer: 5"], 1)
    ]


# What is left out

NEITHER_COMPLETE_NOR_CUT = sorted(set(FinishReason) - {FinishReason.COMPLETE, FinishReason.CUT})


@pytest.mark.parametrize(
    ("conversion", "tries", "reason"),
    [
        ("final", [attempt(RIGHT, truncated=True)], CUT_SHORT),
        ("history", [attempt(WRONG, truncated=True), attempt(RIGHT)], CUT_SHORT),
        ("chat", [attempt(WRONG, truncated=True), attempt(RIGHT)], CUT_SHORT),
        ("pairs", [attempt(WRONG, truncated=True), attempt(RIGHT)], CUT_SHORT),
        ("pairs", [attempt(WRONG), attempt(RIGHT, truncated=True)], CUT_SHORT),
        *(
            (conversion, [attempt(WRONG), attempt(RIGHT, ending=ending)], INCOMPLETE)
            for conversion in ("final", "history", "chat", "pairs")
            for ending in NEITHER_COMPLETE_NOR_CUT
        ),
        ("chat", [attempt(WRONG, ending=FinishReason.REFUSED), attempt(RIGHT)], INCOMPLETE),
        ("pairs", [attempt(WRONG, ending=FinishReason.FILTERED), attempt(RIGHT)], INCOMPLETE),
        ("pairs", [attempt(RIGHT)], UNDISPUTED),
        ("pairs", [attempt(RIGHT + "\n"), attempt(RIGHT)], UNDISPUTED),
        ("final", [attempt(" \n")], EMPTY),
        ("chat", [attempt(""), attempt(RIGHT)], EMPTY),
    ],
)
def test_trace_that_cannot_be_learned_is_left_out_with_its_reason(
    conversion: str, tries: list[Attempt], reason: str
) -> None:
    good = trace_of(attempt(WRONG), attempt(RIGHT))
    converted = refinement_rows([trace_of(*tries), good, trace_of(*tries)], silent_student().prompts, conversion)
    assert [row.id.partition("#")[0] for row in converted.rows] == ["q1"]
    assert converted.left_out == {reason: 2}


def test_cut_first_try_does_no_harm_to_the_accepted_reply() -> None:
    trace = trace_of(attempt(WRONG, truncated=True), attempt(RIGHT))
    converted = refinement_rows([trace], silent_student().prompts, "final")
    assert (len(converted.rows), converted.left_out) == (1, {})


def test_trace_of_an_older_run_that_holds_only_truncated_is_left_out_all_the_same() -> None:
    stored = trace_of(attempt(RIGHT, truncated=True)).model_dump(mode="json")
    for message in stored["messages"]:
        message.pop("ending", None)
    assert refinement_rows([Trace.model_validate(stored)], silent_student().prompts, "final").left_out == {CUT_SHORT: 1}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("ending", "reason"),
    [(FinishReason.CUT, CUT_SHORT), *((ending, INCOMPLETE) for ending in NEITHER_COMPLETE_NOR_CUT)],
)
def test_decoded_pair_needs_two_complete_replies(side: int, ending: FinishReason, reason: str) -> None:
    both = [attempt(WRONG), attempt(RIGHT)]
    good = Trace(stage="self-train", question=QUESTION, messages=tuple(both), outcome=Outcome.ACCEPTED)
    both[side] = attempt(both[side].text, ending=ending)
    bad = Trace(stage="self-train", question=QUESTION, messages=tuple(both), outcome=Outcome.ACCEPTED)
    rows, left_out = self_training_rows([good, bad], silent_student().prompts)
    prompt = silent_student().prompts.attempt(QUESTION)
    assert rows == [PreferencePair(id="q1", prompt=prompt, chosen=RIGHT, rejected=WRONG)]
    assert left_out == {reason: 1}


@pytest.mark.parametrize("ending", NEITHER_COMPLETE_NOR_CUT)
def test_answer_that_is_not_complete_is_left_out_of_stage_one(ending: FinishReason) -> None:
    answer = Answer(text="Three.", model="m", weights="w", ending=ending)
    trace = Trace(stage="distill", question=QUESTION, messages=(answer,), outcome=Outcome.ACCEPTED)
    assert distillation_rows([trace], silent_student().prompts) == ([], {INCOMPLETE: 1})


def test_answer_without_text_is_left_out_of_stage_one() -> None:
    def answered(text: str) -> Trace:
        answer = Answer(text=text, model="m", weights="w")
        return Trace(stage="distill", question=QUESTION, messages=(answer,), outcome=Outcome.ACCEPTED)

    converted = distillation_rows([answered("Three."), answered(" ")], silent_student().prompts)
    assert ([row.id for row in converted.rows], converted.left_out) == (["q1"], {EMPTY: 1})


class Chatterer(Learner):
    """Reads the question where a chat has it."""

    def reply(self, messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
        asked = ChatMessage(role="user", content="\n".join(m.content for m in messages if m.role == "user"))
        return super().reply([asked], sampling)


def test_round_says_how_many_traces_were_left_out_and_why(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run",
        Learner(),
        FolderTrainer(),
        refine={"update_every": 10, "questions": 30, "conversion": "pairs", "loss": "dpo", "beta": 0.2, "nll": 0.1},
    )
    status = run()
    rounds = [round_ for round_ in status["rounds"] if round_["stage"] == "refine"]
    assert [round_["traces"] for round_ in rounds] == [10, 10, 10]
    assert sum(round_["left_out"][UNDISPUTED] for round_ in rounds) == 20  # one question in three is hard
    assert run.trainer is not None
    jobs = [job for job in run.trainer.jobs if job.name.startswith("refine")]
    assert all(isinstance(row, PreferencePair) for job in jobs for row in job.rows)
    assert sum(len(job.rows) for job in jobs) == 10
    assert {(job.loss.name, job.loss.beta, job.loss.nll) for job in jobs if job.loss} == {("dpo", 0.2, 0.1)}
    assert isinstance(run.events, Events)
    notes = [event.text for event in run.events.all if isinstance(event, TrainingNote)]
    assert any(note.startswith("traces left out: ") and note.endswith(UNDISPUTED) for note in notes)


def test_round_whose_traces_were_all_left_out_trains_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run",
        Learner(),
        FolderTrainer(),
        refine={"update_every": 1, "questions": 3, "conversion": "pairs"},
        student={"backend": "scripted", "limits": {"concurrency": 1}},
    )
    status = run()
    promoted = {round_["round"]: round_ for round_ in status["rounds"] if round_["stage"] == "refine"}
    assert [round_["promoted"] for round_ in promoted.values()] == [True, False, False]  # only q000 is hard
    assert promoted[2]["reason"] == "no rows to train on: all 1 traces were left out"


def test_run_in_one_chat_trains_on_what_was_said(tmp_path: Path) -> None:
    chat = {"update_every": 10, "questions": 30, "conversion": "chat"}
    run = Run(tmp_path / "run", Chatterer(), FolderTrainer(), refine=chat)
    status = run()
    assert status["stages"]["refine"]["accepted"] == 30
    assert run.trainer is not None
    rows = [row for job in run.trainer.jobs if job.name.startswith("refine") for row in job.rows]
    turns = sorted(sum(message.role == "assistant" for message in row.messages) for row in rows
                   if isinstance(row, ChatExample))  # fmt: skip
    assert turns == [1] * 20 + [2] * 10


def test_replay_without_stage_one_says_what_to_run(tmp_path: Path) -> None:
    learner = Learner()
    run = Run(tmp_path / "run", learner, FolderTrainer(), refine={"update_every": 1, "questions": 3, "replay": 1.0})

    async def with_trained_student(pipeline: Pipeline) -> None:
        session = pipeline.session
        folder = session.folder / "finetune-x"
        await asyncio.to_thread(folder.mkdir)
        session.lineage["finetune"] = session.base.model_copy(update={"version": "finetune-x", "path": folder})
        await pipeline.refine()

    with pytest.raises(UsageError, match="replay repeats examples of stage 1"):
        run(with_trained_student)


@pytest.mark.parametrize(
    ("refine", "sentence"),
    [
        ({"conversion": "pairs", "replay": 0.5}, "replay adds examples"),
        ({"loss": "dpo"}, "loss belongs to conversion: pairs"),
        ({"conversion": "chat", "beta": 0.1}, "has no beta"),
        ({"conversion": "pairs", "loss": "dpo", "margin": 0.1}, "the loss dpo has no margin"),
        ({"conversion": "Final"}, "conversion"),
        ({"conversion": "revise", "guide_from": "none"}, "needs guides"),
        ({"replay": "some"}, "replay"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(refine: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        settings(refine=refine)


def test_losses_parameters_come_from_the_settings_or_are_the_losss_own() -> None:
    stage = settings(self_train={"loss": "kto", "beta": 0.3, "length_desensitise": 0.5}).self_train
    assert stage.pairwise == PairwiseLoss(name="kto", beta=0.3, length_desensitise=0.5)
    assert settings(self_train={"loss": "simpo"}).self_train.pairwise == PairwiseLoss(name="simpo", beta=2, margin=1)


def test_student_whose_template_rewrites_chats_is_refused_before_the_run(tokenizer: Any, tmp_path: Path) -> None:
    from meteor_agents.backends.base_model import check_chat
    from meteor_agents.settings.roles import StudentSettings

    tokenizer.save_pretrained(tmp_path / "keeps")
    rewriting(tokenizer).save_pretrained(tmp_path / "rewrites")
    check_chat(StudentSettings(backend="transformers", model=str(tmp_path / "keeps")))
    with pytest.raises(SettingsError, match=r"^refine\.conversion: the chat template of .* rewrites earlier turns"):
        check_chat(StudentSettings(backend="transformers", model=str(tmp_path / "rewrites")))


# The tokens

CHAT = (
    ChatMessage(role="system", content="You count."),
    ChatMessage(role="user", content="One plus two?"),
    ChatMessage(role="assistant", content="Four."),
    ChatMessage(role="user", content="No, count again."),
    ChatMessage(role="assistant", content="One, two,\nthree: 3"),
)


def spans(labels: Sequence[int]) -> list[list[int]]:
    """Runs of supervised tokens."""
    found: list[list[int]] = []
    before = IGNORED
    for label in labels:
        if label != IGNORED:
            if before == IGNORED:
                found.append([])
            found[-1].append(label)
        before = label
    return found


def test_mask_of_a_chat_covers_exactly_the_students_tokens_and_ends_of_turn(tokenizer: Any) -> None:
    ids, labels = conversation_ids(tokenizer, CHAT)
    end = tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer))
    assert [tokenizer.decode(span) for span in spans(labels)] == [f"Four.{end}", f"One, two,\nthree: 3{end}"]
    assert all(label in (IGNORED, id_) for id_, label in zip(ids, labels, strict=True))
    assert tokenizer.decode(ids) == prompt_text(tokenizer, CHAT[:4]) + CHAT[4].content + end


def test_every_turn_of_a_chat_stands_behind_the_tokens_of_its_prompt(tokenizer: Any) -> None:
    ids, labels = conversation_ids(tokenizer, CHAT)
    starts = [i for i, label in enumerate(labels) if label != IGNORED and labels[i - 1] == IGNORED]
    assert [ids[:start] for start in starts] == [prompt_ids(tokenizer, CHAT[:2]), prompt_ids(tokenizer, CHAT[:4])]


def test_chat_of_one_turn_is_an_example(tokenizer: Any) -> None:
    assert conversation_ids(tokenizer, CHAT[:3]) == example_ids(tokenizer, CHAT[:2], "Four.")


def with_template(tokenizer: Any, assistant: str) -> Any:
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + assistant + "{% else %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return other


def rewriting(tokenizer: Any) -> Any:
    return with_template(
        tokenizer, "<|im_start|>assistant\n{% if loop.last %}{{ m.content }}{% else %}(said){% endif %}<|im_end|>\n"
    )


def test_template_that_trims_replies_is_followed(tokenizer: Any) -> None:
    trims = with_template(tokenizer, "<|im_start|>assistant\n{{ m.content | trim }}<|im_end|>\n")
    spaced = [m.model_copy(update={"content": f" {m.content}\n"}) if m.role == "assistant" else m for m in CHAT]
    ids, labels = conversation_ids(trims, spaced)
    assert [trims.decode(span) for span in spans(labels)] == ["Four.<|im_end|>", "One, two,\nthree: 3<|im_end|>"]
    assert trims.decode(ids) == prompt_text(trims, spaced[:4]) + "One, two,\nthree: 3<|im_end|>"


def test_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    with pytest.raises(RefusedCallError, match="rewrites earlier turns"):
        conversation_ids(rewriting(tokenizer), CHAT)


def test_chats_and_examples_are_encoded_together(tokenizer: Any) -> None:
    rows: list[TrainingRow] = [
        ChatExample(id="c", messages=CHAT),
        Example(id="e", prompt=CHAT[:2], target="Three."),
        ChatExample(id="long", messages=(CHAT[1], CHAT[4].model_copy(update={"content": "word " * 300}))),
    ]
    encoding = encode_rows(tokenizer, rows, max_length=100)
    assert ([row.id for row in encoding.rows], encoding.too_long) == (["c", "e"], 1)
    assert len(spans(encoding.rows[0].sequences[0].labels)) == 2


def test_chat_that_does_not_end_with_a_reply_is_refused() -> None:
    with pytest.raises(ValueError, match="the last message must be the assistant's"):
        ChatExample(id="c", messages=CHAT[:4])
