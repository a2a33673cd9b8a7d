"""What to do about a wrong query: hints in plain sentences, the most useful first, never the reference itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from meteor_agents.verifiers.sql.database import Result
from meteor_agents.verifiers.sql.text import Token, tokens

Tables = Mapping[str, tuple[str, ...]]

MAX_WORDS = 36
"""The most words of a guide: about 60 tokens."""
MAX_NAMES = 12
"""Tables or columns that one hint lists."""

OPERATIONS = (
    "COUNT", "SUM", "AVG", "MIN", "MAX", "GROUP BY", "HAVING", "DISTINCT", "IS NULL", "IS NOT NULL", "LIKE", "BETWEEN",
    "ORDER BY", "DESC", "LIMIT", "UNION", "EXCEPT", "INTERSECT", "EXISTS", "OR",
)  # fmt: skip
AFTER_TABLE = "CROSS FULL GROUP HAVING INNER JOIN LEFT LIMIT NATURAL ON ORDER RIGHT USING WHERE"
COMPARISONS = frozenset(("<", "<=", ">", ">=", "<>", "!="))


def guide_for_failure(reason: str, sql: str, tables: Tables) -> str:
    """What to change in a query that did not run, from what SQLite said about it."""
    if found := re.match(r"no such column: (?:(.+)\.)?(.+)", reason):
        return within_budget(column_hints(found[1], found[2], sql, tables))
    if found := re.match(r"no such table: (?:.+\.)?(.+)", reason):
        return within_budget([*nearest(found[1], tables), f"The tables are {listed(tables)}."])
    if found := re.match(r"ambiguous column name: (?:.+\.)?(.+)", reason):
        owners = [table for table in used_tables(sql, tables).values() if found[1] in tables[table]]
        return f"Write the table before the column, such as {owners[0]}.{found[1]}." if owners else ""
    if reason.startswith(("no such function", "not authorized to use function")):
        return "Use SQLite's own functions, such as COUNT, SUM, AVG, MIN and MAX."
    if "misuse of aggregate" in reason:
        return "A condition on COUNT, SUM or AVG belongs in HAVING, after GROUP BY."
    if found := re.match(r'near "(.*)": syntax error', reason, re.DOTALL):
        return (
            f"Check the spelling and the order of the parts near {found[1][:30]}: SELECT, FROM, JOIN, WHERE, GROUP BY."
        )
    if reason == "incomplete input" or reason.startswith("unrecognized token"):
        return "The query breaks off: close every bracket and quote."
    if "did not end" in reason:
        return "Join every table ON the column that links it to another."
    if "too much memory" in reason:
        return "Select what the question asks for alone, without building long texts."
    if "more than" in reason and "rows" in reason:
        return "Add the missing condition, or join the tables ON the columns that link them."
    return "Answer with one SELECT that only reads." if "SELECT" in reason or "only read" in reason else ""


def column_hints(qualifier: str | None, column: str, sql: str, tables: Tables) -> list[str]:
    """Where the column is, and what the tables of the query have instead."""
    used = used_tables(sql, tables)
    table = used.get((qualifier or "").upper()) or next(
        (t for t in tables if t.upper() == (qualifier or "").upper()), None
    )
    if table and column in tables[table]:
        return [f"Add {table} to the query with JOIN."]
    if qualifier and not table:
        return [f"{qualifier} is not a table: the tables are {listed(tables)}."]
    looked_in = [table] if table else list(dict.fromkeys(used.values()))
    near = nearest(column, [name for table in looked_in for name in tables[table]])
    owners = [name for name, columns in tables.items() if column in columns and name not in looked_in]
    elsewhere = [f"{column} is a column of {' and of '.join(owners[:MAX_NAMES])}."] if owners else near
    return elsewhere + [f"{name} has the columns {listed(tables[name])}." for name in looked_in]


def used_tables(sql: str, tables: Tables) -> dict[str, str]:
    """The tables that a query reads from, each by its upper-case name and by its alias."""
    by_name = {name.upper(): name for name in tables}
    parts = [token.text.strip('"`[]').upper() for token in tokens(sql)]
    used = {}
    for before, word, *after in zip(parts, parts[1:], [*parts[2:], ""], [*parts[3:], "", ""], strict=False):
        if before in ("FROM", "JOIN", ",") and word in by_name:
            used[word] = by_name[word]
            alias = after[1] if after[0] == "AS" else after[0]
            if alias.isidentifier() and alias not in AFTER_TABLE.split():
                used[alias] = by_name[word]
    return used


def guide_for_result(sql: str, given: Result, reference: str, expected: Result) -> str:
    """What to change in a query that gave the wrong rows, from comparing it with the reference."""
    hints = [
        *missing_and_extra("the table", expected.tables, given.tables),
        *missing_and_extra("", operations(reference), operations(sql)),
        *column_counts(given, expected),
        *wrong_columns(given, expected),
        *wrong_values(sql, reference),
    ]
    return within_budget(hints or ["The parts are right: check what is selected, the conditions and the order."])


def missing_and_extra(kind: str, wanted: Iterable[str], used: Iterable[str]) -> list[str]:
    """Hints that name what the reference uses and the query does not, and the other way round."""
    missing, extra = sorted(set(wanted) - set(used)), sorted(set(used) - set(wanted))
    hints = [f"Use {enumerated(kind, missing)}."] if missing else []
    if extra:
        needless = f"{enumerated(kind, extra)} {'is' if len(extra) == 1 else 'are'} not needed."
        hints.append(needless[:1].upper() + needless[1:])
    return hints


def enumerated(kind: str, names: list[str]) -> str:
    """The names joined by `and`, after what they are: `the tables A and B`. `kind` may be empty."""
    return f"{kind}{'s' if kind and len(names) > 1 else ''} {' and '.join(names)}".strip()


def column_counts(given: Result, expected: Result) -> list[str]:
    """A hint with the right number of columns, if the query selects another number."""
    if given.columns == expected.columns:
        return []
    return [f"Select {expected.columns} column{'s' * (expected.columns != 1)}."]


def wrong_columns(given: Result, expected: Result) -> list[str]:
    """Columns that only one of the two reads, of the tables that both read."""
    shared = given.tables & expected.tables
    missing = sorted(f"{t}.{c}" for t, c in expected.reads - given.reads if c and t in shared)
    extra = sorted(f"{t}.{c}" for t, c in given.reads - expected.reads if c and t in shared)
    hints = [f"Look at {' and '.join(missing[:2])}."] if missing else []
    return [*hints, f"{' and '.join(extra[:2])} {'does' if len(extra) == 1 else 'do'} not matter."] if extra else hints


def wrong_values(sql: str, reference: str) -> list[str]:
    """Hints on values and comparison signs of the answer that the reference does not have."""
    given, expected = list(tokens(sql)), list(tokens(reference))
    known = {token.text for token in expected}
    strange = [token for token in given if token.kind in ("text", "number") and token.text not in known]
    hints = []
    if strange:
        spelling = ": case and spelling count" if strange[0].kind == "text" else ""
        hints.append(f"Check the value {strange[0].text[:40]}{spelling}.")
    if signs(given) != signs(expected):
        hints.append("Check the comparison signs.")
    return hints


def signs(parts: Iterable[Token]) -> set[str]:
    """The comparison signs among the tokens."""
    return {token.text for token in parts if token.text in COMPARISONS}


def operations(sql: str) -> list[str]:
    """The members of `OPERATIONS` that occur anywhere in a query."""
    words = f" {' '.join(token.text for token in tokens(sql) if token.kind == 'word')} "
    return [operation for operation in OPERATIONS if f" {operation} " in words]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """A hint with the known name that is spelled most like this one, if any is near."""
    return [f"Did you mean {match}?" for match in difflib.get_close_matches(name, list(known), n=1)]


def listed(names: Iterable[str]) -> str:
    """At most `MAX_NAMES` names, joined by commas; an ellipsis stands for the rest."""
    shown = list(names)
    return ", ".join(shown[:MAX_NAMES]) + (", …" if len(shown) > MAX_NAMES else "")


def within_budget(hints: list[str]) -> str:
    """As many hints from the first on as the budget of words holds; at least one."""
    kept: list[str] = []
    for hint in hints:
        if kept and len(" ".join([*kept, hint]).split()) > MAX_WORDS:
            break
        kept.append(hint)
    return " ".join(kept)
