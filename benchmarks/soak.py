"""A long run beside a server that misbehaves, killed again and again; at the end, the account.

    python benchmarks/soak.py                                   5,000 questions, 5 % of the calls go wrong; `make soak`
    python benchmarks/soak.py --questions 500 --kills 2 --seed 7

`meteor refine --no-train` on a real run directory against `quirky_server.py`. The run is killed with SIGKILL at random
moments and begun again by the same command, until it is done. What has to hold, else the exit code is 1:

- every question has ended, and none by a traceback of ours;
- no trace is accepted on a broken verdict: each accepted answer is right, and its verdict is one that the server meant;
- no call is paid for twice, except those in flight when the run was killed (one for each place of both roles). What the
  run asked for on purpose is in its store, a row a reply: a judge that sees the same wrong answer in two tries is asked in
  both. A reply is paid twice when the server sent more of them to a request than the store has rows for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from meteor_agents.messages import Status
from meteor_agents.store.records import open_for_reading
from meteor_agents.traces import Outcome, Trace

HERE = Path(__file__).resolve().parent
TRUE_VERDICT = "compared with the truth"
CONCURRENCY = 64
IN_FLIGHT_S = 2.0
"""A reply this long before a kill may have been on its way still."""
MOST_COMMANDS = 40
SAME_END = 3
"""The soak ends after this many commands in a row that fail with the same last line."""


@dataclass
class Account:
    """What is known of the whole soak at its end."""

    questions: int
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """Ids of questions that were accepted and should not have been."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why failed traces failed."""
    tracebacks: int = 0
    endings: list[str] = field(default_factory=list)
    """The last line of each command; empty for one that ended well or was killed."""
    kills: list[float] = field(default_factory=list)
    served: dict[str, Any] = field(default_factory=dict)
    wanted: Counter[str] = field(default_factory=Counter)
    """Request -> the replies to it that the store holds, one for each try."""

    @property
    def stuck(self) -> bool:
        """Whether the same command only fails in the same way."""
        last = self.endings[-SAME_END:]
        return len(last) == SAME_END and len(set(last)) == 1 and last[0] != ""

    def paid_twice(self) -> tuple[list[str], int]:
        """Replies beyond those that the store holds: those that no kill explains, and how many a kill explains.

        Of the former: how long before the next kill the reply was sent, and how long after it the next one.
        """
        unexcused, excused = list[str](), 0
        for request, moments in self.served["several"].items():
            beyond = max(0, len(moments) - self.wanted[request])
            lost, kept = list[str](), 0
            for paid, again in pairwise(moments):
                if any(kill - IN_FLIGHT_S <= paid <= kill + 1 for kill in self.kills):
                    kept += 1
                else:
                    before = min((kill - paid for kill in self.kills if kill > paid), default=float("inf"))
                    lost.append(f"{request}: {before:.1f} s before a kill, again after {again - paid:.1f} s")
            excused += min(beyond, kept)
            unexcused += lost[: max(0, beyond - kept)]
        return unexcused, excused

    @property
    def good(self) -> bool:
        """Whether everything holds that has to."""
        unexcused, excused = self.paid_twice()
        wrong = self.broken or self.tracebacks or unexcused or excused > 2 * CONCURRENCY * len(self.kills)
        return self.outcomes.total() == self.questions and not wrong


def main(given: argparse.Namespace) -> int:
    """Run the soak and print the account; the exit code."""
    draw, started = random.Random(given.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, quirky_server(given.share, given.seed) as port:
        folder = Path(scratch)
        write_project(folder, port, given.questions)
        account = Account(given.questions)
        for number in range(MOST_COMMANDS):
            kill_after = draw.uniform(2, given.kill_within_s) if number < given.kills else None
            code = run_once(folder, account, kill_after, given.limit_s - (time.monotonic() - started))
            print(f"  command {number + 1}: {'killed' if code == -9 else f'exit {code}'}", flush=True)
            if (code == 0 and kill_after is None) or account.stuck:
                break
        read_traces(folder, account)
        account.served = served(port)
    print_account(account, time.monotonic() - started)
    return 0 if account.good else 1


@contextmanager
def quirky_server(share: float, seed: int) -> Iterator[int]:
    """The server in a process of its own; its port."""
    command = [sys.executable, str(HERE / "quirky_server.py"), "--share", str(share), "--seed", str(seed)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.communicate()


def write_project(folder: Path, port: int, questions: int) -> None:
    """Questions and settings."""
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as out:
        for n in range(questions):
            out.write(json.dumps({"id": f"q{n:05d}", "question": f"What is question {n} about?"}) + "\n")
    role = {
        "backend": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "limits": {"concurrency": CONCURRENCY, "timeout_s": 10, "retries": 5},
    }
    settings = {
        "name": "soak",
        "domain": "soaking",
        "questions": {"path": "questions.jsonl", "holdout": 0, "gate": 0},
        "student": {**role, "model": "student"},
        "teacher": {"backend": "reference"},
        "judge": {**role, "model": "judge"},
    }
    (folder / "meteor.yaml").write_text(json.dumps(settings), encoding="utf-8")


def run_once(folder: Path, account: Account, kill_after: float | None, limit_s: float) -> int:
    """One command on the run, killed after a number of seconds; its exit code, -9 if it was killed."""
    command = [sys.executable, "-m", "meteor_agents.cli", "refine", "meteor.yaml", "--no-train"]
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=limit_s if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            account.kills.append(time.time())
            process.kill()
            process.wait()
            if kill_after is None:
                raise SystemExit(f"not done after {limit_s:.0f} s more: --limit-s") from None
        said.seek(0)
        text = said.read()
    account.tracebacks += "Traceback" in text
    account.endings.append("")
    if process.returncode not in (0, -9):
        account.endings[-1] = (text.strip().splitlines() or ["(nothing)"])[-1]
        print(f"    {account.endings[-1][:200]}")
    return process.returncode


def read_traces(folder: Path, account: Account) -> None:
    """What the run directory holds in the end."""
    with closing(open_for_reading(folder / "runs" / "soak" / "run.db", whole=True)) as records:
        for trace in records.current_traces():
            account.outcomes[trace.outcome.value] += 1
            if trace.outcome is Outcome.ACCEPTED and not rightly_accepted(trace):
                account.broken.append(trace.question.id)
            if trace.error:
                account.reasons[trace.error[:90]] += 1
        rows = records.each("SELECT role, request FROM calls")
        account.wanted.update(request_hash(role, json.loads(request)["messages"]) for role, request in rows)


def request_hash(model: str, messages: list[dict[str, str]]) -> str:
    """The name that the server has for a request; here the models are called after their roles."""
    return hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()[:16]


def rightly_accepted(trace: Trace) -> bool:
    """The accepted answer is right and whole, and the verdict on it is one that the server meant."""
    turn = next(turn for turn in trace.turns if turn.verdict.status is Status.CORRECT)
    said = turn.attempt.text
    return said.endswith("Answer: right") and not turn.attempt.truncated and TRUE_VERDICT in turn.verdict.explanation


def served(port: int) -> dict[str, Any]:
    """The server's own account."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def print_account(account: Account, seconds: float) -> None:
    """Everything, one fact a line."""
    unexcused, excused = account.paid_twice()
    quirks = Counter(account.served["quirks"])
    print(f"questions {account.questions:,}: ended {account.outcomes.total():,} ({dict(account.outcomes)})")
    print(f"accepted on a broken verdict: {len(account.broken)}" + (f" {account.broken[:5]}" if account.broken else ""))
    print(f"calls {account.served['calls']:,}, good replies {account.served['good']:,}, quirks {quirks.total():,}")
    print(f"kills {len(account.kills)}; paid twice {len(unexcused)}; in flight at a kill and asked again {excused}")
    for request in unexcused[:8]:
        print(f"  paid twice {request}")
    print(f"tracebacks {account.tracebacks}; {seconds:.0f} s")
    for reason, n in account.reasons.most_common(8):
        print(f"  failed {n}: {reason}")
    for quirk, n in sorted(quirks.items()):
        print(f"  quirk {n:4}  {quirk}")
    print("good" if account.good else "NOT GOOD")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--share", type=float, default=0.05, help="of the calls that go wrong")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--kill-within-s", type=float, default=15, help="after a start, at most")
    parser.add_argument("--limit-s", type=float, default=1800, help="of the whole soak")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(parser.parse_args()))
