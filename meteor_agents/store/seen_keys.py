"""Which keys have been written: never a wrong no, rarely a wrong yes, in two megabytes (a Bloom filter)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BITS = 24
"""Of an index: 2**24 flags. A million keys later 1 of 450 new ones is taken for a known one."""
HASHES = 4
_ALL = 2**BITS - 1


class SeenKeys:
    """For as long as the process lives: Python's own hash of a text differs from one to the next."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._flags = bytearray(2**BITS // 8)
        for key in keys:
            self.add(key)

    def add(self, key: str) -> None:
        for index in _indexes(key):
            self._flags[index >> 3] |= 1 << (index & 7)

    def __contains__(self, key: str) -> bool:
        return all(self._flags[index >> 3] >> (index & 7) & 1 for index in _indexes(key))


def _indexes(key: str) -> Iterator[int]:
    """Of the halves of one hash, which serve as well as so many hashes (Kirsch and Mitzenmacher, 2006)."""
    whole = hash(key)
    first, second = whole & _ALL, (whole >> BITS & _ALL) | 1
    return (first + n * second & _ALL for n in range(HASHES))
