"""The page of a run: what it holds, and how it behaves in a real browser that reads it from a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.messages import Attempt, Guide, Question, Status, Verdict
from meteor_agents.method.replies import CRITERIA
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.report import About, chart_library, write_report
from meteor_agents.report.trace_rows import read_traces
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.store import Store
from meteor_agents.traces import Outcome, Trace
from tests.pipeline.test_pipeline import FolderTrainer, Learner, Run
from tests.support.browser import CHROMIUM, Page, opened

PLANTED = "</script><script>window.planted = 1</script><img src=x onerror='window.planted = 2'> & <b>bold</b>"

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")


def attempt(text: str) -> Attempt:
    return Attempt(text=text, reasoning="", answer=text, model="student", weights="base")


def verdict(status: Status, explanation: str = "") -> Verdict:
    return Verdict(status=status, explanation=explanation, model="judge")


def trace(number: int) -> Trace:
    """Every third is accepted after a guide, the others at once."""
    said: list[Any] = [attempt(f"the answer is {number} or so"), verdict(Status.CORRECT)]
    if number % 3 == 0:
        guide = Guide(explanation="wrong", guide="count again", model="judge")
        said = [attempt("the answer is none"), verdict(Status.INCORRECT, "wrong"), guide, *said]
    question = Question(id=f"q{number:05d}", question=f"How many apples are {number} apples?", reference=str(number))
    return Trace(stage="refine", question=question, messages=tuple(said), outcome=Outcome.ACCEPTED)


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    async def write() -> None:
        await store.set_stage("refine", "recipe", "done", len(traces), "base", 12.0)
        async with asyncio.TaskGroup() as group:
            for one in traces:
                group.create_task(store.add_trace("recipe", one))

    with closing(Store(path)) as store:
        asyncio.run(write())


def page_of(database: Path, name: str = "run", **options: Any) -> Path:
    page = database.with_name("report.html")
    with closing(open_for_reading(database)) as records:
        write_report(records, page, **{"name": name, "library": chart_library(), **options})
    return page


def look(page: Path, script: Callable[[Page], Awaitable[None]]) -> None:
    """Open the page, do what the script does, and see that nothing was complained of or loaded meanwhile."""

    async def looked() -> None:
        async with opened(page) as browser:
            await script(browser)
            assert browser.complaints == []
            assert [url for url in browser.requests if not url.startswith(("data:", "blob:"))] == []

    asyncio.run(looked())


def choosy(messages: Sequence[ChatMessage], sampling: SamplingParams) -> str:
    """A judge of sums that prefers right answers, and the first of two that are equal."""
    text = messages[-1].content
    right = "Answer: 0" not in text
    if "Reply A" in text:
        first, second = (text.split("-----")[n] for n in (1, 3))
        better = "A" if "Answer: 0" not in first or "Answer: 0" in second else "B"
        return json.dumps({"justification": "so it is", **dict.fromkeys(CRITERIA, better)})
    if "whole number" in text:
        return json.dumps({"justification": f"weighed {PLANTED}", **dict.fromkeys(CRITERIA, 9 if right else 2)})
    return json.dumps({"status": "correct" if right else "incorrect", "explanation": "x", "guide": "add"})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with a model judge."""
    folder = tmp_path_factory.mktemp("judged")
    run = Run(folder / "run", Learner(), FolderTrainer(), refine={"update_every": 10, "questions": 20})
    run.judge_model = ScriptedModel(choosy, name="judge")
    run()
    return folder / "run"


def test_page_holds_the_figures_of_the_run_as_tables_without_any_script(judged: Path) -> None:
    text = page_of(judged / "run.db", name="judged").read_text()
    visible = text[: text.index('<script type="application/gzip"')]
    for heading in ("untrained", "1 distilled", "3 self-trained", *CRITERIA, "Paired differences", "at equal length"):
        assert heading in visible, heading
    assert "pairwise verdicts flipped with the order" in visible
    assert "Asked twice about 10 replies" in visible
    assert "Length and overall correlate" in visible


def test_lineage_of_a_pair_is_told_in_words(judged: Path) -> None:
    with closing(open_for_reading(judged / "run.db")) as records:
        traces = list(read_traces(records, at_most=1000))
    told = [message for trace in traces if trace["stage"] == "self-train" for message in trace["messages"]]
    lineages = [message["text"] for message in told if message["kind"] == "lineage"]
    assert lineages
    assert all(text.startswith("low: greedy, 1 calls") for text in lineages)


def test_what_models_said_is_nowhere_in_the_page_as_markup(judged: Path) -> None:
    about = About(PLANTED, {"student": PLANTED}, f"name: {PLANTED}")
    text = page_of(judged / "run.db", name=PLANTED, about=about).read_text()
    assert "window.planted" in text, "the name is there, as text"
    assert "<script>window" not in text
    assert "<img" not in text
    assert "<b>bold" not in text


def test_page_loads_nothing_and_says_so_to_the_browser(judged: Path) -> None:
    text = page_of(judged / "run.db").read_text()
    head = text[: text.index('<script type="application/gzip"')]
    assert "default-src 'none'" in head
    assert "http://" not in head
    assert "https://" not in head


def test_page_without_the_chart_library_says_what_to_install(judged: Path) -> None:
    text = page_of(judged / "run.db", library=None).read_text()
    assert "meteor-agents[report]" in text
    assert 'class="chart"' not in text
    assert len(text) < 500_000


def test_traces_beyond_the_limit_are_counted_and_not_in_the_page(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(n) for n in range(40)])
    text = page_of(tmp_path / "run.db", at_most=30).read_text()
    assert "30 traces are on this page; 10 more are in the run" in text


@in_chromium
@pytest.mark.skipif(chart_library() is None, reason="needs Plotly (pip install 'meteor-agents[report]')")
def test_charts_are_drawn_in_light_and_dark(judged: Path) -> None:
    async def script(page: Page) -> None:
        await page.until("document.querySelectorAll('.chart .main-svg').length > 0")
        charts = await page.run("document.querySelectorAll('.chart').length")
        assert charts >= 7
        assert await page.run("document.querySelectorAll('.chart > .plot-container').length") == charts
        assert await page.run("document.querySelectorAll('.chart .errorbar').length") > 10
        colours = []
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            colours.append(await page.run("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]

    look(page_of(judged / "run.db"), script)


@in_chromium
def test_planted_markup_is_shown_as_the_text_that_it_is(tmp_path: Path) -> None:
    planted = trace(1).model_copy(
        update={
            "question": Question(id=PLANTED, question=PLANTED, reference=PLANTED),
            "messages": (attempt(PLANTED), verdict(Status.INCORRECT, PLANTED), attempt(f"{PLANTED} more")),
            "error": PLANTED,
            "outcome": Outcome.FAILED,
        }
    )
    write_traces(tmp_path / "run.db", [planted])

    async def script(page: Page) -> None:
        await page.run("choose(0)")
        shown = await page.run("document.getElementById('trace').textContent")
        assert shown.count(PLANTED) == 7, "id, question, reference, error, two attempts, verdict"
        assert await page.run("document.querySelectorAll('#trace img, #trace b:not(h5 b), #trace script').length") == 0
        assert await page.run("typeof window.planted") == "undefined"
        assert await page.run("document.querySelector('#trace ins').textContent.trim()") == "more"

    look(page_of(tmp_path / "run.db", name=PLANTED), script)


@in_chromium
def test_ten_thousand_traces_are_searched_filtered_and_walked_through_by_keyboard(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(n) for n in range(10_000)])
    found = "document.getElementById('found').textContent"

    async def script(page: Page) -> None:
        assert await page.run(found) == "10,000 of 10,000 traces"
        assert await page.run("document.querySelectorAll('.row').length") < 60, "only rows in sight are in the page"
        await page.run("document.getElementById('search').value = '4711 apples'; filter()")
        assert await page.run(found) == "1 of 10,000 traces"
        await page.run("document.getElementById('search').value = 'count AGAIN'; filter()")
        assert await page.run(found) == "3,334 of 10,000 traces"
        await page.run(
            "document.getElementById('search').value = ''; document.getElementById('tries').value = '1'; filter()"
        )
        assert await page.run(found) == "6,666 of 10,000 traces"
        await page.run("document.getElementById('outcome').value = 'accepted'; filter()")
        assert await page.run(found) == "6,666 of 10,000 traces"
        await page.run("document.getElementById('tries').value = ''; filter(); document.getElementById('list').focus()")
        await page.press("ArrowDown")
        assert "q00000" in await page.run("document.getElementById('trace').textContent")
        assert await page.run("document.querySelectorAll('.turn').length") == 2
        assert await page.run("document.querySelector('.turn').querySelectorAll('.message').length") == 3
        assert await page.run("document.querySelector('#trace del').textContent") == "none"
        await page.press("End")
        assert "q09999" in await page.run("document.getElementById('trace').textContent")
        chosen = "document.getElementById(document.getElementById('list').getAttribute('aria-activedescendant'))"
        assert await page.run(f"{chosen}.getAttribute('aria-selected') + {chosen}.getAttribute('aria-posinset')") == (
            "true10000"
        )
        await page.press("/")
        assert await page.run("document.activeElement.id") == "search"

    look(page_of(tmp_path / "run.db"), script)


@in_chromium
def test_held_out_replies_of_all_students_stand_in_one_trace(judged: Path) -> None:
    async def script(page: Page) -> None:
        await page.run("document.getElementById('stage').value = 'held out: held out'; filter(); choose(0)")
        shown = await page.run("document.getElementById('trace').textContent")
        assert "untrained" in shown
        assert "3 self-trained" in shown
        assert "accuracy 2" in shown

    look(page_of(judged / "run.db"), script)
