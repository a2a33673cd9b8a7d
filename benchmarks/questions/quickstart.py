"""Makes the data of the preset `quickstart`: a small library database and questions on it, with SQL references.

    python -m benchmarks.questions.quickstart FOLDER

Everything follows from `SEED`: the same script always gives the same bytes. A question is a phrasing of a family with
values filled in. `heldout_seen.jsonl` takes the families of training with phrasings and values that training does not
use; `heldout_unseen.jsonl` takes families that training does not have, composed of the same parts.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import cycle, islice, product, zip_longest
from pathlib import Path

from benchmarks.questions.aggregate_families import aggregate_families
from benchmarks.questions.families import (
    Family,
    Values,
)
from benchmarks.questions.join_families import join_families
from benchmarks.questions.lending import (
    library_script,
)
from benchmarks.questions.one_table_families import one_table_families
from benchmarks.questions.unseen_families import unseen_families

SEED = 24
TRAIN_PER_FAMILY = 24
UNSEEN_PER_FAMILY = 8
HELD_OUT_PHRASINGS = 2
"""Phrasings of each family that training does not use; `heldout_seen.jsonl` asks each of them once."""


def make_files() -> dict[str, str]:
    """The four files' texts by file name."""
    rng = random.Random(SEED)
    script = library_script(rng)
    with closing(sqlite3.connect(":memory:")) as library:
        library.executescript(script)
        train, seen = [], []
        for family in training_families():
            for_training, held_out = split(family, eligible(family, library), rng)
            train.append(for_training)
            seen.append(held_out)
        unseen = []
        for family in unseen_families():
            rows = cross(family, family.phrasings, eligible(family, library))
            rng.shuffle(rows)
            unseen.append(rows[:UNSEEN_PER_FAMILY])
    return {
        "library.sql": script,
        "train.jsonl": jsonl("train", train),
        "heldout_seen.jsonl": jsonl("seen", seen),
        "heldout_unseen.jsonl": jsonl("unseen", unseen),
    }


def eligible(family: Family, library: sqlite3.Connection) -> list[Values]:
    """The slots whose reference has rows, and at a LIMIT no tie about which rows."""
    queries = [(slot, family.reference.format(**slot)) for slot in family.slots]
    return [slot for slot, sql in queries if library.execute(sql).fetchone() and not tied(sql, library)]


def tied(sql: str, library: sqlite3.Connection) -> bool:
    """Whether the last row within a query's LIMIT and the first one beyond it have the same sort key."""
    ranked = re.fullmatch(r"SELECT .+? FROM (.+) ORDER BY (.+?)( DESC)? LIMIT (\d+)", sql)
    if ranked is None:
        return False
    rest, key, descending, limit = ranked.groups(default="")
    keys = library.execute(f"SELECT {key} FROM {rest} ORDER BY {key}{descending} LIMIT {int(limit) + 1}").fetchall()
    return len(keys) > int(limit) and keys[-1] == keys[-2]


def split(family: Family, slots: list[Values], rng: random.Random) -> tuple[list[Values], list[Values]]:
    """The family's rows for training and for the held-out file: other phrasings, and other values where it has any."""
    held_slots, train_slots = slots, slots
    if family.values:
        slots = rng.sample(slots, len(slots))
        cut = max(HELD_OUT_PHRASINGS, len(slots) // 4)
        held_slots, train_slots = slots[:cut], slots[cut:]
    training_rng = random.Random(f"{SEED} {family.name}")
    # Moves `rng` on as the held-out files were drawn, whatever phrasings training has.
    rng.shuffle(cross(family, family.phrasings[:-HELD_OUT_PHRASINGS], train_slots))
    held = rng.sample(held_slots, HELD_OUT_PHRASINGS)
    phrasings = family.phrasings[-HELD_OUT_PHRASINGS:]
    seen = [row(family, phrasing, slot) for phrasing, slot in zip(phrasings, held, strict=True)]
    return training_rows(family, train_slots, training_rng), seen


def training_phrasings(family: Family) -> tuple[str, ...]:
    """The phrasings that training may use."""
    return (*family.phrasings[:-HELD_OUT_PHRASINGS], *MORE_PHRASINGS[family.name])


def training_rows(family: Family, slots: Sequence[Values], rng: random.Random) -> list[Values]:
    """The family's training rows: they go round its phrasings, and each takes one of the least used values that its
    phrasing has not had."""
    phrasings = rng.sample(training_phrasings(family), len(training_phrasings(family)))
    unused = {phrasing: set(range(len(slots))) for phrasing in phrasings}
    uses = [0] * len(slots)
    rows = []
    for phrasing in islice(cycle(phrasings), TRAIN_PER_FAMILY):
        fewest = min(uses[at] for at in unused[phrasing])
        chosen = rng.choice([at for at in sorted(unused[phrasing]) if uses[at] == fewest])
        unused[phrasing].remove(chosen)
        uses[chosen] += 1
        rows.append(row(family, phrasing, slots[chosen]))
    return rows


def cross(family: Family, phrasings: Iterable[str], slots: Iterable[Values]) -> list[Values]:
    """Every phrasing with every slot."""
    return [row(family, phrasing, slot) for phrasing, slot in product(phrasings, slots)]


def row(family: Family, phrasing: str, slot: Values) -> Values:
    """One question, with its values filled in."""
    return {
        "question": phrasing.format(**slot),
        "reference": family.reference.format(**slot),
        "reasoning": family.reasoning.format(**slot),
        "metadata": {"family": family.name},
    }


def round_robin(families: Sequence[Sequence[Values]], rng: random.Random) -> list[Values]:
    """One row of each family, shuffled, then the next of each: every prefix has the families about evenly."""
    rows: list[Values] = []
    for turn in zip_longest(*families):
        present = [row for row in turn if row is not None]
        rng.shuffle(present)
        rows += present
    return rows


def jsonl(prefix: str, families: Sequence[Sequence[Values]]) -> str:
    """A file's text; ids are the prefix and a running number."""
    rows = round_robin(families, random.Random(f"{SEED} {prefix}"))
    return "".join(json.dumps({"id": f"{prefix}-{i:04}"} | row) + "\n" for i, row in enumerate(rows, 1))


MORE_PHRASINGS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("phrasings.json").read_text(encoding="utf-8")
)
"""Family -> more phrasings, for training only; whoever wrote them had not seen the held-out ones. They are kept apart from
`Family.phrasings`, so that adding some leaves the held-out files as they are."""


def training_families() -> list[Family]:
    """The families of training and of `heldout_seen.jsonl`. The last two phrasings of each are held out; training
    uses the others and those of `MORE_PHRASINGS`."""
    return [*one_table_families(), *aggregate_families(), *join_families()]


def write_files(folder: Path) -> None:
    """Write the four files into the folder, replacing what is there."""
    for name, text in make_files().items():
        (folder / name).write_bytes(text.encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.questions.quickstart FOLDER")
    write_files(Path(sys.argv[1]))
