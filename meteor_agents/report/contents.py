"""All that the page shows, read from a run's store as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from meteor_agents.analysis.status import read_status
from meteor_agents.data.near_duplicates import NearDuplicatesBySet
from meteor_agents.evaluation.grading import EVALUATE, RESULT, Metrics, Result
from meteor_agents.messages import Lineage
from meteor_agents.pipeline.measurement import DIFFERENCES, OVERLAPS, PAIRWISE, TRUST, is_held_out_set
from meteor_agents.store.records import Records
from meteor_agents.store.trace_records import TraceRow

STAGE_TITLES = {
    "base": "untrained",
    "finetune": "1 distilled",
    "refine": "2 refined",
    "self-train": "3 self-trained",
}
TIME_STEPS = 120
"""Points of a curve over time."""
LENGTHS = 2000
"""Points of length against score, at most; more are thinned out evenly."""


class HeldOut(NamedTuple):
    """What was found on one held-out set."""

    name: str
    metrics: dict[str, Metrics]
    """By label, in order."""
    differences: list[dict[str, Any]]
    shares: dict[str, dict[str, Any]]
    """Pairwise shares of the last checkpoint, by the label that it was compared with."""
    trust: dict[str, Any]
    results: dict[str, dict[str, Result]]
    """By label and question id."""


class Contents(NamedTuple):
    """What the page shows, traces apart."""

    status: dict[str, Any]
    titles: dict[str, str]
    """Label of a student (a checkpoint's or another model's) -> what the page calls it."""
    heldout: list[HeldOut]
    overlaps: NearDuplicatesBySet | None
    over_time: dict[str, list[tuple[float, int, float]]]
    """By role: hours since the first call, tokens and dollars up to then."""


def read_contents(records: Records) -> Contents:
    """Raises `StoreError` when the store cannot be read."""
    status = read_status(records)
    versions: dict[str, str] = {
        label: version for version, found in status["scores"].items() for label in found["labels"]
    }
    everything = {label: status["scores"][version]["heldout"] for label, version in versions.items()}
    names = dict.fromkeys(name for found in everything.values() for name in found if is_held_out_set(name))
    found = records.meta(OVERLAPS)
    return Contents(
        status=status,
        titles={label: STAGE_TITLES.get(label, label) for label in versions},
        heldout=[_held_out(records, name, versions, everything) for name in names],
        overlaps=NearDuplicatesBySet.model_validate(found) if found else None,
        over_time=_over_time(records),
    )


def _held_out(
    records: Records, name: str, versions: Mapping[str, str], everything: Mapping[str, Mapping[str, Any]]
) -> HeldOut:
    metrics = {label: Metrics.model_validate(found[name]) for label, found in everything.items() if name in found}
    beside: dict[str, Any] = {}
    for found in everything.values():
        beside |= {key.removeprefix(name): value for key, value in found.items() if key.startswith(name + ": ")}
    return HeldOut(
        name=name,
        metrics=metrics,
        differences=beside.get(DIFFERENCES, {}).get("pairs", []),
        shares={key.removeprefix(PAIRWISE): shares for key, shares in beside.items() if key.startswith(PAIRWISE)},
        trust=beside.get(TRUST, {}),
        results={label: _results(records, versions[label], name) for label in metrics},
    )


def _results(records: Records, version: str, heldout: str) -> dict[str, Result]:
    """Question id -> result of the newest evaluation."""
    stored = records.newest_scores(version, heldout)
    return {id_: RESULT.validate_json(result) for id_, result in stored.items()}


def _over_time(records: Records) -> dict[str, list[tuple[float, int, float]]]:
    width, spending = records.spending(TIME_STEPS)
    curves: dict[str, list[tuple[float, int, float]]] = {}
    for role, step, tokens, usd in spending:
        curve = curves.setdefault(role, [(0.0, 0, 0.0)])
        _, tokens_before, usd_before = curve[-1]
        curve.append(((step + 1) * width / 3600, tokens_before + tokens, usd_before + usd))
    return curves


# traces ----------------------------------------------------------------------------------------------------------------

_SHOWN = ("kind", "text", "status", "explanation", "guide", "weights", "model", "truncated")


def read_traces(records: Records, *, at_most: int) -> Iterator[dict[str, Any]]:
    """The traces of the run as it is set up now, as the page wants them."""
    return (_trace(row) for row in records.current_trace_rows(at_most=at_most))


def count_traces(records: Records) -> int:
    """Of the run as it is set up now."""
    return sum(n for stage in records.current_stages() for _, _, n in records.trace_totals(stage.name, stage.recipe))


def _trace(row: TraceRow) -> dict[str, Any]:
    asked = row.question
    said = [_message(message) for message in row.messages]
    text = f"{asked['title']}\n\n{asked['question']}" if asked.get("title") else asked["question"]
    trace = {"stage": row.stage, "id": row.question_id, "outcome": row.outcome, "tries": row.tries}
    trace |= {"question": text, "messages": said}
    more = {"error": row.error, "reference": asked.get("reference")}
    return trace | {name: value for name, value in more.items() if value}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message["kind"] == "lineage":
        return {"kind": "lineage", "text": "\n".join(Lineage.model_validate(message).sentences())}
    return {name: message[name] for name in _SHOWN if message.get(name)}


def held_out_traces(records: Records, contents: Contents) -> Iterator[dict[str, Any]]:
    """Every held-out question as a trace: each student's reply and what the judge made of it."""
    prompts = records.prompts("student", EVALUATE)  # a held-out question stands only in the calls about it
    for held in contents.heldout:
        ids = dict.fromkeys(id_ for results in held.results.values() for id_ in results)
        for id_ in ids:
            replies = {label: results[id_] for label, results in held.results.items() if id_ in results}
            said = [_reply(contents.titles[label], result) for label, result in replies.items()]
            yield {
                "stage": f"held out: {held.name}",
                "id": id_,
                "outcome": _outcome(list(replies.values())[-1]),
                "tries": 1,
                "question": prompts.get(id_, id_),
                "messages": [message for pair in said for message in pair],
            }


def _outcome(result: Result) -> str:
    """Of the last student."""
    return "scored" if result.correct is None and result.scores else result.status.value


def _reply(title: str, result: Result) -> tuple[dict[str, Any], dict[str, Any]]:
    given = result.scores or {}
    scores = ", ".join(f"{name} {score:g}" for name, score in given.items())
    explanation = "\n".join(filter(None, (scores, result.explanation)))
    verdict = {"kind": "verdict", "status": _outcome(result), "explanation": explanation}
    return {"kind": "attempt", "text": result.attempt.text, "weights": title}, verdict
