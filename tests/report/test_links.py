"""Links to single traces, and choosing a trace on a narrow screen, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from meteor_agents.messages import Question
from tests.report.test_report import in_chromium, look, page_of, trace, write_traces
from tests.support.browser import Page

SHOWN = "document.getElementById('trace').textContent"
TOP = "document.getElementById('trace').getBoundingClientRect().top"


async def narrow(page: Page) -> None:
    await page.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)


@in_chromium
@pytest.mark.parametrize("id_", ["q1", "a/b c#?&%", "<b>", "ünï"])
def test_a_link_opens_its_trace_whatever_the_id_is(tmp_path: Path, id_: str) -> None:
    traces = [trace(n) for n in range(200)]
    wanted = traces[150].model_copy(update={"question": Question(id=id_, question="the wanted one")})
    write_traces(tmp_path / "run.db", [*traces, wanted])

    async def script(page: Page) -> None:
        await page.run("choose(200)")
        address = await page.run("location.hash")
        await page.run("choose(3)")
        assert "the wanted one" not in await page.run(SHOWN)
        await page.run("document.getElementById('outcome').value = 'accepted'; filter()")
        await page.run(f"location.hash = {address!r}")
        await page.until(f"{SHOWN}.includes('the wanted one')")
        await page.run("choose(3)")
        await page.run(f"location.hash = '#trace-' + encodeURIComponent({id_!r})")
        await page.until(f"{SHOWN}.includes('the wanted one')")

    look(page_of(tmp_path / "run.db", library=None), script)


@in_chromium
def test_a_link_to_a_trace_that_is_hidden_by_a_filter_lifts_the_filter(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(n) for n in range(20)])

    async def script(page: Page) -> None:
        await page.run("document.getElementById('search').value = '7 apples'; filter()")
        await page.run("location.hash = '#trace-refine/q00003'")
        await page.until(f"{SHOWN}.includes('q00003')")
        assert await page.run("document.getElementById('search').value") == ""
        await page.run("location.hash = '#trace-refine/nowhere'")
        await page.until(f"{SHOWN}.includes('No trace of question nowhere')")
        await page.run("location.hash = '#trace-%E0%A4%A'")
        await page.run("location.hash = '#results'")

    look(page_of(tmp_path / "run.db", library=None), script)


@in_chromium
def test_choosing_a_trace_on_a_narrow_screen_scrolls_to_it_and_back(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(n) for n in range(50)])

    async def script(page: Page) -> None:
        await narrow(page)
        await page.run("document.documentElement.style.scrollBehavior = 'auto'")
        await page.run("document.getElementById('list').scrollIntoView()")
        assert await page.run(TOP) > 300, "below the list"
        await page.run("document.querySelectorAll('.row')[2].click()")
        await page.until(f"Math.abs({TOP}) < 150")
        assert await page.run("document.documentElement.scrollWidth") <= 400
        await page.run("document.querySelector('.links .back').click()")
        await page.until("Math.abs(document.getElementById('list').getBoundingClientRect().top) < 150")
        assert await page.run("document.activeElement.id") == "list"

    look(page_of(tmp_path / "run.db", library=None), script)


@in_chromium
def test_changes_are_marked_only_between_tries_that_share_words(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(3)])

    async def script(page: Page) -> None:
        some = "changes('the answer is none', 'the answer is 3').map((part) => part.nodeName).join()"
        assert await page.run(some) == "#text,DEL,INS"
        assert await page.run("changes('one two three four', 'I could not say which it was')") is None

    look(page_of(tmp_path / "run.db", library=None), script)
