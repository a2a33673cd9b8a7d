"""`sql`: a query whose rows are those of the reference query, on the user's database."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.sql import checker
from meteor_agents.verifiers.sql.database import TOO_MUCH_MEMORY, read_image
from meteor_agents.verifiers.sql.guide import guide_for_failure
from meteor_agents.verifiers.sql.states import states_of
from meteor_agents.verifiers.verdicts import incorrect, undecided, without_reference
from meteor_agents.verifiers.workers import Ended, Job, Workers


class SqlOptions(BaseModel):
    """The database, and what a query may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: Path
    """A `.sql` script, which is run once into memory, or a SQLite file, which is only read."""
    max_rows: int = Field(default=1000, ge=1)
    """A query that gives more rows than this is not correct."""
    timeout_s: float = Field(default=2.0, gt=0, le=86_400)
    """A query that takes longer is not correct."""
    states: int = Field(default=3, ge=0, le=20)
    """On how many smaller states of the data a right query must be right as well, so that no constant passes for a
    count. Each costs another run of each query, and the memory of the database once more in each of four processes.
    0: only the user's data."""


class SqlVerifier:
    """Runs the answer and the reference in child processes, and compares what they give.

    Rows may come in any order that the reference leaves open. Column names do not count, and floats may differ by
    rounding. An answer that is not one reading query is incorrect; it cannot change, reach or hold anything.
    """

    name = checker.NAME

    def __init__(self, workers: Workers) -> None:
        self.timeout_s = workers.job.timeout_s
        self._workers = workers

    @classmethod
    def open(cls, options: SqlOptions, base: Path) -> SqlVerifier:
        """Raises `SettingsError` when the database cannot be opened. A relative path starts at `base`."""
        image = read_image(base / options.database)
        workers = Workers(
            Job(
                f"{checker.__name__}:{checker.serve_sql.__name__}",
                {"max_rows": options.max_rows, "timeout_s": options.timeout_s},
                timeout_s=options.timeout_s,
                blobs=[image, *states_of(image, options.states)],
            )
        )
        try:
            workers.start()
        except (OSError, SettingsError) as error:
            raise SettingsError(f"Verifier 'sql': its process cannot be started: {error}") from error
        return cls(workers)

    def verify(self, question: Question, answer: str) -> Verdict:
        """The verdict. `Status.ERROR` only when the question has no reference, or the reference itself fails."""
        if question.reference is None:
            return without_reference(self.name, question)
        found = self._workers.ask("verify", question, answer, states=True)
        if isinstance(found, Ended) and found.phase == checker.STATES:  # it was right for the user's own data
            found = self._workers.ask("verify", question, answer, states=False)
        if not isinstance(found, Ended):
            return Verdict.model_validate(found)
        if found.phase == checker.ANSWER and found.exhausted:
            reason = f"The query did not end within {self.timeout_s:g} s" if found.late else TOO_MUCH_MEMORY
            return incorrect(self.name, f"{reason}.", guide_for_failure(reason, "", {}))
        whose = "The reference" if not found.phase else "The answer"
        return undecided(self.name, f"{whose} of question {question.id} could not be run: {found.reason}.")

    def view(self, question: Question, answer: str) -> str | None:
        """Equal for queries with the same rows, in their order only where the reference has one. None: it fails."""
        found = self._workers.ask("view", question, answer)
        return None if isinstance(found, Ended) else found

    def close(self) -> None:
        """Ends the processes, also in the middle of a query."""
        self._workers.close()
