"""The page itself: its tables are written here; its script draws charts and traces from data that it carries compressed.

Whatever a model said travels as gzip in base64, which holds no markup, and the script only makes text nodes of it. The
content security policy in the page's head forbids loading anything and running any script but the page's own.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from meteor_agents.durations import duration
from meteor_agents.errors import UsageError
from meteor_agents.evaluation.results import Metrics
from meteor_agents.report.about import About
from meteor_agents.report.charts import charts
from meteor_agents.report.contents import Contents, read_contents
from meteor_agents.report.trace_rows import HeldOutQuestions, count_traces, held_out_traces, read_traces
from meteor_agents.store.records import Records
from meteor_agents.version import VERSION

HERE = Path(__file__).resolve().parent
TRACES = 20_000
"""Traces on one page, at most: as many as a browser searches without a noticeable wait."""


def write_report(
    records: Records,
    out: Path,
    *,
    name: str,
    library: str | None,
    about: About | None = None,
    questions: HeldOutQuestions | None = None,
    at_most: int = TRACES,
) -> int:
    """Write the page of the run `name` to `out`, whole or not at all. Returns its size in bytes.

    `library` is the script that draws the charts (`chart_library`); without it the page says that they are missing.
    `about` is what the run's settings tell (`read_about`), `questions` are the run's held-out questions. At most
    `at_most` traces are on the page; it says how many are not. Raises `StoreError` if the store cannot be read or is
    damaged, and `UsageError` if the page cannot be written.
    """
    contents = read_contents(records)
    held_out = held_out_traces(records, contents, questions or {})
    traces = _packed_rows(chain(read_traces(records, at_most=at_most), held_out))
    left_out = max(0, count_traces(records) - at_most)
    page = _page(contents, traces, left_out, name, about or About(), library).encode(errors="replace")
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(page)
        part.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    return len(page)


def chart_library() -> str | None:
    """The text of Plotly's script, which is part of its Python package; None if that is not installed."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        return None
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _page(
    contents: Contents,
    traces: Packed,
    left_out: int,
    name: str,
    about: About,
    library: str | None,
) -> str:
    drawn = [chart._asdict() for chart in charts(contents)] if library else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["share"] = lambda value: f"{value:.1%}"
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["clock"] = duration
    environment.filters["usd"] = _usd
    environment.filters["moment"] = _moment
    return environment.get_template("page.html.jinja").render(
        name=name,
        about=about,
        facts=_facts(about, contents),
        version=VERSION,
        now=datetime.now(UTC).timestamp(),
        contents=contents,
        status=contents.status,
        headlines=_headlines(contents),
        sections={section: [chart for chart in drawn if chart["section"] == section] for section in SECTIONS},
        traces=traces.rows,
        left_out=left_out,
        nonce=secrets.token_urlsafe(16),
        css=_own("page.css"),
        script=_own("page.js"),
        data={
            "charts": _packed(json.dumps(drawn)),
            "traces": traces.text,
            "library": _packed(library) if library else "",
        },
    )


SECTIONS = ("results", "stages", "cost", "trust")


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


class Packed(NamedTuple):
    """A list of values as the page carries it."""

    text: str
    """JSON, as gzip in base64."""
    rows: int
    """Values in the list."""


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _packed_rows(rows: Iterable[dict[str, Any]]) -> Packed:
    """Packs one row after the other, so that memory never holds all of them unpacked."""
    count, packed = 0, io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as out:
        for row in rows:
            out.write(("," if count else "[").encode() + json.dumps(row).encode())
            count += 1
        out.write(b"]" if count else b"[]")
    return Packed(base64.b64encode(packed.getvalue()).decode(), count)


def _facts(about: About, contents: Contents) -> Mapping[str, str]:
    """What the head of the page lists."""
    worked = sum(stage["seconds"] for stage in contents.status["stages"].values())
    times = {
        "started": _moment(contents.began) if contents.began else "",
        "last activity": _moment(contents.ended) if contents.ended else "",
        "time worked": duration(worked) if worked else "",
    }
    return {**about.facts, **{what: value for what, value in times.items() if value}}


class Headline(NamedTuple):
    """The main figure on one held-out set, of the first and the last of the run's own students."""

    heldout: str
    first: str
    last: str
    measure: str


def _headlines(contents: Contents) -> list[Headline]:
    found = []
    for held in contents.heldout:
        own = [metrics for label in held.own if (metrics := held.metrics[label]).main]
        if own:
            measure = "accuracy" if own[-1].accuracy else "overall score of 10"
            found.append(Headline(held.name, _main_figure(own[0]), _main_figure(own[-1]), measure))
    return found


def _main_figure(metrics: Metrics) -> str:
    return (metrics.main.formatted(share=metrics.accuracy is not None) if metrics.main else "").partition(" ")[0]


def _usd(value: float) -> str:
    """Cents, or as many digits as show a smaller amount."""
    return f"${value:,.2f}" if value >= 0.1 or not value else f"${value:.2g}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


