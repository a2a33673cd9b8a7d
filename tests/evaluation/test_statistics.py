"""Intervals and tests, against what counting all cases gives and against what must hold for any data."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.evaluation.statistics import (
    kappa,
    minimum_detectable_difference,
    paired_difference,
    sign_flip_test,
    spearman,
    win_share_at_equal_length,
)


def counted(differences: list[int]) -> float:
    """The p of the sign-flip test by trying every choice of signs."""
    observed = abs(sum(differences))
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(chosen, differences, strict=True))) for chosen in signs]
    return sum(total >= observed for total in sums) / len(sums)


@given(st.lists(st.integers(-12, 12), max_size=9))
def test_sign_flip_test_is_the_share_of_all_sign_choices_that_are_as_far_out(differences: list[int]) -> None:
    assert sign_flip_test(differences) == pytest.approx(counted(differences))


def test_sign_flip_test_of_single_steps_is_the_sign_test() -> None:
    assert sign_flip_test([1] * 9 + [-1] + [0] * 50) == pytest.approx(2 * 11 / 2**10)


def test_sign_flip_test_of_very_many_pairs_goes_on_smoothly_as_a_normal_one() -> None:
    draw = random.Random(1)
    many = [draw.choice((-7, -3, 2, 5, 6)) for _ in range(4000)]
    assert sign_flip_test([d * 100 + n % 2 for n, d in enumerate(many)]) == pytest.approx(
        sign_flip_test(many), abs=0.01
    )


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30))
def test_paired_difference_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    olds, news = [list(side) for side in zip(*pairs, strict=True)]
    there, back = paired_difference(olds, news), paired_difference(news, olds)
    assert there.value == pytest.approx(-back.value)
    assert there.low <= there.value + 1e-9
    assert there.value <= there.high + 1e-9


def test_minimum_detectable_difference_is_what_a_test_of_that_size_finds_four_times_in_five() -> None:
    draw = random.Random(0)
    smallest = minimum_detectable_difference([draw.gauss(0, 100) for _ in range(80)])
    found = sum(sign_flip_test([round(draw.gauss(smallest, 100)) for _ in range(80)]) < 0.05 for _ in range(200))
    assert 0.7 < found / 200 < 0.9


def test_minimum_detectable_difference_is_not_zero_because_none_was_seen() -> None:
    assert minimum_detectable_difference([0.0] * 50) > 0.05
    assert math.isinf(minimum_detectable_difference([0.3]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=5, max_size=40))
def test_spearman_is_within_its_interval_and_blind_to_scale(pairs: list[tuple[int, int]]) -> None:
    first, second = [[float(x) for x in side] for side in zip(*pairs, strict=True)]
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
        return
    assert found is not None
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    stretched = spearman([x**3 for x in first], second)
    assert stretched is not None
    assert stretched.value == pytest.approx(found.value)


def test_kappa_takes_chance_away() -> None:
    table = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(table) == pytest.approx(0.4)
    assert kappa([("yes", "yes")] * 5) is None, "who always says the same agrees by chance alone"


def test_a_win_that_only_length_explains_is_gone_at_equal_length() -> None:
    draw = random.Random(3)
    lengths = [draw.choice((-1, 1)) * draw.uniform(50, 400) for _ in range(60)] + [
        draw.uniform(50, 400) for _ in range(60)
    ]
    by_length = [float(length > 0) for length in lengths]
    assert sum(by_length) / len(by_length) > 0.7
    controlled = win_share_at_equal_length(by_length, lengths)
    assert controlled is not None
    assert controlled.value < 0.6
    assert controlled.low < 0.5


def test_a_win_that_length_does_not_explain_stays() -> None:
    lengths = [float((-1) ** n * (n % 17) * 10) for n in range(80)]
    controlled = win_share_at_equal_length([1.0] * 60 + [0.0] * 20, sorted(lengths, key=abs))
    assert controlled is not None
    assert controlled.value == pytest.approx(0.75, abs=0.05)
    assert win_share_at_equal_length([1.0] * 7, [0.0] * 7) is None
