"""What each verifier finds, and what no answer can do to it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Status, Verdict
from meteor_agents.verifiers import Verifier, open_verifier
from meteor_agents.verifiers.sql_guide import MAX_WORDS

SHOP = """\
CREATE TABLE shops(id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE items(id INTEGER PRIMARY KEY, shop_id INTEGER, label TEXT, price REAL, sold TEXT);
INSERT INTO shops VALUES (1, 'North', 'Oslo'), (2, 'South', 'Lima'), (3, 'East', 'Oslo');
INSERT INTO items VALUES
  (1, 1, 'Lamp', 10.0, NULL), (2, 1, 'Desk', 30.0, '2024-01-05'), (3, 2, 'Lamp', 11.5, NULL),
  (4, 3, 'Sofa', 90.0, NULL);
"""


def asked(reference: str | None) -> Question:
    return Question(id="q1", question="?", reference=reference)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Verifier]:
    (tmp_path / "shop.sql").write_text(SHOP)
    with closing(
        open_verifier("sql", {"database": "shop.sql", "timeout_s": 0.3, "max_rows": 50}, tmp_path)
    ) as verifier:
        yield verifier


# --- opening


@pytest.mark.parametrize(("name", "nearest"), [("numric", "numeric"), ("SQL", ""), ("exakt", "exact")])
def test_unknown_name_is_refused_with_the_known_and_the_nearest(name: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exact, numeric, choice, sql") as caught:
        open_verifier(name, {}, tmp_path)
    assert f"Did you mean {nearest!r}?" in str(caught.value) or not nearest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("exact", {"tolerance": 1}),
        ("numeric", {"tolerence": 0.1}),
        ("numeric", {"tolerance": -1}),
        ("choice", {"letters": "AB"}),
        ("sql", {}),
        ("sql", {"database": "x.sql", "max_rows": 0}),
        ("os.path:exists", {"option": 1}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="It takes: "):
        open_verifier(name, options, tmp_path)


@pytest.mark.parametrize("name", ["exact", "numeric", "choice"])
def test_question_without_reference_gets_no_verdict(name: str, tmp_path: Path) -> None:
    with closing(open_verifier(name, {}, tmp_path)) as verifier:
        verdict = verifier.verify(asked(None), "B 2")
    assert verdict.status is Status.ERROR
    assert "no reference" in verdict.explanation
    assert verdict.model == f"verifier:{name}"


# --- a user's function

CHECKS = """\
from meteor_agents.messages import Status, Verdict

def is_short(question, answer): return len(answer) < 5
def complaint(question, answer): return "" if answer == question.reference else "Say it as the reference does."
def verdict(question, answer): return Verdict(status=Status.INCORRECT, explanation="no", guide="yes", model="me")
def fails(question, answer): raise KeyError(answer)
def nothing(question, answer): return None
number = 3
"""


@pytest.mark.parametrize(
    ("function", "answer", "status", "explanation"),
    [
        ("is_short", "yes", Status.CORRECT, ""),
        ("is_short", "a long one", Status.INCORRECT, "not correct"),
        ("complaint", "x", Status.CORRECT, ""),
        ("complaint", "y", Status.INCORRECT, "Say it as"),
        ("verdict", "y", Status.INCORRECT, "no"),
        ("fails", "boo", Status.ERROR, "user_checks:fails raised KeyError: 'boo'"),
        ("nothing", "y", Status.ERROR, "not NoneType"),
    ],
)
def test_users_function_decides(function: str, answer: str, status: Status, explanation: str, tmp_path: Path) -> None:
    (tmp_path / "user_checks.py").write_text(CHECKS)
    with closing(open_verifier(f"user_checks:{function}", {}, tmp_path)) as verifier:
        verdict = verifier.verify(asked("x"), answer)
    assert (verdict.status, verdict.model) == (status, f"verifier:user_checks:{function}")
    assert explanation in verdict.explanation


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module_here:f", "does not import"),
        ("os:no_such_function", "has no function"),
        ("os:sep", "has no function"),
        ("os:", "module:function"),
        (":f", "module:function"),
        ("broken_checks:f", "ZeroDivisionError"),
    ],
)
def test_function_that_cannot_be_loaded_is_a_wrong_setting(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "broken_checks.py").write_text("1 / 0\n")
    with pytest.raises(SettingsError, match=text):
        open_verifier(name, {}, tmp_path)


# --- sql: what is correct

OSLO_NAMES = "SELECT name FROM shops WHERE town = 'Oslo'"


@pytest.mark.parametrize(
    "answer",
    [
        OSLO_NAMES,
        f"{OSLO_NAMES};",
        f"```sql\n{OSLO_NAMES};\n```",
        f"Here it is:\n```\n{OSLO_NAMES}\n```\nDone.",
        f"```sql\n{OSLO_NAMES}",
        f"`{OSLO_NAMES}`",
        f"{OSLO_NAMES} -- the two in Oslo",
        f"/* Oslo */ {OSLO_NAMES}; -- the two",
        "select s.name as n from shops s where s.town = 'Oslo' order by n",
        "WITH o AS (SELECT * FROM shops WHERE town = 'Oslo') SELECT name FROM o",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3)"
        " SELECT name FROM n JOIN shops ON id = i WHERE town = 'Oslo'",
    ],
)
def test_query_with_the_same_rows_is_correct(shop: Verifier, answer: str) -> None:
    verdict = shop.verify(asked(OSLO_NAMES), answer)
    assert verdict == Verdict(status=Status.CORRECT, model="verifier:sql")


@pytest.mark.parametrize(
    ("answer", "reference", "status"),
    [
        ("SELECT label FROM items ORDER BY price DESC", "SELECT label FROM items ORDER BY price", Status.INCORRECT),
        ("SELECT label FROM items ORDER BY price DESC", "SELECT label FROM items", Status.CORRECT),
        ("SELECT name FROM shops", "SELECT name FROM (SELECT name FROM shops ORDER BY name)", Status.CORRECT),
        ("SELECT DISTINCT label FROM items", "SELECT label FROM items", Status.INCORRECT),
        ("SELECT label FROM items WHERE id != 2", "SELECT label FROM items WHERE id != 4", Status.INCORRECT),
        ("SELECT SUM(price) / 3 FROM items", "SELECT 47.166667 FROM items LIMIT 1", Status.CORRECT),
        ("SELECT COUNT(*) * 1.0 FROM items", "SELECT COUNT(*) FROM items", Status.CORRECT),
        ("SELECT '4' FROM items LIMIT 1", "SELECT COUNT(*) FROM items", Status.INCORRECT),
        ("SELECT name, town FROM shops", "SELECT name FROM shops", Status.INCORRECT),
        ("SELECT town, name FROM shops", "SELECT name, town FROM shops", Status.INCORRECT),
    ],
)
def test_rows_are_compared_as_the_reference_asks(shop: Verifier, answer: str, reference: str, status: Status) -> None:
    assert shop.verify(asked(reference), answer).status is status


def test_answer_that_reads_no_table_is_incorrect_even_if_it_guesses_the_number(shop: Verifier) -> None:
    verdict = shop.verify(asked("SELECT COUNT(*) FROM shops"), "SELECT 3")
    assert (verdict.status, verdict.explanation) == (Status.INCORRECT, "The query reads no table.")


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5).map(lambda x: round(x, 3))), min_size=1, max_size=12)
)
def test_any_order_of_any_rows_is_correct_and_one_row_less_is_not(rows: list[tuple[int, float]]) -> None:
    from meteor_agents.verifiers.sql import compare
    from meteor_agents.verifiers.sql_database import Result

    expected = Result(2, [*rows], frozenset())
    shuffled = Result(2, [(a, b + 1e-12) for a, b in sorted(rows)], frozenset())
    assert compare(shuffled, expected, ordered=False) == ""
    assert compare(Result(2, [*rows[1:]], frozenset()), expected, ordered=False) != ""


# --- sql: what is explained


@pytest.mark.parametrize(
    ("answer", "explanation", "guide"),
    [
        ("SELECT shops.nam FROM shops", "no such column: shops.nam", "shops has the columns id, name, town."),
        ("SELECT s.nam FROM shops AS s", "no such column: s.nam", "shops has the columns id, name, town."),
        ("SELECT price FROM shops", "no such column: price", "price is a column of items."),
        ("SELECT items.price FROM shops", "no such column: items.price", "Add items to the query with JOIN."),
        ("SELECT name FROM shop", "no such table: shop", "The tables are shops, items."),
        ("SELECT * FORM shops", 'near "FORM": syntax error', "FORM"),
        ("SELECT id FROM items JOIN shops ON shops.id = shop_id", "ambiguous column name: id", "such as items.id"),
        ("SELECT name FROM shops WHERE COUNT(*) > 1", "misuse of aggregate", "HAVING"),
        ("SELECT town FROM shops", "3 rows where 1 was expected", "Use the table items. Use COUNT."),
        ("SELECT COUNT(*), town FROM shops GROUP BY town", "2 columns where 1 was expected", "GROUP BY is not needed."),
        ("SELECT name FROM shops WHERE (1", "incomplete input", "breaks off"),
        ("", "holds no SQL", ""),
        ("-- nothing", "holds no SQL", ""),
        ("SELECT name FROM shops WHERE id = ?", "placeholder", ""),
    ],
)
def test_wrong_query_is_explained_and_guided(shop: Verifier, answer: str, explanation: str, guide: str) -> None:
    reference = "SELECT COUNT(*) FROM items JOIN shops ON shops.id = items.shop_id WHERE shops.town = 'Oslo'"
    verdict = shop.verify(asked(reference), answer)
    assert verdict.status is Status.INCORRECT
    assert explanation in verdict.explanation
    assert guide in verdict.guide
    assert reference not in verdict.guide + verdict.explanation
    assert len(verdict.guide.split()) <= MAX_WORDS


@pytest.mark.parametrize(
    ("answer", "reference", "guide"),
    [
        ("SELECT name FROM shops WHERE town = 'oslo'", OSLO_NAMES, "Check the value 'oslo'"),
        ("SELECT label FROM items WHERE price < 20", "SELECT label FROM items WHERE price > 20", "comparison signs"),
        ("SELECT label FROM items", "SELECT label FROM items WHERE sold IS NULL", "Use IS NULL."),
        ("SELECT label FROM items", "SELECT DISTINCT label FROM items", "Use DISTINCT."),
        ("SELECT town FROM shops", "SELECT name FROM shops", "Look at shops.name. shops.town does not matter."),
        ("SELECT name, town FROM shops", "SELECT town, name FROM shops", "The parts are right"),
    ],
)
def test_guide_names_what_differs_from_the_reference(shop: Verifier, answer: str, reference: str, guide: str) -> None:
    assert guide in shop.verify(asked(reference), answer).guide


@pytest.mark.parametrize(
    "reference", ["SELECT nothing FROM shops", "DROP TABLE shops", "SELECT a.id FROM items a, items b, items"]
)
def test_reference_that_fails_gives_no_verdict(shop: Verifier, reference: str) -> None:
    verdict = shop.verify(asked(reference), "SELECT 1")
    assert verdict.status is Status.ERROR
    assert "reference of question q1 fails" in verdict.explanation


# --- sql: what no answer can do

DOUBLING = ", ".join(
    [
        "t0 AS (SELECT 1 AS x)",
        *(f't{i}(x) AS NOT MATERIALIZED (SELECT p.x FROM "T{i - 1}" p, t{i - 1} q)' for i in range(1, 40)),
    ]
)


@pytest.mark.parametrize(
    "attack",
    [
        "DROP TABLE shops",
        "DELETE FROM shops",
        "/* SELECT */ UPDATE shops SET name = ''",
        "SELECT name FROM shops; DROP TABLE shops",
        "SELECT name FROM shops; -- \n DELETE FROM shops; --",
        "SELECT 1;;DROP TABLE shops",
        "WITH x AS (SELECT 1) DELETE FROM shops",
        "WITH x AS (SELECT 1) INSERT INTO shops(name) SELECT 'x' FROM x",
        "WITH x AS (DELETE FROM shops RETURNING id) SELECT * FROM x",
        "INSERT INTO shops(name) VALUES ('x') RETURNING id",
        "ATTACH 'stolen.db' AS stolen",
        "VACUUM INTO 'stolen.db'",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_database_list",
        "BEGIN",
        "CREATE TEMP TABLE x AS SELECT * FROM shops",
        "EXPLAIN SELECT 1",
        "SELECT load_extension('evil')",
        "SELECT writefile('stolen.db', 'x')",
        "SELECT readfile('shop.sql') FROM shops",
        "SELECT randomblob(900000000) FROM shops",
        "SELECT printf('%900000000d', 1) FROM shops",
        "SELECT name FROM shops WHERE name = '\x00'",
        "SELECT name FROM shops WHERE name = '\ud800'",
        "SELECT CAST(x'ff' AS TEXT) FROM shops",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT '" + "x" * 100_000 + "' FROM shops",
        "'",
        ";",
        "```",
    ],
)
def test_attack_is_incorrect_and_changes_nothing(
    shop: Verifier, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = shop.verify(asked(OSLO_NAMES), attack)
    assert verdict.status is Status.INCORRECT
    assert verdict.explanation
    assert shop.verify(
        asked("SELECT COUNT(*), MAX(name) FROM shops"), "SELECT 3, 'South' FROM shops LIMIT 1"
    ).status is (Status.CORRECT)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.sql"]


@pytest.mark.parametrize(
    "bomb",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "SELECT COUNT(*) FROM " + ", ".join(f"items i{n}" for n in range(20)),
        "SELECT a.id FROM items a, items b, items c, items d ORDER BY 1",
        f"WITH {DOUBLING} SELECT COUNT(*) FROM t39",
    ],
)
def test_bomb_ends_at_the_limits(shop: Verifier, bomb: str) -> None:
    started = time.monotonic()
    assert shop.verify(asked(OSLO_NAMES), bomb).status is Status.INCORRECT
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def shared_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.sql").write_text(SHOP)
    with closing(open_verifier("sql", {"database": "shop.sql"}, folder)) as verifier:
        yield verifier


@given(text=st.text(max_size=40), start=st.sampled_from(["", "SELECT ", "SELECT name FROM shops WHERE ", "WITH "]))
def test_any_text_gets_a_verdict(shared_shop: Verifier, text: str, start: str) -> None:
    verdict = shared_shop.verify(asked(OSLO_NAMES), start + text)
    assert verdict.status in (Status.CORRECT, Status.INCORRECT)


# --- sql: databases and threads


def test_sqlite_file_is_read_and_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SHOP)
    before = path.read_bytes()
    with closing(open_verifier("sql", {"database": str(path)}, Path("elsewhere"))) as verifier:
        assert verifier.verify(asked(OSLO_NAMES), OSLO_NAMES).status is Status.CORRECT
        assert verifier.verify(asked(OSLO_NAMES), "DROP TABLE shops").status is Status.INCORRECT
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["missing.sql", "broken.sql", "notes.txt", "."])
def test_database_that_cannot_be_opened_is_a_wrong_setting(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.sql").write_text("CREATE TABLE (")
    (tmp_path / "notes.txt").write_text("no database")
    with pytest.raises(SettingsError, match="cannot be opened"):
        open_verifier("sql", {"database": name}, tmp_path)


def test_threads_verify_at_once_without_disturbing_each_other(shop: Verifier) -> None:
    together = threading.Barrier(8)

    def verify(number: int) -> bool:
        together.wait()
        right = [shop.verify(asked(OSLO_NAMES), OSLO_NAMES).status is Status.CORRECT for _ in range(20)]
        wrong = shop.verify(asked(OSLO_NAMES), f"SELECT name FROM shops WHERE id = {number}").status is Status.INCORRECT
        return all(right) and wrong

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(verify, range(8)))
