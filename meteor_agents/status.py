"""Where a run stands, read from its store: the object that `meteor status --json` prints."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from .pipeline import LINEAGE
from .store import current_stages


def read_status(connection: sqlite3.Connection) -> dict[str, Any]:
    """`stages`, `calls`, `tokens`, `usd`, `rounds`, `scores` (the contract of `meteor status --json`).

    `stages`, `rounds` and `scores` are those of the run as it is set up now: of work under settings that have been
    edited since, only calls, tokens and money are counted.
    """
    lineage = _lineage(connection)
    stages = {}
    rounds = []
    for stage, recipe, state, questions, checkpoint, seconds in current_stages(connection):
        outcomes = dict(
            connection.execute(
                "SELECT outcome, count(*) FROM traces WHERE stage = ? AND recipe = ? GROUP BY outcome", (stage, recipe)
            ).fetchall()
        )
        tries = dict(
            connection.execute(
                "SELECT tries, count(*) FROM traces WHERE stage = ? AND recipe = ? AND outcome = 'accepted' GROUP BY tries",
                (stage, recipe),
            ).fetchall()
        )
        stages[stage] = {
            "questions": questions,
            "accepted": outcomes.get("accepted", 0),
            "exhausted": outcomes.get("exhausted", 0),
            "failed": outcomes.get("failed", 0),
            "state": state,
            "seconds": round(seconds, 1),
            "checkpoint": checkpoint,
            "accepted_at_try": {str(number): count for number, count in sorted(tries.items())},
        }
        rounds += [
            {
                "stage": stage,
                "round": number,
                "traces": len(json.loads(traces)),
                "checkpoint": to,
                "promoted": bool(promoted),
                "reason": reason,
                "loss": json.loads(report).get("loss"),
                "tokens": json.loads(report).get("tokens", 0),
            }
            for number, traces, to, promoted, reason, report in connection.execute(
                "SELECT round, traces, checkpoint, promoted, reason, report FROM rounds"
                " WHERE stage = ? AND recipe = ? ORDER BY round",
                (stage, recipe),
            )
        ]
    return {
        "stages": stages,
        "calls": _calls(connection),
        "tokens": {
            role: {"input": given, "output": said}
            for role, given, said in connection.execute(
                "SELECT role, coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0) FROM calls GROUP BY role"
            )
        },
        "usd": connection.execute("SELECT coalesce(sum(usd), 0) FROM calls").fetchone()[0],
        "rounds": rounds,
        "scores": {
            version: {
                "labels": [label for label, of in lineage.items() if of == version],
                "heldout": _metrics(connection, version),
            }
            for version in lineage.values()
        },
    }


def _lineage(connection: sqlite3.Connection) -> dict[str, str]:
    row = connection.execute("SELECT value FROM meta WHERE key = 'lineage'").fetchone()
    known = json.loads(row[0]) if row else {}
    return {label: known[label]["version"] for label in LINEAGE if label in known}


def _calls(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    calls: dict[str, dict[str, int]] = {}
    for role, made in connection.execute("SELECT role, count(*) FROM calls GROUP BY role"):
        calls[role] = {"made": made, "reused": 0, "retried": 0, "failed": 0}
    for role, name, value in connection.execute("SELECT role, name, value FROM counters"):
        calls.setdefault(role, {"made": 0, "reused": 0, "retried": 0, "failed": 0})[name] = value
    return calls


def _metrics(connection: sqlite3.Connection, version: str) -> dict[str, Any]:
    """By held-out set, the newest evaluation of this checkpoint."""
    rows = connection.execute(
        "SELECT heldout, metrics FROM evaluations WHERE checkpoint = ? ORDER BY position", (version,)
    )
    return {heldout: json.loads(metrics) for heldout, metrics in rows}


def tokens_by_stage(connection: sqlite3.Connection) -> dict[str, int]:
    """Stage -> tokens in and out of all roles, as recorded in the calls."""
    return dict(
        connection.execute(
            "SELECT stage, sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) FROM calls GROUP BY stage"
        ).fetchall()
    )
