"""What servers report, with a status, inside a reply or inside a stream: read by its meaning, not by a stray word."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from meteor_agents.backends.http.transport import Access
from meteor_agents.errors import CredentialsError, ModelError, QuotaError, RefusedCallError, TransientModelError
from meteor_agents.models import FinishReason
from tests.backends.http.raw_server import RawServer, Reply, answer_to, ask, outcome


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


QUOTA: list[tuple[int, Any]] = [
    (402, error("Insufficient Balance")),
    (402, "Payment Required"),
    (402, {"detail": "nothing about money"}),
    (429, error("You exceeded your current quota, please check your plan and billing details.", type="insufficient_quota",
                code="insufficient_quota", param=None)),
    (429, error("Your account is suspended", type="exceeded_current_quota_error")),
    (400, anthropic("invalid_request_error", "Your credit balance is too low to access the API.")),
    (403, {"code": "no permission", "error": "Your newly created team doesn't have any credits yet."}),
    (429, {"error": "You have used all available credits or reached your monthly spending limit."}),
    (400, error("Access denied, please make sure your account is in good standing.", code="Arrearage")),
    (429, error("no balance", code="1113")),
    (200, error("Insufficient credits", code=402)),
    (200, error("insufficient quota", code="insufficient_quota")),
    (200, {"choices": [], "error": {"code": "402", "message": "add more"}}),
    (500, error("upstream said so", code=402)),
]  # fmt: skip
KEY: list[tuple[int, Any]] = [
    (401, error("Incorrect API key provided", code="invalid_api_key")),
    (401, "who are you?"),
    (403, error("not allowed")),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass one.", "status": "INVALID_ARGUMENT"}}]),
    (200, error("User not found.", code=401)),
    (200, {"object": "error", "message": "Unauthorized", "code": 401}),
    (401, anthropic("authentication_error", "invalid x-api-key")),
]  # fmt: skip
REFUSED: list[tuple[int, Any]] = [
    (400, error("This model's maximum context length is 4096 tokens. However, your messages have 5000.",
                code="context_length_exceeded")),
    (400, {"object": "error", "message": "The input (9 tokens) is longer than the model's context length (8 tokens)."}),
    (400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
    (400, error("the request exceeds the available context size", type="exceed_context_size_error")),
    (413, anthropic("request_too_large", "Request exceeds the maximum size")),
    (413, "<html>Request Entity Too Large</html>"),
    (429, error("Request too large for gpt-x on tokens per min: limit 3, requested 4. The input must be reduced.",
                type="tokens", code="rate_limit_exceeded")),
    (400, error("The response was filtered due to the prompt triggering our content management policy.",
                code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    (403, error("Your input was flagged", code=403, metadata={"reasons": ["violence"]})),
    (400, error("'max_tokens' is too large: 100000. This model supports at most 4096 completion tokens.")),
    (400, error("'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum is 4096.")),
    (200, error("Provider returned error", code=400)),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]}),
]  # fmt: skip
BUSY: list[tuple[int, Any]] = [
    (429, error("slow down")),
    (503, "no healthy upstream"),
    (529, anthropic("overloaded_error", "Overloaded")),
    (200, anthropic("overloaded_error", "Overloaded")),
    (500, anthropic("overloaded_error", "Overloaded")),
    (498, error("flex tier capacity exceeded")),
    (200, error("Rate limit exceeded: free-models-per-min", code=429)),
    (429, error("Rate limit reached for gpt-x. Limit 3, used 3. You can increase it by adding a payment method at "
                "https://example.com/account/billing.", type="tokens", code="rate_limit_exceeded")),
    (429, [{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.",
                      "status": "RESOURCE_EXHAUSTED"}}]),
    (429, error("You have exceeded the token rate limit of your current pricing tier. Please retry after 20 seconds.",
                code="429")),
]  # fmt: skip
PASSING: list[tuple[int, Any]] = [
    (500, error("The server had an error", type="server_error")),
    (502, "<html>Bad Gateway</html>"),
    (500, error("the billing service and its api key cache are not found")),
    (200, error("Provider disconnected", code=502)),
    (200, {"error": "something went wrong"}),
    (520, ""),
]


def failed(status: int, content: Any, interface: str = "openai") -> ModelError:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    result = outcome(interface, status, body)
    assert isinstance(result, ModelError)
    return result


INTERFACES = pytest.mark.parametrize("interface", ["openai", "anthropic"])


@INTERFACES
@pytest.mark.parametrize(("status", "content"), QUOTA)
def test_an_account_without_credit_ends_the_run(interface: str, status: int, content: Any) -> None:
    assert isinstance(failure := failed(status, content, interface), QuotaError)
    assert "no credit or quota left" in str(failure)


@INTERFACES
@pytest.mark.parametrize(("status", "content"), KEY)
def test_a_key_that_is_not_taken_ends_the_run(interface: str, status: int, content: Any) -> None:
    assert isinstance(failure := failed(status, content, interface), CredentialsError)
    assert "Check the key" in str(failure)


@INTERFACES
@pytest.mark.parametrize(("status", "content"), REFUSED)
def test_a_request_that_can_never_be_answered_is_refused(interface: str, status: int, content: Any) -> None:
    assert isinstance(failed(status, content, interface), RefusedCallError)


@INTERFACES
@pytest.mark.parametrize(("status", "content"), BUSY)
def test_a_busy_server_is_asked_again_later(interface: str, status: int, content: Any) -> None:
    failure = failed(status, content, interface)
    assert isinstance(failure, TransientModelError)
    assert failure.overload


@INTERFACES
@pytest.mark.parametrize(("status", "content"), PASSING)
def test_a_failure_of_the_server_may_pass(interface: str, status: int, content: Any) -> None:
    failure = failed(status, content, interface)
    assert isinstance(failure, TransientModelError)
    assert not failure.overload
    assert not failure.late


@INTERFACES
@pytest.mark.parametrize(
    ("status", "content"), [(408, ""), (200, error("x", code=408)), (504, error("x", code="DEADLINE_EXCEEDED"))]
)
def test_a_server_that_gave_up_waiting_was_late(interface: str, status: int, content: Any) -> None:
    failure = failed(status, content, interface)
    assert isinstance(failure, TransientModelError)
    assert failure.late


def test_a_limit_that_is_too_large_is_not_renamed() -> None:
    notes: list[str] = []
    refusal = Reply.of(error("'max_tokens' or 'max_completion_tokens' is too large: 99. The maximum is 50."), 400)
    with RawServer([refusal]).running() as server:
        with pytest.raises(RefusedCallError, match=r"lower sampling\.max_tokens"):
            ask(server, note=notes.append)
        assert len(server.asked) == 1
    assert notes == []


@pytest.mark.parametrize(
    "words",
    ["temperature: 0.7 is not allowed, it must be between 1 and 2", "top_p 0.9 is unexpected: at least 0.95", "max_tokens "
     "must be less than max_completion_tokens, which is unknown"],
)  # fmt: skip
def test_a_value_that_is_out_of_range_is_no_reason_to_leave_the_field_out(words: str) -> None:
    with RawServer([Reply.of(error(words), 400)]).running() as server:
        with pytest.raises(RefusedCallError):
            ask(server)
        assert len(server.asked) == 1


def test_the_words_of_a_refusal_hide_the_key_in_a_note_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-planted-0123456789")
    notes: list[str] = []
    refusal = Reply.of(error("top_p is not supported for sk-planted-0123456789"), 400)
    fine = Reply.of({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]})
    with RawServer([refusal, fine]).running() as server:
        assert ask(server, note=notes.append, access=Access("TEST_KEY")).text == "Hi."
    assert ["***" in note and "planted" not in note for note in notes] == [True]


# An unknown model, and a wrong address

UNKNOWN_MODEL: list[tuple[int, Any]] = [
    (404, error("The model `m` does not exist or you do not have access to it.", code="model_not_found")),
    (404, {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}),
    (404, error('model "m" not found, try pulling it first')),
    (400, error("m is not a valid model ID", code=400)),
    (400, error("Model Not Exist")),
    (404, error("No endpoints found for m.")),
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}}),
]


@pytest.mark.parametrize(("status", "content"), UNKNOWN_MODEL)
def test_an_unknown_model_is_refused_with_those_that_the_server_has(status: int, content: Any) -> None:
    models = {"data": [{"id": "other"}, {"id": "m-large"}, {"id": 3}, "x"]}
    offer = r"Check the model's name; the server has (m-large, other|other, m-large)"
    with RawServer([Reply.of(content, status)], models=models).running() as server:
        failure = _refusal(server)
    assert re.search(offer, failure)


def _refusal(server: RawServer) -> str:
    with pytest.raises(RefusedCallError) as caught:
        ask(server)
    return str(caught.value)


def test_the_models_are_asked_for_once_and_are_not_needed() -> None:
    refusal = Reply.of(error("no such model"), 404)
    with RawServer([refusal], models={"data": [{"id": f"m{i}"} for i in range(40)]}).running() as server:
        with pytest.raises(RefusedCallError, match="and 32 more"):
            ask(server)
        assert server.listed == 1
    with RawServer([refusal]).running() as server, pytest.raises(RefusedCallError, match=r"Check the model's name$"):
        ask(server)


def test_an_address_without_v1_is_told() -> None:
    for reply in (
        Reply(b"404 page not found", 404),
        Reply.of({"detail": "Not Found"}, 404),
        Reply.of({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        Reply(b"", 405),
        Reply(b"", 307, {"Location": "/somewhere"}),
        Reply(b"<!doctype html><html>a page</html>"),
    ):
        with RawServer([reply]).running() as server, pytest.raises(ModelError, match=f"base_url: {server.url}/v1"):
            ask(server, base="")


def test_an_address_with_v1_gets_no_such_hint() -> None:
    assert "/v1" not in str(failed(404, {"detail": "Not Found"}))
    assert "Check base_url" in str(failed(404, {"detail": "Not Found"}))


# Errors inside streams, and what they cost


def stream(*events: Any) -> Reply:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return Reply(text.encode(), headers={"Content-Type": "text/event-stream"})


def test_an_error_inside_a_stream_is_read_by_its_meaning() -> None:
    with pytest.raises(QuotaError):
        answer_to(stream({"error": {"code": 402, "message": "no credits left"}}))
    with pytest.raises(TransientModelError) as caught:
        answer_to(stream(anthropic("overloaded_error", "Overloaded")), interface="anthropic")
    assert caught.value.overload


def test_an_error_after_some_text_keeps_the_text_as_failed() -> None:
    piece = {"choices": [{"index": 0, "delta": {"content": "Hal"}}]}
    reply = answer_to(stream(piece, {"error": {"code": 502, "message": "gone"}, "choices": []}))
    assert (reply.text, reply.finish_reason) == ("Hal", FinishReason.FAILED)


def test_an_error_of_a_choice_without_text_is_read_by_its_meaning() -> None:
    choice = {"index": 0, "finish_reason": "error", "error": {"code": 429, "message": "upstream is busy"}}
    for message in ({"message": {"role": "assistant", "content": ""}}, {}):
        with pytest.raises(TransientModelError) as caught:
            answer_to(Reply.of({"choices": [{**choice, **message}], "usage": {"prompt_tokens": 3}}))
        assert caught.value.overload
        assert caught.value.spent == (3, None)


@pytest.mark.parametrize("choices", [[], None, [3], [{"message": 3}], [{"message": {"content": [{"type": "image"}]}}]])
def test_tokens_of_a_reply_that_cannot_be_read_are_known(choices: Any) -> None:
    usage = {"prompt_tokens": 100000, "completion_tokens": 7}
    failure = failed(200, {"choices": choices, "usage": usage})
    assert type(failure) is RefusedCallError
    assert failure.spent == (100000, 7)
    assert failed(200, {"choices": []}).spent is None


def test_tokens_of_a_message_that_cannot_be_read_are_known() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 10, "output_tokens": 1}
    assert failed(200, {"type": "message", "content": None, "usage": usage}, "anthropic").spent == (15, 1)
