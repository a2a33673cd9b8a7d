"""What the verifier of SQL finds, and what no answer can do to it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
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
from meteor_agents.verifiers.sql.answers import candidates
from meteor_agents.verifiers.sql.comparison import Expected, Group, difference, expected_of, same_value
from meteor_agents.verifiers.sql.database import Result, SqlDatabase, Value, connect_memory, read_image
from meteor_agents.verifiers.sql.guide import MAX_WORDS
from meteor_agents.verifiers.sql.states import states_of

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
        ("SELECT SUM(price) / 3 FROM items", "SELECT AVG(price) * COUNT(*) / 3 FROM items", Status.CORRECT),
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
    expected = Expected(Result(2, [*rows], frozenset()), [Group(rows, len(rows))], ordered=False)
    shuffled = Result(2, [(a, b * (1 + 1e-15)) for a, b in sorted(rows)], frozenset())
    assert difference(shuffled, expected) == ""
    assert difference(Result(2, [*rows[1:]], frozenset()), expected) != ""


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
    unchanged = shop.verify(asked("SELECT 3, 'South'"), "SELECT COUNT(*), MAX(name) FROM shops")
    assert unchanged.status is Status.CORRECT
    assert [path.name for path in tmp_path.iterdir()] == ["shop.sql"]


def zeros(length: int) -> str:
    """A long text as SQL writes it, made in one step of SQLite's machine."""
    return f"replace(printf('%{length}s',''),' ','0')"


@pytest.mark.parametrize(
    ("query", "explanation"),
    [
        (f"SELECT instr({zeros(9_000_000)}, {zeros(4_000_000)}||'1') FROM shops", "did not end within 0.3 s"),
        (f"SELECT replace({zeros(9_000_000)}, {zeros(4_000_000)}||'1', 'x') FROM shops", "did not end within 0.3 s"),
        (f"SELECT sum({zeros(9_000_000)} LIKE '%'||{zeros(90)}||'1%') FROM shops, items, items b", "did not end"),
        (f"SELECT sum({zeros(9_000_000)} GLOB '*'||{zeros(90)}||'1*') FROM shops, items, items b", "did not end"),
        (f"SELECT {', '.join(['printf(' + chr(39) + '%9999999d' + chr(39) + ', 1)'] * 480)} FROM shops", ""),
        ("SELECT json_group_array(printf('%9999999d', 1)) FROM items a, items b, items c", ""),
    ],
)
def test_query_that_sqlite_cannot_interrupt_is_ended(shop: Verifier, query: str, explanation: str) -> None:
    started = time.monotonic()
    verdict = shop.verify(asked(OSLO_NAMES), query)
    assert verdict.status is Status.INCORRECT
    assert explanation in verdict.explanation
    assert time.monotonic() - started < 3
    assert shop.verify(asked(OSLO_NAMES), OSLO_NAMES).status is Status.CORRECT


def test_reference_that_does_not_end_gives_no_verdict(shop: Verifier) -> None:
    endless = f"SELECT instr({zeros(9_000_000)}, {zeros(4_000_000)}||'1') FROM shops"
    verdict = shop.verify(asked(endless), OSLO_NAMES)
    assert verdict.status is Status.ERROR
    assert "The reference of question q1 could not be run: the check did not end within 0.3 s" in verdict.explanation


def test_query_that_is_too_slow_for_a_smaller_state_only_is_correct(tmp_path: Path) -> None:
    """It takes long where a row is missing, as a right one might by bad luck."""
    (tmp_path / "n.sql").write_text("CREATE TABLE n(i INTEGER); INSERT INTO n VALUES (1), (2), (3), (4);")
    slow = f"SELECT count(*) FROM n WHERE (SELECT count(*) FROM n) = 4 OR instr({zeros(9_000_000)}, {zeros(4_000_000)}||'1')"
    with closing(open_verifier("sql", {"database": "n.sql", "timeout_s": 0.3}, tmp_path)) as verifier:
        assert verifier.verify(asked("SELECT count(*) FROM n"), slow).status is Status.CORRECT


def test_closing_ends_a_query_at_once_and_calls_nothing_incorrect(tmp_path: Path) -> None:
    (tmp_path / "shop.sql").write_text(SHOP)
    verifier = open_verifier("sql", {"database": "shop.sql", "timeout_s": 600}, tmp_path)
    found: list[Verdict] = []
    endless = f"SELECT instr({zeros(9_000_000)}, {zeros(4_000_000)}||'1') FROM shops"
    thread = threading.Thread(target=lambda: found.append(verifier.verify(asked(OSLO_NAMES), endless)))
    thread.start()
    time.sleep(0.5)
    verifier.close()
    thread.join(5)
    assert [verdict.status for verdict in found] == [Status.ERROR]


def test_run_ends_at_ctrl_c_in_the_middle_of_a_query(tmp_path: Path) -> None:
    (tmp_path / "shop.sql").write_text(SHOP)
    endless = f"SELECT instr({zeros(9_000_000)}, {zeros(4_000_000)}||'1') FROM shops"
    program = f"""
import asyncio
from contextlib import closing
from pathlib import Path
from meteor_agents.messages import Question
from meteor_agents.verifiers import open_verifier
async def run():
    with closing(open_verifier("sql", {{"database": "shop.sql", "timeout_s": 600}}, Path({str(tmp_path)!r}))) as sql:
        print("ready", flush=True)
        await asyncio.to_thread(sql.verify, Question(id="q", question="?", reference="SELECT 1"), {endless!r})
asyncio.run(run())
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=10)
    assert "KeyboardInterrupt" in said


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


@pytest.mark.parametrize(
    "answer",
    [
        f"```{OSLO_NAMES}```",
        f"```sql {OSLO_NAMES}```",
        OSLO_NAMES.replace("SELECT ", "```SELECT\n") + "\n```",
        f"<sql>{OSLO_NAMES}</sql>",
        f"Final answer: `{OSLO_NAMES}`.",
        f"1. Join\n2. Filter\n\n{OSLO_NAMES}\n\n- `SELECT`: picks the name\n- WHERE: filters",
        f"> {OSLO_NAMES}",
        f'"{OSLO_NAMES}"',
        f"{OSLO_NAMES}.",
        f"The answer is {OSLO_NAMES}.",
        f"**Answer:** {OSLO_NAMES}",
        f"{OSLO_NAMES};\n\n**Explanation:**\n- SELECT name: the name\n- FROM shops: the table",
        f"sql\n{OSLO_NAMES}",
        f"查询：\n{OSLO_NAMES}\n\n这会返回名字。",
        f"With this query you get them:\n\n{OSLO_NAMES}",
        f"{OSLO_NAMES}\n\nNote: the towns' names are exact.",
        f"{OSLO_NAMES}\n\nthis gives the names",
        f"{OSLO_NAMES}\n\n" + "This is long.\n" * 3000,
        "WITH o AS (\n  SELECT * FROM shops WHERE town = 'Oslo'\n)\n\nSELECT name FROM o\n\nThis uses a CTE.",
        "SELECT `name` FROM `shops` WHERE `town` = 'Oslo'",
    ],
)
def test_query_is_taken_out_of_what_models_write_around_it(shared_shop: Verifier, answer: str) -> None:
    verdict = shared_shop.verify(asked(OSLO_NAMES), answer)
    assert verdict.status is Status.CORRECT, verdict.explanation


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT name FROM shops\nWHERE twn = 'Lima'",
        "SELECT name FROM shops\n\nWHERE town 'Lima'",
        "SELECT name FROM shops\nWher town = 'Lima'",
        "SELECT name FROM shops WHERE",
        "SELECT name FROM shops\n\nSELECT name FROM shops WHERE town = 'Oslo'",
        "SELECT name FROM shops;\n\nOr this:\nSELECT name FROM shops WHERE town = 'Oslo';",
        "UPDATE shops SET name = (SELECT name FROM shops)",
    ],
)
def test_nothing_is_left_out_of_a_broken_or_double_query(shared_shop: Verifier, answer: str) -> None:
    assert shared_shop.verify(asked("SELECT name FROM shops"), answer).status is Status.INCORRECT


SHAPES = ["", "SELECT ", "SELECT name FROM shops WHERE ", "WITH ", "```sql\n", "**SELECT name", "SQL: `SELECT `name`", "; ;"]


@given(
    text=st.lists(st.sampled_from([*SHAPES, "`", "**", "\n\n", ";", "'", "This", "-- x\n"]) | st.text(max_size=20))
)
def test_any_text_has_a_query_to_try(text: list[str]) -> None:
    found = candidates("".join(text))
    assert 1 <= len(found) <= 8


ODD = [*SHAPES, "`", "(", "'", '"', "\n", "\n\nThis ", ":* ", "WITH x(", "-", "/*", "Select . ", "\x00"]


@pytest.mark.parametrize("part", ODD)
def test_a_megabyte_of_anything_is_looked_at_in_no_time(shared_shop: Verifier, part: str) -> None:
    text = (part or "x") * (1_000_000 // max(1, len(part)))
    started = time.monotonic()
    for answer in (text, f"SELECT name FROM shops {text}", f"{text}{OSLO_NAMES}"):
        assert shared_shop.verify(asked(OSLO_NAMES), answer).status is not Status.ERROR
    assert time.monotonic() - started < 3


@given(text=st.text(max_size=40), start=st.sampled_from(SHAPES))
def test_any_text_gets_a_verdict(shared_shop: Verifier, text: str, start: str) -> None:
    verdict = shared_shop.verify(asked(OSLO_NAMES), start + text)
    assert verdict.status in (Status.CORRECT, Status.INCORRECT)


# --- sql: smaller states of the data

STAFF = """\
CREATE TABLE dept(id INTEGER PRIMARY KEY, name TEXT UNIQUE, town TEXT CHECK (town <> ''));
CREATE TABLE emp(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, dept_id INTEGER NOT NULL REFERENCES dept(id), pay REAL, boss INTEGER,
  twice REAL AS (2 * pay), FOREIGN KEY (boss) REFERENCES emp(id) ON DELETE RESTRICT
);
CREATE TABLE badge(emp_id INTEGER, code TEXT);
CREATE TRIGGER no_loss BEFORE DELETE ON emp BEGIN SELECT RAISE(ABORT, 'never'); END;
CREATE VIEW rich AS SELECT * FROM emp WHERE pay > 50;
""" + "".join(
    [f"INSERT INTO dept VALUES ({i}, 'd{i}', '{'Oslo' if i % 2 else 'Lima'}');" for i in range(1, 7)]
    + [f"INSERT INTO emp(id,name,dept_id,pay,boss) VALUES ({i},'e{i}',{i % 6 + 1},{i * 7 % 50 + 30},"
       f"{'NULL' if i < 4 else i // 2});" for i in range(1, 31)]
    + [f"INSERT INTO badge VALUES ({i % 30 + 1}, 'c{i % 9}');" for i in range(40)]
)  # fmt: skip


def states(script: str, tmp_path: Path, count: int = 6) -> Iterator[sqlite3.Connection]:
    (tmp_path / "staff.sql").write_text(script)
    for image in states_of(read_image(tmp_path / "staff.sql"), count):
        with closing(connect_memory(image)) as connection:
            yield connection


def test_states_keep_constraints_links_and_common_values(tmp_path: Path) -> None:
    seen, smaller = 0, set[str]()
    for connection in states(STAFF, tmp_path):
        seen += 1

        def rows(sql: str, connection: sqlite3.Connection = connection) -> list[tuple[object, ...]]:
            return connection.execute(sql).fetchall()

        assert rows("PRAGMA foreign_key_check") == []
        assert rows("PRAGMA integrity_check") == [("ok",)]
        assert rows("SELECT * FROM badge WHERE emp_id NOT IN (SELECT id FROM emp)") == [], "an undeclared link"
        assert rows("SELECT * FROM dept WHERE id NOT IN (SELECT dept_id FROM emp)") == [], "each had someone"
        assert rows("SELECT count(DISTINCT town) FROM dept") == [(2,)]
        assert rows("SELECT count(*) FROM emp WHERE twice IS NOT 2 * pay") == [(0,)]
        for table, size in (("dept", 6), ("emp", 30), ("badge", 40)):
            ((count,),) = rows(f"SELECT count(*) FROM {table}")
            assert isinstance(count, int)
            assert 1 <= count <= size
            smaller |= {table} if count < size else set()
    assert (seen, smaller) == (6, {"dept", "emp", "badge"})


def test_states_are_the_same_each_time_and_differ_from_each_other(tmp_path: Path) -> None:
    (tmp_path / "staff.sql").write_text(STAFF)
    image = read_image(tmp_path / "staff.sql")
    assert states_of(image, 3) == states_of(image, 4)[:3]
    assert len(set(states_of(image, 3))) == 3


@pytest.mark.parametrize(
    "script",
    [
        "",
        "CREATE TABLE t(a);",
        "CREATE TABLE t(a); INSERT INTO t VALUES (1);",
        "CREATE TABLE t(a); INSERT INTO t VALUES (CAST(x'ff' AS TEXT)), (1);",
        "CREATE TABLE t(a REFERENCES nowhere(b)); INSERT INTO t VALUES (1), (2);",
        "CREATE TABLE t(a PRIMARY KEY, b) WITHOUT ROWID; INSERT INTO t VALUES ('x', 1), ('y', 2);",
        'CREATE TABLE "a ""b"(" c" PRIMARY KEY, d); INSERT INTO "a ""b" VALUES (1, 2), (2, x\'00\');',
        "CREATE TABLE t(a CHECK (a > 0)); PRAGMA ignore_check_constraints = 1; INSERT INTO t VALUES (-1), (-2), (3);",
    ],
)
def test_unusual_databases_are_opened_and_compared(script: str, tmp_path: Path) -> None:
    (tmp_path / "d.sql").write_text(script)
    with closing(open_verifier("sql", {"database": "d.sql"}, tmp_path)) as verifier:
        tables = "SELECT 1 AS n UNION SELECT 2"
        assert verifier.verify(asked(tables), f"{tables} ORDER BY 1 DESC").status is Status.CORRECT
        if "TABLE t" in script:
            count = verifier.verify(asked("SELECT count(*) FROM t"), "SELECT sum(1) FROM t").status
            assert count is (Status.INCORRECT if script == "CREATE TABLE t(a);" else Status.CORRECT)


@pytest.fixture(scope="module")
def staff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    folder = tmp_path_factory.mktemp("staff")
    (folder / "staff.sql").write_text(STAFF)
    with closing(open_verifier("sql", {"database": "staff.sql", "states": 12}, folder)) as verifier:
        yield verifier


@pytest.mark.parametrize(
    "queries",
    [
        ["SELECT max(pay) FROM emp", "SELECT pay FROM emp ORDER BY pay DESC LIMIT 1",
         "SELECT DISTINCT pay FROM emp a WHERE NOT EXISTS (SELECT 1 FROM emp b WHERE b.pay > a.pay)"],
        ["SELECT name FROM emp WHERE dept_id IN (SELECT id FROM dept WHERE town = 'Oslo')",
         "SELECT emp.name FROM emp JOIN dept ON dept.id = dept_id AND town = 'Oslo'",
         "SELECT name FROM emp WHERE EXISTS (SELECT 1 FROM dept WHERE id = dept_id AND town = 'Oslo')"],
        ["SELECT dept.name, count(*) FROM dept JOIN emp ON dept_id = dept.id GROUP BY dept.id",
         "SELECT dept.name, count(emp.id) FROM dept LEFT JOIN emp ON dept_id = dept.id GROUP BY dept.name",
         "SELECT name, (SELECT count(*) FROM emp WHERE dept_id = dept.id) FROM dept"],
        ["SELECT town FROM dept GROUP BY town HAVING count(*) > 1", "SELECT DISTINCT town FROM dept WHERE town <> ''"],
        ["SELECT count(*) FROM emp WHERE boss IS NULL", "SELECT count(*) - count(boss) FROM emp"],
        ["SELECT count(*) FROM emp WHERE pay > 60", "SELECT count(*) FROM emp WHERE pay >= 61",
         "SELECT sum(pay > 60) FROM emp", "SELECT count(*) FROM emp WHERE twice > 120"],
        ["SELECT code, count(*) FROM badge GROUP BY code ORDER BY count(*) DESC, code",
         "SELECT code, count(*) AS n FROM badge GROUP BY 1 ORDER BY n DESC, 1"],
        ["SELECT name FROM emp ORDER BY pay DESC, name LIMIT 3", "SELECT name FROM emp ORDER BY pay DESC, name LIMIT 0, 3"],
        ["SELECT name FROM emp ORDER BY pay LIMIT 1", "SELECT name FROM emp WHERE pay = (SELECT min(pay) FROM emp) LIMIT 1"],
        ["SELECT group_concat(name) FROM emp", "SELECT group_concat(name) FROM emp WHERE 1"],
        ["SELECT town, name FROM dept GROUP BY town", "SELECT town, name FROM dept GROUP BY 1"],
        ["SELECT avg(pay) FROM emp JOIN badge ON emp_id = emp.id WHERE code = 'c3'",
         "SELECT sum(pay) / count(*) FROM badge, emp WHERE emp_id = emp.id AND code = 'c3'"],
        ["SELECT name FROM rich", "SELECT name FROM emp WHERE pay > 50"],
        ["SELECT b.name FROM emp e JOIN emp b ON e.boss = b.id WHERE e.name = 'e30'",
         "SELECT name FROM emp WHERE id = (SELECT boss FROM emp WHERE name = 'e30')"],
        ["SELECT name FROM dept WHERE id NOT IN (SELECT dept_id FROM emp WHERE pay > 70)",
         "SELECT d.name FROM dept d LEFT JOIN emp e ON e.dept_id = d.id AND pay > 70 WHERE e.id IS NULL"],
        ["SELECT rowid, code FROM badge WHERE code = 'c1'", "SELECT rowid, code FROM badge WHERE code LIKE 'c1'"],
    ],
)  # fmt: skip
def test_queries_that_say_the_same_are_correct_for_each_other(staff: Verifier, queries: list[str]) -> None:
    for reference in queries:
        for answer in queries:
            verdict = staff.verify(asked(reference), answer)
            assert verdict.status is Status.CORRECT, (reference, answer, verdict)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=10),
    key=st.sampled_from(["k", "k DESC", "v COLLATE NOCASE", "k % 2, v", "-k"]),
    window=st.tuples(st.integers(0, 4), st.integers(1, 6)),
    data=st.data(),
)
def test_any_order_within_equal_keys_is_what_the_reference_leaves_open(
    rows: list[tuple[int, str]], key: str, window: tuple[int, int], data: st.DataObject
) -> None:
    """Shuffling the rows of the table is what a reader of the reference cannot tell from the original."""
    shuffled = data.draw(st.permutations(rows))
    offset, limit = window
    query = f"SELECT v, k FROM t ORDER BY {key} LIMIT {limit} OFFSET {offset}"
    results = []
    for content in (rows, shuffled):
        with closing(connect_memory()) as connection:
            connection.execute("CREATE TABLE t(k INTEGER, v TEXT)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", content)
            database = SqlDatabase(connection.serialize(), max_rows=50, timeout_s=5)
            results.append((expected_of(database, query), database.run(query, reverse=True)))
            database.close()
    for expected, _ in results:
        for _, given_rows in results:
            assert isinstance(expected, Expected)
            assert isinstance(given_rows, Result)
            assert difference(given_rows, expected) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True), (10000001, 10000002, False), (1e15 + 1, 1e15 + 2, False), (0.1 + 0.2, 0.3, True),
        (12345678.12, 12345678.13, False), (6.6e-34, 9.1e-31, False), (0, 1e-17, True), (0, 1e-9, False),
        (5, "5", False), ("5", "5.0", False), ("a", "A", False), (None, 0, False), (None, "", False), (b"a", "a", False),
        (1e300, 1e300 * (1 + 1e-15), True), (2**62, 2**62 + 1, False), (float("inf"), 1.0, False), (1, True, True),
        (3.0000000000000004, 3, True), (-0.0, 0, True),
    ],
)  # fmt: skip
def test_values_are_the_same_by_type_and_size(one: Value, other: Value, same: bool) -> None:
    assert same_value(one, other) is same
    assert same_value(other, one) is same


# --- sql: databases and threads


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_file_is_read_and_never_changed(journal: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
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
