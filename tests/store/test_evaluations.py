"""Stored evaluations: any name of a held-out set, and stores of version 2, which told the kind by the name."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from meteor_agents.errors import StoreError
from meteor_agents.store.evaluations import EvaluationKind, EvaluationRecord
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.schema import SCHEMA_VERSION
from meteor_agents.store.store import Store

VERSION_2 = """
DROP TABLE evaluations;
CREATE TABLE evaluations (
    checkpoint TEXT NOT NULL, heldout TEXT NOT NULL, recipe TEXT NOT NULL, label TEXT NOT NULL, metrics TEXT NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (checkpoint, heldout, recipe)) WITHOUT ROWID;
PRAGMA user_version = 2;
"""
ROWS = (
    ("maths", "base", EvaluationKind.METRICS, "maths", "", "base"),
    ("maths: trust", "base", EvaluationKind.METRICS, "maths: trust", "", "base"),
    ("a: pairwise against b", "refine", EvaluationKind.METRICS, "a: pairwise against b", "", "refine"),
    ("trust", "trust", EvaluationKind.METRICS, "trust", "", "trust"),
    ("maths: differences", "differences", EvaluationKind.DIFFERENCES, "maths", "", ""),
    ("maths: trust: trust", "trust", EvaluationKind.JUDGE_RELIABILITY, "maths: trust", "", ""),
    ("maths: pairwise against my rival", "pairwise", EvaluationKind.PAIRWISE, "maths", "my rival", ""),
)
"""Name and label in version 2, and what they are: kind, held-out set, against, label."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "run.db"
    Store(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2)
        for position, (name, label, *_) in enumerate(ROWS):
            row = ("v", name, "recipe", label, json.dumps({"n": position}), position)
            connection.execute("INSERT INTO evaluations VALUES (?,?,?,?,?,?)", row)
        connection.commit()
    return path


EXPECTED = [
    EvaluationRecord("v", heldout, "recipe", kind, against, label, {"n": n})
    for n, (_, _, kind, heldout, against, label) in enumerate(ROWS)
]


def test_a_store_of_version_2_is_read_as_it_is_and_stays_unchanged(old: Path) -> None:
    before = old.read_bytes()
    with closing(open_for_reading(old)) as records:
        assert records.evaluations() == EXPECTED
    assert old.read_bytes() == before


def test_a_store_of_version_2_in_a_folder_that_cannot_be_written_is_read(old: Path) -> None:
    old.chmod(0o444)
    old.parent.chmod(0o555)
    try:
        with closing(open_for_reading(old)) as records:
            assert records.evaluations() == EXPECTED
    finally:
        old.parent.chmod(0o755)


def test_a_store_of_version_2_is_brought_up_to_date_when_it_is_opened_for_writing(old: Path) -> None:
    Store(old).close()
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    with closing(open_for_reading(old)) as records:
        assert records.evaluations() == EXPECTED


def test_every_kind_is_read_back_and_the_newest_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    newer = EXPECTED[0]._replace(metrics={"n": 99})

    async def write(store: Store) -> None:
        for evaluation in (*EXPECTED, newer):
            await store.add_evaluation(evaluation)

    with closing(Store(tmp_path / "run.db")) as store:
        asyncio.run(write(store))
        assert store.evaluations() == [*EXPECTED[1:], newer]


@pytest.mark.parametrize("damage", ["", "{", "[]", "[" * 5000, "NaN nonsense"])
def test_a_damaged_evaluation_is_named(old: Path, damage: str) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE evaluations SET metrics = ? WHERE heldout = 'maths: differences'", (damage,))
        connection.commit()
    with (
        closing(open_for_reading(old)) as records,
        pytest.raises(StoreError, match=r"evaluation \(differences\) of checkpoint v on 'maths' is damaged"),
    ):
        records.evaluations()
