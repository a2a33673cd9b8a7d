"""How long a server wants to be left alone, in all the forms that servers have for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meteor_agents.backends.http.waits import LONGEST_S, asked_wait_s, exhausted_s, wait_s
from meteor_agents.errors import TransientModelError
from tests.backends.http.chat_handlers import answering, ask, reply
from tests.backends.http.raw_server import Reply, answer_to


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2), ("2.5", 2.5), ("1s", 1), ("1m30s", 90), ("250ms", 0.25), ("6m0s", 360), ("1h2m3s", 3723), ("1d", 86_400),
        ("20 seconds", 20), ("1 minute", 60), ("0", 0), (" 7 ", 7),
    ],
)  # fmt: skip
def test_seconds_and_durations_are_understood(value: str, seconds: float) -> None:
    assert wait_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("per_second", [1, 1000, 1_000_000])
def test_a_time_since_the_epoch_is_understood_in_seconds_and_finer(per_second: int) -> None:
    assert wait_s(str(int((time.time() + 30) * per_second))) == pytest.approx(30, abs=2)
    assert wait_s(str(int((time.time() - 30) * per_second))) == 0


def test_dates_are_understood() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=30)
    for spelled in (moment.isoformat(), moment.isoformat().replace("+00:00", "Z"), format_datetime(moment, usegmt=True)):
        assert wait_s(spelled) == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    "value",
    ["", "soon", "nan", "inf", "-inf", "-5", "1e300", "9" * 39, "9" * 4000, "1x", "٣", "0x10", "9999-99-99", "1s" * 999,
     "--"],
)  # fmt: skip
def test_what_is_no_wait_is_ignored(value: str) -> None:
    assert wait_s(value) is None


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-zA-Z:.,+ -]{0,40}", fullmatch=True))
def test_any_header_gives_a_bounded_wait_or_none(value: str) -> None:
    for headers in ({"retry-after": value}, {"retry-after-ms": value}, {"date": value, "retry-after": "1"}):
        asked = asked_wait_s(headers, value)
        assert asked is None or 0 <= asked <= LONGEST_S
    assert 0 <= exhausted_s({"x-ratelimit-remaining": "0", "x-ratelimit-reset": value}) <= LONGEST_S


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached for x. Please try again in 1m2.5s. Visit y", 62.5),
        ("You have exceeded the call rate limit. Please retry after 20 seconds.", 20),
        ("Please retry in 17.25s", 17.25),
        ("try again in 350ms", 0.35),
        ("try again later, in 3 metres", None),
        ("try again " * 2000, None),
    ],
)
def test_a_wait_within_a_sentence_is_understood(words: str, seconds: float | None) -> None:
    assert asked_wait_s({}, words) == (None if seconds is None else pytest.approx(seconds))


def waited(status: int, content: Any, **headers: str) -> float | None:
    with pytest.raises(TransientModelError) as caught:
        answer_to(Reply.of(content, status, **headers))
    return caught.value.retry_after_s


def in_ms(seconds: float) -> str:
    return str(int((time.time() + seconds) * 1000))


SLOW_DOWN = {"error": {"message": "slow down"}}


def test_a_wait_in_milliseconds_comes_before_the_rounded_one() -> None:
    assert waited(429, SLOW_DOWN, retry_after_ms="300", retry_after="20") == pytest.approx(0.3)
    assert waited(429, SLOW_DOWN, x_ms_retry_after_ms="1500") == pytest.approx(1.5)


def test_a_reset_in_milliseconds_since_the_epoch_is_a_short_wait() -> None:
    headers = {"x_ratelimit_limit": "20", "x_ratelimit_remaining": "0", "x_ratelimit_reset": in_ms(2)}
    assert waited(429, SLOW_DOWN, **headers) == pytest.approx(2, abs=1.5)


def test_a_gateway_repeats_the_providers_headers_in_the_error() -> None:
    repeated = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": in_ms(40)}
    error = {"error": {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": repeated}}}
    assert waited(429, error) == pytest.approx(40, abs=2)
    assert waited(200, error) == pytest.approx(40, abs=2)


def test_the_pause_that_a_gemini_error_names_is_kept() -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}
    error = [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": [detail]}}]
    assert waited(429, error) == 17


def test_a_date_counts_from_the_servers_own_clock_also_for_resets() -> None:
    now = time.time() + 7 * 3600
    there = datetime.fromtimestamp(now, UTC)
    headers = {"date": format_datetime(there, usegmt=True), "x-ratelimit-remaining": "0"}
    assert exhausted_s({**headers, "x-ratelimit-reset": str(now + 5)}) == pytest.approx(5, abs=1)
    assert asked_wait_s({**headers, "retry-after": format_datetime(there + timedelta(seconds=5))}) == pytest.approx(5, abs=1)


def test_several_allowances_that_are_used_up_ask_for_the_longest_wait() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}
    headers |= {"x-ratelimit-remaining-tokens": "-3", "x-ratelimit-reset-tokens": "1m"}
    assert exhausted_s(headers) == 60
    assert exhausted_s({**headers, "x-ratelimit-remaining-tokens": "12"}) == 1
    assert exhausted_s({}) == 0


# The same, as a call sees it


def test_retry_after_in_seconds_is_kept() -> None:
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers={"Retry-After": "2.5"}))
    assert caught.value.retry_after_s == 2.5


def test_retry_after_as_a_date_is_kept() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with pytest.raises(TransientModelError) as caught:
        ask(answering(503, headers={"Retry-After": moment}))
    assert caught.value.retry_after_s == pytest.approx(30, abs=3)


def test_retry_after_as_a_date_counts_from_the_servers_own_clock() -> None:
    there = datetime.now(UTC) + timedelta(hours=7)
    headers = {
        "Date": format_datetime(there, usegmt=True),
        "Retry-After": format_datetime(there + timedelta(seconds=5)),
    }
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers=headers))
    assert caught.value.retry_after_s == 5


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("1.5", 1.5), ("20s", 20), ("6m0s", 360), ("120ms", 0.12), ("1h2m3s", 3723), ("soon", 0), ("", 0)],
)
def test_an_allowance_that_is_used_up_asks_for_a_pause_until_its_reset(reset: str, seconds: float) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    assert ask(answering(json=reply(), headers=headers)).pause_s == seconds


def test_resets_as_moments_are_understood_and_what_is_left_asks_for_none() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=30)
    spelled = {"rfc": moment.isoformat().replace("+00:00", "Z"), "unix": str(moment.timestamp())}
    for reset in spelled.values():
        headers = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": reset}
        assert ask(answering(json=reply(), headers=headers)).pause_s == pytest.approx(30, abs=3)
        headers["anthropic-ratelimit-tokens-remaining"] = "12"
        assert ask(answering(json=reply(), headers=headers)).pause_s == 0


def test_429_without_retry_after_waits_for_the_reset_of_what_is_used_up() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7s"}
    with pytest.raises(TransientModelError) as caught:
        ask(answering(429, headers=headers))
    assert (caught.value.retry_after_s, caught.value.overload) == (7, True)


def test_senseless_retry_after_is_ignored() -> None:
    with pytest.raises(TransientModelError) as caught:
        ask(answering(503, headers={"Retry-After": "soon"}))
    assert caught.value.retry_after_s is None
