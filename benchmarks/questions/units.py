"""Makes the questions of the preset `units`: short problems on amounts, with a worked reasoning and a number as reference.

    python -m benchmarks.questions.units FOLDER

Everything follows from `SEED`: the same script always gives the same bytes. `heldout_seen.jsonl` has the families of
training with values, and half of the time a wording, that training does not use; `heldout_unseen.jsonl` has families of
its own, made of the same operations.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 11
TRAIN_PER_FAMILY = 40
HELD_OUT_PER_FAMILY = 4

NAMES = ("Ana", "Ben", "Clara", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ida", "Jon", "Kim", "Leo")
THINGS = ("pens", "apples", "cards", "stamps", "books", "shells", "coins", "plates")

Numbers = tuple[int, ...]
Worked = Callable[..., tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Family:
    """Problems of one structure."""

    name: str
    wordings: tuple[str, ...]
    """Over {name}, {things} and the numbers {a}, {b}, {c}; the last one is only for held-out questions."""
    ranges: tuple[range, ...]
    worked: Worked
    """The numbers -> the reasoning and the result."""


def converted(factor: int) -> Worked:
    """`a` large units and `b` small ones, in small ones; `factor` small units make a large one."""
    return lambda a, b: (f"{a} x {factor} = {a * factor}. {a * factor} + {b} = {a * factor + b}.", a * factor + b)


def product(a: int, b: int) -> tuple[str, int]:
    return f"{a} x {b} = {a * b}.", a * b


def difference(a: int, b: int) -> tuple[str, int]:
    return f"{a + b} - {a} = {b}.", b


def shared(a: int, b: int) -> tuple[str, int]:
    return f"{a * b} / {a} = {b}.", b


def product_and(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a} x {b} = {a * b}. {a * b} + {c} = {a * b + c}.", a * b + c


def left_of_product(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a} x {b} = {a * b}. {a * b + c} - {a * b} = {c}.", c


def taken_twice(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a + b + c} - {a} = {b + c}. {b + c} - {b} = {c}.", c


def total(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}.", a + b + c


def around(a: int, b: int) -> tuple[str, int]:
    return f"{a} + {b} = {a + b}. {a + b} x 2 = {2 * (a + b)}.", 2 * (a + b)


SMALL, TENS, LOOSE = range(2, 10), range(11, 50), range(1, 10)

SEEN = (
    Family("hours", ("How many minutes are {a} hours and {b} minutes?",
                     "A film takes {a} hours and {b} minutes. How many minutes is that?",
                     "Write {a} hours {b} minutes in minutes.",
                     "{name} waits {a} hours and {b} minutes. For how many minutes does {name} wait?"),
           (SMALL, TENS), converted(60)),
    Family("weeks", ("How many days are {a} weeks and {b} days?", "Write {a} weeks and {b} days in days.",
                     "{name} is away for {a} weeks and {b} days. How many days is that?",
                     "A course lasts {a} weeks and {b} more days. How many days does it last?"),
           (range(2, 30), range(1, 7)), converted(7)),
    Family("years", ("How many months are {a} years and {b} months?", "Write {a} years and {b} months in months.",
                     "A child is {a} years and {b} months old. How old is it in months?",
                     "{name} has worked for {a} years and {b} months. How many months is that?"),
           (range(2, 30), range(1, 12)), converted(12)),
    Family("metres", ("How many centimetres are {a} metres and {b} centimetres?", "Write {a} m {b} cm in centimetres.",
                      "A rope is {a} metres and {b} centimetres long. How many centimetres is that?",
                      "{name} jumps {a} metres and {b} centimetres. How far is that in centimetres?"),
           (range(2, 20), TENS), converted(100)),
    Family("dozens", ("How many eggs are {a} dozen and {b} eggs?", "{name} has {a} dozen eggs and {b} more. How many eggs?",
                      "A shop sells {a} dozen rolls and {b} single ones. How many rolls does it sell?",
                      "There are {a} dozen {things} and {b} loose ones. How many {things} are there?"),
           (SMALL, LOOSE), converted(12)),
    Family("dollars", ("How many cents are {a} dollars and {b} cents?", "Write {a} dollars and {b} cents in cents.",
                       "{name} has {a} dollars and {b} cents. How many cents is that?",
                       "A ticket costs {a} dollars and {b} cents. What is its price in cents?"),
           (range(2, 20), TENS), converted(100)),
    Family("price", ("{name} buys {a} {things} at {b} dollars each. What do they cost?",
                     "What do {a} {things} cost at {b} dollars each?",
                     "One of the {things} costs {b} dollars. What do {a} of them cost?",
                     "{name} pays for {a} {things}, {b} dollars for each. How many dollars is that?"),
           (SMALL, TENS), product),
    Family("way", ("{name} rides {b} kilometres an hour for {a} hours. How far is that?",
                   "How many kilometres is {a} hours at {b} kilometres an hour?",
                   "A boat goes {b} kilometres an hour. How far does it go in {a} hours?",
                   "A bus drives for {a} hours at {b} kilometres an hour. How many kilometres does it drive?"),
           (SMALL, TENS), product),
    Family("area", ("A garden is {a} metres by {b} metres. What is its area?", "What is the area of a {a} by {b} field?",
                    "A wall is {a} metres high and {b} metres long. How many square metres is it?",
                    "{name} tiles a floor of {a} metres by {b} metres. How many square metres is that?"),
           (SMALL, TENS), product),
    Family("age", ("{name} is {a} now. In how many years is {name} going to be {t}?",
                   "In how many years will someone who is {a} be {t}?",
                   "{name} turned {a} today. How many years are left until {t}?",
                   "A tree is {a} years old. How many years pass until it is {t}?"),
           (TENS, TENS), difference),
    Family("missing", ("{name} wants {t} {things} and has {a}. How many are missing?",
                       "Of {t} {things}, {a} are there. How many are missing?",
                       "An album holds {t} {things}. {name} has {a}. How many does {name} still need?",
                       "{name} has {a} of {t} {things}. How many more make it complete?"),
           (TENS, TENS), difference),
    Family("sharing", ("{a} friends share {p} {things}. How many does each get?", "Share {p} {things} among {a} children.",
                       "{name} puts {p} {things} into {a} equal boxes. How many go into each?",
                       "{p} {things} are dealt out to {a} people. How many has each of them?"),
           (SMALL, range(3, 20)), shared),
    Family("boxes", ("There are {a} boxes with {b} {things} each, and {c} loose ones. How many {things} are there?",
                     "{name} has {a} bags of {b} {things} and {c} more. How many is that?",
                     "How many {things} are {a} packs of {b} and {c} single ones?",
                     "A shelf holds {a} rows of {b} {things} and {c} on top. How many {things} does it hold?"),
           (SMALL, range(3, 20), LOOSE), product_and),
    Family("change", ("{name} buys {a} {things} at {b} dollars each and pays with {q} dollars. How much is the change?",
                      "{a} {things} cost {b} dollars each. What is left of {q} dollars?",
                      "{name} has {q} dollars and buys {a} {things} for {b} dollars each. How many dollars are left?",
                      "Out of {q} dollars, {name} pays for {a} {things}, {b} dollars each. How much does {name} keep?"),
           (SMALL, range(3, 20), TENS), left_of_product),
    Family("giving", ("{name} has {s} {things}, gives away {a} and then {b}. How many are left?",
                      "Of {s} {things}, {a} are sold and {b} are lost. How many are left?",
                      "{name} had {s} {things}. {a} broke, {b} were given away. How many remain?",
                      "From {s} {things} take {a}, then {b}. How many stay?"),
           (TENS, LOOSE, TENS), taken_twice),
    Family("rectangle", ("What is the perimeter of a rectangle of {a} by {b}?",
                         "{name} walks once around a field of {a} by {b} metres. How far is that?",
                         "A frame is {a} wide and {b} high. How long is its edge in all?",
                         "How much fence goes around a garden of {a} metres by {b} metres?"),
           (range(3, 30), range(3, 30)), around),
)  # fmt: skip

UNSEEN = (
    Family("seconds", ("How many seconds are {a} minutes and {b} seconds?",), (SMALL, TENS), converted(60)),
    Family("nights", ("How many hours are {a} days and {b} hours?",), (SMALL, range(1, 24)), converted(24)),
    Family("grams", ("How many grams are {a} kilograms and {b} grams?",), (SMALL, TENS), converted(1000)),
    Family("wages", ("{name} earns {b} dollars an hour. How much is that for {a} hours of work?",), (SMALL, TENS), product),
    Family("pages", ("{name} has read {a} of {t} pages. How many pages are left?",), (TENS, TENS), difference),
    Family("speed", ("A car needs {a} hours for {p} kilometres. How far does it get in one hour?",),
           (SMALL, TENS), shared),
    Family("seats", ("A hall has {a} rows of {b} seats and {c} folding chairs. How many people can sit?",),
           (SMALL, range(3, 20), LOOSE), product_and),
    Family("triangle", ("A triangle has sides of {a}, {b} and {c}. What is its perimeter?",), (TENS, TENS, LOOSE), total),
)  # fmt: skip


def main() -> None:
    """Write the three files into the folder that the command line names, replacing what is there."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.questions.units FOLDER")
    folder = Path(sys.argv[1])
    for name, rows in make_files().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")


def make_files() -> dict[str, list[dict[str, Any]]]:
    """File name -> its rows."""
    draw = random.Random(SEED)
    train: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for family in SEEN:
        *common, kept = family.wordings
        drawn = _numbers(family, draw)
        train += _rows(family, common, [next(drawn) for _ in range(TRAIN_PER_FAMILY)], draw)
        held = [next(drawn) for _ in range(HELD_OUT_PER_FAMILY)]
        seen += _rows(family, (kept, common[0]), held, draw)
    unseen = [
        row
        for family in UNSEEN
        for drawn in [_numbers(family, draw)]
        for row in _rows(family, family.wordings, [next(drawn) for _ in range(2 * HELD_OUT_PER_FAMILY)], draw)
    ]
    draw.shuffle(train)
    files = {"train.jsonl": train, "heldout_seen.jsonl": seen, "heldout_unseen.jsonl": unseen}
    for name, rows in files.items():
        for number, row in enumerate(rows, 1):
            row["id"] = f"{name.removesuffix('.jsonl').replace('heldout_', '')}-{number:04d}"
    return files


def _numbers(family: Family, draw: random.Random) -> Iterator[Numbers]:
    """Different ones each time."""
    used: set[Numbers] = set()
    while True:
        numbers = tuple(draw.choice(choices) for choices in family.ranges)
        if numbers not in used:
            used.add(numbers)
            yield numbers


def _rows(
    family: Family, wordings: Sequence[str], numbers: Sequence[Numbers], draw: random.Random
) -> list[dict[str, Any]]:
    rows = []
    for at, values in enumerate(numbers):
        named = dict(zip("abc", values, strict=False))
        a, b, c = named["a"], named.get("b", 0), named.get("c", 0)
        filled = wordings[at % len(wordings)].format(
            name=draw.choice(NAMES), things=draw.choice(THINGS), **named, t=a + b, p=a * b, q=a * b + c, s=a + b + c
        )
        reasoning, result = family.worked(*values)
        rows.append(
            {
                "id": "",
                "question": filled,
                "reference": str(result),
                "reasoning": reasoning,
                "metadata": {"family": family.name},
            }
        )
    return rows


if __name__ == "__main__":
    main()
