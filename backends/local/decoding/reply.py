"""When a reply has ended, and what is handed back then."""

from __future__ import annotations

from meteor_agents.backends.local.decoding.loaded_model import LoadedModel
from meteor_agents.backends.local.decoding.request import Request
from meteor_agents.models import Completion, FinishReason, Likelihood, Usage
from meteor_agents.thoughts import split_thoughts


def has_ended(request: Request, loaded: LoadedModel) -> bool:
    """Whether the newest token ends the reply: an end token, the limit, or the last part of a stop string."""
    return request.output[-1] in loaded.ends or len(request.output) >= request.limit or _stops(request, loaded)


def _stops(request: Request, loaded: LoadedModel) -> bool:
    if not request.sampling.stop:
        return False
    tail = 4 * max(map(len, request.sampling.stop)) + 4  # a character has at most four bytes, each of which may be a token
    text = loaded.text(request.output[-tail:])
    return any(stop in text for stop in request.sampling.stop)


def completion(request: Request, loaded: LoadedModel, name: str, weights: str) -> Completion:
    """The reply of a request that has ended, without the thoughts before it, which are its `reasoning`.

    It is COMPLETE when it ended with an end token or at a stop string, which is left out with all that follows it. It is
    CUT at `max_tokens` or where the context is full.
    """
    ended = request.output[-1] in loaded.ends
    text = loaded.text(request.output[:-1] if ended else request.output)
    cuts = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
    thoughts, reply = split_thoughts(text[: min(cuts)] if cuts else text, opened=request.thinking)
    return Completion(
        text=reply,
        finish_reason=FinishReason.COMPLETE if ended or cuts else FinishReason.CUT,
        usage=Usage(input_tokens=len(request.prompt), output_tokens=len(request.output)),
        model=name,
        weights=weights,
        reasoning=thoughts,
    )


def scored(request: Request, likelihood: Likelihood, name: str, weights: str) -> Completion:
    """The answer to a request that asks how likely a given reply is: `likelihood` as JSON."""
    usage = Usage(input_tokens=len(request.prompt) + len(request.given), output_tokens=0)
    return Completion(likelihood.written(), FinishReason.COMPLETE, usage, name, weights)
