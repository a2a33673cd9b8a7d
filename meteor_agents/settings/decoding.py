"""How the student decodes the two replies of a pair in stage 3 (`self_train.low` and `self_train.high`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from meteor_agents.models import SamplingParams
from meteor_agents.settings.section import Section


class Decoding(Section):
    """One decoding strategy other than `greedy`, with its options. Exactly one of the first six keys is given."""

    sample: float | None = Field(default=None, gt=0)
    """One sample at this temperature."""
    beam: int | None = Field(default=None, ge=2)
    """Beam search with this many beams."""
    best_of: int | None = Field(default=None, ge=2)
    """Draw this many samples and keep the best, as told by `by`."""
    vote: int | None = Field(default=None, ge=3)
    """Draw this many samples and keep one that agrees with most of the others (self-consistency, arXiv 2203.11171)."""
    revise: int | None = Field(default=None, ge=1)
    """A greedy draft, followed by this many rounds in which the student criticises its draft and writes a new one."""
    contrast: str | None = None
    """Contrastive decoding against a weaker model: `base` (the untrained student) or a model folder."""
    by: Literal["judge", "verifier", "likelihood", "answer", "text"] | None = None
    """How to choose. For `best_of`: `judge` (the default), `verifier`, or `likelihood` (the mean log-probability). For
    `vote`: `answer` (the most frequent final answer; the default with a verifier) or `text` (the reply most like the
    others; the default otherwise)."""
    temperature: float | None = Field(default=None, gt=0)
    """Temperature of the samples of `best_of` and `vote`; the student's own when absent."""
    alpha: float | None = Field(default=None, gt=0, le=1)
    """For `contrast`: a token counts only if its probability is at least this share of the likeliest token's; 0.1 when
    absent."""
    beta: float | None = Field(default=None, gt=0)
    """For `contrast`: the weight of the weaker model; 0.5 when absent."""

    @model_validator(mode="after")
    def _one(self) -> Decoding:
        named = [name for name in STRATEGIES if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                "name one decoding: greedy, {sample: temperature}, {beam: k}, {best_of: n, by: judge}, {vote: n}, "
                "{revise: n} or {contrast: base}"
            )
        for option in ("by", "temperature", "alpha", "beta"):
            if getattr(self, option) is not None and option not in STRATEGIES[named[0]]:
                raise ValueError(f"{named[0]} has no option {option!r}")
        if self.by is not None and self.by not in STRATEGIES[named[0]]["by"]:
            raise ValueError(f"{named[0]} goes by {' or '.join(STRATEGIES[named[0]]['by'])}, not by {self.by}")
        return self

    @property
    def samples(self) -> int:
        """How many samples the reply is chosen from; 1 where there is no choice."""
        return self.best_of or self.vote or 1

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """Sampling parameters of the first call; `contrast` is set separately, when its weaker model is known."""
        if self.beam is not None:
            return base.model_copy(update={**_GREEDY, "beams": self.beam})
        temperature = self.sample or self.temperature
        if self.samples == 1 and temperature is None:
            return base.model_copy(update=_GREEDY)
        return base.model_copy(update={"temperature": temperature or base.temperature})


STRATEGIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sample": {},
    "beam": {},
    "best_of": {"by": ("judge", "verifier", "likelihood"), "temperature": ()},
    "vote": {"by": ("answer", "text"), "temperature": ()},
    "revise": {},
    "contrast": {"alpha": (), "beta": ()},
}
"""Strategy -> its options, each with the words that it accepts (empty for numbers)."""

_GREEDY = {"temperature": 0.0, "top_p": 1.0, "seed": None}


def decoding(value: Literal["greedy"] | Decoding, base: SamplingParams) -> SamplingParams:
    """Sampling parameters of `greedy` or of another decoding; the length limits are those of `base`."""
    if value == "greedy":
        return base.model_copy(update=_GREEDY)
    return value.sampling(base)
