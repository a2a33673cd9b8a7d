"""Which held-out questions occur in training, word for word or nearly: found before anything is trained, and reported."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

from meteor_agents.messages import Message, Question

NEAR = 85.0
"""Of 100: how alike two questions are at least to be near-duplicates, by the characters that stay when one is edited into
the other, the order of their words aside."""


AT_ONCE = 5_000
"""Training questions whose words are in memory at the same time."""


class Near(Message):
    """A held-out question and the training question that it nearly repeats."""

    heldout: str
    """Ids."""
    train: str
    alike: float
    """0 to 1; 1 is word for word."""


class Overlap(Message):
    """What was found in one held-out set."""

    questions: int
    exact: int
    """Word for word, case and punctuation aside."""
    near: tuple[Near, ...]
    """The exact ones included, the most alike first."""

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(found.heldout for found in self.near)

    def sentence(self, heldout: str) -> str:
        if not self.near:
            return f"{heldout}: none of {self.questions} questions nearly repeats one of training"
        first = self.near[0]
        return (
            f"{heldout}: {len(self.near)} of {self.questions} questions nearly repeat one of training "
            f"({self.exact} word for word), the closest {first.heldout!r} and {first.train!r} ({first.alike:.0%} alike)"
        )


def find_overlap(train: Iterable[Question], heldout: Sequence[Question]) -> Overlap:
    """The training question that is most like each held-out one, where they are near-duplicates."""
    from rapidfuzz import fuzz, process

    asked = {question.id: _words(question) for question in heldout}
    same: dict[str, list[str]] = {}
    for id_, words in asked.items():
        same.setdefault(" ".join(words), []).append(id_)
    exact: dict[str, Near] = {}
    near: dict[str, Near] = {}
    questions = iter(train)
    while some := list(islice(questions, AT_ONCE)):
        read = {question.id: _words(question) for question in some}
        for train_id, words in read.items():
            for id_ in same.get(" ".join(words), ()):
                exact.setdefault(id_, Near(heldout=id_, train=train_id, alike=1.0))
        texts = {train_id: " ".join(sorted(words)) for train_id, words in read.items()}
        for id_, words in asked.items():
            least = 100 * near[id_].alike if id_ in near else NEAR
            found = process.extractOne(" ".join(sorted(words)), texts, scorer=fuzz.ratio, score_cutoff=least)
            if found and (id_ not in near or found[1] > least):
                near[id_] = Near(heldout=id_, train=found[2], alike=found[1] / 100)
    every = sorted((near | exact).values(), key=lambda found: (-found.alike, found.heldout))
    return Overlap(questions=len(heldout), exact=len(exact), near=tuple(every))


class Overlaps(Message):
    """What was found in each held-out set, and for which questions."""

    of: str
    """A hash of all the questions that were compared."""
    sets: dict[str, Overlap]


def find_overlaps(
    train: Sequence[Iterable[Question]], heldout: Mapping[str, Sequence[Question]], before: Overlaps | None = None
) -> Overlaps:
    """By held-out set, over all parts of `train`.

    `before` is what was found last time; it is the answer where the questions are the same.
    """
    hashed = hashlib.sha256()
    for question in chain(*train, *heldout.values()):
        hashed.update(f"{question.id}\0{question.title}\0{question.question}\0".encode())
    of = hashed.hexdigest()[:16]
    if before is not None and before.of == of and before.sets.keys() == heldout.keys():
        return before
    return Overlaps(of=of, sets={name: find_overlap(chain(*train), questions) for name, questions in heldout.items()})


def _words(question: Question) -> list[str]:
    return re.findall(r"\w+", f"{question.title or ''} {question.question}".casefold())
