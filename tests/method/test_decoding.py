"""Decoding strategies with a speaker that says what it is told, and what settings make of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents import prompts
from meteor_agents.assembly.config_file import dump_config
from meteor_agents.cli.commands.check import check_config
from meteor_agents.cli.commands.run import RunRequest, run_stage
from meteor_agents.errors import ModelError, SettingsError
from meteor_agents.messages import Attempt, Dropped, Question, Status
from meteor_agents.method.agents import Student
from meteor_agents.method.decoding.opening import check_strategies, described, open_strategy
from meteor_agents.method.decoding.preference_pairs import PairRules
from meteor_agents.method.decoding.sampled import view
from meteor_agents.method.decoding.strategy import Choice, decoded
from meteor_agents.method.decoding.text_similarity import medoid, similarity
from meteor_agents.method.judges import Judge, ModelJudge, VerifierJudge
from meteor_agents.method.replies import CRITERIA
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, Completion, FinishReason, Likelihood, Occasion, SamplingParams, Usage
from meteor_agents.settings.decoding import Decoding
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import open_for_reading
from meteor_agents.training import Checkpoint
from meteor_agents.verifiers import ComparesAnswers, open_verifier

QUESTION = Question(id="q", question="What is half of 42?", reference="21")
TEMPLATES = Templates(Path(prompts.__file__).parent)
BASE = Checkpoint(version="base-1", path=Path("nowhere"))
Say = Callable[[Sequence[ChatMessage], SamplingParams, Occasion], str]


class Speaker:
    """Says what `say` returns, 10 tokens in and 4 out; a reply that ends with ... was cut."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.asked: list[tuple[str, SamplingParams, Occasion]] = []

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        self.asked.append((messages[-1].content, sampling, occasion))
        text = self._say(messages, sampling, occasion)
        reason = FinishReason.CUT if text.endswith("...") else FinishReason.COMPLETE
        return Completion(text, reason, Usage(input_tokens=10, output_tokens=4), "m", "w1")


def samples(*replies: str) -> Speaker:
    """Sample n is the n-th reply."""
    return Speaker(lambda messages, sampling, occasion: replies[occasion.tries - 1])


def scored(score: int) -> str:
    """A judge's reply that gives each criterion this score."""
    content: dict[str, int] = dict.fromkeys(CRITERIA, score)
    return json.dumps(content)


def voice(speaker: Speaker) -> Voice:
    return Voice(speaker, TEMPLATES, "sums", SamplingParams(temperature=0.7, seed=5))


def numeric() -> VerifierJudge:
    return VerifierJudge(open_verifier("numeric", {}, Path()))


def decode(setting: dict[str, Any] | str, speaker: Speaker, judge: Judge | None = None) -> Choice:
    setting_ = "greedy" if setting == "greedy" else Decoding.model_validate(setting)
    strategy = open_strategy(setting_, SamplingParams(temperature=0.7, seed=5), judge or numeric(), BASE)  # type: ignore[arg-type]
    return asyncio.run(strategy.decode(QUESTION, Student(voice(speaker)), stage="self-train"))


def test_greedy_is_one_call_without_a_seed() -> None:
    speaker = samples("Answer: 21")
    reply = decode("greedy", speaker)
    assert (reply.attempt.answer, reply.cost.calls, reply.cost.passed) == ("21", 1, 14)
    assert speaker.asked[0][1] == SamplingParams(temperature=0, top_p=1)


def test_each_sample_has_a_number_and_a_seed_of_its_own() -> None:
    speaker = samples("Answer: 1", "Answer: 21", "Answer: 3")
    decode({"best_of": 3}, speaker)
    assert [(occasion.tries, sampling.seed) for _, sampling, occasion in speaker.asked] == [(1, 5), (2, 6), (3, 7)]


def test_best_of_takes_the_first_sample_that_the_verifier_accepts() -> None:
    reply = decode({"best_of": 4}, samples("Answer: 1", "First.\nAnswer: 21", "Second.\nAnswer: 21", "Answer: 3"))
    assert (reply.attempt.reasoning, reply.chosen) == ("First.", 1)
    assert reply.scores == (0.0, 1.0, 1.0, 0.0)
    assert (reply.cost.calls, reply.cost.output_tokens) == (4, 16)


def test_best_of_by_a_model_judge_takes_the_best_scored_and_not_one_without_a_score() -> None:
    def say(messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        known = {"Answer: one": 3, "Answer: two": 8}
        score = next((n for reply, n in known.items() if reply in messages[-1].content), 0)
        return scored(score) if score else "I like it!"

    judge = ModelJudge(voice(Speaker(say)))
    reply = decode({"best_of": 3, "by": "judge"}, samples("Answer: three", "Answer: one", "Answer: two"), judge)
    assert (reply.attempt.answer, reply.scores) == ("two", (None, 3.0, 8.0))
    with pytest.raises(ModelError, match="not one of the samples has a readable score"):
        decode({"best_of": 2}, samples("Answer: three", "Answer: three"), judge)


def test_best_of_by_likelihood_takes_the_likeliest_a_token_and_counts_the_scoring() -> None:
    told = {"Answer: 1": Likelihood(-9, 3), "Answer: 2": Likelihood(-10, 5), "Answer: 3": Likelihood(-1, 1)}

    def say(messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        if sampling.score:
            assert messages[-1].role == "assistant"
            return told[messages[-1].content].written()
        return list(told)[occasion.tries - 1]

    reply = decode({"best_of": 3, "by": "likelihood"}, Speaker(say))
    assert (reply.attempt.answer, reply.scores, reply.cost.calls) == ("3", (-3.0, -2.0, -1.0), 6)


def test_a_model_that_answers_instead_of_scoring_is_an_error() -> None:
    with pytest.raises(ModelError, match="does not tell how likely"):
        decode({"best_of": 2, "by": "likelihood"}, Speaker(lambda *_: "Answer: 21"))


def test_a_cut_sample_is_chosen_only_if_all_were_cut() -> None:
    assert decode({"best_of": 2}, samples("Answer: 21 ...", "Answer: 4")).attempt.answer == "4"
    assert decode({"vote": 3}, samples("Answer: 9...", "Answer: 9...", "Answer: 4")).attempt.answer == "4"
    assert decode({"best_of": 2}, samples("Answer: 21 ...", "Answer: 4...")).attempt.truncated


def test_a_vote_counts_answers_as_the_verifier_sees_them() -> None:
    reply = decode({"vote": 4}, samples("Answer: 3", "Long.\nAnswer: 21.0", "Answer: 5", "Answer: 21"))
    assert (reply.attempt.reasoning, reply.scores) == ("Long.", (0.25, 0.5, 0.25, 0.5))


def test_a_vote_on_free_text_takes_the_one_most_like_the_others() -> None:
    texts = ("The sky is blue today", "Fish swim", "The sky is blue", "The sky is grey today")
    judge = ModelJudge(voice(samples()))
    assert decode({"vote": 4}, samples(*texts), judge).attempt.text == texts[0]


def test_a_revision_sees_draft_and_critique_and_both_are_paid_for() -> None:
    def say(messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        text = messages[-1].content
        if "What was noted about it: Twenty is too little." in text and "Answer: 20" in text:
            return "Answer: 21"
        return "Twenty is too little." if "Answer: 20" in text else "Answer: 20"

    reply = decode({"revise": 1}, Speaker(say))
    assert (reply.attempt.answer, reply.cost.calls) == ("21", 3)


def test_flops_are_two_a_parameter_and_token_and_a_beam_counts_its_tokens_once_a_beam() -> None:
    strategy = open_strategy(Decoding(beam=10), SamplingParams(), numeric(), BASE)
    reply = asyncio.run(strategy.decode(QUESTION, Student(voice(samples("Answer: 21"))), stage="s"))
    assert decoded(strategy, reply, 1000).flops == 2 * 1000 * (10 + 10 * 4)
    assert decoded(strategy, reply, None).flops is None


def test_the_student_that_judges_itself_does_not_see_the_reference() -> None:
    speaker = Speaker(lambda *_: json.dumps({"status": "correct", "explanation": "", "guide": ""}))
    attempt = Attempt(text="Answer: 20", reasoning="", answer="20", model="m", weights="w")
    judge = Student(voice(speaker)).as_judge()
    assert asyncio.run(judge.evaluate(QUESTION, attempt, stage="s")).status is Status.CORRECT
    prompt, sampling, _ = speaker.asked[0]
    assert "21" not in prompt
    assert sampling.temperature == 0


# what settings say, and what a backend can do


def settings(**self_train: Any) -> Settings:
    more: dict[str, Any] = {key: self_train.pop(key) for key in ("judge", "student", "questions") if key in self_train}
    content: dict[str, Any] = {
        "name": "n",
        "domain": "sums",
        "questions": {"path": "q.jsonl"},
        "student": {"backend": "openai"},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "numeric"},
        "self_train": self_train,
        **more,
    }
    return load_settings(content, base=Path(), source="test.yaml")


class Plain:
    """A model that only completes."""


class Beams(Plain):
    max_beams = 4


class Scores(Plain):
    scores_replies = True


class Contrasting(Plain):
    contrasts = True


@pytest.mark.parametrize(
    ("high", "student", "message"),
    [
        ({"beam": 10}, Plain(), r"no beam search; the nearest it can do is high: \{best_of: 10, by: judge\}"),
        ({"beam": 10}, Scores(), r"no beam search; .* \{best_of: 10, by: likelihood\}"),
        ({"beam": 10}, Beams(), r"at most 4 beams .* not 10; .* \{beam: 4\}"),
        ({"best_of": 8, "by": "likelihood"}, Plain(), r"how likely a reply is; .* \{best_of: 8, by: judge\}"),
        ({"contrast": "base"}, Beams(), r"no contrastive decoding; .* \{revise: 1\}"),
    ],
)
def test_a_strategy_that_the_backend_cannot_do_is_refused_and_the_nearest_named(
    high: dict[str, Any], student: Plain, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check_strategies(settings(high=high), student)


def test_a_weaker_model_is_a_folder_beside_the_settings_or_refused(tmp_path: Path) -> None:
    (tmp_path / "weak").mkdir()
    content = yaml.safe_load(dump_config(settings(high={"contrast": "weak"})))
    given = load_settings(content, base=tmp_path, source="test.yaml")
    assert given.self_train.high == Decoding(contrast=str(tmp_path / "weak"))
    with pytest.raises(SettingsError, match="neither `base` nor a model folder"):
        check_strategies(given, Contrasting())
    (tmp_path / "weak" / "config.json").write_text("{}")
    check_strategies(given, Contrasting())


@pytest.mark.parametrize("high", [{"sample": 1.0}, {"best_of": 8}, {"vote": 8}, {"revise": 2}])
def test_what_needs_plain_calls_only_is_never_refused(high: dict[str, Any]) -> None:
    given = settings(high=high)
    check_strategies(given, Plain())
    assert given.self_train.high == Decoding.model_validate(high)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"high": {"beam": 2, "vote": 3}}, "name one decoding"),
        ({"high": {"beam": 2, "by": "judge"}}, "beam has no option 'by'"),
        ({"high": {"vote": 5, "by": "judge"}}, "vote goes by answer or text, not by judge"),
        ({"low": "greedy", "high": "greedy"}, "the same decoding"),
        ({"high": {"best_of": 4, "by": "verifier"}, "judge": {"backend": "openai"}}, "the judge is a model"),
        ({"verify": "verifier", "judge": {"backend": "openai"}}, "verify: judge"),
        ({"stop_early": True, "judge": {"backend": "openai"}}, "stop_early needs a verifier"),
        ({"stop_early": True, "questions": {"path": "q", "gate": 0}}, "questions.gate above 0"),
        (
            {"high": {"best_of": 4}, "student": {"backend": "openai", "sampling": {"temperature": 0}}},
            "all 4 samples would be equal",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**given)


def test_strategies_are_described_in_a_few_words() -> None:
    given: list[dict[str, Any]] = [
        {"sample": 0.5}, {"beam": 10}, {"best_of": 8}, {"best_of": 2, "by": "likelihood"}, {"vote": 8},
        {"vote": 8, "by": "text"}, {"revise": 1}, {"contrast": "base"},
    ]  # fmt: skip
    assert [described(Decoding.model_validate(one), free=True) for one in given] == [
        "sample 0.5", "beam 10", "best of 8 by judge", "best of 2 by likelihood", "vote of 8 by answer",
        "vote of 8 by text", "revise 1", "contrast with base",
    ]  # fmt: skip


# pairs


def attempt(answer: str, reasoning: str = "", *, cut: bool = False) -> Attempt:
    text = f"{reasoning}\nAnswer: {answer}"
    return Attempt(text=text, reasoning=reasoning, answer=answer, truncated=cut, model="m", weights="w")


def ended(ending: FinishReason) -> Attempt:
    return Attempt(text="Answer: 3", reasoning="", answer="3", ending=ending, model="m", weights="w")


LONG = "take the number and divide it by two as one does with halves, then read what the result of the division is"


@pytest.mark.parametrize(
    ("low", "high", "judge", "dropped"),
    [
        (attempt("20"), attempt("21"), numeric(), None),
        (attempt("21"), attempt("21", cut=True), numeric(), Dropped.CUT),
        (attempt("20", cut=True), attempt("21"), numeric(), Dropped.CUT),
        (attempt("20"), ended(FinishReason.REFUSED), numeric(), Dropped.INCOMPLETE),
        (ended(FinishReason.FILTERED), attempt("21"), numeric(), Dropped.INCOMPLETE),
        (ended(FinishReason.UNKNOWN), ended(FinishReason.CUT), numeric(), Dropped.INCOMPLETE),
        (attempt("20 apples", "a b"), attempt("20.0", "c d"), numeric(), Dropped.EQUAL),
        (attempt("Blue  sky"), attempt("blue sky"), ModelJudge(voice(samples())), Dropped.EQUAL),
        (attempt(f"{LONG} here"), attempt(LONG), ModelJudge(voice(samples())), Dropped.NEARLY_EQUAL),
        (attempt("20", LONG), attempt("21", LONG), numeric(), None),
        (attempt("20"), attempt("21", LONG), numeric(), Dropped.LENGTHS),
    ],
)
def test_why_two_replies_are_no_pair(low: Attempt, high: Attempt, judge: Judge, dropped: Dropped | None) -> None:
    rules = PairRules(judge, near_equal=0.95, max_length_ratio=4)
    assert asyncio.run(rules.unfit(QUESTION, low, high)) is dropped


def test_queries_with_equal_rows_are_the_same_answer(tmp_path: Path) -> None:
    (tmp_path / "d.sql").write_text("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2.0), (3, 0.1);")
    with closing(open_verifier("sql", {"database": "d.sql"}, tmp_path)) as verifier:
        judge = VerifierJudge(verifier)
        loose = Question(id="q", question="?", reference="SELECT a FROM t")
        strict = loose.model_copy(update={"reference": "SELECT a FROM t ORDER BY a"})

        def seen(question: Question, sql: str) -> str:
            return asyncio.run(view(judge, question, sql))

        assert seen(loose, "SELECT a FROM t") == seen(loose, "select T.a from t order by a desc")
        assert seen(strict, "SELECT a FROM t") != seen(strict, "select T.a from t order by a desc")
        assert seen(loose, "SELECT b FROM t") == seen(loose, "SELECT b + 0.1 - 0.1 FROM t")
        assert seen(loose, "SELECT a FROM t") != seen(loose, "SELECT b FROM t")
        assert seen(loose, "SELEC a") == "read selec a"


@pytest.mark.parametrize(
    ("verifier", "one", "same", "other"),
    [
        ("numeric", "1234567890123", "It is 1,234,567,890,123.", "1234567890124"),
        ("numeric", "0.5", "1/2", "50%"),
        ("choice", "(B)", "Answer: B", "C"),
        ("exact", "Dr. Who!", "dr who", "dr whom"),
    ],
)
def test_views_are_equal_for_the_same_answer_only(verifier: str, one: str, same: str, other: str) -> None:
    opened = open_verifier(verifier, {}, Path())
    assert isinstance(opened, ComparesAnswers)
    assert opened.view(QUESTION, one) == opened.view(QUESTION, same) != opened.view(QUESTION, other)


@given(st.text())
def test_a_number_is_seen_in_any_text_without_an_error(text: str) -> None:
    opened = open_verifier("numeric", {}, Path())
    assert isinstance(opened, ComparesAnswers)
    assert opened.view(QUESTION, text) in (None, opened.view(QUESTION, f"{text} "))


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_one_for_equal_texts(a: str, b: str) -> None:
    assert 0 <= similarity(a, b) == similarity(b, a) <= 1
    assert similarity(a, a) == 1


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=6))
def test_a_medoid_is_one_of_the_texts_with_the_highest_mean(texts: list[str]) -> None:
    best, means = medoid(texts)
    assert len(means) == len(texts)
    assert means[best] == max(means)


def test_check_and_a_run_refuse_what_the_backend_cannot_do_before_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is half of {2 * n}?", "reference": str(n)} for n in range(8)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "halves",
        "domain": "sums",
        "questions": {"path": "questions.jsonl", "holdout": 2, "gate": 2},
        "student": {"backend": "scripted", "replies": ["Answer: 1"]},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "numeric"},
        "self_train": {"high": {"best_of": 4, "by": "likelihood"}},
    }
    Path("halves.yaml").write_text(yaml.safe_dump(content))
    refused = r"self_train\.high: the student's backend scripted does not tell .* high: \{best_of: 4, by: judge\}"
    with pytest.raises(SettingsError, match=refused):
        check_config("halves.yaml", ())
    said = capsys.readouterr().out
    assert "PROBLEM" in said
    assert "self_train.high" in said
    with pytest.raises(SettingsError, match=refused):
        run_stage("self-train", RunRequest("halves.yaml", no_train=True))
    with closing(open_for_reading(Path("runs/halves/run.db"))) as records:
        assert records.spent().calls == 0
