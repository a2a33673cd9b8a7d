"""How similar two texts are, by the words that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def normalised(text: str) -> str:
    """The text in lower case, with each run of white space as one space."""
    return " ".join(text.casefold().split())


def similarity(a: str, b: str) -> float:
    """From 0 to 1: the F1 score of the words and word pairs that both texts have, each as often as it occurs."""
    return _shared(_grams(a), _grams(b))


def medoid(texts: Sequence[str]) -> tuple[int, list[float]]:
    """The index of the text most similar to the others (the first of equals), and each text's mean similarity to them."""
    grams = [_grams(text) for text in texts]
    means = [
        sum(_shared(one, other) for j, other in enumerate(grams) if i != j) / max(1, len(grams) - 1)
        for i, one in enumerate(grams)
    ]
    return max(range(len(means)), key=means.__getitem__), means


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = normalised(text).split()
    return Counter([*((word,) for word in words), *pairwise(words)])


def _shared(a: Counter[tuple[str, ...]], b: Counter[tuple[str, ...]]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0
