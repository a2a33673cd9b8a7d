"""How replies end: what old stores hold still reads, and only a complete reply may be used."""

from __future__ import annotations

import pytest

from meteor_agents.models import FinishReason


@pytest.mark.parametrize(
    ("stored", "meant"),
    [
        ("stop", FinishReason.COMPLETE),
        ("length", FinishReason.CUT),
        ("other", FinishReason.UNKNOWN),
        ("", FinishReason.UNKNOWN),
        ("SAFETY", FinishReason.UNKNOWN),
    ],
)
def test_what_stores_hold_reads_by_meaning(stored: str, meant: FinishReason) -> None:
    assert FinishReason(stored) is meant


@pytest.mark.parametrize("reason", FinishReason)
def test_every_ending_reads_back_as_itself(reason: FinishReason) -> None:
    assert FinishReason(reason.value) is reason


def test_only_a_complete_reply_is_complete() -> None:
    assert [reason for reason in FinishReason if reason.complete] == [FinishReason.COMPLETE]
