"""The page itself: tables written here, charts and traces drawn by the page from data that it carries compressed.

Whatever a model said travels as gzip in base64, which holds no markup, and is put into the page as text only. A policy
in the page's head keeps it from loading anything, and from running a script that is not its own.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import secrets
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from meteor_agents.errors import UsageError
from meteor_agents.report.charts import charts
from meteor_agents.report.contents import Contents, count_traces, held_out_traces, read_contents, read_traces
from meteor_agents.store.records import Records

HERE = Path(__file__).resolve().parent
TRACES = 20_000
"""Traces on one page, at most: what a browser still searches at once."""


def write_report(
    records: Records,
    out: Path,
    *,
    name: str,
    library: str | None,
    about: dict[str, str] | None = None,
    at_most: int = TRACES,
) -> int:
    """Write the page of the run `name` to `out`, whole or not at all. Returns its size in bytes.

    `library` is what draws the charts (`chart_library`); without it the page says that they are missing. `about` are
    facts for its head, such as domain and models. Raises `StoreError` when the store cannot be read and
    `UsageError` when the page cannot be written.
    """
    contents = read_contents(records)
    traces = _packed_rows(chain(read_traces(records, at_most=at_most), held_out_traces(records, contents)))
    left_out = max(0, count_traces(records) - at_most)
    page = _page(contents, traces, left_out, name, about or {}, library).encode(errors="replace")
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(page)
        part.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    return len(page)


def chart_library() -> str | None:
    """The text of Plotly's script, which its Python package carries; None where that is not installed."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        return None
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _page(
    contents: Contents,
    traces: Packed,
    left_out: int,
    name: str,
    about: dict[str, str],
    library: str | None,
) -> str:
    drawn = [chart._asdict() for chart in charts(contents)] if library else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["share"] = lambda value: f"{value:.1%}"
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["clock"] = _clock
    return environment.get_template("page.html.jinja").render(
        name=name,
        about=about,
        contents=contents,
        status=contents.status,
        headline=_headline(contents),
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
    """A list of values as the page carries it, and how many they are."""

    text: str
    rows: int


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _packed_rows(rows: Iterable[dict[str, Any]]) -> Packed:
    """One after the other, so that memory holds them packed only."""
    count, packed = 0, io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as out:
        for row in rows:
            out.write(("," if count else "[").encode() + json.dumps(row).encode())
            count += 1
        out.write(b"]" if count else b"[]")
    return Packed(base64.b64encode(packed.getvalue()).decode(), count)


def _headline(contents: Contents) -> list[tuple[str, str, str, str]]:
    """By held-out set: its name, the first figure, the last, and what is measured."""
    found = []
    for held in contents.heldout:
        own = [metrics for label, metrics in held.metrics.items() if label in contents.titles]
        figures = [figure for metrics in own if (figure := _figure(metrics.model_dump()))]
        if figures:
            found.append((held.name, figures[0], figures[-1], "accuracy" if "%" in figures[-1] else "score of 10"))
    return found


def _figure(metrics: dict[str, Any]) -> str | None:
    if metrics["accuracy"]:
        return f"{metrics['accuracy']['value']:.1%}"
    overall = metrics["criteria"].get("overall")
    return f"{overall['value']:.2f}" if overall else None


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
