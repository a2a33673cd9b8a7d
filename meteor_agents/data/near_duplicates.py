"""Held-out questions that occur in training: those that are the same are refused, near-duplicates are reported."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

from meteor_agents.messages import Message, Question

NEAR = 85.0
"""How alike two questions must be to count as near-duplicates, from 0 to 100: the share of characters that stay when one
is edited into the other, with the words of both sorted first."""

AT_ONCE = 5_000
"""Training questions whose words are in memory at the same time."""


class NearDuplicate(Message):
    """A held-out question and the training question that it nearly repeats."""

    heldout: str
    """Id of the held-out question."""
    train: str
    """Id of the training question."""
    alike: float
    """0 to 1; 1 means the same words."""


class NearDuplicates(Message):
    """What was found in one held-out set."""

    questions: int
    """How many questions the set has."""
    exact: int
    """How many of them repeat a training question word for word, apart from case and punctuation."""
    near: tuple[NearDuplicate, ...]
    """All near-duplicates, the exact ones included; the most alike come first."""

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the held-out questions that are near-duplicates."""
        return frozenset(found.heldout for found in self.near)

    def sentence(self, heldout: str) -> str:
        """What was found, for people; `heldout` is the set's name."""
        if not self.near:
            return f"{heldout}: none of {self.questions} questions nearly repeats one of training"
        first = self.near[0]
        return (
            f"{heldout}: {len(self.near)} of {self.questions} questions nearly repeat one of training "
            f"({self.exact} word for word), the closest {first.heldout!r} and {first.train!r} ({first.alike:.0%} alike)"
        )


class NearDuplicatesBySet(Message):
    """What was found in each held-out set, and for which questions. It is stored with the run."""

    of: str
    """A hash of all the questions that were compared."""
    sets: dict[str, NearDuplicates]
    """Name of a held-out set -> its near-duplicates."""


def repeated_questions(train: Iterable[Question], heldout: Sequence[Question]) -> list[Question]:
    """Held-out questions whose whole text, title included, occurs in training, apart from case and white space.

    A run refuses these. Punctuation counts here: "3 + 4?" and "3 - 4?" have the same words, but are two questions.
    """
    texts = {_text(question) for question in heldout}
    repeated = {text for question in train if (text := _text(question)) in texts}
    return [question for question in heldout if _text(question) in repeated]


def find_near_duplicates_by_set(
    train: Sequence[Iterable[Question]],
    heldout: Mapping[str, Sequence[Question]],
    before: NearDuplicatesBySet | None = None,
) -> NearDuplicatesBySet:
    """The near-duplicates of each held-out set, compared with all parts of `train`.

    `before` is what was found last time; it is returned if the questions are still the same.
    """
    hashed = hashlib.sha256()
    for question in chain(*train, *heldout.values()):
        hashed.update(f"{question.id}\0{question.title}\0{question.question}\0".encode())
    of = hashed.hexdigest()[:16]
    if before is not None and before.of == of and before.sets.keys() == heldout.keys():
        return before
    sets = {name: find_near_duplicates(chain(*train), questions) for name, questions in heldout.items()}
    return NearDuplicatesBySet(of=of, sets=sets)


def find_near_duplicates(train: Iterable[Question], heldout: Sequence[Question]) -> NearDuplicates:
    """For each held-out question the training question that is most like it, if they are near-duplicates."""
    from rapidfuzz import fuzz, process

    asked = {question.id: _words(question) for question in heldout}
    same: dict[str, list[str]] = {}
    for id_, words in asked.items():
        same.setdefault(" ".join(words), []).append(id_)
    exact: dict[str, NearDuplicate] = {}
    near: dict[str, NearDuplicate] = {}
    questions = iter(train)
    while some := list(islice(questions, AT_ONCE)):
        read = {question.id: _words(question) for question in some}
        for train_id, words in read.items():
            for id_ in same.get(" ".join(words), ()):
                exact.setdefault(id_, NearDuplicate(heldout=id_, train=train_id, alike=1.0))
        texts = {train_id: " ".join(sorted(words)) for train_id, words in read.items()}
        for id_, words in asked.items():
            least = 100 * near[id_].alike if id_ in near else NEAR
            found = process.extractOne(" ".join(sorted(words)), texts, scorer=fuzz.ratio, score_cutoff=least)
            if found and (id_ not in near or found[1] > least):
                near[id_] = NearDuplicate(heldout=id_, train=found[2], alike=found[1] / 100)
    every = sorted((near | exact).values(), key=lambda found: (-found.alike, found.heldout))
    return NearDuplicates(questions=len(heldout), exact=len(exact), near=tuple(every))


def _text(question: Question) -> str:
    return " ".join(f"{question.title or ''} {question.question}".casefold().split())


def _words(question: Question) -> list[str]:
    return re.findall(r"\w+", _text(question))
