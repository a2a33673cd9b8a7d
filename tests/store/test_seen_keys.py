"""The filter in front of the store's lookups."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from meteor_agents.store.seen_keys import SeenKeys


def key(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


@settings(max_examples=30)
@given(st.sets(st.integers(), max_size=200))
def test_what_was_added_is_always_known(numbers: set[int]) -> None:
    seen = SeenKeys()
    for number in numbers:
        seen.add(key(number))
    assert all(key(number) in seen for number in numbers)


def test_of_new_keys_hardly_any_is_taken_for_a_known_one() -> None:
    seen = SeenKeys(map(key, range(100_000)))
    wrong = sum(key(n) in seen for n in range(100_000, 200_000))
    assert wrong < 100
