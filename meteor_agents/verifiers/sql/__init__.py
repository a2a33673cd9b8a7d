"""`sql`: checks queries by running them.

    verifier.py    what the run opens: asks child processes, and turns what happens to them into verdicts
    checker.py     what runs in a child: one question, one answer, one verdict
    answers.py     takes the query out of the answer
    database.py    runs a query so that it can only read
    comparison.py  compares rows, in order as far as the reference decides it
    states.py      makes smaller states of the user's data
    tables.py      reads the user's tables, and how they are linked
    guide.py       says what to change in a wrong query
    text.py        tokens of SQL
"""

from meteor_agents.verifiers.sql.verifier import SqlOptions, SqlVerifier

__all__ = ["SqlOptions", "SqlVerifier"]
