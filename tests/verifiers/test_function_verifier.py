"""What a user's own function can do to a run: give verdicts, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.cli.commands.check import check_config
from meteor_agents.errors import MeteorError, SettingsError
from meteor_agents.messages import Question, Status, Verdict
from meteor_agents.verifiers import open_verifier
from meteor_agents.verifiers.function import FunctionVerifier

CHECKS = """\
import os, subprocess, sys, time
from pathlib import Path
from meteor_agents.messages import Status, Verdict

def is_short(question, answer): return len(answer) < 5
def complaint(question, answer): return "" if answer == question.reference else "Say it as the reference does."
def verdict(question, answer): return Verdict(status=Status.INCORRECT, explanation="no", guide="yes", model="me")
def metadata(question, answer): return question.metadata == {"a": [1, None, "é"]}
def fails(question, answer): raise KeyError(answer)
def fails_below(question, answer): return Path(answer).read_text()
def nothing(question, answer): return None
def exits(question, answer): sys.exit(0)
def exits_at_once(question, answer): os._exit(3)
def crashes(question, answer): os.abort()
def interrupted(question, answer): raise KeyboardInterrupt
def recursion(question, answer): return recursion(question, answer)
def loops(question, answer):
    while answer == "loop": pass
    return True
def sleeps(question, answer): time.sleep(600)
def starts_another(question, answer):
    child = subprocess.Popen(["sleep", "600"])
    Path(answer).write_text(str(child.pid))
    child.wait()
def closes(question, answer): os.closerange(3, 100)
def prints(question, answer): print("said", flush=True); return True
def late_import(question, answer): import beside; return beside.ANSWER == answer
def process(question, answer): return f"{os.getpid()} {os.getsid(0) != os.getsid(os.getppid())}"
def descriptors(question, answer):
    return " ".join(os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd"))
def with_default(question, answer, strict=True): return strict
def any_number(*given): return len(given) == 2
async def awaits(question, answer): return True
def one(answer): return True
def three(question, answer, reference): return True
def named(*, question, answer): return True
number = 3
"""


def asked(reference: str | None = "x") -> Question:
    return Question(id="q1", question="?", reference=reference, metadata={"a": [1, None, "é"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user_checks.py").write_text(CHECKS)
    (tmp_path / "beside.py").write_text("ANSWER = 'y'\n")
    return tmp_path


# --- verdicts


@pytest.mark.parametrize(
    ("function", "answer", "status", "explanation"),
    [
        ("is_short", "yes", Status.CORRECT, ""),
        ("is_short", "a long one", Status.INCORRECT, "not correct"),
        ("complaint", "x", Status.CORRECT, ""),
        ("complaint", "y", Status.INCORRECT, "Say it as"),
        ("verdict", "y", Status.INCORRECT, "no"),
        ("metadata", "y", Status.CORRECT, ""),
        ("late_import", "y", Status.CORRECT, ""),
        ("with_default", "y", Status.CORRECT, ""),
        ("any_number", "y", Status.CORRECT, ""),
        ("is_short", "\ud83d", Status.CORRECT, ""),
        ("is_short", "x" * 1_000_000, Status.INCORRECT, ""),
        ("fails", "boo", Status.ERROR, "user_checks:fails raised KeyError: 'boo' (user_checks.py, line 9)"),
        ("fails_below", "/no/such/file", Status.ERROR, "directory: '/no/such/file' (user_checks.py, line 10)"),
        ("nothing", "y", Status.ERROR, "not NoneType"),
        ("exits", "y", Status.ERROR, "user_checks:exits raised SystemExit: 0 (user_checks.py, line 12)"),
        ("exits_at_once", "y", Status.ERROR, "the process of the check ended with exit code 3"),
        ("crashes", "y", Status.ERROR, "the process of the check ended with signal 6 (Aborted)"),
        ("interrupted", "y", Status.ERROR, "KeyboardInterrupt"),
        ("recursion", "y", Status.ERROR, "RecursionError"),
        ("loops", "loop", Status.ERROR, "did not end within 0.5 s. Raise its option timeout_s"),
        ("sleeps", "y", Status.ERROR, "did not end within 0.5 s"),
        ("closes", "y", Status.ERROR, "the process of the check ended"),
    ],
)
def test_users_function_decides_or_tells_why_not(
    function: str, answer: str, status: Status, explanation: str, folder: Path
) -> None:
    with closing(open_verifier(f"user_checks:{function}", {"timeout_s": 0.5}, folder)) as verifier:
        started = time.monotonic()
        first = verifier.verify(asked(), answer)
        assert verifier.verify(asked(), answer).status is status, "the next check is served as well"
        assert time.monotonic() - started < 5
    assert (first.status, first.model) == (status, f"verifier:user_checks:{function}")
    assert explanation in first.explanation


def test_function_given_as_an_object_runs_here() -> None:
    verifier = FunctionVerifier("mine", lambda question, answer: threading.current_thread().name == answer)
    assert verifier.verify(asked(), threading.current_thread().name).status is Status.CORRECT
    assert FunctionVerifier("mine", lambda question, answer: sys.exit(0)).verify(asked(), "").status is Status.ERROR


# --- opening


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module_here:f", "does not import"),
        ("os:no_such_function", "has no function"),
        ("os:sep", "has no function"),
        ("os:", "module:function"),
        (":f", "module:function"),
        ("broken_checks:f", r"ZeroDivisionError: division by zero \(broken_checks.py, line 2\)"),
        ("leaving_checks:f", "does not import .SystemExit: 0"),
        ("dying_checks:f", "its process ended with exit code 7"),
        ("user_checks:number", "has no function"),
        ("user_checks:one", r"called as check\(question, answer\), but it is defined as one\(answer\)"),
        ("user_checks:three", r"called as check\(question, answer\).*missing a required argument: 'reference'"),
        ("user_checks:named", r"called as check\(question, answer\)"),
        ("user_checks:awaits", "not an async one"),
    ],
)
def test_function_that_cannot_be_used_is_a_wrong_setting(name: str, text: str, folder: Path) -> None:
    (folder / "broken_checks.py").write_text("def f(question, answer): return True\n1 / 0\n")
    (folder / "leaving_checks.py").write_text("import sys; sys.exit(0)\n")
    (folder / "dying_checks.py").write_text("import os; os._exit(7)\n")
    with pytest.raises(SettingsError, match=text) as caught:
        open_verifier(name, {}, folder)
    assert f"Verifier {name!r}" in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"timeout": 3}, {"workers": 0}, {"timeout_s": float("inf")}])
def test_wrong_options_are_refused(options: dict[str, object], folder: Path) -> None:
    with pytest.raises(SettingsError, match="It takes: timeout_s, workers"):
        open_verifier("user_checks:is_short", options, folder)


SETTINGS = """
name: checked
domain: sums
questions: {{path: questions.jsonl, holdout: 0, gate: 0}}
student: {{backend: openai, model: m, base_url: "http://127.0.0.1:9/v1", limits: {{retries: 0}}}}
teacher: {{backend: reference}}
judge: {{verifier: "user_checks:{function}"}}
self_train: {{high: {{sample: 1.0}}}}
"""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "gives no verdict on the reference of question 'q1': user_checks:fails raised KeyError: 'x' (user_c"),
        ("complaint_always", "does not accept the reference of question 'q1': Not that one."),
        ("one", "it is called as check(question, answer), but it is defined as one(answer)"),
    ],
)
def test_check_says_why_a_reference_is_not_accepted(
    function: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "user_checks.py").open("a") as checks:
        checks.write("def complaint_always(question, answer): return 'Not that one.'\n")
    (folder / "questions.jsonl").write_text('{"id": "q1", "question": "?", "reference": "x"}\n')
    (folder / "meteor.yaml").write_text(SETTINGS.format(function=function))
    with pytest.raises(MeteorError):
        check_config(str(folder / "meteor.yaml"), ())
    assert said in capsys.readouterr().out


# --- the processes


def test_process_is_kept_and_started_again_when_it_died_meanwhile(folder: Path) -> None:
    with closing(open_verifier("user_checks:process", {}, folder)) as verifier:
        first, apart = verifier.verify(asked(), "").explanation.split()
        assert apart == "True", "Ctrl-C at the terminal must not reach it"
        assert verifier.verify(asked(), "").explanation.split()[0] == first
        os.kill(int(first), signal.SIGKILL)
        time.sleep(0.1)
        assert verifier.verify(asked(), "").explanation.split()[0] not in ("", first)


def test_at_most_as_many_processes_as_set_check_at_once(folder: Path) -> None:
    with closing(open_verifier("user_checks:process", {"workers": 2}, folder)) as verifier:
        seen: list[Verdict] = []
        threads = [
            threading.Thread(target=lambda: seen.extend(verifier.verify(asked(), "") for _ in range(5)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 30
    assert 1 <= len({verdict.explanation for verdict in seen}) <= 2


def test_what_a_hanging_check_started_is_ended_with_it(folder: Path) -> None:
    with closing(open_verifier("user_checks:starts_another", {"timeout_s": 0.5}, folder)) as verifier:
        verifier.verify(asked(), str(folder / "pid"))
    assert ends(int((folder / "pid").read_text()))


def test_closing_ends_a_check_at_once(folder: Path) -> None:
    verifier = open_verifier("user_checks:sleeps", {}, folder)
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(verifier.verify(asked(), "")))
    thread.start()
    time.sleep(0.3)
    verifier.close()
    thread.join(5)
    assert [verdict.status for verdict in found] == [Status.ERROR]


def test_prints_of_a_check_do_not_mix_with_the_output(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(open_verifier("user_checks:prints", {}, folder)) as verifier:
        assert verifier.verify(asked(), "").status is Status.CORRECT
    assert capfd.readouterr() == ("", "said\n")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see open files")
def test_processes_hold_no_file_of_the_run(folder: Path) -> None:
    with (folder / "run.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        with closing(open_verifier("user_checks:descriptors", {}, folder)) as verifier:
            held = verifier.verify(asked(), "").explanation
    assert "socket" in held
    assert "run.lock" not in held


@pytest.mark.parametrize("function", ["process", "sleeps", "loops"])
def test_processes_end_when_the_run_is_killed(function: str, folder: Path) -> None:
    """Idle ones and those in the middle of a check, whatever the main module of the run is."""
    program = f"""
import threading, time
from pathlib import Path
from meteor_agents.messages import Question
from meteor_agents.verifiers import open_verifier
verifier = open_verifier("user_checks:{function}", {{}}, Path({str(folder)!r}))
child = verifier._workers._idle[0]._process.pid
threading.Thread(target=verifier.verify, args=(Question(id="q", question="?"), "loop"), daemon=True).start()
time.sleep(0.5)
print(child, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        os.kill(child, 0)
        run.kill()
    assert ends(child)


def ends(pid: int, within_s: float = 5.0) -> bool:
    """Whether the process is gone in time, or is dead and only waits for its parent to notice."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False
