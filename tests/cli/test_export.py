"""Exported files, read by those for whom they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import meteor
from tests.support.tiny_model import make_tiny, real_tokenizer

SETTINGS = """
name: sums
domain: sums
questions: {path: questions.jsonl, holdout: 2, gate: 1}
student: {backend: scripted, model: toy, function: "toy:student", limits: {concurrency: 2}}
teacher: {backend: reference}
judge: {verifier: numeric}
"""

TOY = """
def student(messages, sampling):
    said = "\\n".join(message.content for message in messages if message.role == "user")
    return "Two and two.\\nAnswer: 4" if "judged to be wrong" in said else "Answer: 5"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that hold stages 1 and 2, the second in one chat; every question is answered at the second try."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "meteor.yaml").write_text(SETTINGS)
    (folder / "toy.py").write_text(TOY)
    rows = [{"question": f"What is {i} plus {4 - i}?", "reference": "4", "reasoning": "Add."} for i in range(8)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for stage in ("distill", "refine"):
        assert meteor(stage, "meteor.yaml", "--no-train", cwd=folder).returncode == 0
    chat = ["--set", "refine.conversion=chat", "--run-dir", "runs/chat"]
    done = meteor("refine", "meteor.yaml", "--no-train", *chat, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def exported(project: Path, out: str, *args: str, run: str = "runs/sums") -> Path:
    done = meteor("export", run, *args, "--out", out, cwd=project)
    assert done.returncode == 0, done.stderr
    return project / out


def loaded(file: Path, cache: Path) -> Any:
    """The file as `datasets` loads it."""
    datasets = pytest.importorskip("datasets", reason="comes with TRL, of the extra [dev]")
    kind = "parquet" if file.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(file), cache_dir=str(cache), split="train")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_trl_prepares_the_exported_examples_as_we_train_on_them(
    project: Path, tiny: Path, tmp_path: Path, file_format: str
) -> None:
    trl = pytest.importorskip("trl", reason="reads what is exported with TRL, of the extra [dev]")
    from meteor_agents.backends.local.chat_template import example_ids
    from meteor_agents.models import ChatMessage

    file = exported(project, f"for-trl.{file_format}", "--what", "sft", "--format", file_format)
    data = loaded(file, tmp_path / "cache")
    assert {row["stage"] for row in data} == {"distill", "refine"}
    config = trl.SFTConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False, max_length=512)
    prepared = trl.SFTTrainer(model=str(tiny), args=config, train_dataset=data).train_dataset
    assert len(prepared) == len(data) == 10
    for row, tokens in zip(data, prepared, strict=True):
        *prompt, reply = [ChatMessage(**message) for message in row["messages"]]
        ours = example_ids(real_tokenizer(), prompt, reply.content).ids
        assert list(tokens["input_ids"])[: len(ours)] == ours  # TRL keeps the line break that the template ends with


@pytest.mark.filterwarnings("ignore")
def test_trl_prepares_the_exported_pairs_as_we_train_on_them(project: Path, tiny: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="reads what is exported with TRL, of the extra [dev]")
    data = loaded(exported(project, "pairs.jsonl", "--what", "preferences"), tmp_path / "cache")
    config = trl.DPOConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False, max_length=512)
    prepared = trl.DPOTrainer(model=str(tiny), args=config, train_dataset=data).train_dataset
    assert len(prepared) == len(data) == 5
    decode = real_tokenizer().decode
    for row, tokens in zip(data, prepared, strict=True):
        assert decode(tokens["chosen_ids"]).startswith("Two and two.\nAnswer: 4<|im_end|>")
        assert decode(tokens["rejected_ids"]).startswith("Answer: 5<|im_end|>")
        assert decode(tokens["prompt_ids"]).endswith("<|im_start|>assistant\n")
        assert row["prompt"][-1]["content"] in decode(tokens["prompt_ids"])


def test_run_in_one_chat_exports_its_chats(project: Path) -> None:
    file = exported(project, "chats.jsonl", "--what", "sft", run="runs/chat")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    roles = {tuple(message["role"] for message in row["messages"]) for row in rows}
    assert roles == {("system", "user", "assistant", "user", "assistant")}


def test_replies_for_self_distillation_are_counted_and_left_out_of_the_examples(project: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    for file in ("meteor.yaml", "questions.jsonl"):
        (tmp_path / file).write_bytes((project / file).read_bytes())
    held = meteor("refine", "meteor.yaml", "--no-train", "--set", "refine.conversion=self_distill", cwd=tmp_path)
    assert held.returncode == 0, held.stderr
    for option in ([], ["--llama-factory", "alpaca"]):
        refused = meteor("export", "runs/sums", "--what", "sft", *option, "--out", "sft.jsonl", cwd=tmp_path)
        assert refused.returncode == 2
        assert "nothing to export as sft yet (5 traces with replies for self-distillation, which are no" in " ".join(
            refused.stderr.split()
        )
    assert not list(tmp_path.glob("*sft*"))
    assert len(exported(tmp_path, "pairs.jsonl", "--what", "preferences").read_text().splitlines()) == 5

    told = meteor("distill", "meteor.yaml", "--no-train", "--set", "refine.conversion=self_distill", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    done = meteor("export", "runs/sums", "--what", "sft", "--out", "sft.jsonl", cwd=tmp_path)
    assert "left out: 5 traces with replies for self-distillation" in " ".join((done.stdout + done.stderr).split())
    assert {json.loads(line)["stage"] for line in (tmp_path / "sft.jsonl").read_text().splitlines()} == {"distill"}


# LLaMA-Factory. What its documentation of data sets (data/README.md there) says of the two formats, as checks

COLUMNS = {
    "alpaca": {"prompt", "query", "response", "history", "system", "chosen", "rejected"},
    "sharegpt": {"messages", "system", "chosen", "rejected"},
}


def check_against_the_documentation(folder: Path, name: str, style: str, *, ranking: bool) -> list[dict[str, Any]]:
    info = json.loads((folder / "dataset_info.json").read_text())[name]
    assert info.keys() <= {"file_name", "formatting", "ranking", "columns"}
    assert info["formatting"] == style
    assert info.get("ranking", False) is ranking
    assert info["columns"].keys() <= COLUMNS[style]
    assert ({"chosen", "rejected"} <= info["columns"].keys()) is ranking
    rows: list[dict[str, Any]] = json.loads((folder / info["file_name"]).read_text())
    for row in rows:
        assert row.keys() == set(info["columns"].values())
        replies = [row[side] for side in ("chosen", "rejected")] if ranking else []
        if style == "alpaca":
            replies += [] if ranking else [row["output"]]
            assert all(isinstance(text, str) and text for text in (row["instruction"], *replies))
            assert all(len(turn) == 2 for turn in row["history"])
        else:
            assert all(reply.keys() == {"from", "value"} and reply["from"] == "gpt" for reply in replies)
            speakers = [turn["from"] for turn in row["conversations"]]
            assert speakers == ["human", "gpt"] * (len(speakers) // 2) + ["human"] * ranking
    assert rows
    return rows


@pytest.mark.parametrize("style", ["alpaca", "sharegpt"])
def test_llama_factory_files_have_the_documented_fields(project: Path, tmp_path: Path, style: str) -> None:
    option = ["--llama-factory", style]
    exported(project, str(tmp_path / "sft.jsonl"), "--what", "sft", *option, run="runs/chat")
    exported(project, str(tmp_path / "dpo.parquet"), "--what", "preferences", "--format", "parquet", *option)
    examples = check_against_the_documentation(tmp_path, f"sft_{style}", style, ranking=False)
    pairs = check_against_the_documentation(tmp_path, f"dpo_{style}", style, ranking=True)
    assert all(row["system"] == "You are an expert in sums." for row in (*examples, *pairs))
    if style == "alpaca":
        assert [row["output"] for row in examples] == ["Two and two.\nAnswer: 4"] * 5
        assert [[reply for _, reply in row["history"]] for row in examples] == [["Answer: 5"]] * 5
        assert [(row["chosen"], row["rejected"]) for row in pairs] == [("Two and two.\nAnswer: 4", "Answer: 5")] * 5


def test_llama_factory_entry_is_added_to_what_is_there_and_nothing_is_overwritten(
    project: Path, tmp_path: Path
) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text('{"mine": {"file_name": "mine.json"}}')
    arguments = ["--what", "sft", "--llama-factory", "alpaca"]
    exported(project, str(tmp_path / "a.jsonl"), *arguments)
    assert set(json.loads(info.read_text())) == {"mine", "a_alpaca"}

    (tmp_path / "a.jsonl").unlink()
    again = meteor("export", "runs/sums", *arguments, "--out", str(tmp_path / "a.jsonl"), cwd=project)
    assert (again.returncode, "a.alpaca.json exists already" in again.stderr) == (2, True)
    info.write_text("[1, 2]")
    broken = meteor("export", "runs/sums", *arguments, "--out", str(tmp_path / "b.jsonl"), cwd=project)
    assert (broken.returncode, "holds no JSON object" in broken.stderr) == (2, True)
    assert not (tmp_path / "b.jsonl").exists()
    traces = ["--what", "traces", "--llama-factory", "alpaca", "--out", str(tmp_path / "t.jsonl")]
    refused = meteor("export", "runs/sums", *traces, cwd=project)
    assert (refused.returncode, "traces are no training data" in refused.stderr) == (2, True)
