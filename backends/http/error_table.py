"""What the errors of providers mean. One table for all, by their codes, their sentences and their statuses, in this order.

A code says what happened; a status is shared by several things (429: too fast, or no credit left), and a word of a sentence
may be there for another reason (a link to the billing page in a message about the rate). So codes come first, sentences
next, and the status decides where neither is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto


class Meaning(Enum):
    """What an error means for the call."""

    QUOTA = auto()
    """The account has no credit or quota left: no call will succeed."""
    KEY = auto()
    """The key is wrong, or may not use this model: no call will succeed."""
    MODEL = auto()
    """The server has no model of this name."""
    ADDRESS = auto()
    """There is no such interface at this address."""
    LENGTH = auto()
    """The prompt, or prompt and reply together, are longer than the model or the account takes."""
    FILTER = auto()
    """A content filter refuses the prompt."""
    REQUEST = auto()
    """The server does not take the request for another reason."""
    OVERLOAD = auto()
    """Too many requests, or too much work: the same call may succeed after a pause."""
    LATE = auto()
    """The server gave up waiting."""
    TRANSIENT = auto()
    """Something failed at the server: the same call may succeed."""


_CODES: dict[Meaning, str] = {
    Meaning.QUOTA: "insufficient_quota insufficient_credits insufficient_balance insufficient_funds billing_error "
    "billing_not_active billing_hard_limit_reached exceeded_current_quota_error quota_exceeded credit_limit_exceeded "
    "payment_required arrearage account_overdue_error 1113",
    Meaning.KEY: "invalid_api_key authentication_error invalid_authentication_error permission_error permission_denied "
    "unauthenticated unauthorized api_key_invalid access_denied account_deactivated invalid_organization",
    Meaning.MODEL: "model_not_found model_not_exist model_not_available model_not_open invalid_model "
    "not_found_error deployment_not_found unsupported_model model_decommissioned",
    Meaning.LENGTH: "context_length_exceeded context_window_exceeded string_above_max_length request_too_large "
    "exceed_context_size_error max_tokens_exceeded input_too_long context_window_exceeded_error",
    Meaning.FILTER: "content_filter content_policy_violation responsible_ai_policy_violation data_inspection_failed "
    "sensitive_content_detected moderation_blocked content_filter_error 1301",
    Meaning.OVERLOAD: "rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited too_many_requests "
    "overloaded_error engine_overloaded engine_overloaded_error slow_down resource_exhausted unavailable throttling "
    "throttling_exception throttling_rate_quota throttling_allocation_quota service_tier_capacity_exceeded no_capacity "
    "capacity_exceeded requests tokens 1302 3505",
    Meaning.LATE: "timeout_error deadline_exceeded request_timeout",
}
_STATUSES: dict[Meaning, tuple[int, ...]] = {
    Meaning.QUOTA: (402,),
    Meaning.KEY: (401, 403, 407),
    Meaning.ADDRESS: (301, 302, 303, 307, 308, 404, 405),
    Meaning.LENGTH: (413,),
    Meaning.LATE: (408,),
    Meaning.OVERLOAD: (429, 498, 503, 529),
    Meaning.TRANSIENT: (409, 425),
}
_VAGUE: dict[Meaning, str] = {
    Meaning.REQUEST: "invalid_request_error bad_request bad_request_error invalid_argument validation_error",
    Meaning.KEY: "forbidden",
}
"""Codes that say no more than a status; they count where there is none."""
_NEVER = {
    Meaning.LENGTH: r"(?:maximum|max|model'?s?|exceeds? the|exceeds? the available|than the model'?s) "
    r"(?:model )?context|context (?:length|window|size)[a-z ]{0,40} (?:exceed|is|of)|exceed(?:s|ed)?[a-z ]{0,40} context|"
    r"context[_ ]length[_ ]exceeded|context[a-z0-9 ]{0,40} exceeded|(?:prompt|input|request)[a-z ]{0,20} (?:is |was )?too "
    r"(?:long|large)|too many (?:input |prompt )?tokens|must be reduced|reduce the length|max(?:imum)?_?(?:completion_|new_|"
    r"output_)?_?tokens['\"`]*[^.]{0,60}too large|> \d{1,9}, which is the maximum allowed number of output tokens",
}
_SENTENCES = {
    Meaning.OVERLOAD: r"rate[- ]limit|too many requests|requests per (?:minute|second|day)|tokens per (?:minute|day)|"
    r"currently overloaded|at capacity|over capacity",
    Meaning.QUOTA: r"insufficient (?:quota|credit|balance|fund)|credit balance is too low|(?:out of|no|any) credits|"
    r"credits? (?:limit |is |are |were |has been |have been )?(?:exceeded|exhausted|depleted|used up|reached)|"
    r"(?:exceeded|used)[a-z ]{0,30} (?:quota|credits|spending limit)|(?:quota|balance)[a-z ]{0,20} (?:exhausted|exceeded|"
    r"used up|depleted)|(?:spending|spend|usage|billing)(?: hard)? limit[a-z ]{0,20} (?:reached|exceeded)|"
    r"reached[a-z ]{0,40} (?:spending|usage) limit|payment required|account (?:is )?(?:overdue|suspended)",
    Meaning.FILTER: r"content (?:management )?policy|content[ _]filter|flagged|requires moderation|inappropriate content|"
    r"safety (?:system|filter|polic)|responsible ai",
    Meaning.KEY: r"(?:invalid|incorrect|missing|wrong|no|expired) (?:x-)?api[- _]?key|api[- _]?key (?:is |was )?(?:not "
    r"valid|invalid|missing|expired|not provided)|no auth credentials|invalid authentication|user not found",
    Meaning.ADDRESS: r"unexpected endpoint|invalid url|no route|unknown (?:url|path|endpoint)|"
    r"endpoint[a-z ]{0,20} not found",
    Meaning.MODEL: r"\bmodel\b[^.]{0,120}(?:does not exist|doesn't exist|not exist|not found|not a valid model|is not "
    r"available)|unknown model\b(?! param)|no such model|invalid model\b|not a valid model|no endpoints found|no models? "
    r"loaded|^model: ",
}


def _plain(code: str) -> str:
    """`InsufficientQuota`, `insufficient_quota` and `insufficient-quota` are the same code."""
    return re.sub(r"[^a-z0-9]", "", code[:100].lower())


_BY_CODE = {_plain(code): meaning for meaning, codes in _CODES.items() for code in codes.split()}
_BY_VAGUE_CODE = {_plain(code): meaning for meaning, codes in _VAGUE.items() for code in codes.split()}
_BY_STATUS = {status: meaning for meaning, statuses in _STATUSES.items() for status in statuses}
_LENGTH = re.compile(_NEVER[Meaning.LENGTH], re.ASCII)
_PATTERNS = {meaning: re.compile(pattern, re.ASCII) for meaning, pattern in _SENTENCES.items()}
_READ = 4000
"""Characters of a message in which sentences are looked for."""


def meaning_of(status: int | None, codes: Iterable[str], words: str) -> Meaning:
    """What an error means. `status` is the reply's, or the one that an error within a 200 names, if it names any.

    That a request is too long is looked for first: some say 429 to one that can never be answered. In an error of the
    server's own (5xx) sentences count for nothing else.
    """
    said = words[:_READ].lower()
    if _LENGTH.search(said):
        return Meaning.LENGTH
    plain = [_plain(code) for code in codes]
    if known := next((_BY_CODE[code] for code in plain if code in _BY_CODE), None):
        return known
    if status in (402, 413):
        return _BY_STATUS[status]
    if status is None or status < 500:
        for meaning, pattern in _PATTERNS.items():
            if pattern.search(said):
                return meaning
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status is not None:
        return Meaning.TRANSIENT if status >= 500 else Meaning.REQUEST
    return next((_BY_VAGUE_CODE[code] for code in plain if code in _BY_VAGUE_CODE), Meaning.TRANSIENT)
