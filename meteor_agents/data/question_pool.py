"""Many questions in little memory: each is kept as JSON, and becomes an object when it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import overload

from meteor_agents.errors import QuestionsError
from meteor_agents.messages import Question


class QuestionPool(Sequence[Question]):
    """Questions in an order, which cannot be changed. Slices and subsets share the texts.

    A question takes the bytes of its JSON and about 100 more; as an object it would take some 1,800. Making the object takes
    a few microseconds.

    >>> pool = QuestionPool.of([Question(id="a", question="Why?"), Question(id="b", question="How?")])
    >>> [question.id for question in pool[1:]]
    ['b']
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[bytes]) -> None:
        """`texts` are the questions of these ids as JSON. Use `QuestionPool.of` for questions."""
        self._ids = ids
        self._texts = texts

    @classmethod
    def of(cls, questions: Iterable[Question]) -> QuestionPool:
        """Raises `QuestionsError` when a question holds what JSON cannot."""
        ids: list[str] = []
        texts: list[bytes] = []
        for question in questions:
            ids.append(question.id)
            texts.append(_as_json(question))
        return cls(ids, texts)

    @property
    def ids(self) -> Iterator[str]:
        """The questions' ids, in order."""
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, at: int) -> Question: ...
    @overload
    def __getitem__(self, at: slice) -> QuestionPool: ...
    def __getitem__(self, at: int | slice) -> Question | QuestionPool:
        if isinstance(at, slice):
            return QuestionPool(self._ids[at], self._texts[at])
        return Question.model_validate_json(self._texts[at])

    def __iter__(self) -> Iterator[Question]:
        return map(Question.model_validate_json, self._texts)

    def where(self, wanted: Callable[[str], bool]) -> QuestionPool:
        """The questions whose id is `wanted`, in this order."""
        return self._at([at for at, id_ in enumerate(self._ids) if wanted(id_)])

    def without(self, settled: Iterable[tuple[str, str]]) -> QuestionPool:
        """The pool less the questions that are settled, given as (id, the question as JSON).

        A question that reads differently now is not settled, and stays.
        """
        settled = iter(settled)
        if (first := next(settled, None)) is None:
            return self
        places = {id_: at for at, id_ in enumerate(self._ids)}
        for id_, text in chain([first], settled):
            if id_ in places and self._texts[places[id_]] == text.encode():
                del places[id_]
        return self._at(places.values())

    def _at(self, places: Iterable[int]) -> QuestionPool:
        kept = list(places)
        return QuestionPool([self._ids[at] for at in kept], [self._texts[at] for at in kept])


def _as_json(question: Question) -> bytes:
    try:
        return question.model_dump_json().encode()
    except ValueError as error:
        raise QuestionsError(f"question {question.id!r} holds what cannot be kept: {error}") from error
