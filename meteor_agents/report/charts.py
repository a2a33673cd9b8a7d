"""The page's charts as Plotly figures (`data` and `layout`); the page adds fonts and colours, by light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from meteor_agents.evaluation.grading import ACCURACY, OVERALL, Estimate
from meteor_agents.method.replies import CRITERIA
from meteor_agents.report.contents import LENGTHS, Contents, HeldOut


class Chart(NamedTuple):
    """One figure. The tables of the page say the same in words and numbers."""

    section: str
    title: str
    says: str
    """One sentence: what is shown, for everyone and for screen readers."""
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def charts(contents: Contents) -> list[Chart]:
    """Those that this run has data for."""
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
        made += [_lengths(contents, held), _flips(held)]
    return [chart for chart in made if chart is not None]


def _bars(name: str, x: Sequence[str], estimates: Sequence[Estimate], colour: int) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": [estimate.value for estimate in estimates],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [estimate.high - estimate.value for estimate in estimates],
            "arrayminus": [estimate.value - estimate.low for estimate in estimates],
            "thickness": 1.5,
            "width": 4,
        },
        "marker": {"color": colour},
    }


def _criteria(contents: Contents, held: HeldOut) -> Chart | None:
    names = [*CRITERIA, OVERALL]
    scored = {label: metrics.criteria for label, metrics in held.metrics.items() if metrics.criteria}
    if not scored:
        return None
    data = [
        _bars(contents.titles[label], [n for n in names if n in found], [found[n] for n in names if n in found], i)
        for i, (label, found) in enumerate(scored.items())
    ]
    return Chart(
        "results",
        f"Scores by criterion: {held.name}",
        "Mean score from 1 to 10 by criterion, one bar a student, with 95 % intervals.",
        data,
        {"barmode": "group", "yaxis": {"range": [0, 10.4], "title": {"text": "score"}}},
    )


def _accuracy(contents: Contents) -> Chart | None:
    data = []
    for i, held in enumerate(contents.heldout):
        found = {label: metrics.accuracy for label, metrics in held.metrics.items() if metrics.accuracy}
        if found:
            titles = [contents.titles[label] for label in found]
            data.append(_bars(held.name, titles, [estimate for estimate in found.values() if estimate], i))
    if not data:
        return None
    return Chart(
        "results",
        "Accuracy by stage",
        "Share of held-out questions answered correctly after each stage, by held-out set, with 95 % intervals.",
        data,
        {"barmode": "group", "yaxis": {"range": [0, 1.04], "tickformat": ".0%"}},
    )


def _pairwise(contents: Contents, held: HeldOut) -> Chart | None:
    shares = held.shares.get("base") or next(iter(held.shares.values()), None)
    if not shares or not shares["with_"]:
        return None
    other = next(label for label, found in held.shares.items() if found is shares)
    names = list(shares["with_"])[::-1]
    with_ = [shares["with_"][name]["value"] for name in names]
    sides = (("with METEOR", with_, 0), (contents.titles.get(other, other), [1 - share for share in with_], 1))
    return Chart(
        "results",
        f"Pairwise: with METEOR against {contents.titles.get(other, other)}: {held.name}",
        "Share of questions on which each side is preferred in both orders, ties half to each.",
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
    names = [*(f"try {n}" for n in tries), "never", "failed"]
    counts = [*tries.values(), refine["exhausted"], refine["failed"]]
    return Chart(
        "stages",
        "Stage 2: when an answer was accepted",
        "Questions by the try at which the judge accepted the answer; never is after the last try.",
        [{"type": "bar", "name": "questions", "x": names, "y": counts, "text": [str(n) for n in counts],
          "marker": {"color": [0] * len(tries) + [3, 2]}}],
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
        "Last training loss of each update; a cross is an update that the gate did not promote. "
        "Losses of different stages are of different kinds.",
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
        "Tokens that each role has read and written.",
        [
            {"type": "bar", "name": name, "x": list(tokens), "y": [used[key] for used in tokens.values()],
             "marker": {"color": i}}
            for i, (key, name) in enumerate((("input", "read"), ("output", "written")))
        ],
        {"barmode": "stack", "yaxis": {"title": {"text": "tokens"}}},
    )  # fmt: skip


def _over_time(contents: Contents, what: str) -> Chart | None:
    column = 1 if what == "tokens" else 2
    curves = {role: curve for role, curve in contents.over_time.items() if curve[-1][column]}
    if not curves:
        return None
    data = [
        {"type": "scatter", "mode": "lines", "name": role, "x": [p[0] for p in curve], "y": [p[column] for p in curve],
         "line": {"shape": "hv", "color": i, "width": 2}}
        for i, (role, curve) in enumerate(curves.items())
    ]  # fmt: skip
    return Chart(
        "cost",
        f"{'Tokens' if column == 1 else 'US dollars'} over time",
        f"Total {what} by role, in hours since the run's first call; a flat stretch is training or a pause.",
        data,
        {"xaxis": {"title": {"text": "hours"}, "rangemode": "tozero"}, "yaxis": {"rangemode": "tozero"}},
    )


def _lengths(contents: Contents, held: HeldOut) -> Chart | None:
    measure = OVERALL if any(metrics.criteria for metrics in held.metrics.values()) else ACCURACY
    step = max(1, sum(map(len, held.results.values())) // LENGTHS)
    data = []
    for i, (label, results) in enumerate(held.results.items()):
        points = [(len(r.attempt.text), v, id_) for id_, r in results.items() if (v := r.value(measure)) is not None]
        shown = points[::step]
        spread = 0.0 if measure == OVERALL else 0.03
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": contents.titles[label],
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
        "Each point is one reply: its length in characters, and how it was judged. A trend is a reason to doubt the judge.",
        data,
        {"xaxis": {"title": {"text": "characters"}, "rangemode": "tozero"}, "yaxis": axis},
    )


def _flips(held: HeldOut) -> Chart | None:
    found = {label: shares for label, shares in held.shares.items() if shares.get("flips")}
    if not found:
        return None
    return Chart(
        "trust",
        f"Verdicts that flip with the order: {held.name}",
        "Share of pairwise verdicts that changed when the two replies changed places; each such pair counts as a tie.",
        [
            {"type": "bar", "name": f"against {label}", "x": list(shares["flips"]), "y": list(shares["flips"].values()),
             "marker": {"color": i}}
            for i, (label, shares) in enumerate(found.items())
        ],
        {"barmode": "group", "yaxis": {"range": [0, 1], "tickformat": ".0%"}},
    )  # fmt: skip
