"""Makes the quickstart's data: a small library database and questions on it, with SQL references.

    python -m meteor_agents.configs.quickstart.make_questions FOLDER

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
from dataclasses import dataclass
from itertools import cycle, islice, product, zip_longest
from pathlib import Path
from typing import Any

SEED = 24
TRAIN_PER_FAMILY = 24
UNSEEN_PER_FAMILY = 8
HELD_OUT_PHRASINGS = 2
"""Phrasings of each family that training does not use; `heldout_seen.jsonl` asks each of them once."""

SCHEMA = """\
CREATE TABLE authors(id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER, genre TEXT, year INTEGER, copies INTEGER);
CREATE TABLE members(id INTEGER PRIMARY KEY, name TEXT, city TEXT, joined INTEGER);
CREATE TABLE loans(id INTEGER PRIMARY KEY, book_id INTEGER, member_id INTEGER, taken TEXT, returned TEXT);
"""

COUNTRIES = ("Chile", "Norway", "Japan", "Kenya", "France", "Canada", "Egypt", "India")
GENRES = ("Crime", "Fantasy", "Poetry", "History", "Romance", "Horror", "Travel", "Drama")
CITIES = ("Oslo", "Lima", "Porto", "Leeds", "Turin", "Quito", "Ghent", "Kyoto")
WORDS = ("River", "Winter", "Garden", "Night", "Stone", "House", "Sea", "Letter")

AUTHORS = (
    "Ada Brandt", "Bela Kovar", "Carla Mendes", "Dai Okubo", "Edith Lund", "Femi Adeyo", "Gita Rao", "Hugo Marchand",
    "Ines Salas", "Jonas Vik", "Kamau Njeri", "Leila Nasser", "Marc Tremblay", "Nora Whitlock", "Omar Fahmy",
    "Priya Sen",
)  # fmt: skip
MEMBERS = (
    "Alma Reed", "Boris Hale", "Cora Finch", "Dirk Maas", "Elsa Holm", "Felix Grant", "Greta Voss", "Hana Mori",
    "Ivan Pell", "Jade Orr", "Karl Beck", "Lina Costa", "Milo Dunn", "Nina Park", "Otto Lang", "Petra Ruiz",
    "Quinn Shaw", "Rosa Vidal", "Sven Dahl", "Tara Quist",
)  # fmt: skip
TITLES = (
    "The Silent River", "River of Glass", "Beyond the River", "The River Ledger", "A Long Winter", "Winter Harbour",
    "The Last Winter", "Winter in Red", "The Iron Garden", "Garden of Salt", "The Hidden Garden", "Garden of Walls",
    "Night Train North", "The Ninth Night", "Night Market", "A Borrowed Night", "Stone and Sparrow", "The Blue Stone",
    "Stone Bridges", "Written in Stone", "The Glass House", "House of Echoes", "The Empty House", "House on Mill Lane",
    "Across the Sea", "The Sea Clock", "Songs of the Sea", "Sea Without Shore", "The Lost Letter", "Letter to a Thief",
    "One More Letter", "The Paper Crown", "Ashes and Amber", "Seven Lanterns", "The Clockmaker", "Falling Orchard",
    "Maps of Dust", "The Tin Soldier", "A Field of Crows", "The Copper Bell",
)  # fmt: skip

Row = tuple[int | str | None, ...]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Questions of one structure. The texts are format strings over the values of a slot."""

    name: str
    reference: str
    reasoning: str
    phrasings: tuple[str, ...]
    slots: Sequence[Values]
    """What the phrasings are filled with: one mapping for each possible question."""
    values: bool = True
    """Whether the slots hold values of the database, of which some are kept for held-out questions. Otherwise they
    are names of tables and columns, and held-out questions differ in phrasing only."""


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


def library_script(rng: random.Random) -> str:
    """The SQL script that creates the library: its tables and their rows."""
    tables: dict[str, list[Row]] = {
        "authors": library_authors(rng),
        "books": library_books(rng),
        "members": library_members(rng),
        "loans": library_loans(rng),
    }
    return SCHEMA + "".join(insert(table, row) for table, rows in tables.items() for row in rows)


def library_authors(rng: random.Random) -> list[Row]:
    countries = [*COUNTRIES, *rng.choices(COUNTRIES, weights=(6, 5, 4, 3, 2, 1, 1, 1), k=len(AUTHORS) - len(COUNTRIES))]
    rng.shuffle(countries)
    return [(i, name, countries[i - 1]) for i, name in enumerate(AUTHORS, 1)]


def library_books(rng: random.Random) -> list[Row]:
    years = rng.sample(range(1950, 2022), len(TITLES))
    authors = [1 + i % len(AUTHORS) for i in range(len(AUTHORS))] + rng.choices(range(1, len(AUTHORS) + 1), k=24)
    genres = [*GENRES, *rng.choices(GENRES, weights=(8, 7, 6, 5, 4, 4, 3, 3), k=len(TITLES) - len(GENRES))]
    rng.shuffle(genres)
    return [
        (i, title, authors[i - 1], genres[i - 1], years[i - 1], rng.randint(1, 9)) for i, title in enumerate(TITLES, 1)
    ]


def library_members(rng: random.Random) -> list[Row]:
    joined = rng.sample(range(2000, 2022), len(MEMBERS))
    cities = [*CITIES, *rng.choices(CITIES, weights=(6, 5, 4, 3, 3, 2, 2, 1), k=len(MEMBERS) - len(CITIES))]
    rng.shuffle(cities)
    return [(i, name, cities[i - 1], joined[i - 1]) for i, name in enumerate(MEMBERS, 1)]


def library_loans(rng: random.Random) -> list[Row]:
    """Loans of 2022 and 2023, oldest first; of the later ones some are still out."""
    book_weights = [rng.randint(1, 9) for _ in TITLES]
    member_weights = [rng.randint(2, 9) for _ in MEMBERS]
    days = sorted(rng.sample(range(24 * 28), 72))
    rows: list[Row] = []
    for i, day in enumerate(days, 1):
        book = rng.choices(range(1, len(TITLES) + 1), book_weights)[0]
        member = rng.choices(range(1, len(MEMBERS) + 1), member_weights)[0]
        back = min(day + rng.randint(5, 40), 24 * 28 - 1)
        out = day > 9 * 28 and rng.random() < 0.5
        rows.append((i, book, member, date(day), None if out else date(back)))
    return rows


def date(day: int) -> str:
    """An ISO date in 2022 or 2023, where every month has 28 days."""
    month, day_of_month = divmod(day, 28)
    return f"{2022 + month // 12}-{month % 12 + 1:02}-{day_of_month + 1:02}"


def insert(table: str, row: Row) -> str:
    return f"INSERT INTO {table} VALUES ({', '.join(map(literal, row))});\n"


def literal(value: int | str | None) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


def eligible(family: Family, library: sqlite3.Connection) -> list[Values]:
    """The slots whose reference has rows, and at a LIMIT no tie about which rows."""
    queries = [(slot, family.reference.format(**slot)) for slot in family.slots]
    return [slot for slot, sql in queries if library.execute(sql).fetchone() and not tied(sql, library)]


def tied(sql: str, library: sqlite3.Connection) -> bool:
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
    return [row(family, phrasing, slot) for phrasing, slot in product(phrasings, slots)]


def row(family: Family, phrasing: str, slot: Values) -> Values:
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
    rows = round_robin(families, random.Random(f"{SEED} {prefix}"))
    return "".join(json.dumps({"id": f"{prefix}-{i:04}"} | row) + "\n" for i, row in enumerate(rows, 1))


def slots(**options: Iterable[Any]) -> list[Values]:
    """Every combination of the options, one mapping each."""
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


BOOKS_AUTHORS = "FROM books JOIN authors ON authors.id = books.author_id"
LOANS_BOOKS = "FROM loans JOIN books ON books.id = loans.book_id"
LOANS_MEMBERS = "FROM loans JOIN members ON members.id = loans.member_id"


MORE_PHRASINGS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("phrasings.json").read_text(encoding="utf-8")
)
"""Family -> further phrasings, for training only; whoever wrote them had not seen the held-out ones."""
"""More phrasings for training, by family. They stand apart from `Family.phrasings` so that adding some leaves the
held-out files as they are."""


def training_families() -> list[Family]:
    """The families of training and of `heldout_seen.jsonl`. The last two phrasings of each are held out; training
    uses the others and those of `MORE_PHRASINGS`."""
    return [*one_table_families(), *aggregate_families(), *join_families()]


def one_table_families() -> list[Family]:
    return [
        Family(
            "titles_of_genre",
            "SELECT title FROM books WHERE genre = '{genre}'",
            "Read books and keep the titles whose genre is {genre}.",
            (
                "What are the titles of all {genre} books?",
                "List the titles of books in the genre {genre}.",
                "Which titles does the library have in {genre}?",
                "Show the title of every book of genre {genre}.",
                "Give me the titles of the library's {genre} books.",
                "Name all the titles that belong to genre {genre}.",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "authors_of_country",
            "SELECT name FROM authors WHERE country = '{country}'",
            "Read authors and keep the names whose country is {country}.",
            (
                "What are the names of authors from {country}?",
                "List the names of all authors from {country}.",
                "Show the name of every author of country {country}.",
                "Which authors come from {country}? Give their names.",
                "Give the names of the authors who are from {country}.",
                "By name, who are the authors from {country}?",
            ),
            slots(country=COUNTRIES),
        ),
        Family(
            "members_of_city",
            "SELECT name FROM members WHERE city = '{city}'",
            "Read members and keep the names whose city is {city}.",
            (
                "What are the names of members from {city}?",
                "List the names of all members living in {city}.",
                "Which members live in {city}? Give their names.",
                "Show the name of every member from the city {city}.",
                "Give the names of the members who live in {city}.",
                "By name, who are the members from {city}?",
            ),
            slots(city=CITIES),
        ),
        Family(
            "titles_after_year",
            "SELECT title FROM books WHERE year > {year}",
            "Read books and keep the titles whose year is above {year}.",
            (
                "What are the titles of books published after {year}?",
                "List the titles of books from after the year {year}.",
                "Which titles were published later than the year {year}?",
                "Show the title of every book with a year above {year}.",
                "Give the titles of books that appeared after {year}.",
                "Name the titles of all books newer than {year}.",
            ),
            slots(year=range(1985, 2020)),
        ),
        Family(
            "titles_between_years",
            "SELECT title FROM books WHERE year BETWEEN {first} AND {last}",
            "Read books and keep the titles with year from {first} to {last}.",
            (
                "What are the titles of books published between {first} and {last}?",
                "List the titles of books from {first} to {last}.",
                "Which titles were published in the years {first} to {last}?",
                "Show the title of every book with year between {first} and {last}.",
                "Give the titles of books that appeared between {first} and {last}.",
                "Name the titles of all books dated from {first} to {last}.",
            ),
            [{"first": first, "last": first + span} for first in range(1951, 2008, 4) for span in (6, 9, 13)],
        ),
        Family(
            "members_joined_after",
            "SELECT name FROM members WHERE joined > {joined}",
            "Read members and keep the names whose joined is above {joined}.",
            (
                "What are the names of members who joined after {joined}?",
                "List the names of members who joined later than {joined}.",
                "Which members joined after the year {joined}? Give their names.",
                "Show the name of every member with joined above {joined}.",
                "Give the names of all members that joined after {joined}.",
                "By name, which members joined later than the year {joined}?",
            ),
            slots(joined=range(2001, 2021)),
        ),
        Family(
            "titles_with_copies",
            "SELECT title FROM books WHERE copies >= {copies}",
            "Read books and keep the titles with copies of {copies} or more.",
            (
                "What are the titles of books with at least {copies} copies?",
                "List the titles of books that have {copies} or more copies.",
                "Which titles does the library hold in at least {copies} copies?",
                "Show the title of every book with {copies} copies or more.",
                "Give the titles of books having no fewer than {copies} copies.",
                "Name the titles of which there are at least {copies} copies.",
            ),
            slots(copies=range(2, 10)),
        ),
        Family(
            "genre_of_title",
            "SELECT genre FROM books WHERE title = '{title}'",
            "Read books and take the genre of the row with that title.",
            (
                "What is the genre of the book {title}?",
                "Which genre does the book {title} have?",
                "Show the genre of the book titled {title}.",
                "To which genre does the title {title} belong?",
                "Give the genre under which {title} is kept.",
                "What genre is the book called {title}?",
            ),
            slots(title=TITLES),
        ),
        Family(
            "year_of_title",
            "SELECT year FROM books WHERE title = '{title}'",
            "Read books and take the year of the row with that title.",
            (
                "In which year was the book {title} published?",
                "What is the year of the book {title}?",
                "Show the year of the book titled {title}.",
                "From which year is the title {title}?",
                "Give the year in which {title} was published.",
                "What year did the book called {title} appear?",
            ),
            slots(title=TITLES),
        ),
        Family(
            "country_of_author",
            "SELECT country FROM authors WHERE name = '{author}'",
            "Read authors and take the country of the row with that name.",
            (
                "From which country is the author {author}?",
                "What is the country of the author {author}?",
                "Show the country that author {author} comes from.",
                "Which country does the author {author} come from?",
                "Give the home country of the author {author}.",
                "What country is listed for the author {author}?",
            ),
            slots(author=AUTHORS),
        ),
        Family(
            "city_of_member",
            "SELECT city FROM members WHERE name = '{member}'",
            "Read members and take the city of the row with that name.",
            (
                "In which city does the member {member} live?",
                "What is the city of the member {member}?",
                "Show the city that member {member} lives in.",
                "Which city does the member {member} come from?",
                "Give the home city of the member {member}.",
                "What city is listed for the member {member}?",
            ),
            slots(member=MEMBERS),
        ),
        Family(
            "newest_of_genre",
            "SELECT title FROM books WHERE genre = '{genre}' ORDER BY year DESC LIMIT 1",
            "Keep the {genre} books, sort by year descending and take the first title.",
            (
                "What is the title of the newest {genre} book?",
                "Which title is the newest in the genre {genre}?",
                "Show the title of the most recent {genre} book.",
                "Of all {genre} books, which title is the newest?",
                "Give the title of the latest {genre} book.",
                "What title is the most recent one of genre {genre}?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "oldest_of_genre",
            "SELECT title FROM books WHERE genre = '{genre}' ORDER BY year LIMIT 1",
            "Keep the {genre} books, sort by year and take the first title.",
            (
                "What is the title of the oldest {genre} book?",
                "Which title is the oldest in the genre {genre}?",
                "Show the title of the earliest published {genre} book.",
                "Of all {genre} books, which title is the oldest?",
                "Give the title of the earliest {genre} book.",
                "What title is the oldest one of genre {genre}?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "oldest_titles",
            "SELECT title FROM books ORDER BY year LIMIT {n}",
            "Sort books by year and take the first {n} titles.",
            (
                "What are the titles of the {n} oldest books?",
                "List the titles of the {n} oldest books, oldest first.",
                "Which {n} titles are the oldest in the library?",
                "Show the {n} oldest titles in order of year.",
                "Give the titles of the {n} earliest published books.",
                "By year, what are the first {n} titles?",
            ),
            slots(n=range(2, 10)),
        ),
        Family(
            "titles_with_word",
            "SELECT title FROM books WHERE title LIKE '%{word}%'",
            "Read books and keep the titles that contain {word}, using LIKE.",
            (
                "Which titles of books contain the word {word}?",
                "List the titles that have {word} in them.",
                "What are the titles with the word {word}?",
                "Show every book title that includes the word {word}.",
                "Give all titles in which the word {word} occurs.",
                "Name the book titles where {word} is a part.",
            ),
            slots(word=WORDS),
        ),
        Family(
            "distinct_values",
            "SELECT DISTINCT {column} FROM {table}",
            "Read {table} and take each {column} once, using DISTINCT.",
            (
                "What are the different values of {column} in {table}?",
                "List each {column} of the {table} only once.",
                "Show every distinct {column} found among the {table}.",
                "Which different values of {column} do the {table} have?",
                "Give each {column} that occurs in {table}, without repeats.",
                "Without duplicates, which {column} values are there for {table}?",
                "Name the distinct values of {column} across all {table}.",
            ),
            table_columns(),
            values=False,
        ),
    ]


def aggregate_families() -> list[Family]:
    return [
        Family(
            "count_table",
            "SELECT COUNT(*) FROM {table}",
            "Count all the rows of {table}, without any filter.",
            (
                "How many {table} are there in the library?",
                "What is the total number of {table} on record?",
                "Count all the {table} that the library has.",
                "How many {table} does the library have in all?",
                "Show the number of all {table} in the database.",
                "In total, how many {table} does the database hold?",
                "Give the count of {table} in the whole library.",
            ),
            slots(table=("authors", "books", "members", "loans")),
            values=False,
        ),
        Family(
            "count_genre",
            "SELECT COUNT(*) FROM books WHERE genre = '{genre}'",
            "Count the rows of books whose genre is {genre}.",
            (
                "How many {genre} books are there in the library?",
                "What is the number of books of genre {genre}?",
                "Count the books that have the genre {genre}.",
                "How many books does the library have in {genre}?",
                "Give the number of {genre} books in the library.",
                "In total, how many books belong to genre {genre}?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "count_authors_of_country",
            "SELECT COUNT(*) FROM authors WHERE country = '{country}'",
            "Count the rows of authors whose country is {country}.",
            (
                "How many authors are there from the country {country}?",
                "What is the number of authors from {country}?",
                "Count the authors who come from the country {country}.",
                "How many of the authors come from {country}?",
                "Give the number of authors who are from {country}.",
                "In total, how many authors are from {country}?",
            ),
            slots(country=COUNTRIES),
        ),
        Family(
            "count_members_of_city",
            "SELECT COUNT(*) FROM members WHERE city = '{city}'",
            "Count the rows of members whose city is {city}.",
            (
                "How many members are there from the city {city}?",
                "What is the number of members from {city}?",
                "Count the members who live in the city {city}.",
                "How many of the members live in {city}?",
                "Give the number of members who are from {city}.",
                "In total, how many members live in {city}?",
            ),
            slots(city=CITIES),
        ),
        Family(
            "count_before_year",
            "SELECT COUNT(*) FROM books WHERE year < {year}",
            "Count the rows of books whose year is below {year}.",
            (
                "How many books were published before the year {year}?",
                "What is the number of books older than {year}?",
                "Count the books that have a year below {year}.",
                "How many of the books appeared earlier than {year}?",
                "Give the number of books published before {year}.",
                "In total, how many books are from before {year}?",
            ),
            slots(year=range(1955, 2015)),
        ),
        Family(
            "sum_copies_of_genre",
            "SELECT SUM(copies) FROM books WHERE genre = '{genre}'",
            "Keep the {genre} books and add up copies with SUM.",
            (
                "How many copies of {genre} books are there in total?",
                "What is the total of copies for genre {genre}?",
                "Add up the copies of all the {genre} books.",
                "What is the sum of copies over {genre} books?",
                "Give the total number of copies in the genre {genre}.",
                "All together, how many copies do the {genre} books have?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "average_copies_of_genre",
            "SELECT AVG(copies) FROM books WHERE genre = '{genre}'",
            "Keep the {genre} books and average copies with AVG.",
            (
                "What is the average number of copies of {genre} books?",
                "How many copies does a {genre} book have on average?",
                "Show the average of copies for the genre {genre}.",
                "What is the mean number of copies over {genre} books?",
                "Give the average copies of books in genre {genre}.",
                "On average, how many copies are there of {genre} books?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "count_per_group",
            "SELECT {column}, COUNT(*) FROM {table} GROUP BY {column}",
            "Group {table} by {column} and count the rows of each group.",
            (
                "How many {table} are there for each {column}?",
                "Show each {column} with its number of {table}.",
                "List every {column} and how many {table} it has.",
                "For each {column}, what is the number of {table}?",
                "Count the {table} of every {column}; show {column} and count.",
                "Give each {column} together with its count of {table}.",
                "Per {column}, how many {table} does the library have?",
            ),
            table_columns(),
            values=False,
        ),
        Family(
            "groups_above",
            "SELECT {column} FROM {table} GROUP BY {column} HAVING COUNT(*) > {n}",
            "Group {table} by {column} and keep groups with a count above {n}.",
            (
                "Which values of {column} have more than {n} {table}?",
                "List each {column} that has more than {n} {table}.",
                "For which {column} are there more than {n} {table}?",
                "Show every {column} with a count of {table} above {n}.",
                "Give each {column} for which {table} number more than {n}.",
                "Name every {column} that counts more than {n} {table}.",
            ),
            [pair | {"n": n} for pair in table_columns() for n in range(1, 7)],
        ),
        Family(
            "loans_in_month",
            "SELECT COUNT(*) FROM loans WHERE taken LIKE '{month}%'",
            "Count the loans whose taken date starts with {month}, using LIKE.",
            (
                "How many loans were taken in the month {month}?",
                "What is the number of loans taken in {month}?",
                "Count the loans that were taken during {month}.",
                "How many of the loans have been taken in {month}?",
                "Give the number of loans with taken in {month}.",
                "In the month {month}, how many loans were taken?",
            ),
            slots(month=[f"{year}-{month:02}" for year in (2022, 2023) for month in range(1, 13)]),
        ),
        Family(
            "still_out_since",
            "SELECT COUNT(*) FROM loans WHERE taken > '{date}' AND returned IS NULL",
            "Count loans taken after {date} whose returned date is NULL.",
            (
                "How many loans taken after {date} are still out?",
                "What is the number of loans after {date} still out?",
                "Count the loans taken after {date} and not yet returned.",
                "How many loans taken later than {date} are not returned?",
                "Of the loans taken after {date}, how many are still out?",
                "Give the number of unreturned loans that were taken after {date}.",
            ),
            slots(date=[f"{date(month * 28)[:7]}-{day}" for month in range(9, 23) for day in (10, 20)]),
        ),
    ]


def join_families() -> list[Family]:
    return [
        Family(
            "titles_of_author",
            f"SELECT books.title {BOOKS_AUTHORS} WHERE authors.name = '{{author}}'",
            "Join books to authors and keep the titles of that author.",
            (
                "What are the titles of books by {author}?",
                "List the titles of all books by {author}.",
                "Which titles were written by the author {author}?",
                "Show the title of every book by {author}.",
                "Give the titles of books that {author} wrote.",
                "Name all the titles whose author is {author}.",
            ),
            slots(author=AUTHORS),
        ),
        Family(
            "author_of_title",
            f"SELECT authors.name {BOOKS_AUTHORS} WHERE books.title = '{{title}}'",
            "Join books to authors and take the name for that title.",
            (
                "What is the name of the author of {title}?",
                "Which author wrote the book {title}? Give the name.",
                "Show the name of the author who wrote {title}.",
                "By which author, by name, is the book {title}?",
                "Give the author's name for the title {title}.",
                "Who is named as author of the book {title}?",
            ),
            slots(title=TITLES),
        ),
        Family(
            "count_books_of_author",
            f"SELECT COUNT(*) {BOOKS_AUTHORS} WHERE authors.name = '{{author}}'",
            "Join books to authors and count the books of that author.",
            (
                "How many books are there by the author {author}?",
                "What is the number of books by {author}?",
                "Count the books that were written by {author}.",
                "How many of the books did {author} write?",
                "Give the number of books with {author} as author.",
                "In total, how many books are by {author}?",
            ),
            slots(author=AUTHORS),
        ),
        Family(
            "count_loans_of_title",
            f"SELECT COUNT(*) {LOANS_BOOKS} WHERE books.title = '{{title}}'",
            "Join loans to books and count the loans of that title.",
            (
                "How many loans are there of the book {title}?",
                "How many times was the book {title} borrowed?",
                "What is the number of loans of {title}?",
                "Count the loans of the book titled {title}.",
                "Give the number of loans for the title {title}.",
                "How often has the book called {title} been borrowed?",
            ),
            slots(title=TITLES),
        ),
        Family(
            "count_loans_of_member",
            f"SELECT COUNT(*) {LOANS_MEMBERS} WHERE members.name = '{{member}}'",
            "Join loans to members and count the loans of that member.",
            (
                "How many loans does the member {member} have?",
                "How many times did the member {member} borrow?",
                "What is the number of loans of member {member}?",
                "Count the loans that the member {member} took.",
                "Give the number of loans made by member {member}.",
                "In total, how many loans did {member} take?",
            ),
            slots(member=MEMBERS),
        ),
        Family(
            "count_loans_of_genre",
            f"SELECT COUNT(*) {LOANS_BOOKS} WHERE books.genre = '{{genre}}'",
            "Join loans to books and count the loans with genre {genre}.",
            (
                "How many loans are there of {genre} books?",
                "How many times were books of genre {genre} borrowed?",
                "What is the number of loans of {genre} books?",
                "Count the loans of books in the genre {genre}.",
                "Give the number of loans for the genre {genre}.",
                "In total, how many loans were of {genre} books?",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "borrowers_of_title",
            "SELECT DISTINCT members.name FROM loans JOIN members ON members.id = loans.member_id"
            " JOIN books ON books.id = loans.book_id WHERE books.title = '{title}'",
            "Join loans to members and books and take distinct names for that title.",
            (
                "What are the names of members who borrowed {title}?",
                "List the different names of members who borrowed {title}.",
                "Which members borrowed the book {title}? Give each name once.",
                "Show the distinct names of the borrowers of {title}.",
                "Give the distinct names of all members that borrowed {title}.",
                "By name, which different members took the book {title}?",
            ),
            slots(title=TITLES),
        ),
        Family(
            "titles_still_out_of_member",
            "SELECT books.title FROM loans JOIN members ON members.id = loans.member_id"
            " JOIN books ON books.id = loans.book_id WHERE members.name = '{member}' AND loans.returned IS NULL",
            "Join loans to members and books, keep that member and returned NULL.",
            (
                "Which titles does the member {member} still have out?",
                "What are the titles that {member} has not returned?",
                "List the titles of unreturned loans of member {member}.",
                "Show the titles that {member} has not yet returned.",
                "Give the titles still out with the member {member}.",
                "Name the book titles that {member} must still return.",
            ),
            slots(member=MEMBERS),
        ),
        Family(
            "most_borrowed_of_genre",
            f"SELECT books.title {LOANS_BOOKS} WHERE books.genre = '{{genre}}'"
            " GROUP BY books.id ORDER BY COUNT(*) DESC LIMIT 1",
            "Join loans to books of {genre}, count per book and take the top title.",
            (
                "What is the title of the most borrowed {genre} book?",
                "Which title has the most loans in genre {genre}?",
                "Show the title of the {genre} book with most loans.",
                "Of all {genre} books, which title was borrowed most often?",
                "In the genre {genre}, which title has the most loans?",
                "Name the title that was borrowed most often in {genre}.",
                "Give the title of the {genre} book borrowed most often.",
                "What title in the genre {genre} was taken most often?",
            ),
            slots(genre=GENRES),
        ),
    ]


def unseen_families() -> list[Family]:
    """The families of `heldout_unseen.jsonl`: joins, filters and operations of training, put together anew."""
    return [
        Family(
            "count_books_of_country",
            f"SELECT COUNT(*) {BOOKS_AUTHORS} WHERE authors.country = '{{country}}'",
            "Join books to authors and count the books with country {country}.",
            (
                "How many books are by authors from {country}?",
                "What is the number of books by authors from {country}?",
                "Count the books whose author comes from {country}.",
            ),
            slots(country=COUNTRIES),
        ),
        Family(
            "count_loans_of_city",
            f"SELECT COUNT(*) {LOANS_MEMBERS} WHERE members.city = '{{city}}'",
            "Join loans to members and count the loans with city {city}.",
            (
                "How many loans were taken by members from {city}?",
                "What is the number of loans of members from {city}?",
                "Count the loans of members who live in {city}.",
            ),
            slots(city=CITIES),
        ),
        Family(
            "titles_of_genre_after_year",
            "SELECT title FROM books WHERE genre = '{genre}' AND year > {year}",
            "Read books and keep {genre} titles whose year is above {year}.",
            (
                "What are the titles of {genre} books published after {year}?",
                "List the titles of {genre} books from after {year}.",
                "Which {genre} titles were published later than {year}?",
            ),
            slots(genre=GENRES, year=range(1965, 2006, 5)),
        ),
        Family(
            "newest_of_author",
            f"SELECT books.title {BOOKS_AUTHORS} WHERE authors.name = '{{author}}' ORDER BY books.year DESC LIMIT 1",
            "Join books to authors, keep that author, sort by year descending, take the first.",
            (
                "What is the title of the newest book by {author}?",
                "Which title by {author} is the most recent one?",
                "Show the title of the latest book by {author}.",
            ),
            slots(author=AUTHORS),
        ),
        Family(
            "count_loans_of_author",
            f"SELECT COUNT(*) {LOANS_BOOKS} JOIN authors ON authors.id = books.author_id"
            " WHERE authors.name = '{author}'",
            "Join loans to books and authors and count the loans of that author.",
            (
                "How many loans are there of books by {author}?",
                "How many times were books by {author} borrowed?",
                "Count the loans of books written by {author}.",
            ),
            slots(author=AUTHORS),
        ),
        Family(
            "count_still_out_of_genre",
            f"SELECT COUNT(*) {LOANS_BOOKS} WHERE books.genre = '{{genre}}' AND loans.returned IS NULL",
            "Join loans to books and count {genre} loans whose returned is NULL.",
            (
                "How many loans of {genre} books are still out?",
                "What is the number of {genre} loans not yet returned?",
                "Count the loans of {genre} books that are still out.",
            ),
            slots(genre=GENRES),
        ),
        Family(
            "count_members_of_city_after",
            "SELECT COUNT(*) FROM members WHERE city = '{city}' AND joined > {joined}",
            "Count the members whose city is {city} and joined is above {joined}.",
            (
                "How many members from {city} joined after {joined}?",
                "What is the number of members from {city} joined after {joined}?",
                "Count the members of {city} who joined after {joined}.",
            ),
            slots(city=CITIES, joined=range(2002, 2013, 2)),
        ),
        Family(
            "sum_copies_of_author",
            f"SELECT SUM(books.copies) {BOOKS_AUTHORS} WHERE authors.name = '{{author}}'",
            "Join books to authors and add up the copies of that author.",
            (
                "How many copies of books by {author} are there in total?",
                "What is the total of copies of books by {author}?",
                "Add up the copies of all books written by {author}.",
            ),
            slots(author=AUTHORS),
        ),
    ]


def table_columns() -> list[Values]:
    pairs = (("books", "genre"), ("authors", "country"), ("members", "city"), ("books", "copies"))
    return [{"table": table, "column": column} for table, column in pairs]


def write_files(folder: Path) -> None:
    """Writes the four files into the folder, replacing what is there."""
    for name, text in make_files().items():
        (folder / name).write_bytes(text.encode())


if __name__ == "__main__":
    write_files(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
