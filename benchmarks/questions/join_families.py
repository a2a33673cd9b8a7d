"""Families of questions that join two or more tables."""

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
    GENRES,
    MEMBERS,
    TITLES,
)


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
