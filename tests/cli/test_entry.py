"""The entry point: what a user sees of mistakes, bugs, signals and shortcuts, in real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meteor_agents.version import VERSION
from tests.cli.test_cli import SETTINGS, asked, meteor
from tests.cli.test_cli import project as project  # a fixture
from tests.support.faulty_server import FaultyServer, faulty_server

SABOTAGE = """
import meteor_agents.cli.commands.init as init

def broken(folder):
    raise {error}

init.make_project = broken
"""


def sabotaged(folder: Path, error: str, **env: str) -> tuple[int, str]:
    """`meteor init` with a bug in it."""
    (folder / "sitecustomize.py").write_text(SABOTAGE.format(error=error))
    paths = ":".join(filter(None, [str(folder), env.pop("PYTHONPATH", "")]))
    done = meteor("init", "x", cwd=folder, env={"PYTHONPATH": paths, "TMPDIR": str(folder), **env})
    return done.returncode, done.stderr


@pytest.fixture
def path() -> str:
    """The folders that Python already looks into."""
    return os.environ.get("PYTHONPATH", "")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ("TypeError('unsupported: \\x1b[2J')", r"TypeError: unsupported: \x1b[2J"),
        ("KeyError('x')", "KeyError: 'x'"),
        ("ExceptionGroup('several', [ValueError('a')])", "ExceptionGroup: several"),
        ("AssertionError()", "AssertionError"),
        ("OSError('no file is named')", "OSError: no file is named"),
    ],
)
def test_a_bug_is_called_a_bug_in_one_line_with_its_details_in_a_file(
    tmp_path: Path, path: str, error: str, named: str
) -> None:
    code, said = sabotaged(tmp_path, error, PYTHONPATH=path)
    assert code == 1
    assert len(said.splitlines()) == 1
    assert f"this is a bug in meteor ({named}" in said
    assert "\x1b" not in said
    assert "METEOR_TRACEBACK=1" in said
    found = re.search(r"details: (\S+);", said)
    assert found, said
    details = Path(found.group(1)).read_text()
    assert "Traceback" in details
    assert f"meteor-agents {VERSION}" in details


def test_a_traceback_is_printed_when_it_is_asked_for(tmp_path: Path, path: str) -> None:
    code, said = sabotaged(tmp_path, "KeyError('x')", PYTHONPATH=path, METEOR_TRACEBACK="1")
    assert (code, "Traceback" in said, "KeyError: 'x'" in said) == (1, True, True)


def test_a_file_that_the_system_refuses_is_named(tmp_path: Path, path: str) -> None:
    code, said = sabotaged(tmp_path, "PermissionError(13, 'Permission denied', 'some/file')", PYTHONPATH=path)
    assert (code, said.strip()) == (1, "meteor: some/file cannot be used: Permission denied")


@pytest.mark.parametrize(
    "args",
    [
        ["run", "--limit", "0"], ["run", "--limit", "x"], ["rnu"], ["run", "--nope"], ["status"], ["export", "."],
        ["export", ".", "--what", "sfx", "--out", "x"], ["ablate", "--seeds", "0"], ["status", "a", "b"], ["init"],
        ["run", "a", "b"], ["run", ""], ["run", "x" * 5000], ["status", "x" * 5000], ["run", "/dev/null"],
        ["status", "/dev/null"], ["traces", "/proc"], ["report", "."], ["replay", "."], ["models", "fetch", "x"],
        ["export", ".", "--what", "sft", "--out", "/"], ["init", "/proc/x"], ["init", "/dev/null/x"],
        ["prompts", "show", ""], ["prompts", "lint", "--dir", "/dev/null"], ["prompts", "export", "/proc/x"],
        ["run", "quickstart", "--set", "="], ["run", "quickstart", "--set", ""], ["run", "quickstart", "--set", "a.b.c=["],
        ["run", "quickstart", "--run-dir", "/dev/null/x"], ["check", "/"], ["estimate", "nope"],
        ["finetune", "quickstart", "--data", "/nope.jsonl"], ["finetune", "quickstart", "--data", "/"],
    ],
    ids=lambda args: " ".join(args)[:40],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_a_message_and_no_traceback(tmp_path: Path, args: list[str]) -> None:
    done = meteor(*args, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert "bug in meteor" not in done.stderr
    assert not list(tmp_path.glob("meteor-error-*"))


def test_the_version_is_told(tmp_path: Path) -> None:
    done = meteor("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"meteor-agents {VERSION}\n")


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    words = {"_METEOR_COMPLETE": "complete_bash", "COMP_WORDS": "meteor se", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['meteor']; from meteor_agents.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **words}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["self-train"], done.stderr


def test_a_command_without_a_config_takes_the_project_it_stands_in(project: Path) -> None:
    done = meteor("check", "--no-train", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "settings: sums, valid" in done.stdout
    assert "training: none (--no-train)" in done.stdout


def test_a_folder_stands_for_the_settings_file_in_it(project: Path) -> None:
    done = meteor("estimate", project.name, cwd=project.parent)
    assert done.returncode == 0, done.stderr
    (project / "empty").mkdir()
    empty = meteor("estimate", "empty", cwd=project)
    assert (empty.returncode, "is a folder without meteor.yaml" in empty.stderr) == (2, True)
    nothing = meteor("run", cwd=project / "empty")
    assert (nothing.returncode, "meteor.yaml: no such settings file" in nothing.stderr) == (2, True)


def test_without_train_a_student_that_cannot_be_trained_is_no_problem(project: Path) -> None:
    """The trainer's configuration is wrong, and no one will read it."""
    (project / "half").mkdir()
    wrong = ["--set", "student={backend: transformers, model: half}"]
    assert "training: none (--no-train)" in meteor("check", "--no-train", *wrong, cwd=project).stdout
    tried = meteor("check", *wrong, cwd=project).stdout
    assert "training: none" not in tried
    assert "PROBLEM: " in tried


def test_failed_questions_of_a_finished_stage_are_asked_again_unless_told_not_to(project: Path) -> None:
    (project / "toy.py").write_text(
        "import os\n\ndef student(messages, sampling):\n"
        "    open('asked.txt', 'a').write('x\\n')\n"
        "    if 'broken' in os.environ.get('TOY', '') and '-1 plus' in messages[-1].content:\n"
        "        from meteor_agents.errors import RefusedCallError\n"
        "        raise RefusedCallError('not now')\n"
        "    return 'Answer: 4'\n"
    )
    first = meteor("refine", "--no-train", cwd=project, env={"TOY": "broken"})
    assert first.returncode == 0, first.stderr
    assert "1 failed" in first.stdout, first.stdout
    before = asked(project)
    settled = meteor("refine", "--no-train", "--no-retry-failed", cwd=project)
    assert (settled.returncode, asked(project)) == (0, before), settled.stderr
    again = meteor("refine", "--no-train", cwd=project)
    assert (again.returncode, asked(project)) == (0, before + 1), again.stderr


def test_termination_gives_up_on_calls_that_take_too_long(project: Path) -> None:
    """SIGTERM drains for 20 s at most; a call that takes ten minutes is not waited for."""
    rows = [{"id": "q", "question": "question 0 [student: hang always]", "reference": "4"}]
    (project / "questions.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with faulty_server(FaultyServer()) as server:
        student = {"backend": "openai", "model": "student", "base_url": server.url, "limits": {"timeout_s": 600}}
        command = [sys.executable, "-m", "meteor_agents.cli", "refine", "--no-train", "--set", f"student={student}"]
        none = [word for key in ("holdout", "gate") for word in ("--set", f"questions.{key}=0")]
        with subprocess.Popen(
            [*command, *none], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            give_up = time.monotonic() + 60
            while not server.asked:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            took = time.monotonic() - began
    assert process.returncode == 130, out + err
    assert "stopping: finishing 1 call in flight" in out
    assert "stopping now: 20 s have passed since SIGTERM" in out
    assert 18 < took < 28, took


def test_help_has_an_example_and_no_type_of_python(tmp_path: Path) -> None:
    for command in ("run", "check", "traces", "export", "prompts lint", "models list", "ablate"):
        done = meteor(*command.split(), "--help", cwd=tmp_path, env={"COLUMNS": "80"})
        assert f"Example: meteor {command}" in done.stdout
        assert "list[str]" not in done.stdout
    listed = meteor("--help", cwd=tmp_path, env={"COLUMNS": "80"}).stdout
    assert "..." not in listed.partition("Commands:")[2]


def test_models_that_can_be_fetched_are_listed(tmp_path: Path) -> None:
    done = meteor("models", "list", cwd=tmp_path, env={"METEOR_CACHE": str(tmp_path)})
    assert done.stdout.startswith("smollm2-135m\t")
    assert "meteor models fetch smollm2-135m" in done.stdout


def test_lint_names_the_errors_of_all_templates(tmp_path: Path) -> None:
    (tmp_path / "student_attempt.jinja").write_text("{% block user %}{{ nonsense }}{% endblock %}")
    (tmp_path / "judge_verdict.jinja").write_text("{% block user %}")
    (tmp_path / "teacher_answer.jinja").write_text("no block")
    (tmp_path / "teacher_anser.jinja").write_text("no name")
    done = meteor("prompts", "lint", "--dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    for name in ("student_attempt", "judge_verdict", "teacher_answer", "teacher_anser"):
        assert f"{tmp_path / name}.jinja" in done.stderr, name


def test_lint_takes_the_prompts_of_a_settings_file(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine/student_attempt.jinja").write_text("{% block user %}{{ nonsense }}{% endblock %}")
    (project / "meteor.yaml").write_text(SETTINGS + "prompts: {dir: mine}\n")
    done = meteor("prompts", "lint", "--config", ".", cwd=project)
    assert (done.returncode, "nonsense" in done.stderr) == (2, True)


def test_the_format_of_an_export_follows_the_suffix(project: Path) -> None:
    assert meteor("refine", "--no-train", cwd=project).returncode == 0
    export = ["export", "runs/sums", "--what", "sft", "--out"]
    assert meteor(*export, "a.parquet", cwd=project).returncode == 0
    assert (project / "a.parquet").read_bytes()[:4] == b"PAR1"
    assert meteor(*export, "a.jsonl", cwd=project).returncode == 0
    assert json.loads((project / "a.jsonl").read_text().splitlines()[0])
    assert meteor(*export, "a.data", "--format", "parquet", cwd=project).returncode == 0
    assert (project / "a.data").read_bytes()[:4] == b"PAR1"
    for file, format_ in (("b.parquet", "jsonl"), ("b.jsonl", "parquet"), ("B.PARQUET", "jsonl")):
        wrong = meteor(*export, file, "--format", format_, cwd=project)
        assert (wrong.returncode, "change one of them" in wrong.stderr) == (2, True)
        assert not (project / file).exists()
