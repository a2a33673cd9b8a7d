"""Fine-tuning on a user's own rows: what is read, what is refused with its line, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meteor_agents.data.own_rows import read_own_rows
from meteor_agents.errors import UsageError
from meteor_agents.models import ChatMessage
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.training import ChatExample, Example
from tests.cli.test_cli import SETTINGS, TOY, meteor
from tests.pipeline.test_pipeline import FolderTrainer, Learner, Run
from tests.support.tiny_model import make_tiny


def written(folder: Path, *rows: object) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_prompt_and_completion_are_one_turn(tmp_path: Path) -> None:
    (row,) = read_own_rows(written(tmp_path, {"id": 7, "prompt": "One?", "completion": "Two.", "source": "me"}))
    assert row == Example(id="7", prompt=(ChatMessage(role="user", content="One?"),), target="Two.")


def test_messages_with_one_reply_are_an_example_and_with_several_a_chat(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Count."}
    one, two = read_own_rows(
        written(
            tmp_path,
            {"messages": [system, user("1?"), said("2")]},
            {"messages": [user("1?"), said("2"), user("3?"), said("4")]},
        )
    )
    assert isinstance(one, Example)
    assert [message.role for message in one.prompt] == ["system", "user"]
    assert isinstance(two, ChatExample)
    assert (one.id, two.id) == ("line 1", "line 2")


def test_replies_inside_a_prompt_are_not_learned(tmp_path: Path) -> None:
    row = {"prompt": [user("1?"), said("2"), user("3?")], "completion": [said("4")]}
    (example,) = read_own_rows(written(tmp_path, row))
    assert isinstance(example, Example)
    assert ([message.content for message in example.prompt], example.target) == (["1?", "2", "3?"], "4")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{not json", "line 2: not JSON"),
        ([1], "line 2: must be a JSON object, is a list"),
        ({"text": "x"}, "line 2: needs messages, or prompt and completion; found text"),
        ({"prompt": "x"}, "line 2: needs messages, or prompt and completion; found prompt"),
        ({"prompt": "x", "completion": " "}, "line 2: the reply to learn is empty"),
        ({"prompt": 3, "completion": "y"}, "line 2: prompt: "),
        ({"prompt": "x", "completion": [said("a"), said("b")]}, "line 2: completion must be one reply, not 2"),
        ({"messages": [user("x")]}, "line 2: the last message must be the assistant's"),
        ({"messages": [said("x")]}, "line 2: the last message must be the assistant's"),
        ({"messages": [user("x"), said("y"), user("z")]}, "line 2: the last message must be the assistant's"),
        ({"messages": [user("x"), said(""), user("z"), said("y")]}, "line 2: a reply to learn is empty"),
        ({"messages": [{"role": "tool", "content": "x"}, said("y")]}, r"line 2: messages\.0\.role: "),
        ({"messages": "x"}, "line 2: messages: "),
    ],
)
def test_bad_row_is_refused_with_its_line(tmp_path: Path, row: object, sentence: str) -> None:
    path = written(tmp_path, {"prompt": "fine", "completion": "fine"}, row)
    with pytest.raises(UsageError, match=f"^{path}, {sentence}"):
        read_own_rows(path)


def test_keys_of_a_message_that_hold_null_are_ignored(tmp_path: Path) -> None:
    more = {"tool_calls": None, "name": None}
    (example,) = read_own_rows(written(tmp_path, {"messages": [{**user("x"), **more}, {**said("y"), **more}]}))
    assert isinstance(example, Example)
    assert (example.prompt[0].content, example.target) == ("x", "y")
    for wrong, sentence in (
        ({**said("y"), "tool_calls": [1]}, r"messages\.1\.tool_calls: Extra inputs are not permitted"),
        ({"role": "assistant", "content": None}, r"messages\.1\.content: Input should be a valid string"),
        ({"content": "y"}, r"messages\.1\.role: Field required"),
    ):
        with pytest.raises(UsageError, match=f"line 1: {sentence}"):
            read_own_rows(written(tmp_path, {"messages": [user("x"), wrong]}))


def test_own_rows_of_parquet_may_have_columns_that_are_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as files

    columns = {"prompt": ["x"], "completion": ["y \0"], "image": [b"\x89PNG"], "score": [float("nan")]}
    files.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    (example,) = read_own_rows(tmp_path / "own.parquet")
    assert isinstance(example, Example)
    assert (example.prompt[0].content, example.target) == ("x", "y \ufffd")
    files.write_table(pyarrow.table({"prompt": ["x"], "completion": [b"\xff"]}), tmp_path / "own.parquet")
    with pytest.raises(UsageError, match="row 1, column 'completion': holds bytes"):
        read_own_rows(tmp_path / "own.parquet")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"prompt": "x", "completion": ' + "9" * 5000 + "}", "line 1: an integer of 5000 digits is too long"),
        ('{"messages": ' + "[" * 2000, "line 1: lists and objects are nested more than 100 levels deep"),
    ],
    ids=["digits", "depth"],
)
def test_own_rows_that_cannot_be_read_are_refused_by_line(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "own.jsonl").write_text(line)
    with pytest.raises(UsageError, match=sentence):
        read_own_rows(tmp_path / "own.jsonl")


def test_half_an_emoji_in_an_own_row_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"id": 3, "prompt": "x", "completion": "y \\ud83d"}')
    (example,) = read_own_rows(tmp_path / "own.jsonl")
    assert isinstance(example, Example)
    assert (example.id, example.target) == ("3", "y \ufffd")


def test_file_without_rows_or_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no row"):
        read_own_rows(written(tmp_path, ""))
    with pytest.raises(UsageError, match="there is no such file"):
        read_own_rows(tmp_path / "none.jsonl")
    (tmp_path / "own.txt").write_text("x")
    with pytest.raises(UsageError, match="unknown kind of file"):
        read_own_rows(tmp_path / "own.txt")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=st.dictionaries(st.sampled_from(["messages", "prompt", "completion", "id"]), _JSON))
def test_any_row_is_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    path = written(tmp_path_factory.mktemp("any"), row)
    try:
        read = read_own_rows(path)
    except UsageError as error:
        read, refusal = [], str(error)
    else:
        refusal = f"{path}, line 1: "
    assert refusal.startswith(f"{path}, line 1: ")
    replies = [row.target if isinstance(row, Example) else row.messages[-1].content for row in read]
    assert all(reply.strip() for reply in replies)


# In a run

ROWS = [
    Example(id="a", prompt=(ChatMessage(role="user", content="1 plus 1?"),), target="2"),
    Example(id="b", prompt=(ChatMessage(role="user", content="1 plus 2?"),), target="3"),
]


def test_finetune_on_own_rows_is_a_round_of_its_own_and_later_stages_go_on_from_it(tmp_path: Path) -> None:
    trainer = FolderTrainer()
    run = Run(tmp_path / "run", Learner(), trainer)

    async def own_then_refine(pipeline: Pipeline) -> None:
        await pipeline.finetune(ROWS)
        await pipeline.refine()

    status = run(own_then_refine)
    own, first = trainer.jobs[:2]
    assert own.rows == tuple(ROWS)
    assert first.start.version == own.version()
    assert status["rounds"][0]["checkpoint"] == own.version()

    run(lambda pipeline: pipeline.finetune(ROWS))
    assert [job.name for job in trainer.jobs].count("finetune") == 1  # the same rows are not trained on again
    run(lambda pipeline: pipeline.finetune(ROWS[:1]))
    assert [job.name for job in trainer.jobs].count("finetune") == 2


def test_finetune_without_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--no-train leaves it nothing to do"):
        Run(tmp_path / "run", Learner(), None)(lambda pipeline: pipeline.finetune(ROWS))


def test_bad_file_is_refused_before_the_run_directory_is_made(tmp_path: Path) -> None:
    (tmp_path / "meteor.yaml").write_text(SETTINGS)
    (tmp_path / "toy.py").write_text(TOY)
    written(tmp_path, {"prompt": "x"})
    done = meteor("finetune", "meteor.yaml", "--data", "own.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("own.jsonl, line 1: needs messages, or prompt and completion; found prompt")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_own_rows_are_trained_on_for_real_and_the_checkpoint_is_evaluated(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the packages of the extra [train]")
    make_tiny(tmp_path / "model")
    (tmp_path / "meteor.yaml").write_text(
        """
name: own
domain: tests
questions: {path: questions.jsonl, holdout: 3, gate: 0}
student: {backend: transformers, model: model, sampling: {max_tokens: 8}}
teacher: {backend: reference}
judge: {verifier: exact}
training: {learning_rate: 3.0e-3, epochs: 8, batch_size: 4, max_length: 64}
"""
    )
    questions = [{"question": f"Which number comes after {i}?", "reference": str(i + 1)} for i in range(5)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    chat = {"messages": [user("Hello?"), said("Yes."), user("Hello again?"), said("Yes.")]}
    long = {"prompt": "word " * 100, "completion": "Yes."}
    own = written(tmp_path, {"prompt": "Hello?", "completion": "Yes."}, chat, chat, long)

    for command in (["finetune", "meteor.yaml", "--data", str(own)], ["evaluate", "meteor.yaml"]):
        done = meteor(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(meteor("status", "runs/own", "--json", cwd=tmp_path).stdout)
    (round_,) = status["rounds"]
    assert (round_["promoted"], round_["rows_too_long"]) == (True, 1)
    assert [score["labels"] for score in status["scores"].values()] == [["base"], ["finetune"]]
    steps = [json.loads(line) for line in (tmp_path / "runs/own/log.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "learning_rate" in step and "loss" in step]
    assert losses[-1] < losses[0] / 2
