"""Families of questions that count, add up or group."""

from __future__ import annotations

from benchmarks.questions.families import (
    Family,
    slots,
    table_columns,
)
from benchmarks.questions.lending import (
    CITIES,
    COUNTRIES,
    GENRES,
    date,
)


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
