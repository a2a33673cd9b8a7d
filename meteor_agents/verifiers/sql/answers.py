"""Taking the query out of an answer: out of code fences, bold or inline code, and out of the prose around it."""

from __future__ import annotations

import re

from meteor_agents.verifiers.sql.text import tokens

MAX_ANSWER = 100_000
"""Characters. Nothing is looked for in a longer answer."""
MAX_SQL = 20_000
"""The most characters that a query may have."""

FENCE = re.compile(
    r"```[ \t]*((?!select\b|with\b)(?:sql(?:ite3?)?\b|[\w+-]+(?=[ \t]*\n)))?[ \t]*\n?(.*?)(?:```|\Z)",
    re.DOTALL | re.IGNORECASE,
)
COMMENTS = re.compile(r"(?:\s+|--[^\n]*|/\*.*?(?:\*/|\Z)|;)*", re.DOTALL)
QUERY = r"""(?: SELECT \b (?! ` | \*\* )
    | WITH \s{1,20} (?: RECURSIVE \s{1,20} )? [\w"`\[\]]{1,80} \s{0,20} (?: \( | AS \b ) )"""
START = re.compile(
    rf"""(?P<before> ^ [ \t>*_\#"'“(-]{{0,20}} `{{0,3}} | : [\s*_]{{0,20}} `{{0,3}} | `{{1,3}} | \*\* )
    (?P<query> {QUERY} )""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
LINE_START = re.compile(f"^{QUERY}", re.VERBOSE | re.IGNORECASE | re.MULTILINE)
IN_PROSE = re.compile(QUERY, re.VERBOSE)
"""In capitals, SELECT is SQL wherever it stands."""
HEADING = re.compile(r"\s*(?:Select|With)\b[^\n=<>;*`]*[:.]\s*$", re.MULTILINE)
"""A sentence that begins like a query: "Select the names of all shops:"."""
STATEMENT = re.compile(
    r"""(?: SELECT | WITH | VALUES | EXPLAIN | PRAGMA | ATTACH | DETACH | VACUUM | ANALYZE | REINDEX | BEGIN | COMMIT
    | ROLLBACK | SAVEPOINT | RELEASE | DELETE \s+ FROM | INSERT \s+ (?: INTO | OR ) | REPLACE \s+ INTO
    | UPDATE \s+ \S+ \s+ SET
    | (?: CREATE | DROP | ALTER ) \s+ (?: TEMP | TEMPORARY | TABLE | VIEW | INDEX | TRIGGER | UNIQUE | VIRTUAL ) )
    (?= [\s(;'"] | \Z )""",
    re.VERBOSE | re.IGNORECASE,
)
LINE_END = re.compile(r"\n[ \t]*(\n\s*)?")
PROSE = re.compile(
    r"""(?: [*_\#>(\"“-]+ | \d+[.)] )? [ \t]* (?: [*_]{1,2} )?
    (?P<word> [A-Z][a-z’']+ | I | A | [^\W\d_a-zA-Z]\w*
        | (?: this | that | these | the | it | here | note | we | you ) \b )""",
    re.VERBOSE,
)
"""How a line of prose begins: mostly with a capital, as no clause of a query is usually written."""
ITEM = re.compile(r"(?:[*-]|\#+|\d+[.)])[ \t]+\S|---")
"""How an item of a list or a heading begins."""
CONTINUES = """
    AND AS ASC BETWEEN BY CASE COLLATE CROSS DESC ELSE END ESCAPE EXCEPT EXISTS FROM FULL GLOB GROUP HAVING IN INNER
    INTERSECT INTO IS JOIN LEFT LIKE LIMIT NATURAL NOT NULL OFFSET ON OR ORDER OUTER OVER PARTITION RIGHT SELECT THEN
    UNION USING VALUES WHEN WHERE WINDOW WITH
"""
"""Words that begin a line of a query."""
OPERATORS = re.compile(r"[=<>]")


def candidates(answer: str) -> list[str]:
    """What the query of the answer may be, the most literal reading first.

    A later one is meant for when an earlier one cannot be parsed: it leaves out what looks like prose behind the query.
    Never empty. An answer without a query, and one with several statements, is given as it stands, to be refused.
    """
    text = fenced(answer[:MAX_ANSWER].strip())
    heading = HEADING.match(text)
    if STATEMENT.match(text, skipped(text)) and not heading:
        return readings(text)
    body = text[heading.end() :] if heading else text
    if start := START.search(body):
        return readings(body[start.start("query") :], wrapped="".join(re.findall(r"`|\*\*", start["before"])))
    if found := IN_PROSE.search(body):
        return readings(body[found.start() :])
    return [text]


def fenced(answer: str) -> str:
    """What the last code fence with a query holds, or the last of any; the whole answer where there is none."""
    blocks: list[str] = [match[2].strip() for match in FENCE.finditer(answer)]
    if not blocks:
        return answer
    return next((block for block in reversed(blocks) if STATEMENT.match(block, skipped(block))), blocks[-1])


def skipped(text: str) -> int:
    """Where the first word after comments begins."""
    match = COMMENTS.match(text)
    return match.end() if match else 0


def readings(text: str, wrapped: str = "") -> list[str]:
    """`text` begins with a query: all of it up to its semicolon, and shorter parts that leave prose out."""
    ends: list[int] = []
    closing = next((token.start for token in tokens(text[:MAX_SQL]) if token.text == ";"), None)
    if closing is not None:
        rest = text[closing:]
        if STATEMENT.match(rest, skipped(rest)) or LINE_START.search(rest):
            return [text]
        text = text[:closing]
    if wrapped:
        mark = "**" if wrapped.endswith("**") else "`"
        ends += [end for end in (text.find(mark), text.rfind(mark)) if end > 0]
    else:
        ends.append(len(text))
    ends += [end for end in (text.find("</"), *prose_starts(text)) if end > 0 and end not in ends]
    if not ends:
        ends.append(len(text))
    found = [unwrapped(text[:end]) for end in ends[:6]]
    if found[0].endswith((".", ":")):
        found.append(found[0].rstrip(".: "))
    return list(dict.fromkeys(query for query in found if len(query) <= MAX_SQL)) or found[:1]


def unwrapped(query: str) -> str:
    """The query without the marks that close bold, inline code or quotes opened before it."""
    query = query.strip().rstrip("*").rstrip()
    for mark in ("`", '"'):
        if query.count(mark) % 2:
            query = query.removesuffix(mark)
    return query


def prose_starts(text: str) -> list[int]:
    """The line ends after which a line of prose seems to follow: first those before an empty line."""
    after_blank, others = [], []
    for end in LINE_END.finditer(text):
        line = PROSE.match(text, end.end())
        is_prose = line is not None and line["word"].upper() not in CONTINUES.split()
        if end[1] and (is_prose or ITEM.match(text, end.end())):
            after_blank.append(end.start())
        elif is_prose and not OPERATORS.search(text, end.end(), (text.find("\n", end.end()) + 1 or len(text) + 1) - 1):
            others.append(end.start())
    return [*after_blank, *others]
