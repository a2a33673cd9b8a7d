"""How large a report is, how long it takes to write, and how fast its browser of traces answers in Chromium.

    python benchmarks/bench_report.py [traces]

Every trace has three tries of 150 words with verdicts and guides: 10,000 unless said otherwise. Times are of this machine.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from meteor_agents.messages import Attempt, Guide, Question, Status, Verdict  # noqa: E402
from meteor_agents.traces import Outcome, Trace  # noqa: E402
from tests.report.test_report import page_of, write_traces  # noqa: E402
from tests.support.browser import CHROMIUM, opened  # noqa: E402

WORDS = [
    f"{a}{b}" for a in ("re", "un", "de", "in", "co", "ex") for b in ("vise", "fold", "tain", "sist", "pose", "tend")
]


def trace(number: int, draw: random.Random) -> Trace:
    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    said: list[Attempt | Verdict | Guide] = []
    for tries in range(3):
        attempt = text(150)
        said.append(Attempt(text=attempt, reasoning="", answer=attempt, model="student", weights="base"))
        status = Status.CORRECT if tries == 2 else Status.INCORRECT
        said.append(Verdict(status=status, explanation=text(30), model="judge"))
        if tries < 2:
            said.append(Guide(explanation=text(10), guide=text(20), model="judge"))
    question = Question(id=f"q{number:06d}", question=f"{text(40)} {number}?")
    return Trace(stage="refine", question=question, messages=tuple(said), outcome=Outcome.ACCEPTED)


async def in_browser(page: Path) -> None:
    started = time.perf_counter()
    async with opened(page) as browser:
        print(f"Chromium started, page drawn     {time.perf_counter() - started:8.2f} s")
        for what, script in (
            ("first search", "document.getElementById('search').value='revise unfold detain'; filter()"),
            ("second search", "document.getElementById('search').value='cotain 7'; filter()"),
            ("filter by outcome", "document.getElementById('outcome').value='accepted'; filter()"),
            ("one step of scrolling", "document.getElementById('list').scrollTop=99999; fill()"),
            ("opening a trace, with its changes", "choose(5)"),
        ):
            ms = await browser.run(
                f"(() => {{ const t = performance.now(); {script}; return performance.now() - t; }})()"
            )
            print(f"{what:33}{ms:8.1f} ms")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "run.db"
        write_traces(database, [trace(number, draw) for number in range(count)])
        started, cpu = time.perf_counter(), time.process_time()
        page = page_of(database)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"{count:,} traces, store of {database.stat().st_size / 1e6:.1f} MB")
        print(f"written in                       {wall:8.2f} s ({cpu / count * 1e3:.2f} ms CPU a trace)")
        print(f"page                             {page.stat().st_size / 1e6:8.1f} MB")
        if CHROMIUM is None:
            print("no Chromium here: the browser's times are left out")
        else:
            asyncio.run(in_browser(page))


if __name__ == "__main__":
    main()
