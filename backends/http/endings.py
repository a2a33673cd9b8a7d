"""Why a reply ended: the names that servers give, and what they mean."""

from __future__ import annotations

from meteor_agents.models import FinishReason

_NAMES: dict[FinishReason, str] = {
    FinishReason.COMPLETE: "stop eos eos_token end_token end_turn stop_sequence stop_string stop_token end complete "
    "completed finished",
    FinishReason.CUT: "length max_tokens max_length max_output_tokens max_new_tokens max_completion_tokens model_length "
    "model_context_window_exceeded context_length_exceeded context_window_exceeded error_limit token_limit",
    FinishReason.REFUSED: "refusal refused",
    FinishReason.FILTERED: "content_filter content_filtered content_blocked filtered safety recitation blocklist "
    "prohibited_content spii image_safety image_prohibited_content image_recitation language model_armor sensitive "
    "error_toxic guardrail_intervened guardrails moderation blocked",
    FinishReason.FAILED: "error abort aborted cancelled canceled user_cancel insufficient_system_resource network_error "
    "malformed_function_call unexpected_tool_call malformed_response missing_thought_signature too_many_tool_calls "
    "malformed_model_output malformed_tool_use failed timeout internal_error repetition",
    FinishReason.PAUSED: "tool_calls tool_call tool_use function_call pause_turn pause compaction",
}
_MEANINGS = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}
"""OpenAI and Azure; vLLM, SGLang, llama.cpp and text-generation-inference; Mistral, Gemini, DeepSeek, Cohere, Zhipu and
Bedrock; OpenRouter; Anthropic. Names are compared in lower case."""
_PREFIXES = ("finishreason.", "finish_reason_", "stopreason.", "stop_reason_")


def ending(name: object) -> FinishReason:
    """What a finish or stop reason means; `UNKNOWN` for one that is not known, is absent or is no text.

    Some servers send an object such as `{"type": "length"}`: its type counts.

    >>> ending("MAX_TOKENS"), ending("abort"), ending("a new one")
    (<FinishReason.CUT: 'length'>, <FinishReason.FAILED: 'failed'>, <FinishReason.UNKNOWN: 'unknown'>)
    """
    if isinstance(name, dict):
        name = name.get("type")
    if not isinstance(name, str):
        return FinishReason.UNKNOWN
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    for prefix in _PREFIXES:
        plain = plain.removeprefix(prefix)
    return _MEANINGS.get(plain, FinishReason.UNKNOWN)


def is_said(name: object) -> bool:
    """Whether a server gave any reason at all: absent, null and empty ones do not count."""
    return bool(name.strip()) if isinstance(name, str) else bool(name)


def stricter(first: FinishReason, second: FinishReason) -> FinishReason:
    """The stricter of two reasons for one ending: the one that keeps the reply from being used. `UNKNOWN` says nothing."""
    return second if first is FinishReason.COMPLETE and second is not FinishReason.UNKNOWN else first
