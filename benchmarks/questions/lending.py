"""The quickstart's library: its authors, books, members and loans, as an SQL script."""

from __future__ import annotations

import random

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
