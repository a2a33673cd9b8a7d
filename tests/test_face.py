"""The Python face: what is public, and a researcher's notebook from opening a run to looking at its traces."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import re
import textwrap
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import meteor_agents as meteor
from meteor_agents.backends.scripted import ScriptedModel

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in meteor.__all__:
        assert getattr(meteor, name) is not None
        if name != "__version__":
            assert (getattr(meteor, name).__doc__ or "").strip(), name
    assert list(meteor.__all__) == sorted(meteor.__all__)
    assert dir(meteor) == list(meteor.__all__)


def test_type_checkers_see_the_names_that_are_loaded_on_use() -> None:
    tree = ast.parse((ROOT / "meteor_agents" / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for block in tree.body if isinstance(block, ast.If)
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    assert set(seen) == set(meteor.__all__) - {"__version__"}
    for name, module in seen.items():
        assert getattr(import_module(str(module)), str(name)) is getattr(meteor, str(name))


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_rum'"):
        _ = meteor.open_rum


def content(folder: Path) -> dict[str, Any]:
    rows = [{"id": f"q{i}", "question": f"What is one plus {i}?", "reference": str(i + 1)} for i in range(12)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "name": "sums",
        "domain": "sums",
        "questions": {"path": str(folder / "questions.jsonl"), "holdout": 4, "gate": 0},
        "student": {"backend": "scripted", "model": "pupil", "replies": ["Answer: 1"]},
        "teacher": {"backend": "reference"},
        "judge": {"verifier": "numeric"},
        "refine": {"iterations": 2},
    }


def test_a_run_is_opened_refined_and_looked_at_with_a_function_as_judge(tmp_path: Path) -> None:
    def even(question: meteor.Question, answer: str) -> bool:
        return int(answer) % 2 == 0

    says = ScriptedModel(lambda messages, sampling: f"Answer: {len(messages[-1].content) % 2}", name="pupil")

    async def notebook() -> dict[str, str]:
        async with meteor.open_run(content(tmp_path), tmp_path / "run", judge=even, models={"student": says}) as run:
            await run.refine()
            await run.evaluate()
            assert {trace.stage for trace in run.traces()} == {"refine"}
            return {trace.question.id: str(trace.outcome) for trace in run.traces("refine")}

    outcomes = asyncio.run(notebook())
    assert len(outcomes) == 8
    assert set(outcomes.values()) <= {"accepted", "exhausted"}
    with meteor.read_run(tmp_path / "run") as seen:
        assert {trace.question.id: str(trace.outcome) for trace in seen.traces("refine")} == outcomes
        assert len(list(seen.traces(outcome="accepted"))) == list(outcomes.values()).count("accepted")
        assert seen.rounds() == []
        assert seen.scores()["base"]["held out"]["questions"] == 4
        assert [call.stage for call in seen.calls("student", 1)] == ["evaluate"]
        assert seen.status()["stages"]["refine"]["state"] == "done"


def test_an_open_run_resumes_and_asks_nothing_twice(tmp_path: Path) -> None:
    model = ScriptedModel(lambda messages, sampling: "Answer: 5", name="pupil")
    asked: list[int] = []

    async def session() -> None:
        async with meteor.open_run(content(tmp_path), tmp_path / "run", models={"student": model}) as run:
            await run.refine()
            asked.append(run.status()["calls"]["student"]["made"])

    asyncio.run(session())
    asyncio.run(session())
    assert asked[0] == asked[1] > 0


def test_settings_come_from_a_preset_a_mapping_or_a_file_with_overrides(tmp_path: Path) -> None:
    assert meteor.load_settings("quickstart", {"refine.iterations": 5}).refine.iterations == 5
    assert meteor.load_settings(content(tmp_path), {"refine.iterations": 4}).refine.iterations == 4
    with pytest.raises(meteor.UsageError, match=r"refine\.iteratons"):
        meteor.load_settings("quickstart", {"refine.iteratons": 5})


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(meteor.UsageError, match="not a run directory"), meteor.read_run(tmp_path):
        pass


def test_the_readmes_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import meteor_agents.*?)```", readme, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    project = tmp_path / "my-project"
    project.mkdir()
    given = content(project)
    given["student"]["replies"] = ["Answer: one, please"] * 8
    (project / "meteor.yaml").write_text(json.dumps(given), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    printed = io.StringIO()
    exec(compile(example, "README.md", "exec"), names)
    with redirect_stdout(printed):
        asyncio.run(names["main"]())
    assert len(printed.getvalue().splitlines()) == 8
    assert all(line.endswith("one, please") for line in printed.getvalue().splitlines())


def test_the_package_docstrings_example_is_python() -> None:
    (example,) = re.findall(r"\n\n((?:    .*\n|\n)+)", str(meteor.__doc__) + "\n")
    code = textwrap.dedent(example)
    head, body = code.split("\n\n", 1)
    compile(f"{head}\nasync def notebook():\n{textwrap.indent(body, '    ')}", "docstring", "exec")
