"""The page's charts as Plotly figures (`data` and `layout`); the page's script adds fonts and the colours of its theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from meteor_agents.analysis.held_out import HeldOutFindings
from meteor_agents.evaluation.results import ACCURACY, OVERALL, Statistic
from meteor_agents.method.replies import CRITERIA
from meteor_agents.report.contents import Contents

LENGTHS = 2000
"""Points of a length chart, at most; of more, evenly spaced ones are shown."""


class Chart(NamedTuple):
    """One figure. The tables of the page hold the same numbers."""

    section: str
    """The section of the page that it belongs to."""
    title: str
    says: str
    """One sentence on what is shown; screen readers get it in place of the figure."""
    data: list[dict[str, Any]]
    """Plotly's traces. A number as colour is an index into the theme's colours."""
    layout: dict[str, Any]
    """Plotly's layout, without fonts and colours."""


def charts(contents: Contents) -> list[Chart]:
    """The charts that this run has data for."""
    made: list[Chart | None] = []
    for held in contents.heldout:
        made += [_criteria(contents, held), _pairwise(contents, held)]
    made += [
        _accuracy(contents),
        _tries(contents),
        _losses(contents),
        _by_role(contents),
        _over_time(contents, "tokens"),
        _over_time(contents, "dollars"),
    ]
    for held in contents.heldout:
        made += [_lengths(contents, held), _flips(contents, held)]
    return [chart for chart in made if chart is not None]


def _bars(name: str, x: Sequence[str], statistics: Sequence[Statistic], colour: int) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": [found.value for found in statistics],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [found.high - found.value for found in statistics],
            "arrayminus": [found.value - found.low for found in statistics],
            "thickness": 1.5,
            "width": 4,
        },
        "marker": {"color": colour},
    }


def _criteria(contents: Contents, held: HeldOutFindings) -> Chart | None:
    names = [*CRITERIA, OVERALL]
    scored = {label: metrics.criteria for label, metrics in held.metrics.items() if metrics.criteria}
    if not scored:
        return None
    data = [
        _bars(contents.title(label), [n for n in names if n in found], [found[n] for n in names if n in found], i)
        for i, (label, found) in enumerate(scored.items())
    ]
    return Chart(
        "results",
        f"Scores by criterion: {held.name}",
        "Mean score from 1 to 10 by criterion, one bar for each student, with 95 % intervals.",
        data,
        {"barmode": "group", "yaxis": {"range": [0, 10.4], "title": {"text": "score"}}},
    )


def _accuracy(contents: Contents) -> Chart | None:
    data = []
    for i, held in enumerate(contents.heldout):
        found = {label: metrics.accuracy for label, metrics in held.metrics.items() if metrics.accuracy}
        if found:
            titles = [contents.title(label) for label in found]
            data.append(_bars(held.name, titles, [accuracy for accuracy in found.values() if accuracy], i))
    if not data:
        return None
    return Chart(
        "results",
        "Accuracy by stage",
        "Share of held-out questions answered correctly after each stage, by held-out set, with 95 % intervals.",
        data,
        {"barmode": "group", "yaxis": {"range": [0, 1.04], "tickformat": ".0%"}},
    )


def _pairwise(contents: Contents, held: HeldOutFindings) -> Chart | None:
    other = "base" if "base" in held.pairwise else next(iter(held.pairwise), None)
    if other is None or not held.pairwise[other].with_:
        return None
    shares = held.pairwise[other].with_
    names = list(shares)[::-1]
    with_ = [shares[name].value for name in names]
    sides = (("with METEOR", with_, 0), (contents.title(other), [1 - share for share in with_], 1))
    return Chart(
        "results",
        f"Pairwise: with METEOR against {contents.title(other)}: {held.name}",
        "Share of questions on which each side is preferred in both orders; a tie gives half to each.",
        [
            {"type": "bar", "orientation": "h", "name": name, "y": names, "x": values, "marker": {"color": colour},
             "text": [f"{value:.0%}" for value in values], "textposition": "inside"}
            for name, values, colour in sides
        ],
        {"barmode": "stack", "xaxis": {"range": [0, 1], "tickformat": ".0%"}},
    )  # fmt: skip


def _tries(contents: Contents) -> Chart | None:
    stages = {name: row for name, row in contents.status["stages"].items() if row["accepted_at_try"]}
    refine = stages.get("refine")
    if refine is None:
        return None
    tries = refine["accepted_at_try"]
    taught = {"by the teacher": refine["taught"]} if refine["taught"] else {}
    others = {**taught, "never": refine["exhausted"], "failed": refine["failed"]}
    names = [*(f"try {n}" for n in tries), *others]
    counts = [*tries.values(), *others.values()]
    return Chart(
        "stages",
        "Stage 2: tries until an answer was accepted",
        "Questions by the try that the judge accepted; by the teacher: its answer was, no try; never: neither was.",
        [{"type": "bar", "name": "questions", "x": names, "y": counts, "text": [str(n) for n in counts],
          "marker": {"color": [0] * len(tries) + [1] * len(taught) + [3, 2]}}],
        {"showlegend": False, "yaxis": {"title": {"text": "questions"}}},
    )  # fmt: skip


def _losses(contents: Contents) -> Chart | None:
    rounds = [round_ for round_ in contents.status["rounds"] if round_["loss"] is not None]
    if not rounds:
        return None
    data: list[dict[str, Any]] = []
    for stage in dict.fromkeys(round_["stage"] for round_ in rounds):
        own = [round_ for round_ in rounds if round_["stage"] == stage]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": stage,
                "x": [f"{stage} {round_['round']}" for round_ in own],
                "y": [round_["loss"] for round_ in own],
                "text": [f"{'promoted' if r['promoted'] else 'not promoted'}: {r['reason']}" for r in own],
                "marker": {
                    "size": 11,
                    "color": len(data),
                    "symbol": ["circle" if r["promoted"] else "x" for r in own],
                },
                "line": {"color": len(data)},
            }
        )
    return Chart(
        "stages",
        "Loss by update",
        "Final training loss of each update; a cross marks an update that the gate did not promote. "
        "Losses of different stages cannot be compared.",
        data,
        {"yaxis": {"title": {"text": "loss"}, "rangemode": "tozero"}},
    )


def _by_role(contents: Contents) -> Chart | None:
    tokens: Mapping[str, Mapping[str, int]] = contents.status["tokens"]
    if not tokens:
        return None
    return Chart(
        "cost",
        "Tokens by role",
        "Input and output tokens of each role.",
        [
            {"type": "bar", "name": name, "x": list(tokens), "y": [used[key] for used in tokens.values()],
             "marker": {"color": i}}
            for i, (key, name) in enumerate((("input", "input"), ("output", "output")))
        ],
        {"barmode": "stack", "yaxis": {"title": {"text": "tokens"}, "exponentformat": "SI"}},
    )  # fmt: skip


def _over_time(contents: Contents, what: str) -> Chart | None:
    column = 1 if what == "tokens" else 2
    curves = {role: curve for role, curve in contents.over_time.items() if curve[-1][column]}
    if not curves:
        return None
    unit, seconds = _time_unit(max(curve[-1][0] for curve in curves.values()))
    data = [
        {"type": "scatter", "mode": "lines", "name": role, "x": [point[0] / seconds for point in curve],
         "y": [point[column] for point in curve], "line": {"shape": "hv", "color": i, "width": 2}}
        for i, (role, curve) in enumerate(curves.items())
    ]  # fmt: skip
    return Chart(
        "cost",
        f"{'Tokens' if column == 1 else 'US dollars'} over time",
        f"Total {what} by role since the run's first call; while it is flat, the run trains or pauses.",
        data,
        {
            "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
            "yaxis": {"rangemode": "tozero"} | ({"exponentformat": "SI"} if column == 1 else {"tickprefix": "$"}),
        },
    )


def _time_unit(span_s: float) -> tuple[str, int]:
    """The unit that suits an axis of this length, and its seconds."""
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if span_s >= 2 * seconds:
            return unit, seconds
    return "seconds", 1


def _lengths(contents: Contents, held: HeldOutFindings) -> Chart | None:
    measure = OVERALL if any(metrics.criteria for metrics in held.metrics.values()) else ACCURACY
    replies = contents.replies[held.name]
    step = max(1, sum(map(len, replies.values())) // LENGTHS)
    data = []
    for i, (label, results) in enumerate(replies.items()):
        points = [(len(r.attempt.text), v, id_) for id_, r in results.items() if (v := r.value(measure)) is not None]
        shown = points[::step]
        spread = 0.0 if measure == OVERALL else 0.03
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": contents.title(label),
                "x": [length for length, _, _ in shown],
                "y": [value + spread * ((n * 7 + i * 3) % 11 - 5) / 5 for n, (_, value, _) in enumerate(shown)],
                "text": [id_ for _, _, id_ in shown],
                "marker": {"color": i, "size": 7, "opacity": 0.65},
            }
        )
    if not any(trace["x"] for trace in data):
        return None
    axis: dict[str, Any] = {"title": {"text": "overall score"}, "range": [0, 10.4]}
    if measure == ACCURACY:
        axis = {"tickvals": [0, 1], "ticktext": ["wrong", "right"], "range": [-0.25, 1.25]}
    return Chart(
        "trust",
        f"Length against {'score' if measure == OVERALL else 'correctness'}: {held.name}",
        "Each point is one reply: its length and how it was graded. A trend is a reason to doubt the judge.",
        data,
        {"xaxis": {"title": {"text": "characters"}, "rangemode": "tozero"}, "yaxis": axis},
    )


def _flips(contents: Contents, held: HeldOutFindings) -> Chart | None:
    found = {label: shares.flips for label, shares in held.pairwise.items() if shares.flips}
    if not found:
        return None
    return Chart(
        "trust",
        f"Verdicts that flip with the order: {held.name}",
        "Share of pairwise verdicts that changed when the two replies changed places; each such pair counts as a tie.",
        [
            {"type": "bar", "name": f"against {contents.title(label)}", "x": list(flips), "y": list(flips.values()),
             "marker": {"color": i}}
            for i, (label, flips) in enumerate(found.items())
        ],
        {"barmode": "group", "yaxis": {"range": [0, 1], "tickformat": ".0%"}},
    )  # fmt: skip
