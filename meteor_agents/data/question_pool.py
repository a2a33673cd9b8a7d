"""Many questions in little memory: their texts lie in a file, and are read when a question is taken."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import overload

from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


class QuestionPool(Sequence[Question]):
    """Questions in an order. In memory are their ids, some 30 bytes a question; slices and subsets share the file.

    Taking one reads some hundred bytes of a file that the system has in its cache, in a few microseconds.
    """

    def __init__(self, texts: Texts, rows: Sequence[int]) -> None:
        self._texts = texts
        self._rows = rows

    @classmethod
    def of(cls, questions: Iterable[Question]) -> QuestionPool:
        """Raises `QuestionsError` when there is no room for the file, or a question holds what JSON cannot."""
        texts = Texts(questions)
        return cls(texts, range(len(texts)))

    @property
    def ids(self) -> Iterator[str]:
        return map(self._texts.id, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Question: ...
    @overload
    def __getitem__(self, at: slice) -> QuestionPool: ...
    def __getitem__(self, at: int | slice) -> Question | QuestionPool:
        if isinstance(at, slice):
            return QuestionPool(self._texts, self._rows[at])
        return Question.model_validate_json(self._texts.read(self._rows[at]))

    def __iter__(self) -> Iterator[Question]:
        return (Question.model_validate_json(self._texts.read(row)) for row in self._rows)

    def where(self, wanted: Callable[[str], bool]) -> QuestionPool:
        """Those whose id is `wanted`, in this order."""
        return QuestionPool(self._texts, array("Q", (row for row in self._rows if wanted(self._texts.id(row)))))

    def without(self, settled: Iterable[tuple[str, str]]) -> QuestionPool:
        """The pool less those that are settled: (id, the question as JSON). One that reads otherwise now stays."""
        settled = iter(settled)
        if (first := next(settled, None)) is None:
            return self
        left = {self._texts.id(row): row for row in self._rows}
        for id_, text in chain([first], settled):
            if id_ in left and self._texts.read(left[id_]) == text.encode():
                del left[id_]
        return QuestionPool(self._texts, array("Q", left.values()))


class Texts:
    """Questions as JSON in a file without a name, which goes with its last reader."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._ids = bytearray()  # a string of its own for each would take most of the memory
        self._id_ends = array("Q", [0])
        self._ends = array("Q", [0])
        try:
            with tempfile.TemporaryFile() as file:
                for question in questions:
                    file.write(text := _as_json(question))
                    self._ends.append(self._ends[-1] + len(text))
                    self._ids += question.id.encode()
                    self._id_ends.append(len(self._ids))
                file.flush()
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise QuestionsError(
                f"the questions cannot be copied to {tempfile.gettempdir()}: {error.strerror}; "
                "make room there, or name another folder in TMPDIR"
            ) from error
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def id(self, row: int) -> str:
        return self._ids[self._id_ends[row] : self._id_ends[row + 1]].decode()

    def read(self, row: int) -> bytes:
        start, end = self._ends[row : row + 2]
        return os.pread(self._file, end - start, start)


def _as_json(question: Question) -> bytes:
    try:
        return question.model_dump_json().encode()
    except ValueError as error:
        raise QuestionsError(f"question {question.id!r} holds what cannot be kept: {error}") from error
