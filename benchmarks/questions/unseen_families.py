"""Families of questions that training does not have, for `heldout_unseen.jsonl`."""

from __future__ import annotations

from benchmarks.questions.families import (
    BOOKS_AUTHORS,
    LOANS_BOOKS,
    LOANS_MEMBERS,
    Family,
    slots,
)
from benchmarks.questions.lending import (
    AUTHORS,
    CITIES,
    COUNTRIES,
    GENRES,
)


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
